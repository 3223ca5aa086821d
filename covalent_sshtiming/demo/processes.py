"""Starting processes that end for sure, and waiting until they answer.

Owns `guarded`, the only way in which the demo and the tests start something that lives on.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from covalent_sshtiming.demo import guard
from covalent_sshtiming.errors import SSHTimingError


class DemoError(SSHTimingError):
    """A private server did not start, or the demo's workflow did not end as it should."""


class Guarded:
    """A running command: its process id, its log, and whether it still runs."""

    def __init__(self, pid: int, log: Path, keeper: subprocess.Popen[bytes]) -> None:
        self.pid = pid
        self.log = log
        self._keeper = keeper

    def poll(self) -> int | None:
        """Return the exit code, or None while the command, or what it left, is still there."""
        return self._keeper.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command to end by itself."""
        return self._keeper.wait(timeout)

    def tail(self, lines: int = 15) -> str:
        """Return the end of what the command printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def guarded(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdout: Path | None = None,
) -> Iterator[Guarded]:
    """Run a command; on leaving, it and all its descendants have ended.

    What it prints goes to `log`, but its standard output to `stdout` where that is given.
    """
    told, tell = os.pipe()
    with log.open("ab") as errors, (stdout or log).open("ab") as output:
        keeper = subprocess.Popen(
            [sys.executable, guard.__file__, str(tell), *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env={**env, guard.MARKER: secrets.token_hex(8)},
            cwd=cwd,
            pass_fds=[tell],
            start_new_session=True,  # Ctrl-C is for us; the guard ends when its standard input does
        )
    try:
        yield Guarded(_read_pid(told, tell, command, log), log, keeper)
    finally:
        _close(keeper)


def _read_pid(told: int, tell: int, command: Sequence[str | Path], log: Path) -> int:
    os.close(tell)
    with open(told, "rb") as pipe:
        pid = pipe.read()
    if not pid:
        raise DemoError(f"{command[0]} could not be started: {log.read_text(errors='replace')}")
    return int(pid)


def _close(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None  # noqa: S101 - it was opened as a pipe
    keeper.stdin.close()
    keeper.wait(timeout=guard.GRACE_S + 3 * guard.STRAY_GRACE_S + 10)


def wait_until(
    answers: Callable[[], bool], process: Guarded, *, what: str, timeout: float = 60, pause: float = 0.02
) -> None:
    """Wait until a server answers; a server that has ended will not, and its last words say why."""
    deadline = time.monotonic() + timeout
    while not answers():
        if process.poll() is not None:
            raise DemoError(f"{what} ended at once. Its last words:\n{process.tail()}")
        if time.monotonic() > deadline:
            raise DemoError(
                f"{what} did not answer within {timeout:.0f} s. Its last words:\n{process.tail()}"
            )
        time.sleep(pause)


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.create_server((address, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def private_environment(home: Path, *, keep_home: bool = False) -> dict[str, str]:
    """Return our environment with everything that Covalent and XDG read pointed below `home`.

    With `keep_home` HOME and the key agent stay the user's, so that SSH finds their configuration.
    """
    dropped = ("COVALENT_", "XDG_") if keep_home else ("COVALENT_", "XDG_", "SSH_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    env.pop("LOGLEVEL", None)
    if not keep_home:
        env["HOME"] = str(home)
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    env |= {
        "TMPDIR": str(home / "tmp"),  # Covalent's server leaves a database of its cache there
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "COVALENT_CONFIG_DIR": str(home / ".config/covalent"),
        "COVALENT_EXECUTOR_DIR": str(home / ".config/covalent/executor_plugins"),
        "COVALENT_DATA_DIR": str(home / ".local/share/covalent/data"),
    }
    return env
