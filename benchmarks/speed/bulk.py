"""Large arguments and results: how fast, in how much memory, and what a small task has to wait meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path

from support import direct

from benchmarks.speed.floor import target
from benchmarks.speed.rows import Row, Spread, times
from benchmarks.speed.stage import Runs, Stage, trivial
from covalent_sshtiming.host.channel import SSHStreams, open_channel
from covalent_sshtiming.host.dial import dial

MIB = 1 << 20


class _Raw:
    """A channel's other end: counts what comes, and hears when it may go on."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self.whole = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    def received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing <= 0:
            self.whole.set()

    def complained(self, data: bytes) -> None:
        raise RuntimeError(data.decode(errors="replace"))

    def writable(self, free: bool) -> None:
        if free:
            self.free.set()
        else:
            self.free.clear()

    def lost(self, status: int | None) -> None:
        """Nothing: the end is ours."""


async def _raw(stage: Stage, command: str, size: int, answer: int) -> float:
    """Send bytes to a command and wait for its answer; return seconds."""
    connection = await dial(target(stage))
    other = _Raw(answer)
    streams: SSHStreams = await open_channel(connection, command, other)
    piece = bytes(64 * 1024)
    try:
        start = time.perf_counter()
        for _ in range(size // len(piece)):
            streams.write(piece)
            await other.free.wait()
        await other.whole.wait()
        return time.perf_counter() - start
    finally:
        await streams.close()


async def rate(stage: Stage) -> list[Row]:
    """Bytes there and back, against the raw channel."""
    size = stage.some(256, 64) * MIB
    found: dict[str, list[float]] = {name: [] for name in ("up", "raw up", "down", "raw down")}
    async with stage.machine() as machine:
        await Runs(machine, trivial()).once()
        data = direct.transportable(bytes(size))
        up, down = Runs(machine, lambda _: None, data), Runs(machine, lambda: bytes(size))
        for _ in range(stage.some(5, 2)):
            eats = f"exec sh -c 'head -c {size} > /dev/null; echo'"
            found["raw up"].append(size / await _raw(stage, eats, size, 1))
            found["up"].append(size / (await up.once())[0])
            gives = f"exec head -c {size} /dev/zero"
            found["raw down"].append(size / await _raw(stage, gives, 0, size))
            found["down"].append(size / (await down.once())[0])
    rows = []
    for way, words in (("up", "argument"), ("down", "result")):
        ours, raw = Spread.of(found[way]), Spread.of(found[f"raw {way}"])
        name = f"{size // MIB} MiB {words}"
        rows.append(Row(name, "B/s", ours, "the raw channel", raw, times(ours, raw), 0.8, at_least=True))
    return rows


async def memory(stage: Stage) -> list[Row]:
    """Peaks: of this process above what Covalent itself holds, as a payload moves; of the agent."""
    size = stage.some(256, 64) * MIB
    async with stage.machine() as machine:
        await Runs(machine, trivial()).once()
        (agent,) = machine.agents()
        going = Runs(machine, lambda _: None, direct.transportable(bytes(size)))
        gc.collect()
        up = await _peak(going, 0)
        del going
        gc.collect()
        down = await _peak(Runs(machine, lambda: bytes(size)), size * 4 // 3)
        far = _status(agent, "VmHWM")
    goal = 64 * MIB
    return [
        Row(f"near end's peak above a {size // MIB} MiB argument", "B", Spread.single(up), goal=goal),
        Row(f"near end's peak above a {size // MIB} MiB result", "B", Spread.single(down), goal=goal),
        Row("agent's peak", "B", Spread.single(far), goal=32 * MIB),
    ]


async def _peak(runs: Runs, held: int) -> float:
    """Return by how many bytes memory peaked above what was there and what is `held` in the end."""
    before = _begin_peak()
    _, result = await runs.once()
    peak = _status(os.getpid(), "VmHWM")
    del result
    return float(peak - before - held)


def _begin_peak() -> int:
    """Let VmHWM begin anew; return the bytes that are there now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status(os.getpid(), "VmRSS")


def _status(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


async def small_beside_big(stage: Stage) -> list[Row]:
    """A trivial task while a large argument goes up, and while a large result comes down."""
    size = stage.some(1024, 128) * MIB
    count = stage.some(300, 60)
    data = direct.transportable(bytes(size))  # takes seconds, in which an idle connection would be closed
    async with stage.machine() as machine:
        runs = Runs(machine, trivial())
        for _ in range(30):
            await runs.once()
        idle = await _some(runs, count)
        rows = []
        for words, big in (
            ("goes up", Runs(machine, lambda _: None, data, dispatch="big")),
            ("comes down", Runs(machine, lambda: bytes(size), dispatch="big")),
        ):
            await _some(runs, 10)
            moving = asyncio.ensure_future(big.once())
            beside: list[float] = []
            while not moving.done():
                beside += await _some(runs, 1)
            await moving
            name = f"small while {size // MIB} MiB {words}, 99 %"
            ours, base = Spread.single(_p99(beside)), Spread.single(_p99(idle))
            rows.append(Row(name, "s", ours, "idle, 99 %", base, times(ours, base), 5))
    return rows


async def _some(runs: Runs, count: int) -> list[float]:
    found = []
    for _ in range(count):
        await asyncio.sleep(0.01)
        found.append((await runs.once())[0])
    return found


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]
