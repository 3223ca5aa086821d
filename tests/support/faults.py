"""What the tests of failures share: a link to break, a function that tells how often it ran, a fast host.

`storms` has what is repeated many times, in `make test` and, more often, in `make soak`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.electron import ResultBuilder
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Outcome, Request
from covalent_sshtiming.remote import places
from support import direct, farside, there
from support.direct import P
from support.interpreters import OWN
from support.named import Server
from support.proxy import Proxy
from support.there import There, begun

CAP = 1 << 30


def known_through(proxy: Proxy, server: Server, place: Path) -> Path:
    """Write a known_hosts file that knows a server by a proxy's port, and return it."""
    known = place / f"known_hosts-{proxy.port}"
    key = server.known_hosts_file.read_text().split(" ", 1)[1]
    known.write_text(f"[{proxy.host}]:{proxy.port} {key}")
    return known


def through(proxy: Proxy, server: Server, place: Path) -> dict[str, Any]:
    """Return the settings that reach a server through a proxy, whose port known_hosts has to name."""
    known = known_through(proxy, server, place)
    return {
        "hostname": proxy.host,
        "port": proxy.port,
        "known_hosts_file": str(known),
        "retry_wait_time": 1,
    }


@asynccontextmanager
async def linked_at(
    server: Server, place: Path, far: P, **options: Any
) -> AsyncIterator[tuple[direct.Machine[P], Proxy]]:
    """Reach a server as `direct.machine_at` does, through a link that can be broken."""
    async with (
        Proxy(server.host, server.port) as proxy,
        direct.machine_at(server, place, far, **{**through(proxy, server, place), **options}) as machine,
    ):
        yield machine, proxy


def linked(
    server: SSHServer, place: Path, **options: Any
) -> AbstractAsyncContextManager[tuple[direct.Machine, Proxy]]:
    """Reach a server of ours as `direct.machine` does, through a link that can be broken."""
    return linked_at(server, place, place, **options)


async def until(condition: Callable[[], object], seconds: float = 15, what: str = "it") -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what} in vain"
        await asyncio.sleep(0.01)


def noting(path: There, seconds: float = 0.0) -> Callable[..., Any]:
    """Return a function that appends its process id to a file, sleeps and returns its argument."""
    name = str(path)

    def note(value: Any = "result") -> Any:
        import os
        import time

        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, b"%d\n" % os.getpid())
        os.close(handle)
        time.sleep(seconds)
        print("done")
        return value

    return note


def one_behind_another(
    far: farside.FarSide, line: farside.Line, place: Path, seconds: float = 1.0
) -> tuple[str, str]:
    """Have one task run, noted in the file `first`, and another wait, for `second`; return their keys."""
    first, second = farside.new_key(), farside.new_key()
    line.submit(first, noting(place / "first", seconds), max_parallel=1)
    line.submit(second, noting(place / "second"), max_parallel=1)
    far.started(first)
    return first, second


def holding(path: There, go: There) -> Callable[[], str]:
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


def runs(path: There) -> list[int]:
    """Return the ids of the processes in which a noting function has run."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# ---- a host with short times, without the executor


def target_of(machine: direct.Machine, **more: Any) -> Target:
    """Return the target that a machine's executor would use, with other times than it can set."""
    found = machine.settings
    return replace(
        Target(
            label="far",
            hostname=found["hostname"],
            python=OWN,
            port=found["port"],
            username=found["username"],
            key_file=found["ssh_key_file"],
            known_hosts_file=found["known_hosts_file"],
            python_path=found["python_path"],
            spool=found["remote_spool"],
            retry_wait=0.5,
            idle_timeout=5,
        ),
        **more,
    )


@asynccontextmanager
async def host(machine: direct.Machine, **more: Any) -> AsyncIterator[direct.Host]:
    """Open a host of one's own, which notices a silent link after a second."""
    target = target_of(machine, **{"ping": 0.2, "silence": 1.0, **more})
    opened = direct.Host(target, partial(direct.pool.open_ssh, target))
    try:
        yield opened
    finally:
        await opened.close()


def request_of(function: Callable[..., Any], *args: Any, **head: Any) -> tuple[str, Request]:
    """Return a call's key, and the call as a host takes it."""
    key = farside.new_key()
    facts, body = farside.request(key, function, *args, **head)
    pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    return key, Request(key, facts, len(body), lambda: iter(pieces))


async def run_on(opened: direct.Host, function: Callable[..., Any], *args: Any, **head: Any) -> Any:
    """Run one call on a host and return its value, or its outcome where there is none."""
    key, request = request_of(function, *args, **head)
    builder = ResultBuilder(CAP)
    outcome: Outcome = await opened.run(request, builder)
    opened.acknowledge(key)
    return builder.finish().get_deserialized() if outcome.ended["status"] == "completed" else outcome.ended


# ---- processes of the far side


def sessions(server: SSHServer) -> list[psutil.Process]:
    """Return the processes that sshd has for its connections, outermost first."""
    found = psutil.Process(server.pid).children(recursive=True)
    return [process for process in found if _named(process, "sshd")]


def doormen(server: SSHServer) -> list[psutil.Process]:
    """Return the doormen of a server's connections."""
    found = psutil.Process(server.pid).children(recursive=True)
    return [process for process in found if _named(process, "doorman")]


def _named(process: psutil.Process, word: str) -> bool:
    with suppress(psutil.Error):
        return any(word in part for part in process.cmdline()[:1] + process.cmdline()[-1:])
    return False


def living(pids: list[int]) -> list[int]:
    """Return those that live, zombies not counted."""
    return [pid for pid in pids if there.alive(pid)]


def kill(*pids: int) -> None:
    """Kill processes, and wait until they are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    farside.until(lambda: not living(list(pids)), "the killed to go")


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes, and let those that still live go on in the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def started(machine: direct.Machine) -> list[dict[str, Any]]:
    """Return what the supervisors of the tasks in the spool have noted."""
    found = [places.read_json(str(path)) for path in begun(machine.spool)]
    return [dict(one) for one in found if one]


@contextmanager
def no_agents_left(*spools: Path) -> Iterator[None]:
    """End the agents of further spools than the machine's own."""
    try:
        yield
    finally:
        for spool in spools:
            direct.end_agents(spool)
