"""Thousands of tasks with faults among them, and large transfers: what is held, and how late the loop is.

`make test` asks for few, `make soak` (tests/test_soak.py) for many; both judge by `grown`.
"""

from __future__ import annotations

import asyncio
import filecmp
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from covalent_sshtiming.demo.sshserver import SSHServer
from support import direct, faults
from support.storms import ended


@dataclass(frozen=True)
class Held:
    """What the two sides hold at one moment."""

    near_descriptors: int
    near_tasks: int
    near_threads: int
    near_children: int
    near_memory: int  # bytes resident
    far_descriptors: int
    far_processes: int
    far_memory: int
    directories: int


async def held(machine: direct.Machine) -> Held:
    """Count, once what is on its way to an end has come to it."""
    await asyncio.sleep(0.5)
    gc.collect()
    own = psutil.Process()
    agents = [psutil.Process(pid) for pid in machine.agents()]
    return Held(
        near_descriptors=own.num_fds(),
        near_tasks=len(asyncio.all_tasks()),
        near_threads=threading.active_count(),
        near_children=len(own.children()),
        near_memory=own.memory_info().rss,
        far_descriptors=sum(agent.num_fds() for agent in agents),
        far_processes=sum(1 + len(agent.children(recursive=True)) for agent in agents),
        far_memory=sum(agent.memory_info().rss for agent in agents),
        directories=len(list(machine.spool.glob("tasks/*"))),
    )


@dataclass
class Soak:
    """What a soak has seen: ends, what was held before and after, the log."""

    before: Held
    after: Held
    ends: Counter[str]
    resets: int
    seconds: float
    lag_p99_s: float
    lag_max_s: float
    lines: int
    records: int  # different ones
    tasks: int


async def soak(
    server: SSHServer, place: Path, tasks: int, at_once: int = 16, resets: float = 0.01, stops: float = 0.005
) -> Soak:
    """Run many tasks over one link that is reset now and then, cancelling a few of them."""
    dice = random.Random(tasks)
    place.mkdir(exist_ok=True)
    ends: Counter[str] = Counter()
    broken = 0
    async with faults.linked(server, place, max_parallel=4, idle_timeout=60) as (machine, proxy):
        warm = max(32, tasks // 10)
        for _ in range(0, warm, at_once):
            await asyncio.gather(*(machine.run(_echo(), number) for number in range(at_once)))
        warm_lines = len(machine.records())
        before = await held(machine)
        numbers = iter(range(tasks))
        begun = time.monotonic()

        async def work() -> None:
            nonlocal broken
            for number in numbers:
                if dice.random() < resets:
                    proxy.reset()
                    broken += 1
                ends[await _soaked(machine, number, dice.random() < stops, dice.random())] += 1

        async with measured_lag() as lag:
            await asyncio.gather(*(work() for _ in range(at_once)))
        seconds = time.monotonic() - begun
        with suppress(AssertionError):  # what stays is counted
            await faults.until(lambda: not list(machine.spool.glob("tasks/*")))
        after = await held(machine)
        records = machine.records()[warm_lines:]
    return Soak(
        before,
        after,
        ends,
        broken,
        seconds,
        lag.quantile(0.99),
        lag.quantile(1.0),
        len(records),
        len({record["record_id"] for record in records}),
        tasks,
    )


MEMORY_MAX = 10 << 20  # bytes that the near side may grow in a soak
_FAR_MEMORY_MAX = 10 << 20


def grown(seen: Soak) -> dict[str, tuple[int, int]]:
    """Return what a soak has left behind: each count that is higher after it, with both values.

    Processes ahead come and go by the agent's own rules, so the far processes may be three more.
    """
    room = {"near_memory": MEMORY_MAX, "far_memory": _FAR_MEMORY_MAX, "far_processes": 6, "near_threads": 8}
    pairs = {name: (getattr(seen.before, name), getattr(seen.after, name)) for name in vars(seen.before)}
    return {name: pair for name, pair in pairs.items() if pair[1] > pair[0] + room.get(name, 0)}


def _echo() -> Callable[[int], int]:
    def echo(value: int) -> int:
        return value

    return echo


def _nap() -> Callable[[int], int]:
    def nap(value: int) -> int:
        import time

        time.sleep(0.3)
        return value

    return nap


async def _soaked(machine: direct.Machine, number: int, stop: bool, chance: float) -> str:
    """Run one task of a soak and say how it ended."""
    names: dict[str, Any] = {"dispatch_id": "soak", "node_id": 1_000_000 + number}
    running = asyncio.ensure_future(machine.run(_nap() if stop else _echo(), number, **names))
    if stop:
        await asyncio.sleep(0.01 + 0.3 * chance)
        await machine.executor().cancel(names, None)
    end = await ended(running, number)
    return "cancelled by nobody" if end == "cancelled" and not stop else end


# ---- the event loop's lag


class Lag:
    """How late a timer of 5 ms came, again and again."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def quantile(self, part: float) -> float:
        """Return the lag in seconds that this part of the timers did not exceed."""
        ordered = sorted(self.seen)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            self.seen.append(loop.time() - due)


@asynccontextmanager
async def measured_lag() -> AsyncIterator[Lag]:
    """Measure the running loop's lag meanwhile."""
    lag = Lag()
    watching = asyncio.ensure_future(lag.watch())
    try:
        yield lag
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def crowd(server: SSHServer, place: Path, count: int) -> tuple[Lag, float]:
    """Run so many tasks that come at once; return the loop's lag meanwhile, and what they took in seconds."""
    place.mkdir(exist_ok=True)
    async with direct.machine(server, place) as machine:
        await machine.run(_echo(), 0)
        begun = time.monotonic()
        async with measured_lag() as lag:
            rans = await asyncio.gather(*(machine.run(_echo(), number) for number in range(count)))
        seconds = time.monotonic() - begun
    assert [ran.value for ran in rans] == list(range(count))
    return lag, seconds


@dataclass
class Move:
    """How a large transfer went, and how the loop fared meanwhile."""

    size: int
    seconds: float
    lag_p99_s: float
    lag_max_s: float
    turns: int  # that another coroutine had


async def moves(server: SSHServer, place: Path, size: int, pieces: int) -> dict[str, Move]:
    """Move `size` bytes up, then down, in so many tasks one after the other, and measure the loop's lag."""
    found = {}
    place.mkdir(exist_ok=True)
    async with direct.machine(server, place) as machine:
        piece = size // pieces
        data = direct.transportable(random.Random(2).randbytes(1 << 20) * (piece >> 20))
        await machine.run(_echo(), 1)
        for name, function, values in (
            ("up", _digest(), (data,)),
            ("down", _blob(), (direct.transportable(piece),)),
        ):
            begun = time.monotonic()
            async with measured_lag() as lag:
                for _ in range(pieces):
                    ran = await machine.run(function, *values)
                    assert ran.error is None, ran.error
            seconds = time.monotonic() - begun
            found[name] = Move(size, seconds, lag.quantile(0.99), lag.quantile(1.0), len(lag.seen))
    return found


@dataclass
class Carried(Move):
    """How a large file went, and what it took of this process's memory."""

    peak: int  # bytes, above what was there before
    whole: bool  # whether it is here, byte for byte what it was there


async def carries(server: SSHServer, place: Path, size: int) -> dict[str, Carried]:
    """Send a file of `size` bytes along with a task, and have it come back under another name."""
    found = {}
    here, work, back = place / "mine.bin", place / "work", place / "back"
    piece = random.Random(3).randbytes(1 << 20)
    with here.open("wb") as file:
        for number in range(size >> 20):
            file.write(number.to_bytes(8, "big") + piece[8:])
    async with direct.machine(server, place, remote_workdir=str(work)) as machine:
        await machine.run(_echo(), 1)
        for name, function, options in (
            ("send", lambda: None, {"send": [str(here)]}),
            ("fetch", _renames(), {"fetch": ["*.back"], "fetch_to": str(back)}),
        ):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before, begun = _memory("VmRSS"), time.monotonic()
            async with measured_lag() as lag:
                ran = await machine.run(function, options=options)
            seconds, peak = time.monotonic() - begun, _memory("VmHWM") - before
            assert (ran.error, ran.stderr) == (None, ""), ran
            copy = work / "mine.bin" if name == "send" else back / "mine.back"
            whole = await asyncio.to_thread(filecmp.cmp, here, copy, shallow=False)
            turns = len(lag.seen)
            found[name] = Carried(size, seconds, lag.quantile(0.99), lag.quantile(1.0), turns, peak, whole)
    return found


def _renames() -> Any:
    def rename() -> None:
        import os

        os.rename("mine.bin", "mine.back")

    return direct.transportable(rename)


def _memory(name: str) -> int:
    """Return a line of this process's status, in bytes."""
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024


def _digest() -> Any:
    def digest(data: bytes) -> str:
        import hashlib

        return hashlib.sha256(data).hexdigest()

    return direct.transportable(digest)


def _blob() -> Any:
    def blob(size: int) -> bytes:
        return bytes(size)

    return direct.transportable(blob)
