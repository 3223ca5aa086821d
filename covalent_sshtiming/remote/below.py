"""Files below a directory that one has open, by descriptors all the way; both ends import this one file.

Owns the walk from the directory to a file: one part of its name after the other, never through a link, so
that whatever lies below leads nowhere else. And the new file: under a name of its own until it is whole, then
renamed over whatever has its name, which is not opened.
"""

import os
from typing import Optional

from . import names

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def top(path: str) -> int:
    """Open the directory that everything is below; it is its owner's to say, so links to it are followed."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def enter(directory: int, part: str, make: bool = False) -> int:
    """Open a directory in a directory, made where there is none and `make` is set."""
    name = names.stored(part)
    if make:
        try:
            os.mkdir(name, 0o777, dir_fd=directory)
        except FileExistsError:
            pass
    return os.open(name, _DIRECTORY, dir_fd=directory)


def parent(root: int, name: str, make: bool = False) -> int:
    """Open the directory that a name below `root` is in. Check the name first, by `names.fault`."""
    here = os.dup(root)
    for part in name.split("/")[:-1]:
        try:
            below = enter(here, part, make)
        finally:
            os.close(here)
        here = below
    return here


def last(name: str) -> bytes:
    """Return the last part of a name, as it is on the disk."""
    return names.stored(name.rsplit("/", 1)[-1])


class NewFile:
    """A file on its way to its name below a directory: there whole in the end, or not at all."""

    def __init__(self, root: int, name: str, mode: int = 0o666) -> None:
        self._name = last(name)
        self._temporary = ".%s.part" % os.urandom(8).hex()
        self._parent = parent(root, name, make=True)
        self._file = -1
        try:
            self._file = os.open(self._temporary, _NEW, mode, dir_fd=self._parent)
        except OSError:
            os.close(self._parent)
            raise

    def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def standing(self) -> "Optional[os.stat_result]":
        """Return what has the name now; None for nothing."""
        try:
            return os.lstat(self._name, dir_fd=self._parent)
        except FileNotFoundError:
            return None

    def finish(self, mtime_ns: "Optional[int]" = None) -> os.stat_result:
        """Give it its name; return what it is."""
        try:
            if mtime_ns is not None:
                os.utime(self._file, ns=(mtime_ns, mtime_ns))
            os.rename(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            found = os.fstat(self._file)
        except OSError:
            self.abandon()
            raise
        self._close()
        return found

    def abandon(self) -> None:
        """Leave nothing of it."""
        if self._file >= 0:
            try:
                os.unlink(self._temporary, dir_fd=self._parent)
            except OSError:
                pass
        self._close()

    def _close(self) -> None:
        for handle in (self._file, self._parent):
            if handle >= 0:
                os.close(handle)
        self._file = self._parent = -1
