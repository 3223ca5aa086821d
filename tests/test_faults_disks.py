"""A spool that is full, at any point of a task: stated errors, no lost result, no connection lost."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import direct
from support.disks import fill
from support.farside import FarSide, new_key
from support.faults import holding, noting, runs, until

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.remote import wire


@pytest.fixture
async def machine(small_spool: Path, sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a way to a machine whose spool is on that file system."""
    async with direct.machine(sshd, place) as reached:
        yield reached


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
