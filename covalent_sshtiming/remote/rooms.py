"""Rooms: directories of lock files, a user's own or one that several users share.

Owns every touch of such a file: it is made, looked at and locked, never read, written or removed, so that
whatever else somebody puts there does no harm. Holding means to hold `flock` on it.
"""

import errno
import os
import stat
from typing import Dict, List, Optional, Sequence, Set, Tuple

from . import places

_LATER = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no descriptor is to be had just now


class Unusable(Exception):
    """Nothing can be locked there, now or later."""


class Room:
    """One directory, and which of its locks our own supervisors hold; for others', only the lock tells.

    `claimed` are the names that nobody may take for now.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: "Dict[str, str]" = {}
        self.claimed: "Set[str]" = set()

    def lock(self, names: "Sequence[str]", count: int) -> "Optional[List[Tuple[str, int]]]":
        """Lock the first `count` of these that are free; None, and no lock, if there are fewer.

        Returns their names with the descriptors that hold them. Raises Unusable.
        """
        free = [name for name in names if name not in self._held and name not in self.claimed]
        locked: "List[Tuple[str, int]]" = []
        try:
            for name in free if len(free) >= count else ():
                handle = self._try(name)
                if handle is not None:
                    locked.append((name, handle))
                if len(locked) == count:
                    return locked
        except Unusable:
            close(locked)
            raise
        close(locked)
        return None

    def hold(self, key: str, names: "Sequence[str]") -> None:
        """Note that the supervisor of `key` holds these."""
        self._held.update(dict.fromkeys(names, key))

    def free(self, key: str) -> None:
        """Note that the supervisor of `key` has let go of what it held."""
        for name in [name for name, holder in self._held.items() if holder == key]:
            del self._held[name]

    def _try(self, name: str) -> "Optional[int]":
        try:
            return places.try_lock(os.path.join(self._path, name))
        except FileNotFoundError:  # somebody tidies up what looks old
            self._make()
        except OSError:
            pass
        return None

    def _make(self) -> None:
        try:
            places.private_directory(self._path)
        except OSError as error:
            raise Unusable("%s: %s" % (self._path, error.strerror)) from error


class SharedRoom(Room):
    """One that an administrator has made for several users."""

    def __init__(self, path: str) -> None:
        super().__init__(os.path.expanduser(path))
        try:
            _check(self._path)
        except OSError as error:
            raise Unusable("%s: %s" % (self._path, error.strerror)) from error

    def _try(self, name: str) -> "Optional[int]":
        path = os.path.join(self._path, name)
        try:
            return places.lock(_open(path), regular=True)
        except OSError as error:
            if error.errno in _LATER:
                return None
            raise Unusable("%s: %s" % (path, error.strerror)) from error


def _check(path: str) -> None:
    """Raise OSError for a directory in which others could remove a file that somebody has locked."""
    if not os.path.isabs(path):
        raise OSError(errno.EINVAL, "not an absolute path")
    mode = os.stat(path).st_mode
    if not stat.S_ISDIR(mode):
        raise OSError(errno.ENOTDIR, "not a directory")
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise OSError(errno.EPERM, "others may remove files there (chmod +t it)")


def _open(path: str) -> int:
    """Open a lock file; where there is none, make it so that all users can.

    First without O_CREAT, by which Linux may refuse a file of another user's in such a directory.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    mask = os.umask(0)  # in one step with its making: an agent that dies leaves no file that is ours only
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another user was quicker
        return os.open(path, flags)
    finally:
        os.umask(mask)


def close(locked: "Sequence[Tuple[str, int]]") -> None:
    """Let go of what `lock` has returned."""
    for _, handle in locked:
        os.close(handle)
