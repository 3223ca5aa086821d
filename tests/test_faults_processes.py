"""Every process of the far side killed or stopped, and links that swallow all: what comes of a task."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support import direct, faults
from support.faults import noting, runs, stopped, until
from support.proxy import Proxy

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.host.task import Nowhere


@pytest.fixture
async def machine(server: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a way to that server."""
    async with direct.machine(server, place, retry_wait_time=0.5) as reached:
        yield reached


# ---- killed: the connection's processes cost the connection, the task's own cost the task


@pytest.mark.parametrize("victim", ["session", "doorman", "agent"])
async def test_a_process_of_the_connection_is_killed(
    machine: direct.Machine, server: SSHServer, place: Path, victim: str
) -> None:
    """SIGKILL of sshd's session, of the doorman or of the agent in mid-run: the result comes, of one run."""
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 1.0)))
    await until((place / "ran").exists)
    for pid in victims(server, machine, victim):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ran = await running
    assert (ran.value, ran.stdout) == ("result", "done\n")
    assert len(runs(place / "ran")) == 1
    assert machine.host.connections == 2


def victims(server: SSHServer, machine: direct.Machine, name: str) -> list[int]:
    """Return the process ids that a name stands for."""
    if name == "agent":
        return sorted(machine.agents())
    found = faults.sessions(server) if name == "session" else faults.doormen(server)
    assert found, f"there is no {name}"
    return [process.pid for process in found]


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("supervisor", "note lost its supervisor, which something killed"),
        ("worker", "note was killed by SIGKILL"),
    ],
)
async def test_a_process_of_the_task_is_killed(
    machine: direct.Machine, place: Path, victim: str, words: str
) -> None:
    """SIGKILL of the supervisor or of the worker is told as TaskDied at once; the connection lives."""
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 60)))
    await until(lambda: runs(place / "ran"))
    worker = runs(place / "ran")[0]
    os.kill(worker if victim == "worker" else psutil.Process(worker).ppid(), signal.SIGKILL)
    ran = await asyncio.wait_for(running, 10)
    assert ran.error is not None
    assert isinstance(ran.error.__cause__, errors.TaskDied)
    assert str(ran.error).startswith(f"127.0.0.1: {words}")
    assert "it is not run again by itself" in str(ran.error)
    assert machine.records()[-1]["status"] == "killed"
    await until(lambda: not faults.living([worker]))
    assert (await machine.run(noting(place / "next"))).value == "result"
    assert machine.host.connections == 1


# ---- stopped: nobody hears of it, so silence has to be noticed


@pytest.mark.parametrize("victim", ["session", "agent"])
async def test_a_process_of_the_connection_is_stopped(
    machine: direct.Machine, server: SSHServer, place: Path, victim: str
) -> None:
    """SIGSTOP of sshd's session or of the agent is a half-open link: noticed, left, the task found again."""
    async with faults.host(machine) as host:
        running = asyncio.ensure_future(faults.run_on(host, noting(place / "ran", 1.0)))
        await until((place / "ran").exists)
        with stopped(victims(server, machine, victim)):
            assert await asyncio.wait_for(running, 30) == "result"
        assert host.connections == 2
    assert len(runs(place / "ran")) == 1


async def test_a_stopped_doorman_is_not_missed(
    machine: direct.Machine, server: SSHServer, place: Path
) -> None:
    """The doorman copies nothing, so a stopped one delays nothing."""
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 0.5)))
    await until((place / "ran").exists)
    with stopped(victims(server, machine, "doorman")):
        assert (await asyncio.wait_for(running, 10)).value == "result"
        assert machine.host.connections == 1


@pytest.mark.parametrize("victim", ["supervisor", "worker"])
async def test_a_stopped_process_of_the_task_goes_on(
    machine: direct.Machine, place: Path, victim: str
) -> None:
    """A task whose supervisor or worker is stopped ends when that goes on, with its result."""
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 0.3)))
    await until(lambda: runs(place / "ran"))
    worker = runs(place / "ran")[0]
    with stopped([worker if victim == "worker" else psutil.Process(worker).ppid()]):
        await asyncio.sleep(1)
        assert not running.done()
    assert (await asyncio.wait_for(running, 10)).value == "result"


async def test_a_stopped_worker_is_cancelled(machine: direct.Machine, place: Path) -> None:
    """A task that cannot hear TERM, because it is stopped, is killed within its grace."""
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 60), dispatch_id="s", node_id=1))
    await until(lambda: runs(place / "ran"))
    worker = runs(place / "ran")[0]
    with stopped([worker]):
        await machine.executor().cancel({"dispatch_id": "s", "node_id": 1}, None)
        ran = await asyncio.wait_for(running, 15)
    assert isinstance(ran.error, direct.TaskCancelledError)
    assert not faults.living([worker])


async def test_a_task_whose_leftovers_linger_is_cancelled(machine: direct.Machine, place: Path) -> None:
    """A cancel while what a function left behind still has its grace ends all of it at once."""

    def leaves() -> None:
        import os
        import subprocess

        stubborn = (
            "trap 'trap - TERM' TERM; echo there; while :; do sleep 0.05; done"  # the second TERM ends it
        )
        child = subprocess.Popen(["sh", "-c", stubborn], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        with open(name, "w") as file:
            file.write(f"{os.getpid()}\n{child.pid}\n")

    name = str(place / "ran")
    running = asyncio.ensure_future(machine.run(leaves, dispatch_id="l", node_id=1, options={"linger": 60}))
    await until(lambda: runs(place / "ran"))
    worker, child = runs(place / "ran")
    await until(lambda: not faults.living([worker]))
    await asyncio.sleep(0.3)
    assert faults.living([child])
    await machine.executor().cancel({"dispatch_id": "l", "node_id": 1}, None)
    ran = await asyncio.wait_for(running, 15)
    assert isinstance(ran.error, direct.TaskCancelledError)
    assert not faults.living([child])


# ---- half-open links


@pytest.mark.parametrize("direction", ["both", "up", "down"])
async def test_a_half_open_link_is_noticed(
    server: SSHServer, machine: direct.Machine, place: Path, direction: str
) -> None:
    """A link that swallows what it is given, one way or both, is left after the silence; nothing is lost."""
    async with Proxy(server.host, server.port) as proxy:
        known = str(faults.known_through(proxy, server, place))
        async with faults.host(machine, port=proxy.port, known_hosts_file=known) as host:
            running = asyncio.ensure_future(faults.run_on(host, noting(place / "ran", 0.2)))
            await until((place / "ran").exists)
            ways = {"up": [proxy.up], "down": [proxy.down]}.get(direction, [proxy.up, proxy.down])
            for way in ways:
                way.swallow = True
            begun = time.monotonic()
            # A task that was done meanwhile is not told over the dead link if that is the way down.
            await until(lambda: " open " not in repr(host))
            assert time.monotonic() - begun < 5
            for way in ways:
                way.swallow = False
            assert await asyncio.wait_for(running, 20) == "result"
    assert len(runs(place / "ran")) == 1


async def test_a_cancel_does_not_wait_for_a_machine_that_is_away(
    server: SSHServer, machine: direct.Machine, place: Path
) -> None:
    """A task cancelled while its machine is away is cancelled soon, and is ended there once that is back."""
    async with Proxy(server.host, server.port) as proxy:
        known = str(faults.known_through(proxy, server, place))
        options = {"port": proxy.port, "known_hosts_file": known, "farewell": 0.5}
        async with faults.host(machine, **options) as host:
            key, call = faults.request_of(noting(place / "ran", 60))
            call.leave = True  # which is about the server's end, and not about a cancel
            running = asyncio.ensure_future(host.run(call, Nowhere()))
            await until(lambda: runs(place / "ran"))
            proxy.refuse = True
            proxy.reset()
            host.cancel(key)
            outcome = await asyncio.wait_for(running, 5)
            host.acknowledge(key)  # as the executor does
            assert outcome.ended == {"status": "cancelled"}
            assert outcome.doubt == (
                "far (127.0.0.1): nothing was heard of the cancelled task's end for 0.5 s; what runs there "
                "of it is ended as soon as the machine answers."
            )
            assert faults.living(runs(place / "ran"))
            proxy.refuse = False
            await until(lambda: not faults.living(runs(place / "ran")))
            await until(lambda: not list(machine.spool.glob("tasks/*")))
            assert "tasks=0" in repr(host)
