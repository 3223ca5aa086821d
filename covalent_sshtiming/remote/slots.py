"""Slots: what tasks hold while they run, each a lock on a file, so that all agents share them.

A slot stands for a CPU and is a numbered file; a device has a file of its own. The agent takes the locks
and hands their descriptors to the supervisor, which holds them for as long as the task lives: whoever dies,
the kernel lets them go.

A task takes all that it needs or nothing, and never waits with a part of it, so no two agents block each
other. Within one agent a task that takes several of a kind claims them when it is its turn and they are not
free: those behind it take none of them, so each that is given back brings it nearer to its start.
"""

import hashlib
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import gpus, needs, rooms
from .needs import Never

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_ORDER = "CUDA_DEVICE_ORDER"
_SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
_NAME_MAX = 100
_SLOTS_MAX = 4096  # no agent has descriptors for so many tasks


class Share(NamedTuple):
    """What a task has been given: the descriptors of its locks, and what it is told of them.

    cpus: the CPUs that it is held to; [] is all.
    gpus: the values of CUDA_VISIBLE_DEVICES that are its own; [] where it has none.
    """

    handles: "List[int]"
    environment: "Dict[str, str]"
    cpus: "List[int]"
    gpus: "List[str]"


class _Wanted(NamedTuple):
    """So many locks of one kind: their names, and the value of the variable that each stands for."""

    variable: str
    names: "Sequence[str]"
    values: "Dict[str, str]"
    number: int


class Slots:
    """What our own supervisors hold, and the taking of more; `cpus` are those that this process may use."""

    def __init__(self, base: str, cpus: "Sequence[int]", finder: gpus.Finder) -> None:
        self._rooms = {"": rooms.Room(os.path.join(base, "slots"))}
        self._cpus = cpus
        self._finder = finder
        self._numbers: "Dict[int, List[str]]" = {}
        # Set here for all tasks, because most have one thread each; what this machine's user has set stays.
        self._threads = [name for name in THREADS if name not in os.environ]
        os.environ.update(dict.fromkeys(self._threads, "1"))

    def begin_round(self) -> None:
        """Forget what was claimed: whose turn is first claims first."""
        for room in self._rooms.values():
            room.claimed.clear()

    def take(self, key: str, needed: needs.Needs) -> "Optional[Share]":
        """Return what `key` holds from now on, or None if not all of it is free; raises Never."""
        try:
            room = self._room(needed.room)
            wanted = self._wanted(needed)
            locked = self._lock(room, wanted) if wanted else None
        except rooms.Unusable as error:
            raise Never("cannot have a slot there: %s; correct slots_dir or that place" % error) from error
        if wanted is None or locked is None:
            return None
        for some in locked:
            room.hold(key, [name for name, _ in some])
        return self._share(needed, wanted, locked)

    def free(self, key: str) -> None:
        """Note that the supervisor of `key` has let go of what it held."""
        for room in self._rooms.values():
            room.free(key)

    def _room(self, path: str) -> rooms.Room:
        if path not in self._rooms:
            self._rooms[path] = rooms.SharedRoom(path)
        return self._rooms[path]

    def _lock(self, room: rooms.Room, wanted: "List[_Wanted]") -> "Optional[List[List[Tuple[str, int]]]]":
        """Lock some of each kind, or nothing; one kind of which there are too few is claimed."""
        locked: "List[List[Tuple[str, int]]]" = []
        complete = False
        try:
            for want in wanted:
                some = room.lock(want.names, want.number)
                if some is None:
                    room.claimed.update(want.names if want.number > 1 else ())
                    return None
                locked.append(some)
            complete = True
        finally:
            for some in () if complete else locked:
                rooms.close(some)
        return locked

    def _wanted(self, needed: needs.Needs) -> "Optional[List[_Wanted]]":
        """Return the locks that a task needs, devices first; None while the machine is asked for its GPUs."""
        cores, count = len(self._cpus), max(1, needed.cpus)
        if count > cores:
            raise Never("needs %d CPUs (cpus_per_task), and there are %d; ask for fewer" % (count, cores))
        if needed.pin and not hasattr(os, "sched_setaffinity"):
            raise Never("cannot be held to CPUs there, where there is no such call; unset cpu_affinity")
        wanted = [self._wanted_devices(one) for one in needed.devices]
        if None in wanted:
            return None
        names = self._slot_names(min(needed.slots(cores), max(cores, _SLOTS_MAX)))
        return [*filter(None, wanted), _Wanted("", names, {}, count)]

    def _wanted_devices(self, one: needs.Devices) -> "Optional[_Wanted]":
        if one.variable != needs.GPUS:
            found: "Optional[Dict[str, str]]" = {value: value for value in one.values}
        else:
            known = self._finder.found()
            found = None if known is None else gpus.candidates(one, known, self._finder.why)
        if found is None:
            return None
        named = {_name(one.variable, identity): value for identity, value in found.items()}
        return _Wanted(one.variable, list(named), named, one.number)

    def _slot_names(self, count: int) -> "List[str]":
        if count not in self._numbers:
            self._numbers[count] = [str(number) for number in range(count)]
        return self._numbers[count]

    def _share(
        self, needed: needs.Needs, wanted: "List[_Wanted]", locked: "List[List[Tuple[str, int]]]"
    ) -> Share:
        given = {
            want.variable: [want.values[name] for name, _ in some]
            for want, some in zip(wanted, locked)
            if want.variable
        }
        environment = {variable: ",".join(values) for variable, values in given.items()}
        if needs.GPUS in given and _ORDER not in os.environ:
            environment[_ORDER] = "PCI_BUS_ID"  # as nvidia-smi counts; else CUDA puts the fastest one first
        cores = len(self._cpus)
        if needed.threads(cores) > 1:
            environment.update(dict.fromkeys(self._threads, str(needed.threads(cores))))
        slots = [int(name) for name, _ in locked[-1]]
        cpus = sorted({self._cpus[slot % cores] for slot in slots}) if needed.pin else []
        handles = [handle for some in locked for _, handle in some]
        return Share(handles, environment, cpus, given.get(needs.GPUS, []))


def _name(variable: str, value: str) -> str:
    """Return what the file of a device's lock is called."""
    name = "%s-%s" % (variable, value)
    if len(name) > _NAME_MAX or name.strip(_SAFE):
        return "device-=" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return name
