"""The agent: one warm process per remote user, machine, interpreter, environment and archive.

Single-threaded; imports no user code. Owns the loop, the door (its socket) and the connections
that doormen hand over. What their frames mean is the desk's, the tasks are the foreman's. All
state is changed from this one loop, one event at a time, and nothing in between ever waits.
"""

import array
import fcntl
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any, Callable, Iterator

from . import crew, facts, places, wire, worker
from .connection import HOLD_SECONDS, Connection, Gone
from .desk import Desk
from .foreman import Foreman

IDLE_SECONDS = 300.0
PING_SECONDS = 15.0
SILENCE_SECONDS = 60.0
POLL_SECONDS = 0.1  # how often a task is looked at that another agent's supervisor has
TICK_SECONDS = 1.0
EXPIRE_SECONDS = 24 * 3600.0
DOOR_BACKLOG = 64
STREAMS = 2  # a doorman hands over its stdin and its stdout


class Agent:
    """The loop, the door, and the connections."""

    def __init__(self, base: str, name: str, door: socket.socket, path: str, mask: int) -> None:
        self._path = path
        self._door = door
        self._facts = facts.hello(name)
        self._selector = selectors.DefaultSelector()
        self._connections: "set[Connection]" = set()
        self._crew = crew.Crew(base, mask)
        self._foreman = Foreman(
            base, name, self._facts, facts.usable_cpus(), self._crew, self._selector, self._deliver
        )
        self._desk = Desk(self._foreman, name, self._drop_older)
        self._busy_at = self._pinged = self._looked = time.monotonic()
        self._expire_at = self._refill_at = self._thin_out_at = 0.0
        self._warm = False
        self._selector.register(door, selectors.EVENT_READ, self._answer_door)

    # ---- the loop

    def run(self) -> None:
        """Serve until idle for long enough."""
        while True:
            for key, events in self._selector.select(self._patience()):
                self._safely(lambda act=key.data, events=events: act(events))  # type: ignore[misc] # bound
            if self._foreman.waiting:
                self._warm_up()
                self._safely(self._foreman.start_waiting)
            self._safely(self._foreman.couriers.stir)
            self._safely(self._keep_time)
            if self._idle() and self._shut_door():
                return

    def _safely(self, act: "Callable[[], None]") -> None:
        """Do one thing; what goes wrong with it goes to our log, and never ends the agent."""
        try:
            act()
        except Exception:  # noqa: BLE001 - tasks of other clients depend on this process
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()

    def _patience(self) -> float:
        """Seconds to wait for an event: none while there is something to prepare."""
        if self._connections and not self._warm:
            return 0.01
        if self._connections and len(self._crew) < crew.AHEAD and time.monotonic() >= self._refill_at:
            return 0.0
        if any(connection.holds for connection in self._connections):
            return HOLD_SECONDS
        return POLL_SECONDS if self._foreman.must_look else TICK_SECONDS

    def _keep_time(self) -> None:
        """Do what is due: look at others' tasks, ping, expire, warm up, refill."""
        now = time.monotonic()
        for connection in [one for one in self._connections if one.holds]:
            self._guard(connection, lambda: None)
        if now - self._looked >= POLL_SECONDS and self._foreman.must_look:
            self._looked = now
            self._foreman.look()
        if now - self._pinged >= PING_SECONDS:
            self._pinged = now
            self._ping(now)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_SECONDS
            self._foreman.take_stock()
            self._crew.tidy()
        if now >= self._thin_out_at:
            self._thin_out_at = now + TICK_SECONDS
            self._crew.thin_out()
        if self._connections:
            self._warm_up()
            if len(self._crew) < crew.AHEAD and now >= self._refill_at and not self._crew.refill():
                self._refill_at = now + TICK_SECONDS

    def _warm_up(self) -> None:
        """Import, once the first hello is out, what every worker will need."""
        if self._warm:
            return
        self._warm = True
        worker.rehearsed_request()  # for the workers, which inherit it, and cloudpickle with it
        importlib.invalidate_caches()  # as each of them will, which from Python 3.13 on loads 85 modules
        worker.let_installed_modules_come_first()
        gc.freeze()

    def _ping(self, now: float) -> None:
        for connection in list(self._connections):
            if now - connection.heard > SILENCE_SECONDS:
                self._drop(connection)
            else:
                self._guard(connection, lambda c=connection: c.send(wire.PING))  # type: ignore[misc] # bound

    def _idle(self) -> bool:
        now = time.monotonic()
        if self._connections or self._foreman.busy:
            self._busy_at = now
        limit = self._desk.idle_seconds
        return now - self._busy_at > (IDLE_SECONDS if limit is None else limit)

    def _shut_door(self) -> bool:
        """Go, unless a doorman is on its way in: then it holds the start lock."""
        lock = places.try_lock(self._path[:-5] + ".lock")
        if lock is None:
            return False
        os.unlink(self._path)
        return True

    # ---- the door

    def _answer_door(self, _: int) -> None:
        """Take a doorman's streams, and greet whoever is behind them."""
        link, _address = self._door.accept()
        link.settimeout(2.0)
        streams = array.array("i")
        try:
            _receive_streams(link, streams)
            connection = Connection(link, streams[0], streams[1])
            self._selector.register(streams[0], selectors.EVENT_READ, lambda _: self._hear(connection))
        except (OSError, ValueError):
            for handle in streams:
                os.close(handle)
            link.close()
            return
        self._connections.add(connection)
        self._selector.register(link, selectors.EVENT_READ, lambda _: self._drop(connection))
        self._guard(connection, lambda: connection.send(wire.HELLO, 0, dict(self._facts, time=time.time())))

    def _drop(self, connection: Connection) -> None:
        """Forget a connection and nothing else: its tasks go on."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        for handle in (connection.reading, connection.writing, connection.link):
            try:
                self._selector.unregister(handle)
            except (KeyError, ValueError):
                pass
        for upload in connection.uploads.values():
            upload.abandon()
        self._foreman.unwatch(connection)
        self._foreman.couriers.drop(connection)
        connection.close()

    def _drop_older(self, client: str) -> None:
        for other in list(self._connections):
            if other.client == client:
                self._drop(other)

    # ---- a connection

    def _hear(self, connection: Connection) -> None:
        def act() -> None:
            for frame in connection.read():
                if connection.closed:
                    raise Gone
                self._desk.answer(connection, frame)

        self._guard(connection, act)

    def _deliver(self, connection: Connection, frames: "Iterator[Any]") -> None:
        self._guard(connection, lambda: connection.download(frames))

    def _guard(self, connection: Connection, act: "Callable[[], Any]") -> None:
        """Do something with a connection and write what comes of it; drop it if it has gone."""
        try:
            act()
            connection.write()
        except Exception as error:  # noqa: BLE001 - whatever a client sets off costs it the connection
            if not isinstance(error, Gone):
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            self._drop(connection)
            return
        registered = connection.writing in self._selector.get_map()
        if connection.wants_to_write and not registered:
            self._selector.register(
                connection.writing,
                selectors.EVENT_WRITE,
                lambda _: self._guard(connection, lambda: None),
            )
        elif registered and not connection.wants_to_write:
            self._selector.unregister(connection.writing)


def _receive_streams(link: socket.socket, streams: "array.array[int]") -> None:
    """Take two descriptors off the door's connection, and say so; raises OSError."""
    _data, ancillary, _, _ = link.recvmsg(16, socket.CMSG_SPACE(STREAMS * streams.itemsize))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            streams.frombytes(content)
    if len(streams) != STREAMS:
        raise OSError("no streams")
    link.send(b"T")
    link.setblocking(False)


def serve(base: str, name: str, path: str, mask: int, tell: int) -> None:
    """Become the agent: take the pid file, open the door, tell the doorman, serve; never returns."""
    code = 1
    try:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        alive = os.open(path[:-5] + ".pid", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(alive, 0)
        places.write_all(alive, b'{"pid": %d}' % os.getpid())
        if os.path.exists(path):
            os.unlink(path)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        door.bind(path)
        door.listen(DOOR_BACKLOG)
        os.write(tell, b"R")
        os.close(tell)
        Agent(base, name, door, path, mask).run()
        code = 0
    except BaseException:  # noqa: BLE001 - told to the log, the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
