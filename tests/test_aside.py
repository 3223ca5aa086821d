"""What the agent has another process do, so that it never waits itself."""

from __future__ import annotations

import fcntl
import itertools
import os
import resource
from pathlib import Path

import psutil
import pytest
from support.farside import FarSide, new_key, until

from covalent_sshtiming.remote import aside, places, wire


def test_what_is_let_go_is_closed_here_and_soon_everywhere(tmp_path: Path) -> None:
    """The descriptor is closed in this process at once, and by its helper as soon as that has seen so."""
    path = tmp_path / "large"
    handle = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)  # which holds until the last copy of the descriptor is closed
    before = _children(os.getpid())
    aside.let_go([handle])
    (helper,) = _children(os.getpid()) - before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
    os.close(until(lambda: places.try_lock(str(path)), "a lock that nobody holds any more"))
    os.waitpid(helper, 0)


def test_nothing_to_let_go_takes_no_process() -> None:
    """Without a large file no process is started."""
    before = _children(os.getpid()), _descriptors(os.getpid())
    aside.let_go([])
    assert (_children(os.getpid()), _descriptors(os.getpid())) == before


@pytest.mark.parametrize("size", [1, places.LARGE])
def test_an_acknowledged_task_leaves_nothing(far: FarSide, size: int) -> None:
    """A small and a large result go with their directory; the agent keeps neither descriptor nor process."""
    with far.line() as line:
        first = new_key()
        line.submit(first, lambda: bytes(1))
        line.outcome(first)
        line.acknowledge(first)
        until(lambda: not far.task(first).exists(), "an empty spool")
        until(lambda: len(_children(far.agent())) == 3, "three waiting supervisors")
        before = len(os.listdir(f"/proc/{far.agent()}/fd"))
        key = new_key()
        line.submit(key, lambda: bytes(size))
        line.outcome(key)
        line.acknowledge(key)
        until(lambda: not far.task(key).exists(), "an empty spool")
        until(lambda: len(_children(far.agent())) == 3, "three waiting supervisors")
        assert len(os.listdir(f"/proc/{far.agent()}/fd")) == before


def test_an_agent_short_of_descriptors_forgets_large_files_all_the_same(far: FarSide) -> None:
    """It removes them although it cannot hold all of them, and keeps none of those that it could."""
    key = new_key()
    with far.line() as line:
        line.submit(key, lambda: None)
        line.outcome(key)
        for name in "abcd":
            (far.task(key) / name).touch()
            os.truncate(far.task(key) / name, places.LARGE)
        agent = far.agent()
        before = _descriptors(agent)
        free = (number for number in itertools.count() if number not in before)
        limits = resource.prlimit(agent, resource.RLIMIT_NOFILE)
        for _ in range(3):  # one to read the directory, two to hold files
            limit = next(free) + 1
        resource.prlimit(agent, resource.RLIMIT_NOFILE, (limit, limits[1]))
        line.send(wire.ACK, 0, {"key": key})
        until(lambda: not far.task(key).exists(), "an empty spool")
        resource.prlimit(agent, resource.RLIMIT_NOFILE, limits)
        line.expect(wire.ACK)
        assert _descriptors(agent) == before


def test_a_directory_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """Another agent may have removed it a moment ago, which is no failure."""
    assert places.hold_large(str(tmp_path / "gone")) == []


def _descriptors(pid: int) -> set[int]:
    """Return the numbers of a process's open descriptors."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


def _children(pid: int) -> set[int]:
    """Return a process's children, those that have ended and were not waited for too."""
    return {child.pid for child in psutil.Process(pid).children()}
