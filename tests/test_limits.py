"""memory_limit and process_limit: what a task may use, by resource limits and by its control group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cloudpickle
from support import direct
from support.farside import FarSide, new_key

from covalent_sshtiming.remote import cgroup, limits

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its functions travel
MIB = 1 << 20


def allocate(mebibytes: int, *, in_child: bool = False) -> int:
    """Have so much memory, here or in a child; return a child's status."""
    import subprocess
    import sys

    if in_child:
        code = f"len(bytearray({mebibytes} << 20))"
        return subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL).returncode
    return len(bytearray(mebibytes << 20)) * 0


def forks(count: int) -> int:
    """Return how many of so many forks came about."""
    import os
    import time

    made = 0
    for _ in range(count):
        try:
            if os.fork() == 0:
                time.sleep(1)
                os._exit(0)
        except OSError:
            break
        made += 1
    return made


async def test_a_task_may_not_have_more_memory(place: Path) -> None:
    """Over memory_limit a function gets MemoryError; below it, and without a limit, it gets its memory."""
    async with direct.here(place) as machine:
        ran = await machine.run(allocate, 600, options={"memory_limit": 500 * MIB})
        assert "allocate raised MemoryError (memory_limit, or ulimit -v there" in str(ran.error)
        assert f", allows {500 * MIB} bytes). The remote traceback" in str(ran.error)
        assert (await machine.run(allocate, 100, options={"memory_limit": 500 * MIB})).value == 0
        assert (await machine.run(allocate, 600)).value == 0


async def test_a_tasks_children_may_not_either(place: Path) -> None:
    """A child process has the same limit."""
    async with direct.here(place, memory_limit=500 * MIB) as machine:
        assert (await machine.run(allocate, 100, in_child=True)).value == 0
        assert (await machine.run(allocate, 600, in_child=True)).value == 1


def test_a_task_may_not_have_more_processes(crowded: FarSide) -> None:
    """Over process_limit a fork fails in the task, and its user's other tasks have what they need."""
    keys = [new_key() for _ in range(3)]
    with crowded.line() as line:
        for key, more in zip(keys, ({"process_limit": 5}, {"process_limit": 30}, {}), strict=True):
            line.submit(key, forks, 20, max_parallel=1, **more)
        made = {key: line.outcome(key).value for key in keys}
    assert made[keys[0]] <= 5
    assert (made[keys[1]], made[keys[2]]) == (20, 20)


def test_a_groups_limits_are_written(tmp_path: Path) -> None:
    """Where a group has the controllers its own limits are set, for all processes together."""
    for name in ("memory.max", "pids.max"):
        (tmp_path / name).touch()
    group = cgroup.Group(str(tmp_path))
    with subprocess.Popen(["sleep", "60"]) as child:
        limits.impose({"memory_limit": 1 << 50, "process_limit": 9}, child.pid, group)
        child.kill()
    assert (tmp_path / "memory.max").read_text() == str(1 << 50)
    assert (tmp_path / "pids.max").read_text() == "9"
    assert cgroup.Group(str(tmp_path / "none")).limit("pids.max", 1) is False
