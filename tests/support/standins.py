"""What others may have put where a file of ours is to be, and what a file's mode is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER = 54_321  # a user id that nobody has
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of other users")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask of this process."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    """Return a path's permissions, of a link its own."""
    return stat.S_IMODE(path.lstat().st_mode)


def pipe(path: Path) -> None:
    """Make a named pipe, which nobody writes to."""
    os.mkfifo(path)


def link(path: Path) -> None:
    """Make a link to a directory of our own."""
    target = path.with_name("target")
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def file(path: Path) -> None:
    """Make a file."""
    path.write_text("mine")


def open_to_others(path: Path) -> None:
    """Make a directory that others can read."""
    path.mkdir(mode=0o755)


def a_strangers(path: Path) -> None:
    """Make a directory of another user's, closed to all others."""
    path.mkdir(mode=0o700)
    os.chown(path, STRANGER, STRANGER)


def another(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a function that puts something in a file's place."""

    def put(path: Path) -> None:
        path.unlink()
        make(path)

    return put
