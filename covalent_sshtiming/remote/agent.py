"""The agent: one warm process per remote user, machine, interpreter, environment and archive.

Single-threaded; imports no user code. Owns the door (its socket), the connections that doormen
hand over, and for each task of its own what is not on disk: who is watching, and which
supervisor has it. What a task *is* stands in its directory, and `tasks` reads it there.

Mutable state, all of it in `Agent.__init__`, is changed only from the one loop, one event at a
time; nothing in between ever waits.
"""

import array
import fcntl
import gc
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import backlog, crew, facts, places, platforms, supervisor, tasks, uploads, wire
from .connection import Connection, Gone

IDLE_SECONDS = 300.0
PING_SECONDS = 15.0
SILENCE_SECONDS = 60.0
POLL_SECONDS = 0.1  # how often a task is looked at that another agent's supervisor has
EXPIRE_SECONDS = 24 * 3600.0
DOOR_BACKLOG = 64


class Agent:
    """The loop, and the state behind it."""

    def __init__(self, base: str, name: str, door: socket.socket, path: str, mask: int) -> None:
        self.base = base
        self.name = name
        self.hello = facts.hello(name)
        self.idle_seconds = IDLE_SECONDS
        self._path = path
        self._door = door
        self._selector = selectors.DefaultSelector()
        self._connections = set()  # type: Set[Connection]
        self._watchers = {}  # type: Dict[str, List[Tuple[Connection, int, Tuple[int, int]]]]
        self._controls = {}  # type: Dict[str, socket.socket]  # tasks that supervisors of ours have
        self._backlog = backlog.Backlog()
        self._slots = backlog.Slots(base, int(self.hello["cores"]))
        self._crew = crew.Crew(base, mask)
        self._busy_at = self._pinged = self._looked = time.monotonic()
        self._expired = 0.0
        self._warm = False
        self._selector.register(door, selectors.EVENT_READ, self._answer_door)

    # ---- the loop

    def run(self) -> None:
        """Serve until idle for long enough."""
        while True:
            for key, events in self._selector.select(self._patience()):
                key.data(events)
            self._start_waiting()
            self._keep_time()
            if self._idle() and self._shut_door():
                return

    def _patience(self) -> float:
        if self._warm and len(self._crew) < crew.AHEAD:
            return 0.0
        if not self._warm:
            return 0.02 if self._connections else 1.0
        return POLL_SECONDS if self._needs_looking() else 1.0

    def _needs_looking(self) -> bool:
        foreign = any(key not in self._controls for key in self._watchers)
        return foreign or bool(self._backlog)

    def _keep_time(self) -> None:
        """Do what is due: look at others' tasks, ping, expire, warm up, refill."""
        now = time.monotonic()
        if now - self._looked >= POLL_SECONDS and self._needs_looking():
            self._looked = now
            self._look_at_foreign()
        if now - self._pinged >= PING_SECONDS:
            self._pinged = now
            self._ping(now)
        self._warm_up()
        self._crew.refill()
        if now - self._expired >= EXPIRE_SECONDS or not self._expired:
            self._expired = now
            self._take_stock()

    def _warm_up(self) -> None:
        """Import, after the first hello is out, what every worker will need."""
        if self._warm:
            return
        self._warm = True
        import cloudpickle  # noqa: F401 - for the workers, which inherit it

        _let_installed_modules_come_first()
        gc.freeze()

    def _take_stock(self) -> None:
        """Remove what is too old, and queue what an agent before us left waiting."""
        tasks.expire(self.base)
        for _, directory in tasks.every(self.base):
            head = tasks.read_head(directory)
            if head and head.get("agent") == self.name and tasks.state(directory) == tasks.WAITING:
                self._enqueue(head)

    def _ping(self, now: float) -> None:
        for connection in list(self._connections):
            if now - connection.heard > SILENCE_SECONDS:
                self._drop(connection)
            else:
                self._guard(connection, lambda c=connection: c.send(wire.PING))  # type: ignore[misc] # a bound default

    def _idle(self) -> bool:
        now = time.monotonic()
        if self._connections or self._controls or self._backlog:
            self._busy_at = now
        return now - self._busy_at > self.idle_seconds

    def _shut_door(self) -> bool:
        """Go, unless a doorman is on its way in: it holds the start lock, or waits at the door."""
        lock = places.try_lock(self._path[:-5] + ".lock")
        if lock is None:
            return False
        os.unlink(self._path)
        return True

    # ---- the door

    def _answer_door(self, _: int) -> None:
        """Take a doorman's streams: the first word of the new connection is our hello."""
        link, _address = self._door.accept()
        link.settimeout(2.0)
        streams = array.array("i")
        try:
            _data, ancillary, _, _ = link.recvmsg(16, socket.CMSG_SPACE(2 * streams.itemsize))
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    streams.frombytes(content)
            if len(streams) != 2:
                raise OSError("no streams")
            link.send(b"T")
            link.setblocking(False)
            connection = Connection(link, streams[0], streams[1])
            self._selector.register(streams[0], selectors.EVENT_READ, lambda _: self._hear(connection))
        except (OSError, ValueError):
            for handle in streams:
                os.close(handle)
            link.close()
            return
        self._connections.add(connection)
        self._selector.register(link, selectors.EVENT_READ, lambda _: self._drop(connection))
        self._guard(connection, lambda: connection.send(wire.HELLO, 0, dict(self.hello, time=time.time())))

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
        for key in list(self._watchers):
            self._watchers[key] = [w for w in self._watchers[key] if w[0] is not connection]
            if not self._watchers[key]:
                del self._watchers[key]
        connection.close()

    def _guard(self, connection: Connection, act: "Callable[[], None]") -> None:
        """Do something with a connection and write what comes of it; drop it if it has gone."""
        try:
            act()
            connection.write()
            self._want_write(connection)
        except Gone:
            self._drop(connection)

    def _want_write(self, connection: Connection) -> None:
        registered = connection.writing in self._selector.get_map()
        if connection.wants_to_write and not registered:
            self._selector.register(
                connection.writing,
                selectors.EVENT_WRITE,
                lambda _: self._guard(connection, lambda: None),
            )
        elif registered and not connection.wants_to_write:
            self._selector.unregister(connection.writing)

    # ---- frames

    def _hear(self, connection: Connection) -> None:
        def act() -> None:
            for frame in connection.read():
                if connection not in self._connections:
                    raise Gone
                _HANDLERS.get(frame.type, Agent._on_stray)(self, connection, frame)

        self._guard(connection, act)

    def _on_stray(self, connection: Connection, frame: wire.Frame) -> None:
        raise Gone

    def _on_hello(self, connection: Connection, frame: wire.Frame) -> None:
        """Let only the newest connection of a client speak, also across a change of agents."""
        client, number = frame.header.get("client"), frame.header.get("connection")
        if not places.is_key(client) or not isinstance(number, int):
            raise Gone
        record = os.path.join(self.base, "clients", client)
        known = places.read_json(record) or {}
        if number <= int(known.get("connection", -1)):
            raise Gone
        places.replace(record, ('{"connection": %d}' % number).encode())
        for other in list(self._connections):
            if other.client == client:
                self._drop(other)
        connection.client, connection.number = client, number
        idle = frame.header.get("idle")
        if isinstance(idle, (int, float)) and idle >= 0:
            self.idle_seconds = float(idle)

    def _on_ping(self, connection: Connection, frame: wire.Frame) -> None:
        connection.send(wire.PONG, 0, dict(frame.header, time=time.time()))

    def _on_pong(self, connection: Connection, frame: wire.Frame) -> None:
        """Nothing: that it was heard is what counts."""

    def _on_submit(self, connection: Connection, frame: wire.Frame) -> None:
        directory = self._claim(connection, frame)
        if directory is None:
            return
        head = {name: value for name, value in frame.header.items() if name != "sha256"}
        head["agent"] = self.name
        try:
            upload = uploads.Upload(directory, head)
            connection.uploads[frame.task] = upload
            upload.add(frame.body)
        except uploads.Refused as refusal:
            self._refuse(connection, frame.task, refusal)
            return
        if "sha256" in frame.header:
            self._on_end(connection, frame)

    def _claim(self, connection: Connection, frame: wire.Frame) -> "Optional[str]":
        """Return the directory to upload into, or None where the key has been claimed before."""
        key, size = frame.header.get("key"), frame.header.get("size")
        if not connection.client or not places.is_key(key) or not isinstance(size, int) or size < 0:
            raise Gone
        directory = self._directory(key)
        connection.keys[frame.task] = key
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if tasks.state(directory) != tasks.UNKNOWN:
                connection.send(wire.ACCEPTED, frame.task)
                self._attach(connection, frame.task, key, (0, 0))
                return None
        except OSError as error:
            refusal = uploads.Refused(error.strerror or "", directory, error.errno or 0)
            self._refuse(connection, frame.task, refusal)
            return None
        return directory

    def _refuse(self, connection: Connection, task: int, refusal: uploads.Refused) -> None:
        connection.uploads.pop(task, None)
        connection.send(wire.REFUSED, task, refusal.facts)

    def _on_data(self, connection: Connection, frame: wire.Frame) -> None:
        upload = connection.uploads.get(frame.task)
        if upload is None:
            return  # refused a moment ago; the client does not know yet
        try:
            upload.add(frame.body)
        except uploads.Refused as refusal:
            self._refuse(connection, frame.task, refusal)

    def _on_end(self, connection: Connection, frame: wire.Frame) -> None:
        upload = connection.uploads.pop(frame.task, None)
        if upload is None:
            return
        try:
            upload.finish(str(frame.header.get("sha256")))
        except uploads.Refused as refusal:
            self._refuse(connection, frame.task, refusal)
            return
        connection.send(wire.ACCEPTED, frame.task)
        self._enqueue(upload.head)
        self._watch(connection, frame.task, upload.head["key"], (0, 0))

    def _on_attach(self, connection: Connection, frame: wire.Frame) -> None:
        key = frame.header.get("key")
        if not connection.client or not places.is_key(key):
            raise Gone
        have = tuple(frame.header.get(name, 0) for name in ("stdout", "stderr"))
        if not all(isinstance(offset, int) and offset >= 0 for offset in have):
            raise Gone
        connection.keys[frame.task] = key
        self._attach(connection, frame.task, key, (have[0], have[1]))

    def _attach(self, connection: Connection, task: int, key: str, have: "Tuple[int, int]") -> None:
        """The attach table: answer for a key from what the disk says."""
        directory = self._directory(key)
        found = tasks.state(directory)
        if found == tasks.UNKNOWN:
            connection.send(wire.UNKNOWN, task)
            return
        if found == tasks.DIED:
            tasks.close_dead(directory)
            found = tasks.ENDED
        if found == tasks.ENDED:
            connection.download(tasks.delivery(directory, task, have))
            return
        if found == tasks.WAITING and key not in self._controls:
            self._requeue(directory)
        self._watch(connection, task, key, have)

    def _requeue(self, directory: str) -> None:
        """Queue a request that lies on disk, if this agent's Python is the one that it needs."""
        head = tasks.read_head(directory)
        mine = ".".join(self.hello["python"].split(".")[:2])
        if head and head.get("python") == mine:
            self._enqueue(head)

    def _on_cancel(self, connection: Connection, frame: wire.Frame) -> None:
        """Stop a task wherever it is; one that was never heard of is refused from now on."""
        key = frame.header.get("key")
        if not places.is_key(key):
            raise Gone
        upload = connection.uploads.pop(frame.task, None)
        if upload is not None:
            upload.abandon()
        directory = self._directory(key)
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        places.create(os.path.join(directory, places.CANCEL))
        found = tasks.state(directory)  # after the mark: the supervisor looks at it on both sides of `started`
        if found in (tasks.WAITING, tasks.UNKNOWN) and key not in self._controls:
            self._backlog.remove(key)
            tasks.finish(directory, supervisor.outcome("cancelled"))
            self._ended(key)
        elif found == tasks.RUNNING:
            started = places.read_json(os.path.join(directory, places.STARTED)) or {}
            if isinstance(started.get("pid"), int) and started["pid"] > 1:
                platforms.send_signal([started["pid"]], signal.SIGTERM)

    def _on_ack(self, connection: Connection, frame: wire.Frame) -> None:
        """All is safe at the client: forget the task."""
        key = frame.header.get("key")
        if not places.is_key(key):
            raise Gone
        directory = self._directory(key)
        if tasks.state(directory) == tasks.ENDED and not frame.header.get("keep"):
            places.remove_tree(directory)
        connection.keys.pop(frame.task, None)
        connection.send(wire.ACK, frame.task)

    # ---- tasks

    def _directory(self, key: str) -> str:
        return os.path.join(self.base, "tasks", key)

    def _enqueue(self, head: "Dict[str, Any]") -> None:
        if head["key"] not in self._controls:
            self._backlog.add(dict(head, queued=time.monotonic()))

    def _watch(self, connection: Connection, task: int, key: str, have: "Tuple[int, int]") -> None:
        self._watchers.setdefault(key, []).append((connection, task, have))

    def _start_waiting(self) -> None:
        """Start what a slot can be had for, in turn between the dispatches."""
        started = bool(self._backlog)
        if started:
            self._warm_up()
        while started:
            started = any(self._start(head) for head in self._backlog.fronts())

    def _start(self, head: "Dict[str, Any]") -> bool:
        key, most = head["key"], _count(head.get("max_parallel"))
        slots = self._slots.take(key, most)
        if slots is None:
            return False
        order = {name: head.get(name) for name in ("key", "time_limit", "linger", "queued")}
        control = self._crew.send(order, slots)
        for handle in slots:
            os.close(handle)
        if control is None:
            self._slots.free(key)
            return False
        self._backlog.started(head)
        self._controls[key] = control
        self._selector.register(control, selectors.EVENT_READ, lambda _: self._hear_supervisor(key))
        return True

    def _hear_supervisor(self, key: str) -> None:
        """A word from a supervisor, or its end: either way the disk says what it means."""
        control = self._controls[key]
        try:
            word = control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if word and b"o" not in word:
            return
        self._selector.unregister(control)
        control.close()
        del self._controls[key]
        self._slots.free(key)
        crew.reap()
        self._settle(key)

    def _settle(self, key: str) -> None:
        """Act on the state of a task that nobody of ours runs any more."""
        directory = self._directory(key)
        found = tasks.state(directory)
        if found == tasks.DIED:
            tasks.close_dead(directory)
            found = tasks.ENDED
        if found == tasks.ENDED:
            self._ended(key)
        elif found == tasks.WAITING:
            self._requeue(directory)

    def _ended(self, key: str) -> None:
        """Deliver to everyone who watches."""
        for connection, task, have in self._watchers.pop(key, []):
            frames = tasks.delivery(self._directory(key), task, have)
            self._guard(connection, lambda c=connection, f=frames: c.download(f))  # type: ignore[misc] # bound defaults

    def _look_at_foreign(self) -> None:
        """Look at the watched tasks that supervisors of another agent have."""
        for key in list(self._watchers):
            if key not in self._controls and key not in self._backlog:
                self._settle(key)


_HANDLERS = {
    wire.HELLO: Agent._on_hello,
    wire.SUBMIT: Agent._on_submit,
    wire.DATA: Agent._on_data,
    wire.END: Agent._on_end,
    wire.ATTACH: Agent._on_attach,
    wire.CANCEL: Agent._on_cancel,
    wire.ACK: Agent._on_ack,
    wire.PING: Agent._on_ping,
    wire.PONG: Agent._on_pong,
}  # type: Dict[int, Callable[[Agent, Connection, wire.Frame], None]]


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _let_installed_modules_come_first() -> None:
    """Move our archive to the end of the path: what is installed here wins for the user's code."""
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [path for path in sys.path if path != place] + [place]


def serve(base: str, name: str, path: str, place: str, mask: int, tell: int) -> None:
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
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
