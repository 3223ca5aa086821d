"""Disks that are full or read-only, on either side: stated errors, no lost result, no torn line."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import direct, faults
from support.farside import FarSide, new_key
from support.faults import living, noting, runs, until

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.remote import wire


def mount(disk: Path, size: str) -> None:
    """Mount a small file system, or skip the test where this user may not."""
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a tmpfs: {mounted.stderr.strip()}")


def unmount(disk: Path) -> None:
    """Take a mounted file system away, whoever still stands on it."""
    subprocess.run(["umount", "-l", str(disk)], check=True)


def remount(disk: Path, how: str) -> None:
    """Make a mounted file system read-only ("ro") or writable ("rw")."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.fixture
def small_spool(place: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB where the spool will be."""
    mount(place / "spool", "1m")
    try:
        yield place / "spool"
    finally:
        direct.end_agents(place / "spool")
        subprocess.run(["umount", "-l", str(place / "spool")], check=True)


@pytest.fixture
async def machine(small_spool: Path, sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a way to a machine whose spool is on that file system."""
    async with direct.machine(sshd, place) as reached:
        yield reached


def fill(disk: Path) -> Path:
    """Take all the room that there is."""
    path = disk / "somebody's"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


# ---- the spool


async def test_a_request_that_does_not_fit_is_refused(machine: direct.Machine, place: Path) -> None:
    """A request larger than the free space is refused with path, needed, free and errno; nothing stays."""
    ran = await machine.run(noting(place / "ran"), bytes(2 << 20))
    assert isinstance(ran.error, errors.TransferError)
    text = str(ran.error)
    assert text.startswith(f"127.0.0.1: the task could not be stored in {machine.spool}/tasks/")
    assert "No space left on device (errno 28" in text
    assert re.search(r", \d+ bytes free of 2\d{6} needed", text)
    assert text.endswith("Make room there, or set remote_spool to another place.")
    assert not runs(place / "ran")
    assert not list(machine.spool.glob("tasks/*"))
    assert (await machine.run(noting(place / "next"))).value == "result"
    assert machine.host.connections == 1


async def test_a_spool_that_has_room_again_takes_the_task(
    machine: direct.Machine, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that was refused is sent once more a moment later, since nothing of it has started."""
    assert (await machine.run(noting(place / "first"))).value == "result"
    await until(lambda: not list(machine.spool.glob("tasks/*")))
    in_the_way = fill(machine.spool)
    running = asyncio.ensure_future(machine.run(noting(place / "ran")))
    await until(lambda: "submit.refused host=127.0.0.1" in caplog.text)
    in_the_way.unlink()
    assert (await asyncio.wait_for(running, 20)).value == "result"
    assert len(runs(place / "ran")) == 1


async def test_a_refused_task_is_cancelled(
    machine: direct.Machine, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancel between the two attempts ends the task, and nothing of it stays."""
    assert (await machine.run(noting(place / "first"))).value == "result"
    await until(lambda: not list(machine.spool.glob("tasks/*")))
    in_the_way = fill(machine.spool)
    names: dict[str, Any] = {"dispatch_id": "refused", "node_id": 1}
    running = asyncio.ensure_future(machine.run(noting(place / "ran"), **names))
    await until(lambda: "submit.refused host=127.0.0.1" in caplog.text)
    await machine.executor().cancel(names, None)
    assert isinstance((await running).error, direct.TaskCancelledError)
    in_the_way.unlink()
    await asyncio.sleep(1.2)
    assert not runs(place / "ran")
    assert not list(machine.spool.glob("tasks/*"))


async def test_a_full_spool_takes_no_task_and_goes_on_with_room(machine: direct.Machine, place: Path) -> None:
    """Without any room a task is refused at once; with room again the same connection takes the next."""
    assert (await machine.run(noting(place / "first"))).value == "result"
    await until(lambda: not list(machine.spool.glob("tasks/*")))
    in_the_way = fill(machine.spool)
    ran = await asyncio.wait_for(machine.run(noting(place / "ran")), 20)
    assert isinstance(ran.error, errors.TransferError), ran.error
    assert "No space left on device (errno 28" in str(ran.error)
    assert not runs(place / "ran")
    in_the_way.unlink()
    assert (await machine.run(noting(place / "next"))).value == "result"
    assert machine.host.connections == 1


def test_a_spool_without_permission_refuses_a_task(crowded: FarSide) -> None:
    """A directory that may not be made is told with path and errno, and the next one is made."""

    def seven() -> int:
        return 7

    keys = [new_key() for _ in range(3)]
    with crowded.line() as line:
        line.submit(keys[0], seven)
        assert line.outcome().value == 7
        (crowded.spool / "tasks").chmod(0o500)
        line.submit(keys[1], seven)
        told = line.expect(wire.REFUSED).header
        assert (told["text"], told["path"]) == ("Permission denied", str(crowded.task(keys[1])))
        assert told["errno"] == errno.EACCES
        (crowded.spool / "tasks").chmod(0o700)
        line.submit(keys[2], seven)
        assert line.outcome().value == 7


async def test_a_result_that_does_not_fit_is_an_error(machine: direct.Machine) -> None:
    """A result that the spool cannot hold ends the task with path and cause; it does not hang."""

    def gives_much() -> bytes:
        return bytes(3 << 20)

    ran = await asyncio.wait_for(machine.run(gives_much), 20)
    assert ran.error is not None
    assert isinstance(ran.error.__cause__, errors.TransferError)
    assert str(ran.error).startswith("127.0.0.1: gives_much: ")
    assert "No space left on device" in str(ran.error)
    assert str(ran.error).endswith("Make room there, or correct its permissions.")
    assert machine.records()[-1]["error_type"] == "TransferError"
    await until(lambda: not list(machine.spool.glob("tasks/*")))


async def test_output_that_does_not_fit_costs_no_result(machine: direct.Machine) -> None:
    """A task that prints more than the spool can hold ends all the same, with a result or a stated error."""

    def prints_much() -> str:
        for _ in range(512):
            os.write(1, b"x" * 8192)
        return "done"

    ran = await asyncio.wait_for(machine.run(prints_much), 30)
    if ran.error is not None:
        assert isinstance(ran.error.__cause__, errors.TransferError)
        assert "No space left on device" in str(ran.error)
    else:
        assert ran.value == "done"
    assert ran.stdout.startswith("xxx")
    await until(lambda: not list(machine.spool.glob("tasks/*")))


async def test_a_disk_that_fills_up_in_the_run_is_told(machine: direct.Machine, place: Path) -> None:
    """A result that finds the disk full is a stated error at once: room for saying so was kept."""
    running = asyncio.ensure_future(machine.run(holding(place / "ran", place / "go")))
    await until(lambda: runs(place / "ran"))
    in_the_way = fill(machine.spool)
    (place / "go").touch()
    ran = await asyncio.wait_for(running, 20)
    assert ran.error is not None
    assert isinstance(ran.error.__cause__, errors.TransferError)
    assert f"could not be written to {machine.spool}/tasks/" in str(ran.error)
    assert "No space left on device" in str(ran.error)
    await until(lambda: not list(machine.spool.glob("tasks/*")))
    in_the_way.unlink()
    assert (await machine.run(noting(place / "next"))).value == "result"
    assert machine.host.connections == 1


def holding(path: Path, go: Path) -> Callable[[], str]:
    """Return a function that leaves a line in a file and waits for another file to appear."""
    name, sign = str(path), str(go)

    def hold() -> str:
        import os
        import time

        with open(name, "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(sign):
            time.sleep(0.01)
        return "held"

    return hold


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
    with read_only(directory / "stdout"):  # a file that is a mount cannot be removed
        go.touch()
        assert (await asyncio.wait_for(running, 20)).value == "held"
        await asyncio.sleep(0.2)
        assert (await machine.run(noting(place / "next"))).value == "result"
        assert machine.host.connections == 1


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Make a directory read-only for whoever goes there by its path, by a mount over it."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)
        yield
    finally:
        unmount(directory)


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
    mount(place / "cache", "1m")
    try:
        remount(place / "cache", "ro")
        async with direct.machine(sshd, place, remote_cache=str(place / "cache")) as machine:
            ran = await machine.run(noting(place / "ran"))
    finally:
        unmount(place / "cache")
    assert isinstance(ran.error, errors.TransferError)
    assert str(ran.error).startswith("127.0.0.1: our program cannot be stored there: ")
    assert "Read-only file system" in str(ran.error)
    assert str(ran.error).endswith("Set remote_cache to another place.")


async def test_a_read_only_workdir(sshd: SSHServer, place: Path) -> None:
    """A working directory that cannot be made fails the task with its path, and says which setting it is."""
    mount(place / "work", "64k")
    try:
        remount(place / "work", "ro")
        async with direct.machine(sshd, place, remote_workdir=str(place / "work" / "mine")) as machine:
            ran = await machine.run(noting(place / "ran"))
    finally:
        unmount(place / "work")
    assert ran.error is not None
    assert isinstance(ran.error.__cause__, errors.TransferError)
    assert "Read-only file system" in str(ran.error)
    assert str(place / "work" / "mine") in str(ran.error)
    assert str(ran.error).endswith("Correct remote_workdir.")
    assert not runs(place / "ran")


# ---- files that come and go


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB at `place / "disk"`."""
    mount(place / "disk", "1m")
    try:
        yield place / "disk"
    finally:
        unmount(place / "disk")


def leaves(sizes: dict[str, int]) -> Callable[[], str]:
    """Return a function that leaves files of these sizes."""

    def function() -> str:
        for name, size in sizes.items():
            with open(name, "wb") as file:
                file.write(b"x" * size)
        return "done"

    return function


async def test_a_full_disk_here_costs_a_file_and_no_result(
    small_disk: Path, sshd: SSHServer, place: Path
) -> None:
    """What finds no room here is told of with path and errno, what fits is kept, and the result too."""
    options = {"fetch": ["*.h5"], "fetch_to": str(small_disk / "out"), "remote_workdir": str(place / "work")}
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(leaves({"a.h5": 1000, "b.h5": 3 << 20, "c.h5": 1000}), options=options)
        assert ran.value == "done"
        assert ran.stderr == (
            f"warning: '{small_disk}/out/b.h5' was not kept here: No space left on device (errno 28). It is "
            "still in the task's working directory.\n"
        )
        assert sorted(path.name for path in small_disk.rglob("*")) == ["a.h5", "c.h5", "out"]
        record = machine.records()[-1]
        assert (record["fetched_files"], record["fetched_bytes"], record["fetched_left"]) == (2, 2000, 1)


async def test_a_read_only_disk_here_costs_no_result(small_disk: Path, sshd: SSHServer, place: Path) -> None:
    """A directory that cannot be made here is told of for each file; the result is kept."""
    remount(small_disk, "ro")
    options = {"fetch": ["*.h5"], "fetch_to": str(small_disk / "out"), "remote_workdir": str(place / "w")}
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(leaves({"a.h5": 1}), options=options)
    assert ran.value == "done"
    assert ran.stderr.startswith(
        f"warning: '{small_disk}/out/a.h5' was not kept here: Read-only file system (er"
    )


async def test_a_spool_too_full_to_note_the_files(machine: direct.Machine, place: Path) -> None:
    """Where there is no room for the list of what was left, it is looked for again, and all of it comes."""
    go = place / "go"

    def waits() -> None:
        import os
        import time

        for number in range(300):
            with open(f"{'n' * 200}{number:03}.h5", "w"):
                pass
        open("there", "w").close()
        while not os.path.exists(go):
            time.sleep(0.01)

    options = {"fetch": ["*.h5"], "remote_workdir": str(place / "work")}
    running = asyncio.ensure_future(machine.run(waits, node_id=9, options=options))
    await until((place / "work" / "there").exists)
    fill(machine.spool)
    go.touch()
    ran = await asyncio.wait_for(running, 30)
    assert ran.stderr.count("warning") == 0
    assert len(list((machine.log.parent / "dispatch" / "node_9").iterdir())) == 300


async def test_a_full_disk_there_takes_no_file(small_disk: Path, sshd: SSHServer, place: Path) -> None:
    """A file that finds no room in the working directory ends the task before it begins; nothing stays."""
    (place / "a.bin").write_bytes(bytes(2 << 20))
    options = {"send": [str(place / "a.bin")], "remote_workdir": str(small_disk)}
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(noting(place / "ran"), options=options)
    assert str(ran.error).startswith(
        f"127.0.0.1: note could not begin: 'a.bin' could not be put into {small_disk}: No space left on "
    )
    assert isinstance(ran.error.__cause__ if ran.error else None, errors.TransferError)
    assert not list(small_disk.iterdir())
    assert not runs(place / "ran")


# ---- the near log


@pytest.fixture
def small_log(place: Path) -> Iterator[Path]:
    """Mount a file system of two pages where the log will be."""
    mount(place / "log", "8k")
    try:
        yield place / "log" / "timing.log"
    finally:
        subprocess.run(["umount", "-l", str(place / "log")], check=True)


async def test_a_full_log_costs_no_result(small_log: Path, sshd: SSHServer, place: Path) -> None:
    """Once the log's disk is full results still come, each with a warning and its record on stderr."""
    async with direct.machine(sshd, place, timing_filepath=str(small_log)) as machine:
        rans = [await machine.run(noting(place / f"r{i}"), i, node_id=i) for i in range(12)]
        assert [ran.value for ran in rans] == list(range(12))
    warned = [ran for ran in rans if "warning: " in ran.stderr]
    assert warned
    for ran in warned:
        assert "No space left on device" in ran.stderr
        assert str(small_log.parent) in ran.stderr
    told = [json.loads(ran.stderr.split("the record: ")[1].splitlines()[0]) for ran in warned]
    lines = small_log.with_name("timing.log.jsonl").read_text()
    assert lines.endswith("\n")
    written = [json.loads(line)["node_id"] for line in lines.splitlines()]
    assert {*written, *(record["node_id"] for record in told)} == set(range(12))
    assert len(written) == len(set(written)) > 0


async def test_a_read_only_log_is_found_before_the_task(
    small_log: Path, sshd: SSHServer, place: Path
) -> None:
    """A log on a read-only disk is a ConfigError, and nothing is submitted."""
    remount(small_log.parent, "ro")
    async with direct.machine(sshd, place, timing_filepath=str(small_log)) as machine:
        ran = await machine.run(noting(place / "ran"))
        assert not direct.pool.hosts()
    assert isinstance(ran.error, errors.ConfigError)
    assert "Read-only file system" in str(ran.error)
    assert str(small_log) in str(ran.error)
    assert str(ran.error).endswith("nothing was submitted.")
    assert not runs(place / "ran")
