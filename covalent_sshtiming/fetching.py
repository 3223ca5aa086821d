"""Fetching: what a task has left in its working directory, into a directory here.

Owns the judgement of what a machine sends as files: each name is checked before it is a path, has to be one
that was asked for, and is walked to by descriptors, never through a link; no more comes than may; a file has
its name here once it is whole and its SHA-256 is the one announced. Writing happens in a thread, one batch
after the other, and the machine is told what is written, so that no more than a window of it waits in memory.
Whatever goes wrong with a file costs that file, and a sentence; never the task's result.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covalent_sshtiming import reserved
from covalent_sshtiming.errors import ProtocolError
from covalent_sshtiming.fetched import WHY, Brought, Wanted
from covalent_sshtiming.remote import below, names, wire
from covalent_sshtiming.stopping import finished

_LEFT_MAX = 1000  # files that a machine may tell of and not send
_ROOM = wire.FILE_WINDOW + wire.FILE_COST + wire.MAX_BODY  # that may wait here to be written


class Fetching:
    """A task's files as they come."""

    def __init__(self, wanted: Wanted) -> None:
        self.settled = 0  # how many of those that the machine tells of are done with; it goes on from there
        self.brought = Brought(wanted.directory)
        self._wanted = wanted
        self._patterns = names.Patterns(wanted.patterns or ())
        self._unmatched = set(range(len(self._patterns.texts)))
        self._store = _Store(wanted, self.brought)
        self._coming: _Coming | None = None
        self._count = self._bytes = self._told = 0
        self._ended = self._finished = False
        self._connection = 0  # which one it is; what came on another is not taken on this one
        self._received = self._taken = 0
        self._tell: Callable[[int], None] = lambda _: None
        self._waiting: list[_Step] = []
        self._writing: asyncio.Future[None] | None = None  # no task, which the loop's end would cancel

    # ---- what the machine sends

    def begin(self, tell: Callable[[int], None]) -> None:
        """Begin on a new connection, which is told by `tell` what was taken; half a file comes again."""
        self._connection += 1
        self._received = self._taken = 0
        self._tell = tell
        self._ended = self.brought.broken = False
        if self._coming is not None:
            self._count, self._bytes = self._count - 1, self._bytes - self._coming.size
            self._coming = None
            self._put("drop", 0)

    def take(self, header: Mapping[str, Any], body: bytes) -> bool:
        """Take a frame; tell whether it brought anything. Raises ProtocolError for what makes no sense."""
        if self._finished:  # of a cancelled task, whose end nobody waits for any more
            return False
        self._received += wire.file_cost(body)
        if self._received - self._taken > _ROOM:
            raise ProtocolError("it sends files faster than they are taken")
        if "end" in header:
            return self._end(header)
        if "name" in header and not self._announced(header):
            self._put("nothing", wire.file_cost(body))
            return True
        if self._coming is None:
            raise ProtocolError("it sends bytes of no file")
        return self._piece(self._coming, header, body)

    def _end(self, header: Mapping[str, Any]) -> bool:
        if self._ended:
            return False
        self._ended = True
        self.brought.broken = header.get("broken") is True
        more = header.get("more")
        self.brought.more_left = more if type(more) is int and 0 <= more < 1 << 53 else 0
        return True

    def _announced(self, header: Mapping[str, Any]) -> bool:
        """Begin a file; False if that is all there is to say of it."""
        name, size = header["name"], header.get("size")
        if self._coming is not None or self._ended or not isinstance(name, str):
            raise ProtocolError("it announces a file where none can come")
        if type(size) is not int or size < 0:
            raise ProtocolError(f"it announces a file of no size ({name!r:.200})")
        self._unmatched -= self._patterns.fitting(name)
        if "left" in header:
            self._stays(name, header)
            return False
        self._check(name, size)
        self._count, self._bytes = self._count + 1, self._bytes + size
        self._coming = _Coming(name, size, size)
        self._put("new", 0, name)
        return True

    def _check(self, name: str, size: int) -> None:
        wrong = names.fault(name)
        if not wrong and self._wanted.patterns is not None and not self._patterns.fitting(name):
            wrong = "not asked for"
        if wrong:
            raise ProtocolError(f"it sends a file named {name!r:.200}, which is {wrong}")
        if self._count >= self._wanted.max_files or size > self._wanted.max_bytes - self._bytes:
            raise ProtocolError("it sends more files than may come")

    def _stays(self, name: str, header: Mapping[str, Any]) -> None:
        """Note a file that is left there, and why."""
        self._told += 1
        if self._told > _LEFT_MAX:
            raise ProtocolError("it tells of more files than there can be")
        self.settled += 1
        why = WHY.get(str(header.get("left")), "it could not be sent").format_map(vars(self._wanted))
        number = header.get("errno")
        cause = f" ({os.strerror(number)})" if type(number) is int and 0 < number < 200 else ""
        self.brought.left.append(f"{name!r:.300} stays there: {why}{cause}.")

    def _piece(self, coming: _Coming, header: Mapping[str, Any], body: bytes) -> bool:
        coming.left -= len(body)
        if coming.left < 0:
            raise ProtocolError(f"{coming.name!r:.200} is longer than it announced")
        if "left" in header:
            self._count, self._bytes, self._coming = self._count - 1, self._bytes - coming.size, None
            self._put("drop", wire.file_cost(body))
            self._stays(coming.name, header)
            return True
        self._put("data", wire.file_cost(body), body)
        if "sha256" in header:
            if coming.left:
                raise ProtocolError(f"{coming.name!r:.200} is shorter than it announced")
            self._put("done", 0, header["sha256"])
            self._coming = None
            self.settled += 1
            return True
        return bool(body)

    # ---- writing

    def _put(self, kind: str, cost: int, what: Any = None) -> None:
        self._waiting.append(_Step(kind, what, self._connection, cost))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_future()
            self._write(self._writing)

    def _write(self, writing: asyncio.Future[None]) -> None:
        batch, self._waiting = self._waiting, []
        work = asyncio.get_running_loop().run_in_executor(None, self._store.apply, batch)
        work.add_done_callback(lambda done: self._written(batch, done, writing))

    def _written(
        self, batch: Sequence[_Step], done: asyncio.Future[None], writing: asyncio.Future[None]
    ) -> None:
        error = done.exception()
        taken = sum(step.cost for step in batch if step.connection == self._connection)
        if taken:
            self._taken += taken
            self._tell(self._taken)
        if self._waiting and error is None:
            self._write(writing)
            return
        self._writing = None
        if error is None:
            writing.set_result(None)
        else:
            writing.set_exception(error)

    async def finish(self) -> Brought:
        """Wait until all that came is written, leave nothing half, and return what there is to say.

        Who waits may be cancelled meanwhile; all of it is done first.
        """
        self._finished = True
        if self._writing is not None:
            await finished(self._writing)
        await finished(asyncio.get_running_loop().run_in_executor(None, self._store.close))
        self.brought.unmatched = [self._patterns.texts[number] for number in sorted(self._unmatched)]
        return self.brought


@dataclass
class _Coming:
    name: str
    size: int
    left: int


@dataclass(frozen=True)
class _Step:
    """One thing to do with the disk; `cost` is what it takes up of the window."""

    kind: str
    what: Any
    connection: int
    cost: int


class _Store:
    """The disk's side: one file after the other, in a thread."""

    def __init__(self, wanted: Wanted, brought: Brought) -> None:
        self._wanted = wanted
        self._brought = brought
        self._root = -1
        self._name = ""
        self._size = 0
        self._file: below.NewFile | None = None
        self._digest = hashlib.sha256()
        self._made: set[tuple[int, int]] = set()  # what two names would both be is lost for one of them

    def apply(self, steps: Sequence[_Step]) -> None:
        """Do these steps; a file that one of them fails for is given up."""
        for step in steps:
            try:
                self._do(step)
            except OSError as error:
                self._give_up(f"{error.strerror} (errno {error.errno})")

    def _do(self, step: _Step) -> None:
        if step.kind == "new":
            self._begin(step.what)
        elif self._file is None or step.kind == "nothing":
            return  # where there is none, it was given up
        elif step.kind == "data":
            self._digest.update(step.what)
            self._size += len(step.what)
            self._file.write(step.what)
        elif step.kind == "done":
            self._finish(self._file, step.what)
        else:
            self._drop()

    def _begin(self, name: str) -> None:
        self._name, self._size, self._digest = name, 0, hashlib.sha256()
        dispatch = self._wanted.dispatch
        if dispatch is not None and reserved.is_covalents(self._wanted.directory / name, dispatch):
            self._give_up("Covalent has a file of its own there; set fetch_to to another place")
            return
        if self._root < 0:
            self._wanted.base.mkdir(parents=True, exist_ok=True, mode=self._wanted.mode)
            self._root = below.top(str(self._wanted.base))
        inner = f"{self._wanted.inner}/" if self._wanted.inner else ""
        self._file = below.NewFile(self._root, inner + name)

    def _finish(self, file: below.NewFile, digest: object) -> None:
        if digest != self._digest.hexdigest():
            self._give_up("its SHA-256 is not the one announced")
            return
        standing = file.standing()
        if standing is not None and (standing.st_dev, standing.st_ino) in self._made:
            self._give_up("the file system here takes its name for that of another one")
            return
        made = file.finish()
        self._made.add((made.st_dev, made.st_ino))
        self._file = None
        self._brought.files[self._name] = self._size

    def _give_up(self, why: str) -> None:
        self._drop()
        self._brought.failed.append(
            f"{str(self._wanted.directory / self._name)!r:.500} was not kept here: {why}. It is still in the "
            "task's working directory."
        )

    def _drop(self) -> None:
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def close(self) -> None:
        """Leave nothing half, and let the directory go."""
        self._drop()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
