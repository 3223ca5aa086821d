"""Warm tasks: one at a time, many at once, ten thousand in a row, and more than there are cores for."""

from __future__ import annotations

import asyncio
import statistics
import time

import psutil

from benchmarks.speed import peers
from benchmarks.speed.floor import floor, least
from benchmarks.speed.rows import Row, Spread, times
from benchmarks.speed.stage import Runs, Stage, trivial
from covalent_sshtiming.timing.trace import PHASES

PAUSE = 0.01  # seconds between tasks that do not come back to back
WARM_UP = 30
AT_ONCE = 64
PEER = "covalent-ssh-plugin"
LEAST = "the least fork that calls"


async def one_at_a_time(stage: Stage) -> list[Row]:
    """`run()` of a trivial electron against the peer's and against the floor."""
    rounds, each = stage.some(5, 3), stage.some(100, 40)  # ours and the others take turns
    function = trivial()
    found: dict[tuple[str, float], list[float]] = {}
    async with stage.machine() as machine, floor(stage) as bottom, least(stage, function) as bare:
        runs = Runs(machine, function)
        takers = {"floor": bottom.once, "least": bare.once, "ours": runs.seconds}
        for take in takers.values():
            for _ in range(WARM_UP):
                await take()
        for _ in range(rounds):
            for pause in (PAUSE, 0.0):
                for name, take in takers.items():
                    for _ in range(each):
                        await asyncio.sleep(pause)
                        found.setdefault((name, pause), []).append(await take())
    spreads = {key: Spread.of(values) for key, values in found.items()}
    peer = await peers.told(stage, "ssh_plugin")
    theirs = Spread.of(peer["seconds"])
    apart, close = spreads["ours", PAUSE], spreads["ours", 0.0]
    rows = [Row("warm, one at a time", "s", close, PEER, theirs, times(theirs, close), 500, at_least=True)]
    for name, ours, pause, goal in (("10 ms apart", apart, PAUSE, 2), ("back to back", close, 0.0, 3)):
        base, fork = spreads["floor", pause], spreads["least", pause]
        rows.append(Row(f"warm, {name}", "s", ours, "the floor", base, times(ours, base), goal))
        rows.append(Row(f"warm, {name}", "s", ours, LEAST, fork, times(ours, fork)))
        rows.append(Row(f"{LEAST}, {name}", "s", fork, "the floor", base, times(fork, base)))
    return rows


async def many_at_once(stage: Stage) -> list[Row]:
    """Tasks a second at concurrency 64, against the peer at the concurrency that it does best at."""
    async with stage.machine() as machine:
        runs = Runs(machine, trivial())
        await _at_once(runs, 200)
        rates = [1 / value for value in [await _at_once(runs, stage.some(1000, 300)) for _ in range(3)]]
    peer = await peers.told(stage, "ssh_plugin")
    best = max(peer["rates"], key=lambda row: float(row["rate"]))
    theirs = Spread.single(best["rate"])
    ours = Spread.of(rates)
    against = f"{PEER}, {best['at_once']} at once"
    return [Row("64 at once", "tasks/s", ours, against, theirs, times(ours, theirs), 500, at_least=True)]


async def _at_once(runs: Runs, count: int) -> float:
    """Run tasks, 64 at once; return seconds for each."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            await runs.once()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return (time.perf_counter() - start) / count


async def scale(stage: Stage) -> list[Row]:
    """Whether task 10,000 costs what the first did, and what is held by then."""
    total = stage.some(10_000, 1_000)
    part = total // 10
    async with stage.machine() as machine:
        runs = Runs(machine, trivial())
        await _at_once(runs, 200)
        near = psutil.Process()
        (agent,) = machine.agents()
        before = _descriptors(near, agent)
        parts = [await _at_once(runs, part) for _ in range(10)]
        after = _descriptors(near, agent)
        connections = machine.host.connections
    first, last = Spread.single(parts[0]), Spread.single(parts[-1])
    name = f"of {total} tasks, the last tenth"
    return [
        Row(name, "s", last, "the first", first, times(last, first), 1.1),
        Row("… connections", "", Spread.single(connections), goal=1),
        Row("… descriptors more, near and far", "", Spread.single(after - before), goal=0),
    ]


def _descriptors(near: psutil.Process, agent: int) -> int:
    return int(near.num_fds() + psutil.Process(agent).num_fds())


async def oversubscribed(stage: Stage) -> list[Row]:
    """64 tasks that compute, on as many slots as there are cores, against cores without any overhead."""
    seconds = 0.25 if not stage.quick else 0.1
    cores = len(psutil.Process().cpu_affinity())

    def burn(seconds: float = seconds) -> None:
        import time

        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    walls = []
    async with stage.machine() as machine:
        await Runs(machine, trivial()).once()
        runs = Runs(machine, burn)
        for _ in range(stage.some(3, 1)):
            start = time.perf_counter()
            await asyncio.gather(*(runs.once() for _ in range(AT_ONCE)))
            walls.append(time.perf_counter() - start)
    ours = Spread.of(walls)
    ideal = Spread.single(AT_ONCE * seconds / cores)
    name = f"64 tasks of {seconds:g} s CPU on {cores} cores"
    return [Row(name, "s", ours, "the ideal", ideal, times(ours, ideal), 1.1)]


async def profile(stage: Stage) -> list[Row]:
    """Where a warm task's time goes, by the records of tasks 10 ms apart, and whose CPU time that is."""
    count = stage.some(300, 100)
    async with stage.machine() as machine:
        runs = Runs(machine, trivial())
        for _ in range(WARM_UP):
            await runs.once()
        (agent,) = machine.agents()
        server = psutil.Process(stage.server.pid)
        before = _cpu(agent, server)
        seconds = []
        for _ in range(count):
            await asyncio.sleep(PAUSE)
            seconds.append((await runs.once())[0])
        after = _cpu(agent, server)
        records = machine.records()[-count:]
    whole = Spread.of(seconds)
    rows = [Row("run(), 10 ms apart", "s", whole)]
    known = 0.0
    for phase in PHASES:
        values = [record[f"phase_{phase}_wall_s"] for record in records]
        if all(value is not None for value in values):
            rows.append(Row(f"… phase {phase}", "s", Spread.of(values)))
            known += statistics.median(values)
    rest = Spread.single(whole.median - known)
    rows.append(Row("… the rest: executor, log, link, processes that wake", "s", rest))
    for name, used in after.items():
        rows.append(Row(f"CPU a task, {name}", "s", Spread.single((used - before[name]) / count)))
    return rows


def _cpu(agent: int, server: psutil.Process) -> dict[str, float]:
    """Return CPU seconds used so far: by this process, the agent, its supervisors, their workers, sshd."""
    family = psutil.Process(agent)
    own, far = psutil.Process().cpu_times(), family.cpu_times()
    supervisors = [child.cpu_times() for child in family.children()]
    sessions = [child.cpu_times() for child in server.children(recursive=True) if child.name() == "sshd"]
    return {
        "near end": own.user + own.system,
        "agent": far.user + far.system,
        "supervisors": sum(one.user + one.system for one in supervisors),
        "workers": sum(one.children_user + one.children_system for one in supervisors),
        "sshd": sum(one.user + one.system for one in sessions),
    }
