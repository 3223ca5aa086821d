"""Cold starts, and links with a tenth of a second of latency."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from contextlib import suppress

from support import direct

from benchmarks.speed.rows import Row, Spread, times
from benchmarks.speed.stage import Runs, Stage, trivial

ROUND_TRIP = 0.1  # seconds
ROUND_TRIPS = (0.1, 0.3)  # between which the slope is the number of round trips


async def cold(stage: Stage) -> list[Row]:
    """The first task to a machine, against ssh starting an interpreter with cloudpickle there."""
    ssh, nothing, cached = [], [], []
    async with stage.machine(remote_cache=str(stage.directory / "cache")) as machine:
        await Runs(machine, trivial()).once()  # our own imports are paid for
        for _ in range(stage.some(10, 3)):
            ssh.append(await asyncio.to_thread(_by_ssh, stage))
            nothing.append(await _first(stage, machine, keep=False))
            cached.append(await _first(stage, machine, keep=True))
    base = Spread.of(ssh)
    against = "ssh host python3 -c 'import cloudpickle'"
    rows = []
    for name, values, goal in (("nothing cached", nothing, 2), ("archive cached", cached, 1.3)):
        ours = Spread.of(values)
        rows.append(Row(f"cold, {name}", "s", ours, against, base, times(ours, base), goal))
    return rows


async def _first(stage: Stage, machine: direct.Machine, *, keep: bool) -> float:
    """Forget the machine, its agent and perhaps our program there; return the seconds of a first task."""
    await direct.pool.close_all()
    await asyncio.to_thread(direct.end_agents, machine.spool)
    if not keep:
        await asyncio.to_thread(shutil.rmtree, stage.directory / "cache")
    seconds, _ = await Runs(machine, trivial()).once()
    return seconds


def _by_ssh(stage: Stage) -> float:
    server = stage.server
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": server.known_hosts_file,
        "GlobalKnownHostsFile": "none",
    }
    command = ["ssh", "-F", "none", "-i", str(server.key_file), "-p", str(server.port)]
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command += [f"{server.username}@{server.host}", sys.executable, "-c", "'import cloudpickle'"]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


async def far_away(stage: Stage) -> list[Row]:
    """Round trips of a first task, as the slope over latency, and of a warm one."""
    firsts: dict[float, list[float]] = {}
    async with stage.machine() as machine:
        await Runs(machine, trivial()).once()
        for _ in range(stage.some(5, 1)):
            for latency in ROUND_TRIPS:
                firsts.setdefault(latency, []).append(await _first_far_away(stage, latency))
    few, many = (Spread.of(firsts[latency]) for latency in ROUND_TRIPS)
    trips = (many.median - few.median) / (ROUND_TRIPS[1] - ROUND_TRIPS[0])
    warm = Spread.of(await _warm_far_away(stage))
    return [
        Row("cold at 100 ms: first task, agent and archive there", "s", few),
        Row("… round trips of it", "", Spread.single(trips), goal=10),
        Row("warm at 100 ms", "s", warm),
        Row("… round trips of it", "", Spread.single(warm.median / ROUND_TRIP), goal=1.1),
    ]


async def _first_far_away(stage: Stage, latency: float) -> float:
    with stage.far_away(latency) as (_, way):
        async with stage.machine(idle_timeout=60, **way) as machine:
            return (await Runs(machine, trivial()).once())[0]


async def _warm_far_away(stage: Stage) -> list[float]:
    with stage.far_away(ROUND_TRIP) as (_, way):
        async with stage.machine(**way) as machine:
            runs = Runs(machine, trivial())
            with suppress(asyncio.CancelledError):
                for _ in range(5):
                    await runs.once()
            return [(await runs.once())[0] for _ in range(stage.some(50, 15))]
