"""Control groups: a group of version 2 for each task, where this user may make one, and what groups say.

Owns where groups are made, what they are called, and every read of their files. A group is the kernel's
own account of a task, which also has what no parent waited for. It needs nobody's consent to be missing:
wherever it cannot be had, and whatever it does not tell, the answer is None.

Groups lie below one directory for each user, made where memory is accounted for too if that can be had:
below the nearest group of our ancestry whose children have the memory controller, else below our own.
"""

import os
from typing import Callable, Iterator, List, Optional, Tuple

from . import platforms

_HOME = "covalent-sshtiming-%d"  # by user
_REMOVE_DEPTH = 8  # groups below a task's group, which it made itself


class Group:
    """The group of one task; its processes are the worker and all that it starts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._has_memory = False

    @classmethod
    def make(cls, home: "Optional[str]", pid: int) -> "Optional[Group]":
        """Make an empty group below `home` for the supervisor `pid`; None where that cannot be."""
        if home is None:
            return None
        group = cls(os.path.join(home, str(pid)))
        try:
            os.mkdir(group.path)
        except FileExistsError:  # of a supervisor that was killed, and had our number
            group.remove()
            return cls.make(home, pid) if not os.path.exists(group.path) else None
        except FileNotFoundError:  # whoever keeps these machines' groups has tidied up
            return cls.make(home, pid) if _furnish(home) else None
        except OSError:
            return None
        return group

    def rehearse(self) -> None:
        """Read it while there is no task, so that the reading at the end costs a third; see what it tells."""
        self.cpu()
        self._has_memory = bool(self._read("memory.peak"))

    def join(self) -> bool:
        """Move this process into the group; False where the kernel does not allow it.

        The kernel may take 10 ms for it, so this is done before there is a task.
        """
        try:
            _write(os.path.join(self.path, "cgroup.procs"), b"0")
        except OSError:
            return False
        return True

    def cpu(self) -> "Optional[float]":
        """CPU seconds of all its processes so far, dead ones too (usage_usec of cpu.stat)."""
        used = _entry(self._read("cpu.stat"), b"usage_usec")
        return None if used is None else used * 1e-6

    def memory_peak(self) -> "Optional[int]":
        """Bytes of memory that it has had at most, the files' pages that it brought in too (memory.peak)."""
        text = self._read("memory.peak").strip() if self._has_memory else b""
        return int(text) if text.isdigit() else None

    def oom_kills(self) -> "Optional[int]":
        """How many of its processes were killed because memory ran out (oom_kill of memory.events)."""
        return _entry(self._read("memory.events"), b"oom_kill")

    def limit(self, name: str, most: int) -> bool:
        """Write a limit, of memory.max or pids.max; False where there is no such controller."""
        try:
            _write(os.path.join(self.path, name), b"%d" % most)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Remove it with the groups that the task has made in it; one that has processes stays."""
        _remove(self.path, _REMOVE_DEPTH)

    def _read(self, name: str) -> bytes:
        return platforms.read_small(os.path.join(self.path, name))


def find_home() -> "Optional[str]":
    """Return the directory in which this user's tasks may have groups; None where there is none."""
    own = _own_directories()
    for directory in [path for path in own[:-1] if _accounts_for_memory(path)] + own[:1]:
        path = os.path.join(directory, _HOME % os.getuid())
        if _furnish(path) and _is_good(path):
            return path
    return None


def sweep(home: "Optional[str]") -> None:
    """Remove the groups of supervisors that were killed."""
    for name in _names(home) if home else ():
        if name.isdigit() and not platforms.stat_fields(int(name)):
            Group(os.path.join(str(home), name)).remove()


def quota() -> "Optional[float]":
    """Return how many CPUs' time this process may use, by the strictest limit of its groups.

    Sources: cpu.max of version 2, cpu.cfs_quota_us and cpu.cfs_period_us of version 1. None: no limit.
    """
    limits = [limit_of(directory) for directory in _own_directories() + _own_directories("cpu")]
    return min([limit for limit in limits if limit is not None], default=None)


def limit_of(directory: str) -> "Optional[float]":
    """Return how many CPUs' time the group in `directory` itself may use; None: no limit."""
    words = platforms.read_small(os.path.join(directory, "cpu.max")).split() or [
        platforms.read_small(os.path.join(directory, name)).strip()
        for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def _own_directories(controller: str = "") -> "List[str]":
    """Return the directories of our own group and of those above it, as far as we see them.

    Of version 2, or of the version 1 tree that has `controller`; [] where there is none.
    """
    own = _own_path(controller)
    for root, mounted in _mounts(controller):
        inside = own is not None and (own + "/").startswith(root.rstrip("/") + "/")
        if own is None or not inside or ".." in own.split("/"):
            continue
        directory = (mounted + own[len(root.rstrip("/")) :]).rstrip("/")
        found = []
        while directory.startswith(mounted):
            found.append(directory)
            directory = os.path.dirname(directory)
        return found
    return []


def _own_path(controller: str) -> "Optional[str]":
    """Return our group's name from the third field of a line of /proc/self/cgroup."""
    for line in _lines("/proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (number == "0") == (not controller):
            return path
    return None


def _mounts(controller: str) -> "Iterator[Tuple[str, str]]":
    """Yield (which group is mounted, where) of each tree of the kind, from /proc/self/mountinfo."""
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == ("cgroup" if controller else "cgroup2") and (
            not controller or controller in options.split(",")
        ):
            root, mounted = before.split(" ")[3:5]
            yield root, mounted


def _lines(path: str) -> "List[str]":
    return platforms.read_small(path, 1 << 20).decode("utf-8", "surrogateescape").splitlines()


def _accounts_for_memory(directory: str) -> bool:
    words = platforms.read_small(os.path.join(directory, "cgroup.subtree_control")).split()
    return b"memory" in words and os.access(directory, os.W_OK)


def _furnish(path: str) -> bool:
    """Make the directory of a user's groups, with memory accounted for below it where that can be had."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    for controller in (b"+memory", b"+pids"):
        _quietly(lambda word=controller: _write(os.path.join(path, "cgroup.subtree_control"), word))  # type: ignore[misc] # bound
    return True


def _is_good(path: str) -> bool:
    """Whether a group can be made there that tells its CPU time."""
    trial = Group(os.path.join(path, "try-%d" % os.getpid()))
    _quietly(lambda: os.mkdir(trial.path))
    good = trial.cpu() is not None
    trial.remove()
    return good


def _write(path: str, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def _remove(path: str, depth: int) -> None:
    try:
        os.rmdir(path)
        return
    except OSError:
        pass
    for name in _names(path) if depth else ():
        if os.path.isdir(os.path.join(path, name)):
            _remove(os.path.join(path, name), depth - 1)
    _quietly(lambda: os.rmdir(path))


def _names(path: str) -> "List[str]":
    try:
        return os.listdir(path)
    except OSError:
        return []


def _quietly(act: "Callable[[], object]") -> None:
    try:
        act()
    except OSError:
        pass


def _entry(text: bytes, name: bytes) -> "Optional[int]":
    """Return a number of a file whose lines are a name and a number."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None
