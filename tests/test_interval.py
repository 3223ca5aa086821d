"""The interval's edges: what is the function's where its children or its end are out of the ordinary."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from support import direct

from covalent_sshtiming.remote import cgroup

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its functions travel
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="orphans and CPU clocks of others are Linux's"
)
grouped = pytest.mark.skipif(cgroup.find_home() is None, reason="this user may make no control groups here")


async def record_of(place: Path, function: Any, *args: Any, **keywords: Any) -> dict[str, Any]:
    """Run a function locally; return its record."""
    async with direct.here(place) as machine:
        await machine.run(function, *args, **keywords)
        (record,) = machine.records()
        return record


def burn(seconds: float) -> None:
    """Use CPU time, by this thread's clock."""
    import time

    end = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) + seconds
    while time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) < end:
        pass


def child(work: Any, *args: Any) -> int:
    """Fork a child that works and ends; return its process id."""
    import os

    pid = os.fork()
    if pid == 0:
        try:
            work(*args)
        finally:
            os._exit(0)
    return pid


def daemon(seconds: float, lives_on: float = 0.0) -> int:
    """Have an orphan burn and live on; return a pipe that has a byte once it has burnt, and ends with it."""
    import os
    import time

    reading, writing = os.pipe()

    def work() -> None:
        os.close(reading)
        burn(seconds)
        os.write(writing, b"x")
        time.sleep(lives_on)

    os.waitpid(child(child, work), 0)
    os.close(writing)
    return reading


def burnt_daemon(seconds: float) -> None:
    """Have an orphan that has burnt and lives on."""
    import os

    os.read(daemon(seconds, 60), 1)


def ended_daemon(seconds: float) -> None:
    """Have an orphan that has burnt, and is ending."""
    import os

    handle = daemon(seconds)
    while os.read(handle, 1):
        pass


def gone_daemon(seconds: float) -> None:
    """Have an orphan that has burnt, and was reaped."""
    import time

    ended_daemon(seconds)
    time.sleep(0.1)


async def test_a_daemon_that_ends_with_the_return(place: Path) -> None:
    """An orphan that is reaped at the very moment when the function returns is the function's."""
    async with direct.here(place) as machine:
        for _ in range(15):
            await machine.run(ended_daemon, 0.02)
        assert min(record["cpu_s"] for record in machine.records()) > 0.0199


async def test_what_a_left_over_process_starts(place: Path) -> None:
    """What a process of the call starts after the return counts too, until the grace is over."""

    def leave() -> None:
        import os
        import signal
        import time

        deaf, done = os.pipe()

        def work() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(done, b".")
            time.sleep(0.2)
            child(burn, 60)
            time.sleep(60)

        child(work)
        os.read(deaf, 1)

    record = await record_of(place, leave)
    assert record["cpu_late_s"] == pytest.approx(record["cpu_total_s"], abs=0.03)
    assert record["cpu_late_s"] > 0.05


@pytest.mark.parametrize("hook", [burnt_daemon, gone_daemon])
async def test_what_a_hook_after_the_call_starts(place: Path, hook: Any) -> None:
    """Orphans of a call_after hook, whether they end in it or later, are not the function's."""
    record = await record_of(place, burn, 0.1, after=[direct.hook(hook, 0.3)])
    assert 0.09 < record["cpu_s"] < 0.15
    assert record["cpu_total_s"] > 0.4


async def test_a_hooks_daemon_and_a_killed_function(place: Path) -> None:
    """A hook's daemon that lives when the function is killed is not the function's."""

    def kill() -> None:
        import os

        burn(0.1)
        os.kill(os.getpid(), 9)

    record = await record_of(place, kill, before=[direct.hook(burnt_daemon, 0.3)])
    assert record["status"] == "killed"
    assert 0.09 < record["cpu_s"] < 0.15


async def test_a_hooks_orphan_and_a_child_of_the_function(place: Path) -> None:
    """A hook's orphan that ends in the call takes nothing off from the function's own children."""

    def stop_daemon_and_burn() -> None:
        import os
        import pathlib
        import signal
        import time

        above = os.getppid()
        children = pathlib.Path(f"/proc/{above}/task/{above}/children").read_text().split()
        for pid in {*map(int, children)} - {os.getpid()}:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        os.waitpid(child(burn, 0.3), 0)

    record = await record_of(place, stop_daemon_and_burn, before=[direct.hook(burnt_daemon, 0.2)])
    assert 0.29 < record["cpu_children_s"] < 0.4


async def test_a_hooks_child_with_children_of_its_own(place: Path) -> None:
    """What a hook's child and its children had burnt before the call is not the function's, who reaps it."""

    def leave_child() -> None:
        import os
        import time

        pid = child(lambda: os.waitpid(child(burn, 0.3), 0))
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        time.sleep(0.01)

    def reap() -> None:
        import os

        os.wait()

    record = await record_of(place, reap, before=[direct.hook(leave_child)])
    assert record["cpu_s"] < 0.05
    assert record["cpu_total_s"] > 0.3


async def test_a_copy_of_the_worker_leaves_no_mark(place: Path) -> None:
    """A fork that the function lets return later than itself is its child, and moves no mark."""

    def fork() -> None:
        import os
        import signal

        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its parent's end
            burn(0.2)
        else:
            burn(0.1)

    record = await record_of(place, fork)
    assert 0.29 < record["cpu_s"] < 0.4
    assert record["phase_call_wall_s"] == pytest.approx(record["wall_s"])


def die(seconds: float) -> None:
    """Burn, and be killed."""
    import os

    burn(seconds)
    os.kill(os.getpid(), 9)


async def test_a_task_killed_in_a_hook_has_its_phases(place: Path) -> None:
    """What a killed task had cost until then is told by phase, and the call's only where it was reached."""
    async with direct.here(place) as machine:
        await machine.run(burn, 0.2, before=[direct.hook(die, 0.1)])
        await machine.run(burn, 0.1, after=[direct.hook(die, 0.3)])
        before, after = machine.records()
    assert (before["status"], before["cpu_s"], before["phase_load_cpu_s"]) == ("killed", None, None)
    assert 0.09 < before["phase_before_cpu_s"] < 0.15
    assert (after["status"], after["phase_dump_cpu_s"]) == ("killed", None)
    assert 0.09 < after["cpu_s"] < 0.15
    assert 0.29 < after["phase_after_cpu_s"] < 0.4


async def test_a_killed_task_has_its_times_of_day(place: Path) -> None:
    """When a task began and ended is on record also where it could not say so itself."""
    record = await record_of(place, die, 0.0)
    assert record["submitted_at"] <= record["started_at"] <= record["finished_at"]


@pytest.mark.parametrize("work", [ended_daemon, die])
async def test_user_and_system_time_add_up(place: Path, work: Any) -> None:
    """The split is of all of cpu_s, also where that has late parts, or the task was killed."""
    record = await record_of(place, work, 0.1)
    assert record["cpu_s"] > 0.09
    assert record["cpu_user_s"] + record["cpu_system_s"] == pytest.approx(record["cpu_s"], abs=1e-6)


@grouped
async def test_a_task_that_leaves_its_group(place: Path) -> None:
    """A group that a task has moved itself out of is no account of it, and the record does not name it."""

    def leave() -> None:
        import pathlib

        mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        mounted = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
        pathlib.Path(mounted, "cgroup.procs").write_text("0")
        burn(0.1)

    record = await record_of(place, leave)
    assert 0.09 < record["cpu_s"] < 0.15
    assert record["cpu_source"] == "wait4_subreaper"


WITHOUT = """#!/bin/sh
groups=/sys/fs/cgroup
exec unshare -m sh -c "umount -l $groups/unified || umount -l $groups"'; exec "$0" "$@"' {python} "$@"
"""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root's unshare")
async def test_a_killed_task_that_forgot_its_children(place: Path) -> None:
    """Without a group, a task that is killed with SIGCHLD ignored does not claim to be complete."""

    def forget_and_die() -> None:
        import signal

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        die(0.0)

    python = place / "python"
    python.write_text(WITHOUT.format(python=sys.executable))
    python.chmod(0o755)
    async with direct.here(place, python_path=str(python)) as machine:
        await machine.run(forget_and_die)
        await machine.run(die, 0.0)
        assert [record["cpu_complete"] for record in machine.records()] == [False, True]


@pytest.fixture
def elsewhere(place: Path) -> Path:
    """Return a Python that takes itself for one on macOS."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    (packages,) = (place / "venv").glob("lib/python*/site-packages")
    (packages / "elsewhere.pth").write_text("import sys; sys.platform = 'darwin'\n")
    return place / "venv" / "bin" / "python"


async def test_where_orphans_are_nobodys(place: Path, elsewhere: Path) -> None:
    """Off Linux what cannot be seen is null and never zero; what rusage gives is there."""
    async with direct.here(place, python_path=str(elsewhere)) as machine:
        await machine.run(burn, 0.1)
        (record,) = machine.records()
    assert 0.09 < record["cpu_s"] < 0.15
    assert (record["cpu_late_s"], record["descendants_alive"]) == (None, None)


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_FSIZE"])
async def test_a_function_that_has_used_up_its_limits(place: Path, limit: str) -> None:
    """A function that leaves itself no descriptor, or no byte to write, has its result and figures."""

    def spend() -> str:
        import resource

        burn(0.05)
        what = getattr(resource, limit)
        resource.setrlimit(what, (0, resource.getrlimit(what)[1]))
        return "done"

    async with direct.here(place) as machine:
        assert (await machine.run(spend)).value == "done"
        (record,) = machine.records()
    assert record["descendants_alive"] == 0
    assert record["write_chars"] is not None


async def test_a_function_that_gave_up_its_limits(place: Path) -> None:
    """Where no limit can be taken back the result is lost, with what the kernel said, and no figure is."""

    def give_up() -> str:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return "done"

    async with direct.here(place) as machine:
        ran = await machine.run(give_up)
        (record,) = machine.records()
    assert "[Errno 27] File too large" in str(ran.error)
    assert (record["status"], record["cpu_s"] is None) == ("failed", False)


def family(seed: int) -> None:
    """Make a tree of processes by chance: waited for or not, orphaned, killed, outliving the function."""
    import os
    import random
    import signal
    import time

    chance = random.Random(seed)

    def grow(depth: int) -> None:
        burn(0.005 * chance.random())
        for _ in range(chance.randint(1, 3) if depth else 0):
            kind = chance.choice(["left", "waited", "daemon", "killed", "stays"])
            seed_of_it = chance.random()
            pid = os.fork()
            if pid == 0:
                try:
                    chance.seed(seed_of_it)
                    if kind == "daemon" and os.fork():
                        os._exit(0)
                    if kind == "stays":
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    grow(depth - 1)
                    time.sleep(0.02 * chance.random())
                finally:
                    os._exit(0)
            if kind == "killed":
                os.kill(pid, signal.SIGKILL)
            if kind in ("waited", "daemon"):
                os.waitpid(pid, 0)

    grow(3)
    if seed % 3 == 0:
        os.kill(os.getpid(), signal.SIGKILL)


async def test_every_second_is_in_one_place(place: Path) -> None:
    """What all processes of a task have used is in cpu_s or in another phase, once, however they end."""
    async with direct.here(place) as machine:
        for seed in range(9):
            await machine.run(family, seed)
        records = machine.records()
    phases = ("start", "before", "load", "after", "dump", "exit")
    for record in records:
        elsewhere = sum(record[f"phase_{name}_cpu_s"] or 0 for name in phases)
        assert record["cpu_s"] + elsewhere == pytest.approx(record["cpu_total_s"], abs=1e-6)
        assert not [
            name
            for name, value in record.items()
            if name.endswith("_s") and name != "clock_offset_s" and (value or 0) < 0
        ]
    assert {record["status"] for record in records} == {"completed", "killed"}
