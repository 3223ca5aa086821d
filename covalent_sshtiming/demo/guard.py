"""A process that owns one command and everything which that command leaves behind.

Started as a script by `processes.guarded`. It runs the command, and ends it and every descendant (agents
that daemonised themselves included) as soon as the command ends, a signal says so, or its standard input
reaches its end. The last happens by itself when whoever started it dies, however that happens. On Linux
orphans are found because the guard is a subreaper, elsewhere by a marker in their environment.
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil

MARKER = "COVALENT_SSHTIMING_GUARD"
"""Environment variable whose value names the guard that a process belongs to."""

GRACE_S = 5.0
"""How long the command itself may take to end after SIGTERM; a Covalent server takes about one second."""

STRAY_GRACE_S = 1.0
"""How long what the command left behind may take."""

SUBREAPING = platform.system() == "Linux"
"""Whether orphaned descendants become our children."""

_PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """The state of one guarded command: its process id, and its exit code once it has one."""

    def __init__(self, command: list[str]) -> None:
        self._wake, wake_end = os.pipe()
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        self._told_to_end = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_end_signal)
        self.exit_code: int | None = None
        self.pid = subprocess.Popen(command, stdin=subprocess.DEVNULL).pid

    def _on_end_signal(self, *_: object) -> None:
        self._told_to_end = True

    def reap(self) -> None:
        """Collect every child that has ended, adopted orphans included."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    self.exit_code = os.waitstatus_to_exitcode(ended[1])

    def watch(self) -> None:
        """Return when the command has ended or is to be ended."""
        while self.exit_code is None and not self._told_to_end:
            ready = select.select([0, self._wake], [], [])[0]
            if self._wake in ready:
                os.read(self._wake, 4096)
            if 0 in ready and not os.read(0, 4096):
                return
            self.reap()

    def end(self) -> None:
        """End the command first, so that it can tidy up, then whatever is left of it."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGTERM)
            self._wait(GRACE_S, lambda: self.exit_code is None)
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
            for process in family():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            self._wait(STRAY_GRACE_S, family)

    def _wait(self, seconds: float, alive: Callable[[], object]) -> None:
        deadline = time.monotonic() + seconds
        while alive() and time.monotonic() < deadline:
            time.sleep(0.02)
            self.reap()


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, where the system can do that."""
    if SUBREAPING:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def family() -> list[psutil.Process]:
    """Return the processes that are this guard's to end."""
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    known = {process.pid for process in children}
    return children + [process for process in _marked() if process.pid not in known]


def _marked() -> Iterator[psutil.Process]:
    """Find what has our marker but another parent; a subreaper has none of those."""
    token = os.environ.get(MARKER)
    unmarked = SUBREAPING or not token
    for process in () if unmarked else psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARKER) == token:
                yield process


def main() -> int:
    """Run the command of the arguments; the first is the descriptor that gets its process id."""
    adopt_orphans()
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    guard = Guard(sys.argv[2:])
    os.write(status, str(guard.pid).encode())
    os.close(status)
    guard.watch()
    guard.end()
    return guard.exit_code if guard.exit_code is not None and guard.exit_code >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
