"""Leavings: which files a task has left in its working directory, and their bytes.

Owns the two looks at that directory, before the task begins and when it has ended, and what is noted of each
in the task's own directory: `fetch` (what was asked for, and what was there already) and `files` (what came
of it). A task's are those that are new, or are not what they were; a link is never followed, neither to a
file nor to a directory. Only what is still as it was at the task's end is read.
"""

import errno
import hashlib
import json
import os
import stat
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Set, Tuple

from . import below, names, places

PIECE = 64 * 1024  # bytes read at once: the body of a frame
MARK = 16  # bytes that stand for one file as it was
TICK = 0.05  # seconds that the clock of a file system may be behind
LEFT_MAX = 200  # files that are left and told of; the others are counted

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

LINK, DIRECTORY, SPECIAL, NAME, UNREADABLE = "link", "directory", "special", "name", "unreadable"
BYTES, FILES, CHANGED, GONE = "bytes", "files", "changed", "gone"


class Order(NamedTuple):
    """What was asked for: patterns, and how much at most; `root` is the working directory."""

    root: str
    patterns: "List[str]"
    max_bytes: int
    max_files: int


class Seen(NamedTuple):
    """What fits a pattern: a file, or something else that is left where it is; `why` is "" for a file."""

    name: str
    rank: int
    why: str
    state: os.stat_result


class Entry(NamedTuple):
    """A file as it was at the task's end, or what is left there and why."""

    name: str
    size: int
    why: str = ""
    mtime_ns: int = 0
    inode: int = 0


class Left(NamedTuple):
    """All that a task has left: files first, then what stays there; `more` counts what is not named."""

    root: str
    entries: "List[Entry]"
    more: int


Told = Tuple[Dict[str, Any], bytes]

# ---- looking


def look(root: int, patterns: names.Patterns) -> "Iterator[Seen]":
    """Yield all that fits below an open directory, in no order; goes only where a pattern leads."""
    return _look(root, "", patterns, patterns.start)


def _look(here: int, prefix: str, patterns: names.Patterns, at: names.Positions) -> "Iterator[Seen]":
    with os.scandir(here) as entries:
        for entry in entries:
            name = names.of(entry.name)
            then = patterns.step(at, name)
            if then:
                yield from _seen(here, prefix + name, entry, patterns, then)


def _seen(
    here: int, name: str, entry: "os.DirEntry[str]", patterns: names.Patterns, at: names.Positions
) -> "Iterator[Seen]":
    fits = patterns.matched(at)
    rank = min(fits, default=len(patterns.texts))
    try:
        state = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # somebody has just removed it
        return
    if names.fault(name):
        yield Seen(name, rank, NAME, state)
    elif stat.S_ISDIR(state.st_mode):
        if patterns.spelt_out(at):
            yield Seen(name, rank, DIRECTORY, state)
        yield from _inside(here, name, state, patterns, at)
    elif stat.S_ISREG(state.st_mode):
        if fits:
            yield Seen(name, rank, "", state)
    elif stat.S_ISLNK(state.st_mode):
        if fits or _is_directory(here, entry.name):
            yield Seen(name, rank, LINK, state)
    elif fits:
        yield Seen(name, rank, SPECIAL, state)


def _inside(
    here: int, name: str, state: os.stat_result, patterns: names.Patterns, at: names.Positions
) -> "Iterator[Seen]":
    if not patterns.goes_on(at):
        return
    try:
        inner = below.enter(here, name.rsplit("/", 1)[-1])
    except FileNotFoundError:
        return
    except OSError:
        yield Seen(name, len(patterns.texts), UNREADABLE, state)
        return
    try:
        yield from _look(inner, name + "/", patterns, at)
    except OSError:  # it can be listed, and not entered
        yield Seen(name, len(patterns.texts), UNREADABLE, state)
    finally:
        os.close(inner)


def _is_directory(here: int, name: str) -> bool:
    """Whether a link leads to a directory, so that a pattern would go on there."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=here).st_mode)
    except OSError:
        return False


# ---- before the task, and after it


def remember(directory: str, order: Order) -> None:
    """Note, before a task begins, what it is asked for and what is there already."""
    marks = bytearray(json.dumps(order._asdict()).encode() + b"\n")
    now = time.time()
    root = below.top(order.root)
    try:
        for seen in look(root, names.Patterns(order.patterns)):
            # What was written a moment ago may be written again without looking any different.
            if seen.state.st_mtime < now - TICK:
                marks += _mark(seen)
    finally:
        os.close(root)
    places.create(os.path.join(directory, places.FETCH), bytes(marks))


def _mark(seen: Seen) -> bytes:
    state = seen.state
    known = (seen.name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).digest()[:MARK]


def _remembered(directory: str) -> "Tuple[Order, Set[bytes]]":
    handle = places.open_file(os.path.join(directory, places.FETCH))
    with os.fdopen(handle, "rb") as file:
        order = Order(**json.loads(file.readline().decode()))
        return order, set(iter(lambda: file.read(MARK), b""))


def note(directory: str) -> None:
    """Note, once a task has ended, what it has left."""
    left = _left(directory)
    lines = [json.dumps([left.root, left.more])] + [json.dumps(list(entry)) for entry in left.entries]
    places.publish(os.path.join(directory, places.FILES), "\n".join(lines).encode())


def noted(directory: str) -> Left:
    """Return what a task has left.

    Where nobody noted it, because the supervisor was killed or had no room, this looks now.
    """
    path = os.path.join(directory, places.FILES)
    if not os.path.exists(path):
        try:
            note(directory)
        except OSError:  # no room for it now either
            return _left(directory)
    handle = places.open_file(path)
    with os.fdopen(handle, "rb") as file:
        root, more = json.loads(file.readline().decode())
        return Left(root, [Entry(*json.loads(line.decode())) for line in file], more)


def _left(directory: str) -> Left:
    order, before = _remembered(directory)
    try:
        root = below.top(order.root)
    except OSError:  # the task, or somebody else, has removed it
        return Left(order.root, [], 0)
    try:
        every = look(root, names.Patterns(order.patterns))
        found = sorted((seen.rank, _entry(seen)) for seen in every if _mark(seen) not in before)
    finally:
        os.close(root)
    return _chosen(order, [entry for _, entry in found])


def _entry(seen: Seen) -> Entry:
    """Return what is to be kept of it: there may be a million."""
    if seen.why:
        return Entry(seen.name[: names.PART_BYTES] if seen.why == NAME else seen.name, 0, seen.why)
    return Entry(seen.name, seen.state.st_size, "", seen.state.st_mtime_ns, seen.state.st_ino)


def _chosen(order: Order, found: "List[Entry]") -> Left:
    """Keep as many as may be, the first pattern's first; of the others some are told of."""
    chosen: "List[Entry]" = []
    left: "List[Entry]" = []
    room, count, more = order.max_bytes, order.max_files, 0
    for entry in found:
        why = entry.why or (FILES if not count else BYTES if entry.size > room else "")
        if not why:
            room, count = room - entry.size, count - 1
            chosen.append(entry)
        elif len(left) < LEFT_MAX:
            left.append(entry._replace(why=why))
        else:
            more += 1
    return Left(order.root, chosen + left, more)


# ---- reading


def told(directory: str, skip: int) -> "Iterator[Told]":
    """Yield (header, body) of each frame that tells of what a task has left, from entry `skip` on."""
    left = noted(directory)
    root = -1
    try:
        try:
            root = below.top(left.root)
        except OSError:
            pass
        for entry in left.entries[skip:]:
            yield from _told(root, entry)
    finally:
        if root >= 0:
            os.close(root)
    yield {"end": True, "more": left.more}, b""


def _told(root: int, entry: Entry) -> "Iterator[Told]":
    about: "Dict[str, Any]" = {"name": entry.name, "size": entry.size}
    if entry.why:
        yield dict(about, left=entry.why), b""
        return
    try:
        handle = _open(root, entry)
    except OSError as error:
        why = GONE if error.errno in (errno.ENOENT, errno.EBADF) else UNREADABLE
        yield dict(about, left=why, errno=error.errno), b""
        return
    try:
        yield from _read(handle, entry, about)
    except OSError as error:
        yield {"left": UNREADABLE, "errno": error.errno}, b""
    finally:
        os.close(handle)


def _open(root: int, entry: Entry) -> int:
    inner = below.parent(root, entry.name)
    try:
        return os.open(below.last(entry.name), _READ, dir_fd=inner)
    finally:
        os.close(inner)


def _read(handle: int, entry: Entry, about: "Dict[str, Any]") -> "Iterator[Told]":
    """Yield a file's frames; the last one has its SHA-256, or says that it has changed meanwhile."""
    digest = hashlib.sha256()
    rest = entry.size if _is_still(handle, entry) else -1
    header = about
    while rest >= 0:
        data = os.read(handle, min(PIECE, rest))
        digest.update(data)
        rest -= len(data)
        if rest == 0 and _is_still(handle, entry):
            yield dict(header, sha256=digest.hexdigest()), data
            return
        if rest == 0 or not data:
            break
        yield header, data
        header = {}
    yield dict(header, left=CHANGED), b""


def _is_still(handle: int, entry: Entry) -> bool:
    """Whether an open file is the one that was there at the task's end, as it was then."""
    now = os.fstat(handle)
    same = (now.st_size, now.st_mtime_ns, now.st_ino) == (entry.size, entry.mtime_ns, entry.inode)
    return same and stat.S_ISREG(now.st_mode)
