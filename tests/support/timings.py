"""A log of many tasks, the same for the same seed: what the reading verbs are tried on.

A simulation of three machines with slots, so that records agree with themselves: phases add up, tasks wait
while slots are taken, and CPU time is not above wall time times cores.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from covalent_sshtiming.timing.record import TimingRecord

ENDS = {"completed": 955, "failed": 25, "cancelled": 8, "killed": 6, "timeout": 4, "lost": 2}  # of a thousand
START = datetime(2026, 11, 20, 8, 0, tzinfo=timezone.utc)
TASKS = 2000
ONE = "74b88fbe"  # how the id of a task among them begins
_PER_DISPATCH = 80


class Machine(NamedTuple):
    """A machine of the simulation: its name, cores, tasks at once, slowness and clock offset."""

    name: str
    cores: int
    slots: int
    slowness: float
    ahead_s: float


class Work(NamedTuple):
    """A function of the simulation: its name, how often, median seconds, spread, cores kept busy, MB."""

    name: str
    weight: int
    median_s: float
    spread: float
    busy: float
    megabytes: float


MACHINES = (
    Machine("build01", 8, 4, 1.0, 0.004),
    Machine("build02", 16, 8, 0.8, -0.210),
    Machine("gpu.example.org", 32, 6, 0.6, 0.031),
)
WORKS = (
    Work("relax", 30, 4.0, 0.5, 0.97, 180),
    Work("anneal", 12, 22.0, 0.35, 3.6, 900),
    Work("score", 40, 0.35, 0.6, 0.9, 60),
    Work("load_table", 15, 1.6, 0.4, 0.25, 420),
    Work("größte_lücke", 3, 0.02, 0.9, 0.99, 30),
)


def records(count: int = TASKS, seed: int = 7) -> list[TimingRecord]:
    """Return records in the order in which their tasks ended; another seed has other tasks."""
    dice = random.Random(seed)
    free = {machine.name: [0.0] * machine.slots for machine in MACHINES}
    made = sorted(_tasks(count, dice, free), key=lambda pair: pair[0])
    return [record for _, record in made]


def _tasks(
    count: int, dice: random.Random, free: dict[str, list[float]]
) -> Iterator[tuple[float, TimingRecord]]:
    clock = 0.0
    for number in range(count):
        node = number % _PER_DISPATCH
        if node == 0:
            clock += dice.uniform(600, 5000)
            dispatch = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        clock += dice.expovariate(3)
        machine = dice.choices(MACHINES, weights=(5, 8, 4))[0]
        yield _task(dice, machine, free[machine.name], clock, dispatch, node)


def _task(
    dice: random.Random, machine: Machine, slots: list[float], submitted: float, dispatch: str, node: int
) -> tuple[float, TimingRecord]:
    work = dice.choices(WORKS, weights=[one.weight for one in WORKS])[0]
    helper = node % 20 == 19
    status = dice.choices(
        ("completed", "failed", "cancelled", "killed", "timeout", "lost"), (955, 25, 8, 6, 4, 2)
    )[0]
    wall = 0.0004 if helper else work.median_s * machine.slowness * dice.lognormvariate(0, work.spread)
    phases = {
        "connect": 0.35 if node == 0 else 2e-5,
        "upload": dice.uniform(0.001, 0.004),
        "start": dice.uniform(0.0008, 0.0015),
        "before": 6e-5,
        "load": dice.uniform(0.0005, 0.3),
        "call": wall,
        "after": 4e-4,
        "dump": 5e-4,
        "exit": 0.0012,
    }
    here = submitted + phases["connect"] + phases["upload"]
    slot = min(range(len(slots)), key=slots.__getitem__)
    begins = max(here, slots[slot])
    ends = begins + sum(phases[name] for name in ("start", "before", "load", "call", "after", "dump", "exit"))
    slots[slot] = ends
    phases["queue"] = begins - here + 0.0005
    phases["download"] = dice.uniform(0.0001, 0.02)
    shown = {} if status == "lost" else _figures(dice, machine, work, wall, phases)
    failed = status == "failed"
    record = TimingRecord(
        record_id=f"{dice.getrandbits(128):032x}",
        dispatch_id=dispatch,
        node_id=node,
        attempt=1,
        function=":parameter:list" if helper else work.name,
        kind="helper" if helper else "electron",
        status=status,
        error_type="ValueError" if failed else None,
        exit_code=None if status in ("killed", "lost") else 0,
        exit_signal=9 if status == "killed" else None,
        ran_locally=False,
        host=machine.name,
        hostname=machine.name.partition(".")[0],
        username="ada",
        os="Linux",
        kernel="6.1.0-28-amd64",
        cpu_model="Intel(R) Xeon(R) Processor",
        python_version="3.11.7",
        plugin_version="0.1.0",
        submitted_at=_when(submitted),
        started_at=_when(begins + machine.ahead_s),
        finished_at=_when(ends + machine.ahead_s),
        clock_offset_s=machine.ahead_s,
        clock_offset_err_s=0.0006,
        **shown,
    )
    return ends + phases["download"], record


def _figures(
    dice: random.Random, machine: Machine, work: Work, wall: float, phases: dict[str, float]
) -> dict[str, Any]:
    cpu = wall * min(work.busy * dice.uniform(0.85, 1.0), machine.cores)
    walls = {f"phase_{name}_wall_s": round(value, 9) for name, value in phases.items()}
    inside = ("start", "before", "load", "after", "dump", "exit")
    cpus = {f"phase_{name}_cpu_s": round(phases[name] * 0.9, 6) for name in inside}
    return {
        **walls,
        **cpus,
        "phase_call_cpu_s": round(cpu, 6),
        "cpu_s": round(cpu, 6),
        "cpu_self_s": round(cpu * 0.9, 6),
        "cpu_children_s": round(cpu * 0.1, 6),
        "cpu_late_s": 0.0,
        "cpu_user_s": round(cpu * 0.92, 6),
        "cpu_system_s": round(cpu * 0.08, 6),
        "cpu_total_s": round(cpu + sum(cpus.values()), 6),
        "cpu_source": "wait4_subreaper",
        "cpu_complete": dice.random() > 0.02,
        "descendants_alive": 0,
        "threads_alive": 0,
        "wall_s": round(wall, 9),
        "run_delay_s": round(wall * dice.uniform(0, 0.05), 9),
        "cores_available": machine.cores,
        "load_1m_start": round(dice.uniform(0, machine.cores * 1.2), 2),
        "psi_cpu_some_s": round(wall * dice.uniform(0, 0.02), 6),
        "steal_s": 0.0,
        "rss_peak_bytes": int(work.megabytes * dice.uniform(0.8, 1.3)) * 1024**2,
        "read_chars": dice.randrange(10**6),
        "write_chars": dice.randrange(10**5),
        "read_bytes": 0,
        "write_bytes": 0,
        "ctx_voluntary": dice.randrange(50),
        "ctx_involuntary": dice.randrange(50),
        "faults_minor": dice.randrange(10**4),
        "faults_major": 0,
        "request_bytes": dice.randrange(1000, 10**5),
        "result_bytes": dice.randrange(4, 10**6),
        "stdout_bytes": 0,
        "stderr_bytes": 0,
    }


def _when(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def write(path: Path, made: list[TimingRecord]) -> Path:
    """Write records to a file, and return its path."""
    path.write_text("".join(f"{record.to_json()}\n" for record in made), encoding="ascii")
    return path


def home(directory: Path) -> Path:
    """Make a directory a HOME whose log, in the default place, has all of them."""
    place = directory / ".local" / "share" / "covalent-sshtiming"
    place.mkdir(parents=True)
    write(place / "timing.log.jsonl", records())
    return directory


def long_names(directory: Path) -> Path:
    """Write a log whose functions have long names and wide ones, and return its path."""
    names = ("größte_lücke", "数学函数", "f🎉", "a" * 200, "ok")
    one = next(one for one in records() if one.status == "completed")
    made = [replace(one, record_id=f"{n:08x}", function=name, cpu_s=0.25) for n, name in enumerate(names)]
    return write(directory / "long.jsonl", made)


def write_many(path: Path, count: int, made: list[TimingRecord]) -> Path:
    """Write so many records, which are those given over and over, each with an id of its own."""
    texts = [record.to_json() for record in made]
    with path.open("w", encoding="ascii") as file:
        for number in range(count):
            identity = f'"record_id":"{number:032x}"'
            file.write(re.sub(r'"record_id":"\w+"', identity, texts[number % len(texts)], count=1) + "\n")
    return path
