"""How right the figures are: tasks over a real SSH server, against the kernel and against GNU time.

Each row is one work in a task of its own. What is the truth of what:

- "kernel" is what a control group that this benchmark makes (or, where it may make none, `perf stat`)
  has charged to the very process that runs the task, with all its descendants, the harness's share
  included. It starts when the process is waiting for its task; what that had used until then, 1 to
  3 ms, is added from its CPU clock. It is the truth of `cpu_total_s` of the same run.
- "time -v" is GNU time's, wrapped around the same work as a program, and that is all that a second task
  does: the truth of that task's `cpu_total_s`, but for the harness's few milliseconds, and for up to 20
  that GNU time cuts off, since it shows user and system time in whole hundredths of a second. It sees
  no orphans. Where a work leaves some, or does nothing, its figure is shown and not compared.
- "in call" is the same control group's counter, read by the task itself in the first and in the last
  line of its function: the truth of `cpu_s`. A task that is killed never comes to its last line.
- "process_time" is what Covalent's how-to would have said of the run: the difference of
  `time.process_time()` around the call, in its own process.

Of several rounds, the one with the largest error is shown. Exits 1 if one was out of tolerance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from support import direct, works

from benchmarks import machine as machines
from benchmarks import truth
from benchmarks.tables import in_columns
from covalent_sshtiming.demo.run import base_python
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.remote import crew

TOLERANCE_S, TOLERANCE = 0.020, 0.02  # whichever is more
_W = TypeVar("_W", bound=truth.Watch)


@dataclass(frozen=True)
class Work:
    """A row: a work, how its task ends, and whether GNU time can judge it.

    It cannot where the work leaves orphans, nor where all of it is less than what it cuts off.
    """

    name: str
    text: str
    status: str = "completed"
    for_gnu_time: bool = True


WORKS = [
    Work("nothing", works.NOTHING, for_gnu_time=False),
    Work("single thread", works.single_thread(2.0)),
    Work("four threads", works.FOUR_THREADS),
    Work("subprocess", works.subprocess(2.0)),
    Work("pool left open", works.pool_left_open(2.0)),
    Work("double fork", works.double_fork(2.0), for_gnu_time=False),
    Work("killed task", works.KILLED, status="killed", for_gnu_time=False),
    Work("numpy matrix product", works.MATRIX_PRODUCT),
    Work("sort of ten million", works.SORT),
]


@dataclass(frozen=True)
class Row:
    """What one round of one work has given; seconds, and None for what could not be had."""

    work: str
    cgroup_s: float | None
    perf_s: float | None
    cpu_total_s: float
    in_call_s: float | None
    cpu_s: float
    cpu_source: str
    cpu_complete: bool
    process_time_s: float | None
    gnu_time_s: float | None
    gnu_time_total_s: float | None  # cpu_total_s of the task around it
    gnu_time_judges: bool

    @property
    def kernel_s(self) -> float | None:
        """The kernel's word: the control group's, else perf's."""
        return self.perf_s if self.cgroup_s is None else self.cgroup_s

    @property
    def error_s(self) -> float | None:
        """`cpu_total_s` less the kernel's."""
        return None if self.kernel_s is None else self.cpu_total_s - self.kernel_s

    @property
    def gnu_time_error_s(self) -> float | None:
        """`cpu_total_s` of the other task less GNU time's, where that can judge."""
        if self.gnu_time_s is None or self.gnu_time_total_s is None or not self.gnu_time_judges:
            return None
        return self.gnu_time_total_s - self.gnu_time_s

    @property
    def call_error_s(self) -> float | None:
        """`cpu_s` less the kernel's in the call."""
        return None if self.in_call_s is None else self.cpu_s - self.in_call_s

    def misses(self) -> list[str]:
        """Say where this row is out of tolerance."""
        pairs = [("the kernel", self.kernel_s, self.error_s)]
        pairs += [("the kernel in the call", self.in_call_s, self.call_error_s)]
        pairs += [("perf", self.perf_s, self.perf_s and self.cpu_total_s - self.perf_s)]
        pairs += [("GNU time", self.gnu_time_s, self.gnu_time_error_s)]
        return [
            f"{self.work}: {1000 * error:+.1f} ms against {name}"
            for name, true, error in pairs
            if true is not None and error is not None and abs(error) > max(TOLERANCE_S, TOLERANCE * true)
        ]


def _as_electron(text: str, counter: Path | None) -> Callable[[], dict[str, Any]]:
    """Return an electron that does a work, and says what its group's counter and the how-to make of it."""
    path = None if counter is None else str(counter)

    def work() -> dict[str, Any]:
        import time

        def look() -> str | None:
            if path is None:
                return None
            with open(path) as file:  # noqa: PTH123 - as little as can be, inside what is measured
                return file.read()

        before = look()
        start = time.process_time()
        exec(text, {})  # noqa: S102 - the work is ours
        return {"process_time": time.process_time() - start, "charged": (before, look())}

    return work


def _as_program(gnu_time: str, text: str) -> Callable[[], str]:
    """Return an electron that does a work as a program under GNU time, and returns the report."""

    def work() -> str:
        import os
        import sys

        # GNU time would not see what subprocess, tempfile or pathlib cost to load. A file and no pipe: an
        # orphan of the work would hold that open.
        report = f"gnu-time-{os.getpid()}"
        os.spawnv(os.P_WAIT, gnu_time, [gnu_time, "-v", "-o", report, sys.executable, "-c", text])  # noqa: S606 - a list that we made
        with open(report) as file:  # noqa: PTH123 - without pathlib, see above
            told = file.read()
        os.unlink(report)  # noqa: PTH108 - the same
        return told

    return work


async def _waiting_workers(machine: direct.Machine) -> list[int]:
    """Return the processes of which one will run the next task: each waiting supervisor's child."""
    if not machine.agents():
        await machine.run(_as_electron(works.NOTHING, None))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        (agent,) = machine.agents()
        workers = [
            worker.pid
            for supervisor in psutil.Process(agent).children()
            for worker in supervisor.children()
            if worker.status() == psutil.STATUS_SLEEPING
        ]
        if len(workers) == crew.AHEAD:
            await asyncio.sleep(0.05)  # the last of them is waiting for sure
            return workers
        await asyncio.sleep(0.01)
    raise TimeoutError("the agent has not forked its supervisors ahead")


async def _watched(machine: direct.Machine, work: Work) -> dict[str, Any]:
    """Run a work in a watched process; return a row's fields."""
    workers = await _waiting_workers(machine)
    with ExitStack() as stack:
        group, perf = _attached(stack, truth.cpu_group, workers), _attached(stack, truth.perf, workers)
        used_before = {pid: truth.cpu_clock(pid) for pid in workers}
        ran = await machine.run(_as_electron(work.text, None if group is None else group.file))
        record = machine.records()[-1]
        if record["status"] != work.status:
            raise RuntimeError(f"{work.name} has {record['status']}: {ran.stderr}")
        (worker,) = [pid for pid in workers if not psutil.pid_exists(pid)]
        told = ran.value if ran.error is None else {"charged": (None, None)}
        if group and group.is_second and record["cpu_source"] == "cgroup2":
            group, told["charged"] = None, ()  # the far end has moved the process into a group of its own
        looks = [truth.charged(text) for text in told["charged"] if text is not None]
        return {
            "cgroup_s": group and group.read() + used_before[worker],
            "perf_s": perf and perf.read() + used_before[worker],
            "in_call_s": looks[1] - looks[0] if looks else None,
            "process_time_s": told.get("process_time"),
            **{name: record[name] for name in ("cpu_total_s", "cpu_s", "cpu_source", "cpu_complete")},
        }


def _attached(
    stack: ExitStack, attach: Callable[[list[int]], AbstractContextManager[_W]], pids: list[int]
) -> _W | None:
    """Attach a watch to processes; None where there is no such thing, or not for this user."""
    try:
        return stack.enter_context(attach(pids))
    except OSError:
        return None


async def _wrapped(machine: direct.Machine, work: Work, gnu_time: str | None) -> dict[str, Any]:
    """Run a work as a program under GNU time; return a row's fields."""
    seen: dict[str, Any] = {"gnu_time_s": None, "gnu_time_total_s": None}
    if gnu_time is not None:
        report = (await machine.run(_as_program(gnu_time, work.text))).value
        seen["gnu_time_s"] = truth.read_gnu_time(report)
        seen["gnu_time_total_s"] = machine.records()[-1]["cpu_total_s"]
    return {**seen, "gnu_time_judges": work.for_gnu_time}


async def measure(server: SSHServer, place: Path, chosen: Sequence[Work], rounds: int) -> list[list[Row]]:
    """Run each work some times; return its rows, work by work.

    Args:
        server: a running private SSH server.
        place: a directory of one's own with a short path.
        chosen: which works.
        rounds: how often each.
    """
    found: list[list[Row]] = []
    gnu_time = truth.gnu_time()
    async with direct.machine(server, place, idle_timeout=60) as machine:
        for work in chosen:
            rows = []
            for _ in range(rounds):
                fields = {
                    **await _watched(machine, work),
                    **await _wrapped(machine, work, gnu_time),
                }
                rows.append(Row(work=work.name, **fields))
            found.append(rows)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def worst(rows: Sequence[Row]) -> Row:
    """Return the row whose figures are furthest from the truth."""
    return max(rows, key=lambda row: max(abs(row.error_s or 0), abs(row.call_error_s or 0)))


HEADER = ["work", "kernel", "cpu_total_s", "error", "in call", "cpu_s", "error"]
HEADER += ["process_time", "time -v", "error"]


def table(found: Sequence[Sequence[Row]]) -> str:
    """Return the worst row of each work as a Markdown table, in seconds and milliseconds."""
    lines = [HEADER, ["---"] + ["---:"] * (len(HEADER) - 1)]
    for row in map(worst, found):
        whole = [_seconds(row.kernel_s), _seconds(row.cpu_total_s), _milliseconds(row.error_s)]
        call = [_seconds(row.in_call_s), _seconds(row.cpu_s), _milliseconds(row.call_error_s)]
        other = [_seconds(row.gnu_time_s), _milliseconds(row.gnu_time_error_s)]
        lines.append([row.work, *whole, *call, _seconds(row.process_time_s), *other])
    return in_columns(lines)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{1000 * value:+.2f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where a figure was out of tolerance."""
    parser = argparse.ArgumentParser(prog="accuracy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each work runs")
    parser.add_argument("--json", type=Path, help="file for every row, with the machine's context")
    options = parser.parse_args(arguments)
    context = machines.context()
    with tempfile.TemporaryDirectory(prefix="acc-", dir="/tmp", ignore_cleanup_errors=True) as name:
        environment = {"PATH": f"{Path(base_python()).parent}:{os.environ['PATH']}"}
        with ssh_server(Path(name) / "ssh", kind="openssh", environment=environment) as server:
            found = asyncio.run(measure(server, Path(name), WORKS, options.rounds))
    print(machines.in_words(context))
    print(table(found))
    sources = {
        "control group": found[0][0].cgroup_s is not None,
        "perf": found[0][0].perf_s is not None,
        "GNU time": found[0][0].gnu_time_s is not None,
    }
    absent = [source for source, is_there in sources.items() if not is_there]
    if absent:
        print(f"Could not be asked here: {', '.join(absent)}.")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for rows in found for row in rows]
        options.json.write_text(json.dumps({"machine": context, "rows": rows}, indent=1) + "\n")
        print(f"Every round: {options.json}")
    misses = [miss for rows in found for row in rows for miss in row.misses()]
    print("\n".join(misses) or "All within the larger of 20 ms and 2 %.")
    return bool(misses)


if __name__ == "__main__":
    sys.exit(main())
