"""Faults by the hundred: cuts at every offset, cancels at any moment.

Each of these is one coroutine with a number: `make test` asks for few, `make soak` (tests/test_soak.py) for
many. They return what they have seen, so that both can print it, and judge nothing themselves.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covalent_sshtiming.demo.sshserver import SSHServer
from support import direct, faults
from support.direct import TaskCancelledError
from support.proxy import Proxy

PATIENCE_S = 90.0  # after which a task counts as hanging


# ---- cuts


@dataclass
class Cut:
    """One life of a task with the link cut once: where, how, and what came of it."""

    direction: str
    offset: int
    how: str
    right: bool = False
    error: str = ""
    runs: int = 0
    broken: bool = False  # whether the link was cut before the task was over

    def __str__(self) -> str:
        """Name the cut, for a failure's text."""
        return f"{self.direction} {self.offset} {self.how}: right={self.right} runs={self.runs} {self.error}"


async def cuts(server: SSHServer, place: Path, each_way: int, payload: int = 100_000) -> list[Cut]:
    """Cut a whole cold life, from the connect to the download, at evenly spaced offsets of each direction.

    Each life has a spool, a cache and a link of its own, so the archive travels in it as well.
    """
    data = random.Random(1).randbytes(payload)
    async with direct.machine(server, place) as machine:
        whole = await _life(machine, server, place / "whole", data, None)
        planned = [
            Cut(direction, total * step // each_way, "reset" if step % 2 else "close")
            for direction, total in (("up", whole[0]), ("down", whole[1]))
            for step in range(each_way)
        ]
        gate = asyncio.Semaphore(4)

        async def one(number: int, cut: Cut) -> None:
            async with gate:
                await _life(machine, server, place / f"c{number}", data, cut)

        await asyncio.gather(*(one(number, cut) for number, cut in enumerate(planned)))
    return planned


async def _life(
    machine: direct.Machine, server: SSHServer, place: Path, data: bytes, cut: Cut | None
) -> tuple[int, int]:
    """See one task through over a link of its own; return the bytes that went each way."""
    place.mkdir()
    marks = place / "ran"
    with faults.no_agents_left(place / "spool"):
        async with Proxy(server.host, server.port) as proxy:
            if cut is not None:
                proxy.cut_with = cut.how
                (proxy.up if cut.direction == "up" else proxy.down).cut_after = cut.offset
            options = {
                **faults.through(proxy, server, place),
                "remote_spool": str(place / "spool"),
                "remote_cache": str(place / "cache"),
                "idle_timeout": 0.2,
            }
            try:
                ran = await asyncio.wait_for(
                    machine.run(faults.noting(marks), data, options=options), PATIENCE_S
                )
            except asyncio.TimeoutError:
                ran = direct.Ran(None, "", "", TimeoutError(f"hung for {PATIENCE_S:g} s"))
            if cut is not None:
                cut.right = ran.error is None and ran.value == data
                cut.error = "" if ran.error is None else f"{type(ran.error).__name__}: {ran.error}"
                cut.runs = len(faults.runs(marks))
                cut.broken = proxy.connections > 1
            return proxy.up.count, proxy.down.count


# ---- cancels


@dataclass
class Cancels:
    """What became of tasks that were cancelled at random moments."""

    ends: Counter[str] = field(default_factory=Counter)  # "cancelled", "completed", anything else is wrong
    alive: list[int] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    cleared_s: float = 0.0  # from the last end until nothing of any task was left


async def cancels(server: SSHServer, place: Path, count: int, seed: int) -> Cancels:
    """Cancel tasks before submission, in upload, in the queue, in the run, at their end: at random."""
    dice = random.Random(seed)
    found = Cancels()
    place.mkdir(exist_ok=True)
    async with faults.linked(server, place, max_parallel=6) as (machine, proxy):
        await machine.run(faults.noting(place / "warm"))
        proxy.up.bandwidth = 20e6  # so that uploads take their time
        for start in range(0, count, 20):
            batch = range(start, min(start + 20, count))
            ends = await asyncio.gather(
                *(_cancelled(machine, place, number, dice.random()) for number in batch)
            )
            found.ends.update(ends)
        begun = time.monotonic()
        pids = [pid for path in place.glob("pids-*") for pid in faults.runs(path)]
        while time.monotonic() - begun < 15:
            found.alive = faults.living(pids)
            found.directories = [path.name for path in machine.spool.glob("tasks/*")]
            if not found.alive and not found.directories:
                break
            await asyncio.sleep(0.05)
        found.cleared_s = time.monotonic() - begun
    return found


def _family(path: Path, seconds: float) -> Callable[[bytes], int]:
    """Return a function that starts a child in a session of its own, notes both ids, sleeps and returns."""
    name = str(path)

    def family(data: bytes) -> int:
        import os
        import subprocess
        import time

        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        with open(name, "a") as file:
            file.write(f"{os.getpid()}\n{child.pid}\n")
        time.sleep(seconds)
        child.kill()
        child.wait()
        return len(data)

    return family


async def _cancelled(machine: direct.Machine, place: Path, number: int, chance: float) -> str:
    """Run one task and cancel it after a random part of the time that it would take; say how it ended."""
    size = (0, 0, 1 << 20)[number % 3]
    names: dict[str, Any] = {"dispatch_id": f"c{number}", "node_id": number}
    running = asyncio.ensure_future(
        machine.run(_family(place / f"pids-{number}", 0.3 * (number % 4)), bytes(size), **names)
    )
    await asyncio.sleep(1.5 * chance * chance)
    await machine.executor().cancel(names, None)
    return await ended(running, size)


async def ended(running: asyncio.Future[direct.Ran], value: Any) -> str:
    """Say how a task ended whose result would be this value."""
    try:
        ran = await asyncio.wait_for(running, PATIENCE_S)
    except asyncio.TimeoutError:
        return "hung"
    if isinstance(ran.error, TaskCancelledError):
        return "cancelled"
    if ran.error is not None:
        return f"{type(ran.error).__name__}: {ran.error}"
    return "completed" if ran.value == value else "wrong result"
