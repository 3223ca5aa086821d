"""What metering costs a task, in microseconds.

Each round is a process of its own, as each task is: forked, its parent waiting with one thread and no
other child, both of them small. As a worker does while it waits for a task, it rehearses: that takes the
page faults of a fork, which copies each page that it is the first to touch, away from the task. Then the
worker's own `Phases` goes through the marks of a task that does nothing. Nothing is left out and
nothing replaced, so `meter`, `surroundings` and `platforms` do what they do for a task. The figures:

Where groups can be made, each process has one of its own.

- the rehearsal, which is over before the task comes, by `time.perf_counter`;
- in all: from the construction of `Phases` to the report's JSON, and the parent's reading and removing of
  the group, by `time.perf_counter`;
- inside, wall: what the record would say that the function took. Between its two marks lies our own
  code only, so all of it is metering;
- inside, CPU: the same function's `cpu_s`, which getrusage gives in whole microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine as machines
from benchmarks.tables import in_columns
from covalent_sshtiming.remote import cgroup, phases, worker
from covalent_sshtiming.remote.board import PHASES, Board

# Each figure, and what it may cost.
FIGURES = (("rehearsal", None), ("in all", 200), ("inside, wall", 20), ("inside, CPU", 20))


@dataclass(frozen=True)
class Costs:
    """What one figure was over many rounds; microseconds."""

    name: str
    least: float
    median: float
    high: float  # 5 % of the rounds took longer
    goal: int | None

    @classmethod
    def of(cls, name: str, rounds: Sequence[float], goal: int | None) -> Costs:
        """Make one of rounds in seconds."""
        values = sorted(1e6 * value for value in rounds)
        return cls(name, values[0], statistics.median(values), values[int(0.95 * len(values))], goal)


def _one_task(board: Board, group: cgroup.Group | None, inherited: int) -> tuple[float, float, float]:
    """Meter a task that does nothing; return seconds: in all, wall inside, CPU inside."""
    start = time.perf_counter()
    marks = phases.Phases(time.monotonic(), board, group, inherited)
    for name in PHASES[1:]:
        marks.enter(name)
    json.dumps({"call": marks.call, "left": marks.left})
    in_all = time.perf_counter() - start
    return in_all, marks.call["wall_s"], marks.call["cpu_s"]


def _in_a_fork(home: str | None) -> list[float]:
    """Meter a task in a process that is new; return seconds: the rehearsal's, and the task's three."""
    reading, writing = os.pipe()
    board = Board()
    group = cgroup.Group.make(home, os.getpid())
    pid = os.fork()
    if pid == 0:
        if group is not None and not group.join():
            group = None
        start = time.perf_counter()
        inherited = worker.rehearse(board, group, 0o022)
        found = [time.perf_counter() - start, *_one_task(board, group, inherited)]
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    if group is not None:
        group.rehearse()
    with os.fdopen(reading) as pipe:
        values: list[float] = json.load(pipe)
    os.waitpid(pid, 0)
    board.close()
    if group is not None:
        values[1] += _at_the_end(group)
    return values


def _at_the_end(group: cgroup.Group) -> float:
    """Return the seconds that the supervisor needs for the group of a task that has ended."""
    start = time.perf_counter()
    group.cpu()
    group.memory_peak()
    group.remove()
    return time.perf_counter() - start


def measure(rounds: int) -> list[Costs]:
    """Meter tasks in as many processes, and return what that cost."""
    worker.rehearsed_request()  # as in the agent, so that no fork has to make it
    home = cgroup.find_home()
    columns = zip(*(_in_a_fork(home) for _ in range(rounds)), strict=True)
    return [Costs.of(name, column, goal) for (name, goal), column in zip(FIGURES, columns, strict=True)]


def table(found: Sequence[Costs]) -> str:
    """Return the costs as a Markdown table."""
    lines = [["microseconds", "least", "median", "95 %", "goal"], ["---", "---:", "---:", "---:", "---:"]]
    for cost in found:
        goal = f"< {cost.goal}" if cost.goal else ""
        lines.append([cost.name, f"{cost.least:.1f}", f"{cost.median:.1f}", f"{cost.high:.1f}", goal])
    return in_columns(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where a median misses its goal."""
    parser = argparse.ArgumentParser(prog="metering", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="in how many processes it is measured")
    parser.add_argument("--json", type=Path, help="file for the figures, with the machine's context")
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    context = machines.context()
    print(machines.in_words(context))
    print(f"Metering a task, in {options.rounds} new processes:")
    print(table(found))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": context, "costs": [asdict(cost) for cost in found]}, indent=1)
        options.json.write_text(text + "\n")
    missed = [cost.name for cost in found if cost.goal and cost.median >= cost.goal]
    print(f"Over the goal: {'; '.join(missed)}." if missed else "All medians are below their goals.")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
