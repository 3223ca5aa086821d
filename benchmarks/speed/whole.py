"""A workflow through a real Covalent server, on our executor and on one that does nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from benchmarks.speed.rows import Row, Spread, times
from benchmarks.speed.stage import Stage
from covalent_sshtiming.demo.dispatcher import Dispatcher, dispatcher

PROGRAMS = Path(__file__).parents[1] / "peers"
_PLUGINS = ".config/covalent/executor_plugins"


async def end_to_end(stage: Stage) -> list[Row]:
    """Wall time of a lattice of independent electrons, from dispatch to result."""
    return await asyncio.to_thread(_end_to_end, stage)


def _end_to_end(stage: Stage) -> list[Row]:
    electrons, rounds = stage.some(100, 20), stage.some(5, 2)
    home = stage.directory / "covalent"
    _plug_in(home)
    settings = {"hostname": stage.server.host, **stage.server.settings()}
    settings["remote_spool"] = str(stage.directory / "spool")
    found: dict[str, list[float]] = {"nothing": [], "sshtiming": []}
    with dispatcher(home, executors={"sshtiming": settings}) as server:
        for name in found:
            _dispatched(server, name, 2)  # the first connection, the first imports
        for _ in range(rounds):
            for name, seconds in found.items():
                seconds.append(_dispatched(server, name, electrons))
    ours, base = Spread.of(found["sshtiming"]), Spread.of(found["nothing"])
    name = f"{electrons} electrons through a Covalent server"
    return [Row(name, "s", ours, "an executor that does nothing", base, times(ours, base), 1.05)]


def _plug_in(home: Path) -> None:
    place = home / _PLUGINS
    place.mkdir(parents=True)
    shutil.copy(PROGRAMS / "nothing.py", place)


def _dispatched(server: Dispatcher, executor: str, electrons: int) -> float:
    ran = server.run_client(PROGRAMS / "workflow.py", executor, str(electrons), timeout=300)
    if ran.returncode:
        raise SystemExit(f"the workflow ended with {ran.returncode}: {ran.stderr[-2000:]}")
    return float(json.loads(ran.stdout.splitlines()[-1]))
