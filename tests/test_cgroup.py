"""Control groups: the kernel's own account of a task, what it adds to ours, and doing without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from support import direct
from support.faults import until

from covalent_sshtiming.remote import cgroup, meter, surroundings
from covalent_sshtiming.remote.ending import oom_words

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its functions travel
HOME = cgroup.find_home()
# Root mostly may; without one a task is counted by wait4, which other tests hold.
grouped = pytest.mark.skipif(HOME is None, reason="this user may make no control groups of version 2 here")


def burn(seconds: float) -> None:
    """Use CPU time, by the CPU clock."""
    import time

    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def deaf_child(seconds: float) -> None:
    """Have a child burn whose end nobody is told of: wait4 and rusage never hear of its CPU time."""
    import contextlib
    import os
    import signal
    import time

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # once it has ended there is no such child
        os.waitpid(pid, 0)
    signal.signal(signal.SIGCHLD, before)


async def record_of(place: Path, function: Any, *args: Any, **keywords: Any) -> dict[str, Any]:
    """Run a function locally; return its record."""
    async with direct.here(place, **keywords.pop("options", {})) as machine:
        await machine.run(function, *args, **keywords)
        (record,) = machine.records()
        return record


@grouped
async def test_two_accounts_agree(place: Path) -> None:
    """The group's CPU seconds are those of wait4 to a few milliseconds; the record names it as its source."""
    record = await record_of(place, burn, 0.5)
    assert record["cpu_source"] == "cgroup2"
    assert record["cpu_complete"] is True
    assert record["cpu_cgroup_s"] == pytest.approx(record["cpu_total_s"], abs=0.02)
    assert 0.49 < record["cpu_s"] < 0.55


@grouped
async def test_what_nobody_waited_for_is_the_calls_too(place: Path) -> None:
    """A child whose end the kernel tells to nobody is in cpu_s as late, and then nothing is missing."""
    record = await record_of(place, deaf_child, 0.4)
    assert 0.39 < record["cpu_s"] < 0.5
    assert record["cpu_late_s"] > 0.35
    assert record["cpu_complete"] is True
    assert record["cpu_cgroup_s"] > record["cpu_total_s"] + 0.35


@grouped
async def test_what_a_hook_lost_is_not_the_calls(place: Path) -> None:
    """A hook's child whose end nobody is told of stays out of cpu_s, though the group has it."""
    record = await record_of(place, burn, 0.1, before=[direct.hook(deaf_child, 0.4)])
    assert 0.09 < record["cpu_s"] < 0.2
    assert record["cpu_cgroup_s"] > 0.45


@grouped
async def test_a_killed_task_has_what_its_lost_children_used(place: Path) -> None:
    """A task that is killed in its call has also the CPU time that no wait4 told of."""

    def lose_and_die() -> None:
        import os

        deaf_child(0.3)
        os.kill(os.getpid(), 9)

    record = await record_of(place, lose_and_die)
    assert record["status"] == "killed"
    assert 0.29 < record["cpu_s"] < 0.4


@grouped
async def test_no_group_is_left(place: Path) -> None:
    """Groups go with their tasks, those that a task made in its own too, and those that had no task yet."""

    def nest() -> str:
        import os
        import pathlib

        groups = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        own = next(line[3:] for line in groups if line.startswith("0::"))
        mounted = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
        os.makedirs(mounted + own + "/inner/innermost")
        return mounted + own

    async with direct.here(place, idle_timeout=0.3) as machine:
        ran = await machine.run(nest)
        assert Path(ran.value).parent == Path(str(HOME))
        await until(lambda: not Path(ran.value, "inner").exists())  # its supervisor has a new one by now
        (agent,) = machine.agents()
        await until(lambda: bool(waiting(agent) & groups()))
        mine = waiting(agent) & groups()
        await direct.pool.close_all()
        await until(lambda: not mine & groups(), 10)


def waiting(agent: int) -> set[str]:
    """Return the process ids of an agent's supervisors, as groups are called."""
    return {str(child.pid) for child in psutil.Process(agent).children()}


def groups() -> set[str]:
    """Return the names of the groups of this user's tasks."""
    return {path.name for path in Path(str(HOME)).iterdir() if path.is_dir()}


@grouped
def test_what_a_killed_supervisor_left_is_swept() -> None:
    """A group whose supervisor is gone is removed; that of one that lives stays."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    stale = Path(str(HOME)) / str(child.pid)
    mine = cgroup.Group.make(HOME, os.getpid())
    assert mine is not None
    try:
        (stale / "inner").mkdir(parents=True)
        cgroup.sweep(HOME)
        assert not stale.exists()
        assert Path(mine.path).exists()
    finally:
        mine.remove()
    assert not Path(mine.path).exists()


@grouped
def test_a_number_that_comes_again_gets_a_new_group() -> None:
    """A group of an earlier process with the same number is not taken over with what it has used."""
    first = cgroup.Group.make(HOME, os.getpid())
    assert first is not None
    try:
        pid = os.fork()
        if pid == 0:
            first.join()
            burn(0.05)
            os._exit(0)
        os.waitpid(pid, 0)
        assert (first.cpu() or 0) > 0.03
        second = cgroup.Group.make(HOME, os.getpid())
        assert second is not None
        assert second.cpu() == 0
    finally:
        first.remove()


WITHOUT = """#!/bin/sh
groups=/sys/fs/cgroup
exec unshare -m sh -c "umount -l $groups/unified || umount -l $groups"'; exec "$0" "$@"' {python} "$@"
"""


# Groups are hidden in a mount namespace, which only root may make.
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root's unshare")
async def test_without_groups_nothing_is_said(place: Path) -> None:
    """Where no control groups are to be had tasks run as ever; the record says which account it has."""
    python = place / "python"
    python.write_text(WITHOUT.format(python=sys.executable))
    python.chmod(0o755)
    record = await record_of(place, deaf_child, 0.1, options={"python_path": str(python)})
    assert record["status"] == "completed"
    assert record["cpu_source"] == "wait4_subreaper"
    assert (record["cpu_cgroup_s"], record["memory_peak_bytes"]) == (None, None)


# ---- what groups' files say, by files of ours where this machine's kernel keeps none


def written(directory: Path, **files: str) -> cgroup.Group:
    """Return a group whose files we wrote."""
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_text(text)
    return cgroup.Group(str(directory))


def test_the_files_of_a_group(tmp_path: Path) -> None:
    """CPU time, memory and kills are read from their files; whatever is not there or no number is None."""
    group = written(
        tmp_path,
        cpu_stat="usage_usec 1500000\nuser_usec 1\n",
        memory_peak="4096\n",
        memory_events="low 0\noom 3\noom_kill 2\n",
    )
    group.rehearse()
    assert (group.cpu(), group.memory_peak(), group.oom_kills()) == (1.5, 4096, 2)
    none = written(tmp_path, cpu_stat="usage_usec many\n", memory_peak="max\n", memory_events="")
    none.rehearse()
    assert (none.cpu(), none.memory_peak(), none.oom_kills()) == (None, None, None)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu_max": "150000 100000\n"}, 1.5),
        ({"cpu_max": "max 100000\n"}, None),
        ({"cpu_max": "garbage\n"}, None),
        ({"cpu_cfs_quota_us": "50000\n", "cpu_cfs_period_us": "100000\n"}, 0.5),
        ({"cpu_cfs_quota_us": "-1\n", "cpu_cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_quota_of_either_version(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    """The CPUs' time that a group may use is read from the files of either version."""
    written(tmp_path, **files)
    assert cgroup.limit_of(str(tmp_path)) == cores


CPU = Path("/sys/fs/cgroup/cpu/sshtiming-test")


# A kernel has its cpu controller in version 1 or in 2, never in both.
@pytest.mark.skipif(
    not (CPU.parent / "cgroup.procs").exists() or os.getuid() != 0,
    reason="needs root and a cpu controller of version 1",
)
async def test_a_quota_is_in_the_record(place: Path) -> None:
    """A limit of the group that the agent runs in is in the record."""
    CPU.mkdir(exist_ok=True)
    try:
        (CPU / "cpu.cfs_quota_us").write_text("150000")
        python = place / "python"
        python.write_text(f'#!/bin/sh\necho $$ > {CPU}/cgroup.procs; exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        record = await record_of(place, burn, 0.0, options={"python_path": str(python), "idle_timeout": 0.2})
        assert record["cpu_quota_cores"] == 1.5
    finally:
        await until(lambda: not (CPU / "cgroup.procs").read_text(), 10)
        CPU.rmdir()


# ---- who has run out of memory


@pytest.mark.parametrize(
    ("of_group", "before", "now", "words"),
    [
        (2, 5, 7, " because memory ran out (oom_kill of its control group is 2)"),
        (None, 5, 7, " (memory ran out there: oom_kill of /proc/vmstat rose by 2 meanwhile)"),
        (0, 5, 5, " (memory did not run out there: oom_kill of /proc/vmstat has not risen)"),
        (None, None, None, " (the kernel does that to the largest process when memory runs out)"),
    ],
)
def test_a_kill_says_whether_memory_ran_out(
    of_group: int | None, before: int | None, now: int | None, words: str
) -> None:
    """What the counters tell of a SIGKILL is in the sentence."""
    assert oom_words(of_group, before, now) == words


MEMORY = Path("/sys/fs/cgroup/memory")


# The same of its memory controller.
@pytest.mark.skipif(
    not (MEMORY / "memory.limit_in_bytes").exists() or os.getuid() != 0 or surroundings.oom_kills() is None,
    reason="needs root and a memory controller of version 1",
)
async def test_the_kernels_own_kill(place: Path) -> None:
    """A task that the kernel really kills for want of memory has died, and the sentence has the counter."""
    own = next(
        line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if "memory" in line
    )
    inside = MEMORY / own.strip("/") if (MEMORY / own.strip("/")).exists() else MEMORY
    group = inside / f"sshtiming-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(96 << 20))

        def grow(path: str) -> int:
            with open(path + "/cgroup.procs", "w") as file:
                file.write("0")
            return len(bytearray(b"x") * (256 << 20))

        async with direct.here(place) as machine:
            ran = await machine.run(grow, str(group))
        assert "was killed by SIGKILL (memory ran out there: oom_kill of /proc/vmstat rose by 1" in str(
            ran.error
        )
    finally:
        await until(lambda: not (group / "cgroup.procs").read_text(), 10)
        group.rmdir()


# ---- the largest child


async def test_the_peak_of_the_largest_child(place: Path) -> None:
    """A child that the call waited for, and one that it left behind, give rss_peak_child_bytes."""

    def swell(wait: bool) -> None:
        import subprocess
        import sys
        import time

        code = f"import time; b = bytearray(b'x') * (200 << 20); time.sleep({0 if wait else 9})"
        child = subprocess.Popen([sys.executable, "-c", code])
        if wait:
            child.wait()
        else:
            time.sleep(1)

    for wait in (True, False):
        record = await record_of(place / str(wait), swell, wait)
        assert 200 << 20 < record["rss_peak_child_bytes"] < 260 << 20


async def test_without_a_child_its_peak_is_zero(place: Path) -> None:
    """A call without a child says 0; one whose children a hook's has outgrown says that it does not know."""
    assert (await record_of(place / "a", burn, 0.0))["rss_peak_child_bytes"] == 0

    def large() -> None:
        import subprocess
        import sys

        subprocess.run([sys.executable, "-c", "b = bytearray(b'x') * (100 << 20)"], check=True)

    def small() -> None:
        import subprocess

        subprocess.run(["true"], check=True)

    assert (await record_of(place / "b", small, before=[direct.hook(large)]))["rss_peak_child_bytes"] is None


def test_rusage_counts_in_bytes() -> None:
    """A peak from rusage is in bytes, whatever the platform counts in."""
    import resource

    assert 1 << 20 < meter.peak(resource.getrusage(resource.RUSAGE_SELF)) < 1 << 34
