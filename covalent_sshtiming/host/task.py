"""Task: one task of this process as the near end holds it, from its request to its outcome.

Owns the request as it travels, what has arrived so far (output by stream offset; the result goes
into a sink as it comes), the marks of the near phases and the future that somebody awaits. When
what is sent is `host`'s to decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from covalent_sshtiming.host.clock import Offset
from covalent_sshtiming.remote import wire

if TYPE_CHECKING:
    from covalent_sshtiming.host.session import Session

_JOBS_MAX = 100_000  # tasks in one list
_JOBS_BYTES = 64 << 20  # and what they may take as JSON
_OUTPUT_MAX = 4 << 20  # bytes kept of one stream; the far side sends half of that at most


class Sink(Protocol):
    """Where a result goes as it arrives."""

    def begin(self, parts: object) -> None:
        """Start from nothing; `parts` are the sizes announced, to be checked. Raises ResultTooLarge."""

    def add(self, data: bytes) -> None:
        """Take the next bytes."""


class Files(Protocol):
    """Where the files go that a task has left."""

    settled: int  # how many the machine need not tell of again

    def begin(self, tell: Callable[[int], None]) -> None:
        """Begin on a new connection, which `tell` tells how much was taken."""

    def take(self, header: Mapping[str, Any], body: bytes) -> bool:
        """Take a frame; tell whether it brought anything. Raises ProtocolError, for the host to be added."""


@dataclass
class Request:
    """A task as it travels: its key, what the agent has to know, its size and its bytes.

    `chunks` gives the body anew at each call, in pieces of at most 64 KiB; `more` gives what follows them,
    and may raise TransferError. `left` says whether any of it was ever written to a connection: as long as
    not, it has certainly not run. `live` is told (descriptor, bytes) of the output as it comes; without it,
    output comes with the end. Files that the task has left go into `files`; without it they stay there. With
    `leave` nobody ends the task because this process ends.
    """

    key: str
    head: dict[str, Any]
    size: int
    chunks: Callable[[], Iterable[bytes]]
    left: bool = False
    live: Callable[[int, bytes], None] | None = None
    leave: bool = False
    more: Callable[[], AsyncIterator[bytes]] | None = None
    files: Files | None = None

    @property
    def wishes(self) -> dict[str, Any]:
        """What a submit or an attach says of how its task is to be told of."""
        follow = {"follow": True} if self.live else {}
        return {**follow, "files": self.files.settled} if self.files else follow


@dataclass
class Outcome:
    """How a task ended, as the far side tells it; all of it is a stranger's word, and plain data.

    `doubt` is ours: why what it says may not be so, where nobody told us.
    """

    ended: dict[str, Any]
    stdout: bytes
    stderr: bytes
    machine: dict[str, Any]
    waits: dict[str, float | None]
    clock: Offset | None = None
    doubt: str = ""


@dataclass
class Output:
    """One stream of a task, by stream offset: a reattach sends again what is there already."""

    data: bytearray = field(default_factory=bytearray)
    end: int = 0

    def add(self, offset: int, piece: bytes) -> bytes:
        """Take a piece that begins at a stream offset; return what is new of it.

        What is missing before it was dropped over there.
        """
        if offset < self.end:
            piece, offset = piece[self.end - offset :], self.end
        if not piece or len(self.data) > _OUTPUT_MAX:
            return b""
        gap = offset - self.end
        self.end = offset + len(piece)
        if gap:
            piece = b"\n[... %d bytes dropped ...]\n" % gap + piece
        self.data += piece
        return piece


class Task:
    """One task of ours on the far side."""

    def __init__(self, number: int, request: Request, sink: Sink) -> None:
        self.number = number
        self.request = request
        self.sink = sink
        self.sent = False
        self.sent_by: Session | None = None  # the first session that it was sent on
        self.submitted_on: Session | None = None  # the last session that its request went out on
        self.result_on: Session | None = None  # the last session that announced a result
        self.files_on: Session | None = None  # the last session that told of files
        self.machine: object = None  # the id of the machine that it was sent to
        self.met = False  # whether an agent was there for it; else nobody may have read what was sent
        self.accepted = False
        self.refused = False  # whether the machine could not store it once
        self.cancelled = False
        self.failures = 0
        self.outputs = (Output(), Output())
        self.uploader: asyncio.Task[None] | None = None
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiter: asyncio.Future[Outcome] | None = None
        self.at = {"begun": time.monotonic()}

    def mark(self, name: str, ago: float = 0.0) -> None:
        """Note when something first happened, on this process's monotonic clock; `ago` is in seconds."""
        self.at.setdefault(name, time.monotonic() - ago)

    def waits(self) -> dict[str, float | None]:
        """Return the near phases in seconds; None for one that did not happen."""
        fetch = self._between("files", "fetched")
        return {
            "phase_connect_wall_s": self._between("begun", "sent"),
            "phase_upload_wall_s": self._between("sent", "accepted"),
            "phase_download_wall_s": self._between("told", "ended", less=fetch or 0.0),
            "phase_fetch_wall_s": fetch,
        }

    def _between(self, first: str, last: str, less: float = 0.0) -> float | None:
        if first not in self.at or last not in self.at:
            return None
        # Not below 0: the far side says how long it kept an answer back.
        return max(0.0, self.at[last] - self.at[first] - less)

    def wait(self) -> asyncio.Future[Outcome]:
        """Return what its `run` waits for: its end, or that it is let go of."""
        waiter = self.waiter = asyncio.get_running_loop().create_future()

        def pass_on(future: asyncio.Future[Outcome]) -> None:
            error = future.exception()
            if waiter.done():
                return
            if error is None:
                waiter.set_result(future.result())
            else:
                waiter.set_exception(error)

        self.future.add_done_callback(pass_on)
        return waiter

    def let_go(self, outcome: Outcome) -> bool:
        """End the waiting for it with an outcome, although its own is not known; False where nobody waits."""
        if self.waiter is None or self.waiter.done():
            return False
        self.waiter.set_result(outcome)
        return True

    def succeed(self, outcome: Outcome) -> None:
        """End the task with an outcome, once."""
        if not self.future.done():
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """End the task here with an error, once."""
        if not self.future.done():
            self.future.set_exception(error)


def ended_here(task: Task, machine: dict[str, Any], doubt: str = "") -> Outcome:
    """Return the outcome of a task that was ended here: before it was sent, or in doubt about its machine."""
    stdout, stderr = (bytes(output.data) for output in task.outputs)
    return Outcome({"status": "cancelled"}, stdout, stderr, dict(machine), task.waits(), doubt=doubt)


def unheard(task: Task, machine: dict[str, Any], where: str) -> Outcome:
    """Return the outcome of a cancelled task whose machine does not say how it ended."""
    stdout, stderr = (bytes(output.data) for output in task.outputs)
    words = f"warning: {where} does not answer; what runs there of this task is ended as soon as it does.\n"
    return Outcome({"status": "cancelled"}, stdout, stderr + words.encode(), dict(machine), task.waits())


class Inquiry(Task):
    """A question for the list of tasks, which waits for its answer as a task does for its end.

    `keep` makes of each thing told what is to be kept of it, or None: JSON takes thirty times its size.
    """

    def __init__(self, number: int, keep: Callable[[object], Any]) -> None:
        super().__init__(number, Request("", {}, 0, lambda: ()), Nowhere())
        self._keep = keep
        self.clear()

    def add(self, body: bytes) -> None:
        """Take some of the tasks; raises ValueError for what is no list, or too long a one."""
        more = wire.json_value(body, "list of tasks")
        self._size += len(body)
        if not isinstance(more, list) or self._size > _JOBS_BYTES:
            raise ValueError("not a list of tasks")
        self._told += len(more)
        if self._told > _JOBS_MAX:
            raise ValueError("not a list of tasks")
        self.found += [kept for one in more if (kept := self._keep(one)) is not None]

    def clear(self) -> None:
        """Start from nothing, on a new connection."""
        self.found: list[Any] = []
        self._told = self._size = 0


class Nowhere:
    """The sink of what has no result."""

    def begin(self, parts: object) -> None:
        """Take no sizes."""

    def add(self, data: bytes) -> None:
        """Take no bytes."""
