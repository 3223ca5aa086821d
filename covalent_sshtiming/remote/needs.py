"""Needs: what a task has to hold while it runs, CPUs and devices, as its request's head says it.

Owns the reading of that part of a head, which is a client's word, and the arithmetic of CPUs, slots and
threads. A slot stands for a CPU.
"""

from typing import Any, Dict, NamedTuple, Tuple

GPUS = "CUDA_VISIBLE_DEVICES"


class Never(Exception):
    """A task asks for what it can never have there; the text says why, and what to do."""


class Devices(NamedTuple):
    """So many of the values of an environment variable, each of which one task has at a time.

    No values are those that the machine itself tells, which only GPUs have.
    """

    variable: str
    values: "Tuple[str, ...]"
    number: int


class Needs(NamedTuple):
    """What one task asks for; tasks that ask for the same are equal.

    room: the directory of the locks; "" is the user's own.
    most: how many such tasks may run at once (max_parallel); 0 is as many as there are CPUs for.
    cpus: how many each takes; 0 says that it did not ask.
    pin: whether it is held to the CPUs of its slots.
    """

    room: str
    most: int
    cpus: int
    pin: bool
    devices: "Tuple[Devices, ...]"

    def slots(self, cores: int) -> int:
        """Return how many slots it looks at, of which it takes one for each of its CPUs.

        Where `most` tasks of so many CPUs each would take more CPUs than there are, the CPUs decide;
        but a user who allows more tasks than there are CPUs means it.
        """
        return max(self.most, min(self.most * max(1, self.cpus), cores)) if self.most else cores

    def threads(self, cores: int) -> int:
        """Return how many threads a numeric library should start: its CPUs, or else its share of all."""
        if self.cpus or self.pin:
            return max(1, self.cpus)
        return max(1, cores // self.slots(cores))


def of(head: "Dict[str, Any]") -> Needs:
    """Return what the task of this head needs; a value that makes no sense counts as not said."""
    room = head.get("slots_dir")
    return Needs(
        room if isinstance(room, str) else "",
        _whole(head, "max_parallel"),
        _whole(head, "cpus_per_task"),
        head.get("cpu_affinity") is True,
        _devices(head) if "gpus_per_task" in head or "slot_env" in head else (),
    )


def _devices(head: "Dict[str, Any]") -> "Tuple[Devices, ...]":
    found = []
    gpus = _whole(head, "gpus_per_task")
    if gpus:
        found.append(Devices(GPUS, _texts(head.get("gpus")), gpus))
    others = head.get("slot_env")
    for variable, values in sorted(others.items()) if isinstance(others, dict) else ():
        if _texts(values):
            found.append(Devices(variable, _texts(values), 1))
    return tuple(found)


def _whole(head: "Dict[str, Any]", name: str) -> int:
    value = head.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _texts(values: "Any") -> "Tuple[str, ...]":
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
