"""Disks that are read-only, or become so: the spool, the cache, the working directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import direct, faults
from support.disks import mounted, read_only, remount
from support.faults import holding, living, noting, runs, until

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer


@pytest.fixture
async def machine(small_spool: Path, sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a way to a machine whose spool is on that file system."""
    async with direct.machine(sshd, place) as reached:
        yield reached


async def test_a_spool_that_becomes_read_only(machine: direct.Machine, place: Path) -> None:
    """A spool that is read-only takes no task and says so; what ran meanwhile says so once it can."""
    running = asyncio.ensure_future(machine.run(holding(place / "ran", place / "go")))
    await until(lambda: runs(place / "ran"))
    with read_only(machine.spool / "tasks"):
        ran = await asyncio.wait_for(machine.run(noting(place / "second")), 20)
        assert isinstance(ran.error, errors.TransferError), ran.error
        assert "Read-only file system (errno 30" in str(ran.error)
        assert not runs(place / "second")
        (place / "go").touch()
        await asyncio.sleep(0.5)
        assert not running.done()
    ended = await asyncio.wait_for(running, 20)
    assert ended.error is not None
    assert isinstance(ended.error.__cause__, errors.TransferError)
    assert "Read-only file system" in str(ended.error)
    assert len(runs(place / "ran")) == 1
    await until(lambda: not list(machine.spool.glob("tasks/*")))


async def test_a_cancel_on_a_read_only_spool_waits_for_the_disk(machine: direct.Machine, place: Path) -> None:
    """A cancel that cannot be noted down costs no connection, and holds as soon as it can be."""
    names: dict[str, Any] = {"dispatch_id": "ro", "node_id": 1}
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 60), **names))
    await until(lambda: runs(place / "ran"))
    with read_only(machine.spool / "tasks"):
        await machine.executor().cancel(names, None)
        await asyncio.sleep(1.5)
        assert machine.host.connections == 1
        assert not running.done()
    ran = await asyncio.wait_for(running, 15)
    assert isinstance(ran.error, direct.TaskCancelledError)
    assert not living(runs(place / "ran"))


async def test_a_read_only_spool_takes_a_reconnect(small_spool: Path, sshd: SSHServer, place: Path) -> None:
    """A task is found again on a disk that has become read-only meanwhile, at the first attempt."""
    async with faults.linked(sshd, place) as (machine, proxy):
        running = asyncio.ensure_future(machine.run(holding(place / "ran", place / "go")))
        await until(lambda: runs(place / "ran"))
        with read_only(machine.spool / "tasks"):
            proxy.reset()
            await until(lambda: machine.host.connections == 2)
            await asyncio.sleep(1.5)
            assert machine.host.connections == 2
        (place / "go").touch()
        assert (await asyncio.wait_for(running, 20)).value == "held"


async def test_a_task_that_cannot_be_removed_costs_no_connection(
    machine: direct.Machine, place: Path
) -> None:
    """Where a task's directory cannot be removed just now, other tasks have nothing of it."""
    go = place / "go"
    running = asyncio.ensure_future(machine.run(holding(place / "ran", go)))
    await until(lambda: runs(place / "ran"))
    (directory,) = machine.spool.glob("tasks/*")
    with read_only(directory / "lock"):  # a file that is a mount cannot be removed
        go.touch()
        assert (await asyncio.wait_for(running, 20)).value == "held"
        await asyncio.sleep(0.2)
        assert (await machine.run(noting(place / "next"))).value == "result"
        assert machine.host.connections == 1


async def test_a_read_only_spool_from_the_start(small_spool: Path, sshd: SSHServer, place: Path) -> None:
    """A spool that cannot be written is a TransferError before anything is sent."""
    remount(small_spool, "ro")
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(noting(place / "ran"))
    assert isinstance(ran.error, errors.TransferError)
    assert str(ran.error).startswith("127.0.0.1: no place for tasks: ")
    assert "Read-only file system" in str(ran.error)
    assert str(small_spool) in str(ran.error)
    assert str(ran.error).endswith("Set remote_spool to another one.")


async def test_a_spool_that_was_read_only_for_a_moment(
    small_spool: Path, sshd: SSHServer, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second connection finds the spool writable again, and the task runs."""
    remount(small_spool, "ro")
    async with direct.machine(sshd, place) as machine:
        running = asyncio.ensure_future(machine.run(noting(place / "ran")))
        await until(lambda: "no place for tasks: " in caplog.text)
        remount(small_spool, "rw")
        assert (await asyncio.wait_for(running, 20)).value == "result"


async def test_a_read_only_cache_from_the_start(sshd: SSHServer, place: Path) -> None:
    """A cache that cannot be written is a TransferError that names the setting."""
    with mounted(place / "cache", "1m") as cache:
        remount(cache, "ro")
        async with direct.machine(sshd, place, remote_cache=str(cache)) as machine:
            ran = await machine.run(noting(place / "ran"))
    assert isinstance(ran.error, errors.TransferError)
    assert str(ran.error).startswith("127.0.0.1: our program cannot be stored there: ")
    assert "Read-only file system" in str(ran.error)
    assert str(ran.error).endswith("Set remote_cache to another place.")


async def test_a_read_only_workdir(sshd: SSHServer, place: Path) -> None:
    """A working directory that cannot be made fails the task with its path, and says which setting it is."""
    with mounted(place / "work", "64k") as work:
        remount(work, "ro")
        async with direct.machine(sshd, place, remote_workdir=str(work / "mine")) as machine:
            ran = await machine.run(noting(place / "ran"))
    assert ran.error is not None
    assert isinstance(ran.error.__cause__, errors.TransferError)
    assert "Read-only file system" in str(ran.error)
    assert str(place / "work" / "mine") in str(ran.error)
    assert str(ran.error).endswith("Correct remote_workdir.")
    assert not runs(place / "ran")
