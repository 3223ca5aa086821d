"""Couriers: those of one agent, a few at once, and their frames as downloads of its connections.

Owns which courier reads for whom, and who waits for a turn. None of it is on disk: whoever attaches again
has another one begin where the client is.
"""

import functools
import selectors
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, Optional, Tuple

from . import wire
from .connection import Connection
from .courier import Courier

MOST = 8  # couriers at once


class Couriers:
    """All of an agent's: a few at once, the others in turn."""

    def __init__(self, selector: selectors.BaseSelector, write: "Callable[[Connection], None]") -> None:
        """Have a connection write, by `write`, once more of its files is here."""
        self._selector = selector
        self._write = write
        self._running: "Dict[Tuple[Connection, int], Courier]" = {}
        self._waiting: "Deque[Tuple[Connection, int, Callable[[], None]]]" = deque()

    def frames(self, connection: Connection, task: int, directory: str, skip: int) -> "Iterator[Any]":
        """Yield what is to be told of a task's files, from entry `skip` on, as a connection's download.

        Where there is nothing to tell yet this yields a function, which is to be given what goes on.
        """
        courier = self._start(connection, task, directory, skip)
        while courier is None:
            yield lambda resume: self._waiting.append((connection, task, resume))
            courier = self._start(connection, task, directory, skip)
        try:
            for frame in courier.frames():
                yield frame or functools.partial(self._listen, connection, courier)
        finally:
            self._end(connection, task)
        if not courier.complete:
            yield wire.encode(wire.FILE, task, {"end": True, "broken": True})

    def _start(self, connection: Connection, task: int, directory: str, skip: int) -> "Optional[Courier]":
        if len(self._running) >= MOST:
            return None
        self._end(connection, task)  # of a client that has asked twice
        try:
            courier = Courier(directory, task, skip)
        except OSError:  # no room for another process, which passes
            return None
        self._running[connection, task] = courier
        return courier

    def _listen(self, connection: Connection, courier: Courier, resume: "Callable[[], None]") -> None:
        def ready(_: int) -> None:
            self._selector.unregister(courier.link)
            resume()
            self._write(connection)

        self._selector.register(courier.link, selectors.EVENT_READ, ready)

    def _end(self, connection: Connection, task: int) -> None:
        courier = self._running.pop((connection, task), None)
        if courier is None:
            return
        try:
            self._selector.unregister(courier.link)
        except (KeyError, ValueError):
            pass
        courier.link.close()

    def stir(self) -> None:
        """Let those go on who waited for their turn."""
        for _ in range(min(len(self._waiting), MOST - len(self._running))):
            connection, _, resume = self._waiting.popleft()
            self._go_on(connection, resume)

    def _go_on(self, connection: Connection, resume: "Callable[[], None]") -> None:
        if not connection.closed:
            resume()
            self._write(connection)

    def take(self, connection: Connection, task: int, taken: int) -> None:
        """A client has taken so much of a task's files."""
        if (connection, task) in self._running:
            self._running[connection, task].take(taken)

    def stop(self, connection: Connection, task: int) -> None:
        """A client wants no more of a task's files. Call its delivery off first."""
        if (connection, task) in self._running:
            self._running[connection, task].stop()
        mine = [waiting for waiting in self._waiting if waiting[:2] == (connection, task)]
        for waiting in mine:  # which need not wait for its turn to hear of it
            self._waiting.remove(waiting)
            self._go_on(connection, waiting[2])

    def drop(self, connection: Connection) -> None:
        """A connection has gone."""
        for other, task in list(self._running):
            if other is connection:
                self._end(connection, task)
