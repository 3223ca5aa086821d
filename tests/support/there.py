"""Files and processes of the machine that a test's tasks run on.

`There` is a place on it. Where the machine is this one, that is a Path; where it is the one that
SSHTIMING_TEST_HOST names, a FarPath, which does the same through that machine's sshd. So a test that looks at
its machine by a There, and by the functions below, looks at either.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import asyncssh
import psutil

T = TypeVar("T")
P = TypeVar("P", bound="Path | FarPath")

WAIT_S = 60

# Prints the agents of a spool, whose pid files are locked while they live. Given a signal it kills them, with
# what descends from them, and waits until they are gone.
AGENTS = r"""
import fcntl, glob, json, os, subprocess, sys, time

def living(path):
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return int(json.loads(file.read() or '{"pid": 0}')["pid"])

def agents():
    return sorted(filter(None, map(living, glob.glob(sys.argv[1] + "/agents/*.pid"))))

found = agents()
print(*found)
if len(sys.argv) > 2:
    table = subprocess.check_output(["ps", "-A", "-o", "ppid=", "-o", "pid="]).decode().split()
    family = list(found)
    for parent in family:
        family += [int(pid) for above, pid in zip(table[::2], table[1::2]) if int(above) == parent]
    for pid in family:
        try:
            os.kill(pid, int(sys.argv[2]))
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 5
    while agents() and time.monotonic() < deadline:
        time.sleep(0.01)
"""


class Shell:
    """One connection to a machine, from a thread of its own, so that a test of any kind may use it.

    Attributes:
        python: the interpreter of our own programs there.
    """

    def __init__(self, python: str, **login: Any) -> None:
        self.python = python
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection, self._files = self._wait(self._connect(login))

    @staticmethod
    async def _connect(login: dict[str, Any]) -> tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]:
        made = await asyncssh.connect(**login, agent_path=None, config=None, connect_timeout=20)
        return made, await made.start_sftp_client()

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    def run(self, *words: str, data: str = "") -> str:
        """Run a command there and return what it prints; raises asyncssh.ProcessError where it fails."""
        ran = self._wait(self._connection.run(shlex.join(words), input=data, check=True))
        return str(ran.stdout)

    def do(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the file system there."""
        return self._wait(getattr(self._files, name)(*args, **options))

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return self._wait(self._read(path))

    async def _read(self, path: str) -> bytes:
        async with self._files.open(path, "rb") as file:
            data: Any = await file.read()
        return bytes(data)

    def write(self, path: str, data: bytes) -> None:
        """Make a file of this content, or replace it."""
        self._wait(self._write(path, data))

    async def _write(self, path: str, data: bytes) -> None:
        async with self._files.open(path, "wb") as file:
            await file.write(data)

    def close(self) -> None:
        """Let go of the machine."""
        self._files.exit()
        self._connection.close()
        self._wait(self._connection.wait_closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True)
class FarPath:
    """A place on a machine behind a shell, with so much of Path as tests need."""

    shell: Shell
    pure: PurePosixPath

    def __str__(self) -> str:
        return str(self.pure)

    def __truediv__(self, name: str) -> FarPath:
        return FarPath(self.shell, self.pure / name)

    @property
    def name(self) -> str:
        """The last component."""
        return self.pure.name

    @property
    def parent(self) -> FarPath:
        """The directory that this is in."""
        return FarPath(self.shell, self.pure.parent)

    def exists(self) -> bool:
        """Say whether something is there."""
        return bool(self.shell.do("exists", str(self)))

    def is_dir(self) -> bool:
        """Say whether that is a directory."""
        return bool(self.shell.do("isdir", str(self)))

    def mode(self) -> int:
        """Return its type and permissions."""
        return int(self.shell.do("stat", str(self)).permissions)

    def mkdir(self) -> None:
        """Make this directory."""
        self.shell.do("mkdir", str(self))

    def rmdir(self) -> None:
        """Remove this directory, which has to be empty."""
        self.shell.do("rmdir", str(self))

    def touch(self) -> None:
        """Make an empty file."""
        self.write_text("")

    def read_text(self) -> str:
        """Return a file's content."""
        return self.shell.read(str(self)).decode()

    def write_text(self, text: str) -> None:
        """Make a file of this content."""
        self.write_bytes(text.encode())

    def write_bytes(self, data: bytes) -> None:
        """Make a file of this content."""
        self.shell.write(str(self), data)

    def iterdir(self) -> Iterator[FarPath]:
        """Yield what is in this directory."""
        yield from (self / name for name in self.shell.do("listdir", str(self)) if name not in (".", ".."))

    def glob(self, pattern: str) -> Iterator[FarPath]:
        """Yield what is below this and fits a pattern; nothing where this is not there."""
        try:
            found = self.shell.do("glob", f"{self}/{pattern}")
        except asyncssh.SFTPNoSuchFile:
            return
        yield from (FarPath(self.shell, PurePosixPath(path)) for path in found)


There = Path | FarPath


def begun(spool: P) -> list[P]:
    """Return the lock files of the tasks that have started, which say by whom."""
    found: list[Any] = []
    for path in spool.glob("tasks/*/lock"):
        with suppress(FileNotFoundError, asyncssh.SFTPNoSuchFile):  # just removed
            if path.read_text():
                found.append(path)
    return found


def mode(place: There) -> int:
    """Return the type and the permissions of a file."""
    return place.mode() if isinstance(place, FarPath) else place.stat().st_mode


def alive(pid: int, at: There | None = None) -> bool:
    """Tell whether a process lives on the machine where `at` is (here, without it), zombies not counted."""
    if isinstance(at, FarPath):
        state = at.shell.run("sh", "-c", f"ps -o stat= -p {pid} || true").strip()
        return state[:1] not in ("", "Z")
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def parent(pid: int, at: There) -> int:
    """Return the process id of a process's parent on the machine where `at` is."""
    if isinstance(at, FarPath):
        return int(at.shell.run("ps", "-o", "ppid=", "-p", str(pid)))
    return psutil.Process(pid).ppid()


def kill(pid: int, at: There) -> None:
    """Kill a process on the machine where `at` is, if it is still there."""
    if isinstance(at, FarPath):
        at.shell.run("sh", "-c", f"kill -9 {pid} 2>/dev/null || true")
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def far_agents(spool: FarPath, number: int | None = None) -> set[int]:
    """Return the process ids of the agents that live in a spool there; with a signal's number, kill them."""
    extra = [] if number is None else [str(int(number))]
    told = spool.shell.run(spool.shell.python, "-", str(spool), *extra, data=AGENTS)
    return set(map(int, told.split()))
