"""The local timing log: appending records to it.

Several dispatchers may share one log, disks fill up and processes are killed in mid-write. So a
record is one line, written at once under a lock; a line that does not fit is taken back, and one
that somebody else left unfinished is closed before ours begins. Everything here blocks: call it
from a thread, never from an event loop.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.timing.files import expanded, records_path, shard_path
from covalent_sshtiming.timing.record import TimingRecord

LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.001
_ROTATIONS = 3
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_ADVICE = {
    errno.EISDIR: "Name a file in that directory",
    errno.ENOTDIR: "One of the directories above it is a file; choose another place",
    errno.ENOSPC: "Free some space there, or choose another place",
    errno.EDQUOT: "Free some space there, or choose another place",
}
CHECKED_S = 1.0
# When each log was last found writable, by the monotonic clock: a fan-out need not look each time.
_checked: dict[Path, float] = {}
# A shard belongs to one process, so what has to be kept apart there is its threads.
_shard_lock = threading.Lock()


class TimingLog:
    """A log that records are added to.

    A name in `.jsonl` or `.ndjson` is a file of records. Any other name is a file of sentences,
    one for each electron whose CPU time is known, with the records in `<name>.jsonl` beside it.

    Attributes:
        path: the file that was asked for.
        records: the file that the records go to.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, fsync: bool = False, lock_wait_s: float = LOCK_WAIT_S
    ) -> None:
        self.path = expanded(path)
        self.records = records_path(path)
        self._fsync = fsync
        self._lock_wait_s = lock_wait_s

    def was_writable(self) -> bool:
        """Tell, without looking, whether this log was found writable within the last second."""
        return time.monotonic() - _checked.get(self.path, -math.inf) < CHECKED_S

    def check_writable(self) -> None:
        """Make sure, before a task is submitted, that its record will have a place to go.

        Raises:
            ConfigError: if the log, or the file of records beside it, cannot be opened.
        """
        for path in dict.fromkeys((self.path, self.records)):
            try:
                # Whatever stands where the directory should be, opening the file explains it better.
                with suppress(FileExistsError):
                    path.parent.mkdir(parents=True)
                with _opened(path):
                    pass
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                raise _refusal(path, error) from error
        _checked[self.path] = time.monotonic()

    def append(self, record: TimingRecord) -> None:
        """Add a record, and its sentence where there is one.

        Raises:
            OSError: if it could not be written whole. It names the file, and the log is as before.
        """
        self._add(self.records, record.to_json())
        if self.path != self.records and record.kind == "electron" and (sentence := record.sentence()):
            self._add(self.path, sentence)

    def _add(self, path: Path, line: str) -> None:
        try:
            with _held(path, self._lock_wait_s) as fd:
                _write_line(fd, line.encode() + b"\n", fsync=self._fsync)
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


def _refusal(path: Path, error: OSError | ValueError) -> ConfigError:
    cause, code = (error.strerror, error.errno) if isinstance(error, OSError) else (str(error), None)
    advice = _ADVICE.get(code or 0, "Name a file that this user may create and write")
    return ConfigError(
        f"The timing log {str(path)!r} cannot be opened for appending: {cause}. "
        f"{advice}; nothing was submitted."
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor to append by, and to look back with at how the last line ends."""
    # Some devices make an open wait for ever, and O_NONBLOCK lets them be refused instead. O_APPEND
    # keeps us off the lines of writers that know nothing of our lock.
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _held(path: Path, wait_s: float) -> Iterator[int]:
    """A descriptor that nobody else writes to: the log's, or where that fails our own shard's."""
    for _ in range(_ROTATIONS):
        with _opened(path) as fd:
            if not _lock(fd, wait_s):
                break
            # A rotation may have renamed the file while we waited; then the name has a new one.
            if _is_at(fd, path):
                yield fd
                return
    with _shard_lock, _opened(shard_path(path)) as fd:
        yield fd


@contextmanager
def locked(path: Path, wait_s: float) -> Iterator[bool]:
    """Keep writers off a file that is there; False where no lock on it could be had."""
    with _opened(path) as fd:
        yield _lock(fd, wait_s) and _is_at(fd, path)


def _lock(fd: int, wait_s: float) -> bool:
    """Take the lock that closing gives back; False where there is none to be had.

    The wait is bounded, because a stopped process that holds the lock must not stop a workflow.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOCK_POLL_S)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
        else:
            return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write_line(fd: int, line: bytes, *, fsync: bool) -> None:
    """Write a line whole or not at all, on a line of its own."""
    end = os.lseek(fd, 0, os.SEEK_END)
    torn = end > 0 and os.pread(fd, 1, end - 1) != b"\n"
    rest = b"\n" + line if torn else line
    try:
        # One write, as a rule. After a short one the next says why, and then nothing stays.
        while rest:
            rest = rest[os.write(fd, rest) :]
        if fsync:
            os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, end)
        raise
