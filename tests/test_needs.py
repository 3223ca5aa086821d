"""What a task says that it needs: settings that cannot be, the arithmetic of CPUs and threads, the queues."""

from __future__ import annotations

from typing import Any

import pytest

from covalent_sshtiming import settings
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.remote import backlog, needs

LIST = 'write a list of texts, as in ["0", "1"].'
MINE = "CUDA_VISIBLE_DEVICES"


# ---- settings


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"gpus_per_task": 3, "gpus": ["0", "1", "1"]},
            "gpus_per_task is 3, and gpus lists 2; ask for fewer, or list more.",
        ),
        (
            {"gpus_per_task": 1, "env": {MINE: "0"}},
            (
                "env sets CUDA_VISIBLE_DEVICES, of which gpus_per_task gives each task a value of its own; "
                "take it out of env and env_from."
            ),
        ),
        (
            {"slot_env": {"BOARD": ["0"]}, "env": {"BOARD": "0"}},
            (
                "env sets BOARD, of which slot_env gives each task a value of its own; "
                "take it out of env and env_from."
            ),
        ),
        (
            {"gpus_per_task": 1, "slot_env": {MINE: ["0"]}},
            "slot_env.CUDA_VISIBLE_DEVICES and gpus_per_task are both set; remove one of them.",
        ),
        ({"slot_env": {"BOARD": "0"}}, "slot_env.BOARD (GIVEN) is '0'; " + LIST),
        ({"slot_env": {"BOARD": []}}, "slot_env.BOARD (GIVEN) is []; " + LIST),
        ({"slot_env": {"BOARD": [1]}}, "slot_env.BOARD (GIVEN) is [1]; " + LIST),
        (
            {"slot_env": {"A-B": ["0"]}},
            (
                "slot_env['A-B'] (GIVEN) does not name a variable; "
                "use letters, digits and _, with no digit in front."
            ),
        ),
        (
            {"slot_env": {"BOARD": ["a\nb"]}},
            "slot_env.BOARD (GIVEN) contains a line break or a NUL character; remove it.",
        ),
        (
            {"slot_env": {"BOARD": ["x" * 1000] * 17}},
            "gpus and slot_env have over 16384 characters; list fewer devices.",
        ),
        (
            {"gpus": ["0,1"]},
            (
                "gpus (GIVEN) is ['0,1']; write the index or the UUID of one GPU in each text, "
                "as `nvidia-smi -L` shows them."
            ),
        ),
        (
            {"slots_dir": "slots"},
            "slots_dir (GIVEN) is 'slots'; write an absolute path, or one that begins with ~/.",
        ),
        ({"isolation": "thread"}, 'isolation (GIVEN) is \'thread\'; write one of "fork", "spawn".'),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], text: str) -> None:
    """What can be known of before the machine is asked never goes there."""
    with pytest.raises(ConfigError) as refused:
        settings.resolve({"hostname": "m", **given}, {})
    assert str(refused.value) == text.replace("GIVEN", "argument of TimingSSHExecutor")


def test_tables_of_devices_add_up() -> None:
    """slot_env of a machine and of the section are taken together; of one variable the nearer one counts."""
    section = {"slot_env": {"A": ["1"], "B": ["1"]}, "hosts": {"m": {"slot_env": {"B": ["2"]}}}}
    found = settings.resolve({"hostname": "m", "slot_env": {"C": ["3"]}}, section)
    assert found.slot_env == {"A": ["1"], "B": ["2"], "C": ["3"]}


# ---- arithmetic and queues


@pytest.mark.parametrize(
    ("asked", "cores", "at_once"),
    [
        ({}, 8, 8),
        ({"cpus_per_task": 4}, 8, 2),
        ({"cpus_per_task": 3}, 8, 2),
        ({"max_parallel": 2}, 8, 2),
        ({"max_parallel": 20}, 8, 20),
        ({"max_parallel": 2, "cpus_per_task": 4}, 8, 2),
        ({"max_parallel": 2, "cpus_per_task": 3}, 8, 2),
        ({"max_parallel": 8, "cpus_per_task": 4}, 8, 2),
        ({"max_parallel": 1, "cpus_per_task": 8}, 8, 1),
        ({"max_parallel": 16, "cpus_per_task": 4}, 8, 4),
    ],
)
def test_tasks_at_once(asked: dict[str, int], cores: int, at_once: int) -> None:
    """max_parallel counts tasks; their CPUs are no more than there are, unless it is above that itself."""
    needed = needs.of(asked)
    assert needed.slots(cores) // max(1, needed.cpus) == at_once


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        ({}, 1),
        ({"cpus_per_task": 4}, 4),
        ({"max_parallel": 1}, 8),
        ({"max_parallel": 3}, 2),
        ({"max_parallel": 20}, 1),
        ({"max_parallel": 1, "cpus_per_task": 2}, 2),
        ({"max_parallel": 1, "cpu_affinity": True}, 1),
    ],
)
def test_threads_of_a_task(asked: dict[str, Any], threads: int) -> None:
    """As many as its CPUs; where it did not say, its share of eight."""
    assert needs.of(asked).threads(8) == threads


def test_what_makes_no_sense_counts_as_not_said() -> None:
    """A head is a client's word: values of other types and below 1 are as if they were not there."""
    odd = {"max_parallel": -1, "cpus_per_task": "2", "slots_dir": 3, "gpus_per_task": None, "slot_env": [1]}
    assert needs.of({**odd, "gpus": "0", "cpu_affinity": "yes"}) == needs.of({})
    assert needs.of({"slot_env": {"A": "12", "B": [1], "C": []}}) == needs.of({})


def test_dispatches_and_needs_take_turns() -> None:
    """Each start puts a dispatch behind the others, and a need behind the dispatch's others."""
    waiting = backlog.Backlog()
    for dispatch, cpus in (("a", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 1)):
        head = {"dispatch_id": dispatch, "cpus_per_task": cpus, "key": f"{dispatch}{cpus}{len(waiting)}"}
        waiting.add(dict(head, needs=needs.of(head)))
        waiting.add(dict(head, needs=needs.of(head)))
    order = []
    while waiting:
        order.append(next(waiting.fronts()))
        waiting.started(order[-1])
    assert [head["key"] for head in order] == ["a10", "b13", "a22", "a11", "a14"]


def test_a_task_is_taken_out_wherever_it_stands() -> None:
    """Removed tasks are in no queue, and queues that are empty are gone."""
    waiting = backlog.Backlog()
    for number in range(4):
        head = {"dispatch_id": "d", "key": str(number), "cpus_per_task": number // 2 + 1}
        waiting.add(dict(head, needs=needs.of(head)))
    waiting.remove("0")
    waiting.remove("3")
    assert [head["key"] for head in waiting.fronts()] == ["1", "2"]
    waiting.remove("1")
    waiting.remove("2")
    assert (len(waiting), list(waiting.fronts())) == (0, [])
