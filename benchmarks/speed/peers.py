"""What others need for the same trivial function over the same sshd; each in an environment of its own.

`make bench` makes that environment, build/peers; the programs that run in it are in benchmarks/peers.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.speed.rows import Row, Spread, times
from benchmarks.speed.stage import Runs, Stage, trivial

PYTHON = Path("build/peers/bin/python")
PROGRAMS = Path(__file__).parents[1] / "peers"
SECONDS = 300  # after which a peer has failed
# Name of the program, and what it calls; only one of them has a process for each call.
OTHERS = (
    ("mitogen_calls", "mitogen, Context.call: in one process there"),
    ("mitogen_calls fork", "mitogen, a fork for each call: isolated"),
    ("execnet_exec", "execnet, remote_exec: in one process there"),
    ("dask_submit", "dask.distributed, SSHCluster, submit: in one process there"),
)


async def told(stage: Stage, program: str) -> Any:
    """Return what a peer's program has printed as JSON; it runs once in a run of the benchmark."""
    kept = stage.room / f"peer-{program.replace(' ', '-')}.json"
    if not kept.exists():
        kept.write_text(await asyncio.to_thread(_run, stage, program))
    return json.loads(kept.read_text())


def _run(stage: Stage, program: str) -> str:
    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is missing: `make bench` installs the peers into it.")
    name, *words = program.split()
    home = stage.directory / f"home-{len(list(stage.directory.iterdir()))}"
    home.mkdir()
    # No Covalent server runs, and none is asked for: nothing of its configuration is the user's.
    environment = {**os.environ, "HOME": str(home), "COVALENT_CONFIG_DIR": str(home / ".config/covalent")}
    command: list[str | Path] = [PYTHON.absolute(), PROGRAMS / f"{name}.py", stage.told(), *words]
    ran = subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{program} ended with {ran.returncode}: {ran.stderr[-2000:]}")
    return ran.stdout.splitlines()[-1]


async def others(stage: Stage) -> list[Row]:
    """A trivial call, warm and back to back, by ours and by what else a user would pick."""
    async with stage.machine() as machine:
        runs = Runs(machine, trivial())
        for _ in range(30):
            await runs.once()
        ours = Spread.of([(await runs.once())[0] for _ in range(stage.some(200, 50))])
    rows = []
    for program, words in OTHERS:
        theirs = Spread.of((await told(stage, program))["seconds"])
        rows.append(Row("a trivial call", "s", ours, words, theirs, times(theirs, ours)))
    return rows
