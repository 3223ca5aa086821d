"""Every process of the far side killed or stopped, and the near one stopped too: what comes of a task."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest
from conftest import LIMITED_USER, remote_environment, require_sshd
from support import direct, farside, faults, there
from support.farside import FarSide, Told, new_key
from support.faults import noting, runs, stopped, until
from support.proxy import Proxy

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.host.task import Nowhere

ROOT = Path(__file__).parent


@pytest.fixture
def server(place: Path) -> Iterator[SSHServer]:
    """Return an OpenSSH server of this test's own, so that all its processes are this test's."""
    require_sshd()
    with ssh_server(place / "ssh", kind="openssh", environment=remote_environment()) as own:
        yield own


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


# ---- the near process: asleep for a night, then without its network


NEAR = """
import asyncio, json, sys
from pathlib import Path
from support import direct, farside, faults, there
from support.farside import PYTHON, FarSide, Told, new_key

async def main(order):
    executor = direct.Machine(order["settings"], Path(order["settings"]["remote_spool"]), Path(order["log"]))
    place = Path(order["place"])
    rans = await asyncio.gather(
        *(executor.run(faults.noting(place / f"n{i}", order["seconds"]), i) for i in range(order["tasks"]))
    )
    connections = sum(host.connections for host in direct.pool.hosts())
    await direct.pool.close_all()
    return {"values": [repr(ran.error) if ran.error else ran.value for ran in rans], "opened": connections}

print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""


async def sleeper(server: SSHServer, place: Path, asleep: float, after: float) -> dict[str, Any]:
    """Stop a near process whose tasks run, cut its link; wake it without network, name and login, in turn."""
    home, count = place / "near", 4
    (home / ".ssh").mkdir(parents=True)
    config, keys = home / ".ssh" / "config", place / "ssh" / "authorized_keys"
    resolves, lost = "Host build01\n  HostName 127.0.0.1\n", "Host build01\n  HostName build01.invalid\n"
    config.write_text(resolves)
    async with Proxy(server.host, server.port) as proxy:
        known = faults.known_through(proxy, server, place)
        known.write_text(known.read_text() + known.read_text().replace(proxy.host, "build01"))
        order = {
            "settings": {
                **server.settings(),
                **faults.through(proxy, server, place),
                "hostname": "build01",
                "known_hosts_file": str(known),
                "python_path": sys.executable,
                "remote_spool": str(place / "spool"),
                "timing_filepath": str(place / "timing.log"),
                "max_parallel": count,
                "idle_timeout": 5,
                "retry_wait_time": 0.3,
            },
            "log": str(place / "timing.log"),
            "place": str(place),
            "tasks": count,
            "seconds": 1.0,
        }
        environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
        near = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NEAR, json.dumps(order), env=environment, stdout=PIPE, stderr=PIPE
        )
        try:
            await until(lambda: all((place / f"n{i}").exists() for i in range(count)), 30)
            with stopped([near.pid]):
                proxy.reset()
                proxy.refuse = True
                await asyncio.sleep(asleep)
            await asyncio.sleep(after)  # awake, without the network
            config.write_text(lost)
            proxy.refuse = False
            await asyncio.sleep(after)  # the network is back, the name's server is not
            allowed = keys.read_bytes()
            keys.write_bytes(b"")
            config.write_text(resolves)
            await asyncio.sleep(after)  # the key agent is locked
            keys.write_bytes(allowed)
            told, said = await asyncio.wait_for(near.communicate(), 60)
        finally:
            with suppress(ProcessLookupError):
                near.kill()
            await near.wait()
            direct.end_agents(place / "spool")
    assert near.returncode == 0, said.decode()[-2000:]
    log = server.process.log.read_text(errors="replace")
    return {**json.loads(told), "log": log, "runs": [len(runs(place / f"n{i}")) for i in range(count)]}


@pytest.mark.parametrize(
    ("asleep", "after"),
    [(1.5, 1.5), pytest.param(120, 5, marks=[pytest.mark.soak, pytest.mark.timeout(400)])],
)
async def test_a_dispatcher_that_slept_gets_all_results(
    server: SSHServer, place: Path, asleep: float, after: float
) -> None:
    """Asleep, its link cut, then without network, name and login for a while: all results still arrive."""
    seen = await sleeper(server, place, asleep, after)
    assert seen["values"] == [0, 1, 2, 3]
    assert seen["runs"] == [1, 1, 1, 1]
    assert seen["opened"] == 2
    assert "Failed publickey" in seen["log"], "no login was refused"


# ---- a machine without room for another process


@pytest.mark.parametrize(
    ("room", "ready"),
    [(0, True), (0, False), (1, False)],
    ids=["for no worker", "for no supervisor", "for a supervisor without a worker"],
)
def test_a_task_waits_where_no_fork_is_to_be_had(crowded: FarSide, room: int, ready: bool) -> None:
    """Where fork fails with EAGAIN a task waits; with room again it runs, and none fails."""

    def nap() -> int:
        import time

        time.sleep(0.1)
        return 7

    keys = [new_key() for _ in range(6)]
    with crowded.line() as line:
        line.submit(keys[0], nap, max_parallel=2)
        assert line.outcome().value == 7
        agent = crowded.agent()
        limit(agent, 1)  # so that nothing is forked ahead any more
        if not ready:
            kill(psutil.Process(agent).children())
        with suppress(EOFError):
            for key in keys[1:]:
                line.submit(key, nap, max_parallel=2)
        farside.until(lambda: not workers(agent), "the workers forked ahead to be used")
        # The last one's outcome comes a moment after its worker's end.
        begun = len(found(crowded, "started"))
        farside.until(lambda: len(found(crowded, "outcome")) == begun, "the outcomes of these")
        ended = found(crowded, "outcome")
        limit(agent, len(counted()) + room)
        time.sleep(2.5)
        more = found(crowded, "outcome") - ended
        assert not more, [path.read_text() for path in more]
        assert len(ended) < len(keys)
        limit(agent, 1000)
        told = [line_outcome(crowded, key) for key in keys[1:]]
    assert [one.value for one in told] == [7] * 5


def found(far: FarSide, name: str) -> set[Path]:
    """Return the files of a name in the task directories."""
    return set(far.spool.glob(f"tasks/*/{name}"))


def line_outcome(far: FarSide, key: str) -> Told:
    """Ask for a task over a connection of its own."""
    with far.line() as line:
        line.attach(key)
        return line.outcome()


def counted() -> list[psutil.Process]:
    """Return the processes that count against the limit; the zombies among them will be reaped."""
    every = psutil.process_iter(["uids"])
    return [one for one in every if one.info["uids"].real == LIMITED_USER and there.alive(one.pid)]


def limit(agent: int, processes: int) -> None:
    """Set how many processes its user may have when the agent, or what it forks from now on, forks."""
    for process in (psutil.Process(agent), *psutil.Process(agent).children(recursive=True)):
        # As that user: even root may be forbidden to change another's.
        subprocess.run(
            ["prlimit", f"--pid={process.pid}", f"--nproc={processes}:"],
            user=LIMITED_USER,
            group=LIMITED_USER,
            check=False,
        )


def kill(supervisors: list[psutil.Process]) -> None:
    """Kill supervisors, with which their workers end."""
    doomed = [one for supervisor in supervisors for one in (supervisor, *supervisor.children())]
    for supervisor in supervisors:
        supervisor.kill()
    farside.until(lambda: not any(there.alive(one.pid) for one in doomed), "the supervisors' end")


def workers(agent: int) -> list[psutil.Process]:
    """Return the processes below an agent's supervisors that have not ended."""
    below = {one.pid for one in psutil.Process(agent).children()}
    return [
        one
        for one in psutil.Process(agent).children(recursive=True)
        if one.pid not in below and there.alive(one.pid)
    ]
