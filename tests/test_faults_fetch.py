"""Links cut, processes killed and tasks cancelled while fetched files are on their way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
from covalent._shared_files.exceptions import TaskCancelledError
from support import direct, faults
from support.faults import until
from support.fetching import below, home, writes, writes_much

from covalent_sshtiming.demo.sshserver import SSHServer


async def test_a_cut_in_mid_file_costs_nothing(sshd: SSHServer, place: Path) -> None:
    """Wherever the link is cut while files come, all of them are there in the end, and nothing else."""
    left = {f"{n}.h5": os.urandom(1 << 10) * 300 for n in range(6)}
    async with faults.linked(sshd, place, retry_wait_time=0.1, remote_workdir=str(place / "work")) as (
        machine,
        proxy,
    ):
        assert (await machine.run(lambda: "warm")).value == "warm"
        for node, share in enumerate((0.05, 0.4, 0.75)):
            proxy.down.cut_after = proxy.down.count + int(share * 6 * 300 * 1024)
            options = {"fetch": ["*.h5"], "create_unique_workdir": True}
            ran = await machine.run(writes(left), node_id=node, options=options)
            assert (ran.value, ran.stderr) == ("done", "")
            assert below(home(machine, node)) == left
            assert machine.records()[-1]["fetched_files"] == 6
            assert proxy.connections == node + 2


async def test_a_courier_that_is_killed_costs_its_files_only(sshd: SSHServer, place: Path) -> None:
    """Where reading the files breaks off, the result is kept, and a sentence says what is missing."""
    async with faults.linked(sshd, place, remote_workdir=str(place / "work")) as (machine, proxy):
        proxy.down.bandwidth = 10e6
        running = asyncio.ensure_future(
            machine.run(writes_much(40 << 20), node_id=3, options={"fetch": ["*.h5"]})
        )
        await until(lambda: couriers(machine))
        os.kill(couriers(machine)[0], signal.SIGKILL)
        ran = await running
        assert ran.value == "done"
        assert ran.stderr == (
            "warning: 127.0.0.1: not all files came: reading them there broke off. They stay there.\n"
        )
        assert machine.records()[-1]["fetched_files"] == 0
        assert below(home(machine, 3)) == {}
        assert (await machine.run(lambda: "next")).value == "next"


async def test_a_cancel_ends_the_fetching(sshd: SSHServer, place: Path) -> None:
    """A cancel that comes when the task has ended and its files are on the way ends those, as a cancel."""
    async with faults.linked(sshd, place, remote_workdir=str(place / "work")) as (machine, proxy):
        proxy.down.bandwidth = 10e6
        task: dict[str, Any] = {"dispatch_id": "no longer", "node_id": 3}
        running = asyncio.ensure_future(
            machine.run(writes_much(1 << 30), **task, options={"fetch": ["*.h5"]})
        )
        await until(lambda: couriers(machine))
        await machine.executor().cancel(task, None)
        ran = await asyncio.wait_for(running, 5)
        assert isinstance(ran.error, TaskCancelledError)
        assert machine.records()[-1]["status"] == "cancelled"
        assert below(machine.log.parent / "no longer") == {}
        await until(lambda: not couriers(machine))


async def test_a_cancel_does_not_wait_for_its_turn(sshd: SSHServer, place: Path) -> None:
    """A task whose files wait until others' have been read is cancelled at once, and theirs still come."""
    async with faults.linked(sshd, place, remote_workdir=str(place / "work")) as (machine, proxy):
        proxy.down.bandwidth = 10e6
        options = {"fetch": ["*.h5"], "create_unique_workdir": True}
        function = writes_much(5 << 20)  # more than a window, so that no courier is done before
        first = [
            asyncio.ensure_future(machine.run(function, node_id=node, options=options)) for node in range(8)
        ]
        await until(lambda: len(couriers(machine)) == 8)
        task: dict[str, Any] = {"dispatch_id": "no longer", "node_id": 8}
        last = asyncio.ensure_future(machine.run(function, **task, options=options))
        await until(lambda: len(list(machine.spool.glob("tasks/*/outcome"))) == 9)
        await machine.executor().cancel(task, None)
        assert isinstance((await asyncio.wait_for(last, 5)).error, TaskCancelledError)
        assert not any(running.done() for running in first)
        proxy.down.bandwidth = 1e9
        assert [ran.value for ran in await asyncio.gather(*first)] == ["done"] * 8
        assert [list(below(home(machine, node))) for node in range(8)] == [["a.h5"]] * 8


async def test_an_agent_that_is_killed_costs_no_file(sshd: SSHServer, place: Path) -> None:
    """The agent dies with files under way: the next one goes on with the first that is not here yet."""
    async with faults.linked(sshd, place, remote_workdir=str(place / "work")) as (machine, proxy):
        proxy.down.bandwidth = 10e6
        left = {f"{n}.h5": os.urandom(1 << 10) * 1024 for n in range(12)}
        running = asyncio.ensure_future(machine.run(writes(left), node_id=3, options={"fetch": ["*.h5"]}))
        await until((home(machine, 3) / "3.h5").exists)
        (agent,) = machine.agents()
        faults.kill(agent)
        proxy.down.bandwidth = 1e9
        ran = await running
        assert (ran.value, ran.stderr) == ("done", "")
        assert below(home(machine, 3)) == left
        assert machine.records()[-1]["fetched_files"] == 12


def couriers(machine: direct.Machine) -> list[int]:
    """Return the processes there that have a file of a task's open."""
    found: list[int] = []
    for agent in machine.agents():
        for child in psutil.Process(agent).children():
            with contextlib.suppress(psutil.Error):
                if any(one.path.endswith(".h5") for one in child.open_files()):
                    found.append(child.pid)
    return found
