"""Truths: what others say that a task has cost, who know nothing of our own figures.

Two watch a process from outside, with all its descendants, from a moment before its task comes:

- `CpuGroup`: a control group that the process is moved into. `cpuacct.usage` (version 1, nanoseconds)
  or `cpu.stat` (version 2, microseconds) is what the scheduler has charged to it. Needs root.
- `Perf`: `perf stat -e task-clock -p`, whose counters descendants inherit.

One is wrapped around a program: GNU time, which prints what `wait4` gives, in hundredths of a second,
and so misses orphans and children that nobody waited for.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

ATTACH_S = 10.0


class Watch(Protocol):
    """Something that counts the CPU seconds of processes and their descendants from now on."""

    def read(self) -> float:
        """Return CPU seconds so far; the last time that it is asked."""


class CpuGroup:
    """A control group of our own, and the file that says what was charged to it.

    Attributes:
        file: what is read.
        is_second: whether it is of version 2, which has a single tree: a process can be moved out of it.
    """

    def __init__(self, directory: Path) -> None:
        first = directory / "cpuacct.usage"
        self.is_second = not first.exists()
        self.file = directory / "cpu.stat" if self.is_second else first

    def read(self) -> float:
        """Return CPU seconds so far."""
        return charged(self.file.read_text())


def charged(text: str) -> float:
    """Return the CPU seconds that a control group's file tells, of either version."""
    if text.startswith("usage_usec"):
        return int(text.split()[1]) * 1e-6
    return int(text) * 1e-9


class Perf:
    """A running `perf stat`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> float:
        """End it and return CPU seconds; raises ValueError where perf counted nothing."""
        self._process.send_signal(signal.SIGINT)
        _, told = self._process.communicate(timeout=ATTACH_S)
        for line in told.splitlines():
            (
                value,
                *_,
            ) = line.split(",")
            if "task-clock" in line:
                return float(value) * 1e-3
        raise ValueError(f"perf counted nothing: {told}")


@contextmanager
def cpu_group(pids: Sequence[int]) -> Iterator[CpuGroup]:
    """Move processes into a control group of their own; on leaving, those that live are moved back.

    Raises:
        OSError: if there is no control group that this user may make.
    """
    parent = _group_root()
    directory = parent / f"sshtiming-accuracy-{os.getpid()}-{time.monotonic_ns()}"
    directory.mkdir()
    try:
        for pid in pids:
            (directory / "cgroup.procs").write_text(str(pid))
        yield CpuGroup(directory)
    finally:
        _empty(directory, parent)


def _empty(directory: Path, parent: Path) -> None:
    """Move what is left in a group to its parent, and remove it once the kernel has buried its dead."""
    for _ in range(100):
        for pid in (directory / "cgroup.procs").read_text().split():
            with suppress(OSError):  # it has ended meanwhile
                (parent / "cgroup.procs").write_text(pid)
        try:
            directory.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return


def _group_root() -> Path:
    """Return where groups are made: cpuacct before version 2, whose groups our own far end makes too."""
    second = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpuacct" in options.split(","):
            return Path(where)
        if kind == "cgroup2":
            second = Path(where)
    if second is None:
        raise FileNotFoundError("no control groups are mounted here")
    return second


@contextmanager
def perf(pids: Sequence[int]) -> Iterator[Perf]:
    """Attach `perf stat` to processes and to what they start.

    Raises:
        OSError: if there is no perf, or it may not look.
    """
    command = ["perf", "stat", "-x,", "-e", "task-clock", "-p", ",".join(map(str, pids))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _wait_until_attached(process, len(pids))
        yield Perf(process)
    finally:
        process.kill()
        process.communicate()


def _wait_until_attached(process: subprocess.Popen[str], wanted: int) -> None:
    deadline = time.monotonic() + ATTACH_S
    while time.monotonic() < deadline and process.poll() is None:
        handles = list(Path(f"/proc/{process.pid}/fd").iterdir())
        if sum("perf_event" in _link(handle) for handle in handles) >= wanted:
            time.sleep(0.1)  # opened one by one, then enabled together
            return
        time.sleep(0.01)
    raise PermissionError("perf may not look at other processes here")


def _link(handle: Path) -> str:
    with suppress(OSError):
        return str(handle.readlink())
    return ""


def gnu_time() -> str | None:
    """Return the path of GNU time; None where there is none, or another one."""
    path = shutil.which("time")
    if path is None:
        return None
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return path if "GNU" in told.stdout + told.stderr else None


def read_gnu_time(report: str) -> float:
    """Return user and system CPU seconds from what `time -v` has written."""
    values = dict(line.strip().rsplit(": ", 1) for line in report.splitlines() if ": " in line)
    return float(values["User time (seconds)"]) + float(values["System time (seconds)"])


def cpu_clock(pid: int) -> float:
    """Return the CPU seconds of another process so far, exactly, by its CPU clock."""
    return time.clock_gettime((~pid << 3) | 2)
