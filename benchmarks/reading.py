"""What the reading verbs cost on a log of many records: time and peak memory, each in a process of its own.

The log is that of the tests' generator, over and over, in a temporary file; the first verb may find it cold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from support import timings

from benchmarks import machine as machines
from benchmarks.tables import in_columns

SECONDS, MEGABYTES = 2.0, 300.0
VERBS: dict[str, tuple[str, ...]] = {
    "log": ("log",),
    "log -n 0": ("log", "-n", "0"),
    "log -n 0 --json": ("log", "-n", "0", "--json"),
    "log --sort": ("log", "--sort", "cpu_s", "-n", "50", "--json"),
    "show": ("show", f"{12345:032x}"),
    "stats": ("stats",),
    "stats --by dispatch": ("stats", "--by", "dispatch,function,host,status", "--csv"),
    "compare": ("compare", "..2026-11-20T16:00", "2026-11-20T16:00..", "--fail", "p95:900%", "--log"),
    "report": ("report", "-o", "out.html"),
    "export csv": ("export", "-o", "out.csv"),
    "export parquet": ("export", "-o", "out.parquet"),
    "export trace": ("export", "-o", "out.json"),
    "rotate --gzip": ("rotate", "--gzip"),
}


@dataclass(frozen=True)
class Cost:
    """What one verb took: the quickest of some rounds, and the largest peak of resident memory."""

    verb: str
    wall_s: float
    cpu_s: float
    peak_mb: float

    @property
    def good(self) -> bool:
        """Say whether it keeps to the goals."""
        return self.wall_s < SECONDS and self.peak_mb < MEGABYTES


def _once(verb: str, arguments: Sequence[str], log: Path) -> Cost:
    command = [sys.executable, "-m", "covalent_sshtiming", *arguments, log.name]
    start = time.perf_counter()
    with Path(os.devnull).open("wb") as nothing:
        process = subprocess.Popen(command, cwd=log.parent, stdout=nothing, stderr=subprocess.PIPE)
        assert process.stderr  # noqa: S101 - it is a pipe
        said = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{verb} ended with {process.returncode}: {said}")
    unit = 1024 if sys.platform == "linux" else 1024**2
    return Cost(verb, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / unit)


def measure(log: Path, rounds: int) -> list[Cost]:
    """Run each verb some times on a log."""
    found = []
    for verb, arguments in VERBS.items():
        costs = [_once(verb, arguments, log) for _ in range(1 if arguments[0] == "rotate" else rounds)]
        best = min(costs, key=lambda cost: cost.wall_s)
        found.append(Cost(verb, best.wall_s, best.cpu_s, max(cost.peak_mb for cost in costs)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where a verb misses a goal."""
    parser = argparse.ArgumentParser(prog="reading", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=100_000, help="how many records the log has")
    parser.add_argument("--rounds", type=int, default=3, help="how often each verb is run")
    parser.add_argument("--json", type=Path, help="file for the figures, with the machine's context")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="reading-") as name:
        log = timings.write_many(Path(name) / "timing.jsonl", options.records, timings.records())
        megabytes = log.stat().st_size / 1e6
        found = measure(log, options.rounds)
    context = machines.context()
    print(machines.in_words(context))
    print(f"{options.records} records, {megabytes:.0f} MB; the best of {options.rounds} rounds:")
    lines = [["verb", "wall, s", "CPU, s", "peak, MB"], ["---", "---:", "---:", "---:"]]
    lines += [[one.verb, f"{one.wall_s:.2f}", f"{one.cpu_s:.2f}", f"{one.peak_mb:.0f}"] for one in found]
    print(in_columns(lines))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": context, "costs": [asdict(one) for one in found]}, indent=1)
        options.json.write_text(text + "\n")
    missed = [one.verb for one in found if not one.good]
    goals = f"{SECONDS:g} s and {MEGABYTES:g} MB"
    print(f"Over {goals}: {'; '.join(missed)}." if missed else f"All are below {goals}.")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
