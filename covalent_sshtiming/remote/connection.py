"""One client's connection, as the agent holds it: two descriptors that a doorman handed over.

Owns the frames in and the bytes out. Writing never blocks: what the client does not take stays
in a bounded buffer, and downloads are asked for their next frame, in turn, only while that has
room. So one stopped sshd does not stall the rest, and a large result not a small one.
"""

import functools
import itertools
import os
import socket
import time
from collections import deque
from typing import Any, Deque, Dict, Iterator, List, Tuple

from . import wire
from .tasks import Delivery

READ_PIECE = 256 * 1024
PIECES = 64  # frames in one write
OUT_LOW = 256 * 1024  # bytes waiting, below which downloads are asked for more
OUT_MAX = 8 << 20  # a client that lets this much of small frames pile up is gone
HOLD_SECONDS = 0.005  # that an answer waits for others: a packet costs each end more than a frame


class Gone(Exception):
    """The connection has ended, or must."""


class Connection:
    """Frames from and to one client."""

    def __init__(self, link: socket.socket, reading: int, writing: int) -> None:
        self.link = link  # the doorman's; it ends with us
        self.reading = reading
        self.writing = writing
        self.client = ""
        self.closed = False  # its descriptors' numbers may be another's by now
        self.uploads: "Dict[int, Any]" = {}
        self.heard = time.monotonic()
        self._decoder = wire.Decoder()
        self._out: "Deque[memoryview]" = deque()
        self._waiting = 0  # bytes in it
        self._held: "List[Tuple[int, int, float]]" = []  # kind, task, and since when
        self._downloads: "Deque[Iterator[Any]]" = deque()
        self._parked: "List[Iterator[Any]]" = []  # downloads that have nothing to say yet
        for handle in (reading, writing):
            os.set_blocking(handle, False)

    def read(self) -> "List[wire.Frame]":
        """Return the frames that have arrived; raises Gone at the end or on garbage."""
        self._check_open()
        try:
            data = os.read(self.reading, READ_PIECE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self.heard = time.monotonic()
        try:
            return list(self._decoder.feed(data))
        except wire.ProtocolError as error:
            raise Gone from error

    def send(self, kind: int, task: int = 0, header: "Dict[str, Any]" = {}, body: bytes = b"") -> None:  # noqa: B006 - never written to
        """Queue a small frame; it leaves with the next `write`."""
        self._check_open()
        self._release()
        self._queue(wire.encode(kind, task, header, body))
        if self._waiting > OUT_MAX:
            raise Gone

    def hold(self, kind: int, task: int) -> None:
        """Queue a frame that can wait for others; once it leaves, it says how long ago this was."""
        self._held.append((kind, task, time.monotonic()))

    @property
    def holds(self) -> bool:
        """Whether frames wait for others."""
        return bool(self._held)

    @property
    def has_room(self) -> bool:
        """Whether what can wait may be sent just now."""
        return self._waiting < OUT_LOW

    def download(self, frames: "Iterator[Any]") -> None:
        """Queue a delivery; its frames are interleaved with those of the others.

        Where it has nothing to say yet it yields a function, which is given what makes it go on.
        """
        self._downloads.append(frames)

    def call_off(self, task: int) -> None:
        """Deliver no more of a task's result and files."""
        for frames in (*self._downloads, *self._parked):
            if isinstance(frames, Delivery) and frames.task == task:
                frames.wanted = False

    @property
    def wants_to_write(self) -> bool:
        """Whether there is anything to write at all."""
        return bool(self._out or self._downloads)

    def write(self) -> None:
        """Write what goes without waiting; raises Gone if the other end has gone."""
        self._check_open()
        if self.wants_to_write or (self._held and time.monotonic() - self._held[0][2] >= HOLD_SECONDS):
            self._release()
        while self.wants_to_write:
            self._fill()
            try:
                written = os.writev(self.writing, list(itertools.islice(self._out, PIECES)))
            except BlockingIOError:
                return
            except OSError as error:
                raise Gone from error
            self._take_off(written)

    def _queue(self, frame: bytes) -> None:
        self._out.append(memoryview(frame))
        self._waiting += len(frame)

    def _take_off(self, written: int) -> None:
        """Forget what has been written, and copy nothing of what is left."""
        self._waiting -= written
        while written:
            first = self._out.popleft()
            if written < len(first):
                self._out.appendleft(first[written:])
                return
            written -= len(first)

    def _release(self) -> None:
        """Let held frames go, before whatever comes after them."""
        now = time.monotonic()
        for kind, task, since in self._held:
            self._queue(wire.encode(kind, task, {"ago": round(now - since, 6)}))
        self._held.clear()

    def _fill(self) -> None:
        while self._downloads and self._waiting < OUT_LOW:
            frames = self._downloads.popleft()
            try:
                frame = next(frames, None)
            except OSError as error:  # the task directory went away under it
                raise Gone from error
            if callable(frame):
                self._parked.append(frames)
                frame(functools.partial(self._resume, frames))
            elif frame is not None:
                self._queue(frame)
                self._downloads.append(frames)

    def _resume(self, frames: "Iterator[Any]") -> None:
        self._parked.remove(frames)
        self._downloads.append(frames)

    def _check_open(self) -> None:
        if self.closed:
            raise Gone

    def close(self) -> None:
        """Let go of the descriptors; the doorman sees it and ends."""
        self.closed = True
        for handle in {self.reading, self.writing}:
            os.close(handle)
        self.link.close()
