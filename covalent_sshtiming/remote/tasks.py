"""A task directory read from outside: what state it is in, and how one that died is closed.

Owns the attach table. Everything here works from the disk alone, so any agent can answer for
any task of this user, also for one that another agent started.
"""

import json
import os
import signal
import struct
import sys
import time
from typing import Any, Dict, Iterator, Optional, Tuple

from . import ending, places, platforms, pump, wire

ENDED, RUNNING, DIED, WAITING, UNKNOWN = "ended", "running", "died", "waiting", "unknown"
_LENGTH = struct.Struct("!I")
FIT_STEP = 64  # characters below which a text gives no more way
_FACTS = ("function", "kind", "dispatch_id", "node_id", "submitted", "accepted")
FACT_CHARS = 200
_HEAD_MAX = wire.MAX_HEADER


def state(directory: str) -> str:
    """Return where the task stands; the order of the questions is the attach table's."""
    if _has(directory, places.OUTCOME):
        return ENDED
    waiting = _has(directory, places.REQUEST)  # looked at before the lock: whoever takes that removes it
    locked, marked = places.look_at_lock(os.path.join(directory, places.LOCK))
    if locked:
        return RUNNING
    if _has(directory, places.OUTCOME):  # published while we looked at the lock
        return ENDED
    if marked:
        return DIED
    return WAITING if waiting else UNKNOWN


def _has(directory: str, name: str) -> bool:
    return os.path.exists(os.path.join(directory, name))


def close_dead(directory: str) -> None:
    """Publish what became of a task whose supervisor is gone, and kill what is left of it."""
    started = mark_of(directory)
    here = places.machine()[1]
    if started.get("boot") != here:
        text = "was running when its machine rebooted"
    else:
        text = "lost its supervisor, which something killed"
        session = started.get("session")
        if isinstance(session, int) and session > 1 and _is_same(session, started.get("ticks")):
            platforms.send_signal(platforms.session_members(session), signal.SIGKILL)
    ended = ending.outcome("killed", {"class": "TaskDied", "text": text})
    for name in (places.STDOUT, places.STDERR):
        ended[name] = _size(os.path.join(directory, name))
    finish(directory, ended)


def mark_of(directory: str) -> "Dict[str, Any]":
    """Return what a task's lock file says of its supervisor; {} where that is nothing that makes sense."""
    try:
        return places.read_json(os.path.join(directory, places.LOCK)) or {}
    except OSError:
        return {}


def _is_same(session: int, ticks: "Any") -> bool:
    """Whether a session number still means the task's: its leader is gone, or started when it did."""
    now = platforms.start_ticks(session)
    return now is None or now == ticks


def finish(directory: str, ended: "Dict[str, Any]") -> None:
    """Publish an outcome, unless there is one: the first stays. A full disk leaves it for later."""
    try:
        places.publish(os.path.join(directory, places.OUTCOME), json.dumps(ended).encode())
    except OSError as error:
        sys.stderr.write("no outcome for %s: %s\n" % (directory, error))


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def head_bytes(head: "Dict[str, Any]") -> bytes:
    """Return the beginning of a request file: what the agent has to know of the task."""
    text = json.dumps(head).encode()
    return _LENGTH.pack(len(text)) + text


def read_head(directory: str) -> "Optional[Dict[str, Any]]":
    """Return what the agent has to know of a waiting task; None if there is no request."""
    content = places.read(os.path.join(directory, places.REQUEST), _HEAD_MAX + _LENGTH.size)
    if not content or len(content) < _LENGTH.size:
        return None
    size = _LENGTH.unpack_from(content)[0]
    try:
        head = json.loads(content[_LENGTH.size : _LENGTH.size + size].decode())
    except ValueError:
        return None
    return head if isinstance(head, dict) and places.is_key(head.get("key")) else None


def facts(head: "Dict[str, Any]") -> "Dict[str, Any]":
    """Return of a request's head what tells people which task it is, texts cut short."""
    found = {}
    for name in _FACTS:
        value = head.get(name)
        plain = isinstance(value, (int, float))
        found[name] = value[:FACT_CHARS] if isinstance(value, str) else value if plain else None
    return found


def every(base: str) -> "Iterator[Tuple[str, str]]":
    """Yield (key, directory) of each task directory in the spool."""
    root = os.path.join(base, "tasks")
    for name in sorted(os.listdir(root)):
        if places.is_key(name):
            yield name, os.path.join(root, name)


def expire(base: str) -> None:
    """Remove what nobody has fetched for a week: ended tasks, empty claims, client numbers."""
    limit = time.time() - places.KEEP_SECONDS
    for _, directory in every(base):
        try:
            old = os.lstat(directory).st_mtime < limit
        except OSError:
            continue
        if old and state(directory) in (ENDED, UNKNOWN, DIED):
            places.remove_tree(directory)
    clients = os.path.join(base, "clients")
    for name in os.listdir(clients):
        path = os.path.join(clients, name)
        try:
            if os.lstat(path).st_mtime < limit:
                os.unlink(path)
        except OSError:  # another agent was quicker
            pass


def news(directory: str, have: "Tuple[int, int]") -> "Iterator[Tuple[int, int, bytes]]":
    """Yield (0 for stdout or 1 for stderr, stream offset, bytes) of what a running task has printed.

    Only of each stream's beginning, which stays where it is; the rest comes with the end.
    """
    for number, name in enumerate((places.STDOUT, places.STDERR)):
        path = os.path.join(directory, name)
        for offset, data in pump.read_stream(path, min(_size(path), pump.HEAD), have[number]):
            yield number, offset, data


class Delivery:
    """Iterates over what tells a client all of an ended task: output, result, files, outcome last.

    That is frames, or where there is none yet a function: see `Connection.download`. A cancelled task's files
    stay where they are.

    Attributes:
        task: its number on that connection.
        wanted: false once it was cancelled under way: no more of result and files comes, and the outcome
            says so.
    """

    def __init__(
        self, directory: str, task: int, have: "Tuple[int, int]", files: "Optional[Iterator[Any]]" = None
    ) -> None:
        """Begin where the client is; `files` tells of those that it wants, as a connection's download."""
        self.task = task
        self.wanted = True
        self._directory = directory
        self._have = have
        self._files = files
        self._frames = self._all()

    def __iter__(self) -> "Delivery":
        return self

    def __next__(self) -> "Any":
        return next(self._frames)

    def _all(self) -> "Iterator[Any]":
        try:
            for frame in self._telling():
                yield frame
        except (OSError, KeyError, TypeError, ValueError) as error:
            text = "left an outcome or a result that cannot be read (%s)" % error
            ended = ending.outcome("failed", {"class": "TaskDied", "text": text[:1000]})
            yield wire.encode(wire.OUTCOME, self.task, body=json.dumps(ended).encode())

    def _telling(self) -> "Iterator[Any]":
        ended = places.read_json(os.path.join(self._directory, places.OUTCOME))
        if ended is None:
            raise ValueError("no outcome")
        for number, name in enumerate((places.STDOUT, places.STDERR)):
            path = os.path.join(self._directory, name)
            for offset, data in pump.read_stream(path, int(ended[name]), self._have[number]):
                yield wire.encode(wire.STREAM, self.task, {"fd": number + 1, "offset": offset}, data)
        for frame in self._made(ended):
            if not self.wanted:
                ended = dict(ended, status="cancelled", result=None)
                break
            yield frame
        yield wire.encode(wire.OUTCOME, self.task, body=_fitting(ended))

    def _made(self, ended: "Dict[str, Any]") -> "Iterator[Any]":
        """Yield what the task has made: its result, then its files."""
        if ended["result"]:
            for frame in self._result(ended["result"]):
                yield frame
        if self._files is not None and ended["status"] != "cancelled":
            for frame in self._files:
                yield frame

    def _result(self, parts: "Any") -> "Iterator[bytes]":
        yield wire.encode(wire.RESULT, self.task, {"parts": parts})
        with os.fdopen(places.open_file(os.path.join(self._directory, places.RESULT)), "rb") as file:
            for data in iter(lambda: file.read(wire.MAX_BODY), b""):
                yield wire.encode(wire.DATA, self.task, body=data)


def _fitting(ended: "Dict[str, Any]") -> bytes:
    """Return an outcome that fits into one frame: the longest of its texts give way."""
    while True:
        body = json.dumps(ended).encode()
        if len(body) <= wire.MAX_BODY:
            return body
        error = ended["error"]
        longest = max(len(error["text"]), len(error.get("traceback") or ""))
        if longest < FIT_STEP:
            raise ValueError("outcome of %d bytes" % len(body))
        name = max(("text", "traceback"), key=lambda name: len(error.get(name) or ""))
        kept = len(error[name]) // 3
        ended = dict(ended, error=dict(error, **{name: error[name][:kept] + " [...] " + error[name][-kept:]}))
