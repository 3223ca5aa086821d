"""`python -m benchmarks.speed`: measures one after the other, each in a process of its own, and the table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from benchmarks import machine as machines
from benchmarks.speed import bulk, cold, peers, warm, whole
from benchmarks.speed.rows import Row, Spread, table
from benchmarks.speed.stage import Stage, stage

MEASURES: dict[str, Callable[[Stage], Coroutine[None, None, list[Row]]]] = {
    "warm": warm.one_at_a_time,
    "many": warm.many_at_once,
    "scale": warm.scale,
    "whole": whole.end_to_end,
    "cold": cold.cold,
    "far": cold.far_away,
    "big": bulk.rate,
    "memory": bulk.memory,
    "beside": bulk.small_beside_big,
    "over": warm.oversubscribed,
    "others": peers.others,
    "profile": warm.profile,
}
QUICK = ("warm", "many", "cold", "far", "memory", "profile")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="speed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer measures, fewer rounds: under a minute")
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="these measures only")
    parser.add_argument("--json", type=Path, help="file for the figures, with the machine's context")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # where the one measure's rows go
    options = parser.parse_args(arguments)
    if options.into:
        _measure(options.only[0], options.into, quick=options.quick)
        return 0
    context = machines.context()
    print(machines.in_words(context), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        rows: list[Row] = []
        for measure in options.only or (QUICK if options.quick else MEASURES):
            rows += _apart(measure, Path(name), quick=options.quick)
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": context, "rows": [{**asdict(row), "good": row.good} for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    missed = [row.measure for row in rows if row.good is False]
    print(f"Goals missed: {'; '.join(missed)}." if missed else "All goals are met.")
    return bool(missed)


def _apart(measure: str, room: Path, *, quick: bool) -> list[Row]:
    """Run one measure in a process of its own, so that none finds what another left."""
    into = room / f"{measure}.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--only", measure, "--into", str(into)]
    print(f"{measure} …", file=sys.stderr, flush=True)
    os.sync()  # else what one measure has written goes to the disk in the time of the next
    subprocess.run(command + ["--quick"] * quick, check=True)
    return [_row(found) for found in json.loads(into.read_text())]


def _row(found: dict[str, object]) -> Row:
    for name in ("ours", "other"):
        if isinstance(spread := found[name], dict):
            found[name] = Spread(**spread)
    return Row(**found)  # type: ignore[arg-type] # it was a Row in the other process


def _measure(name: str, into: Path, *, quick: bool) -> None:
    with stage(into.parent, quick=quick) as ready:
        rows = uvloop.run(MEASURES[name](ready))
    into.write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    sys.exit(main())
