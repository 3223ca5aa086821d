"""Which processes the tests have left running."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

import psutil

MARKER = "COVALENT_SSHTIMING_TESTS"
"""Environment variable that every descendant of a test process has, daemons included."""


def mark() -> None:
    """Mark what this process starts from now on."""
    os.environ[MARKER] = secrets.token_hex(8)


def marked(name: str, value: str) -> list[psutil.Process]:
    """Return the processes in whose environment `name` is `value`, but not this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
    return found


def leftovers() -> list[psutil.Process]:
    """Return what descends from this process, by parentage or by marker."""
    children = psutil.Process().children(recursive=True)
    found = {process.pid: process for process in [*children, *marked(MARKER, os.environ[MARKER])]}
    return [process for process in found.values() if not _is_ours_to_keep(process)]


def describe(process: psutil.Process) -> str:
    """Return one line that names a process."""
    with suppress(psutil.Error):
        return f"{process.pid} ({process.status()}) {' '.join(process.cmdline()) or process.name()}"
    return f"{process.pid} (gone)"


def _is_ours_to_keep(process: psutil.Process) -> bool:
    """Tell the tracker of multiprocessing, which lives as long as the interpreter that uses it."""
    with suppress(psutil.Error):
        return any("resource_tracker" in word for word in process.cmdline())
    return True
