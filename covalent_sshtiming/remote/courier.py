"""The courier: a process that reads what a task has left, so that nobody else waits for a disk.

A working directory may be on a file system that is slow, or that hangs. So the supervisor has the look at it
taken by a child, and the agent has the files read by one, whose frames it hands on. Owns both children, and
how much of a task's files may be under way: the agent tells the courier what the client has taken. A file
system that says nothing for too long ends the child, and never a task.
"""

import os
import select
import signal
import socket
import struct
import sys
from typing import Callable, Iterator, List

from . import places, platforms, wire  # and `leavings`, in a child only: most tasks never need it

LOOK_SECONDS = 60  # that the look at a working directory may take
SILENCE_SECONDS = 300  # that a single read of a file may take
PIECE = 256 * 1024
_TAKEN = struct.Struct("!Q")
_LENGTH = struct.Struct("!I")


def has_order(directory: str) -> bool:
    """Whether a task was asked for files, and came far enough to leave any."""
    return os.path.exists(os.path.join(directory, places.FETCH))


# ---- the supervisor's


def note_apart(directory: str) -> bool:
    """Have noted what a task has left; False if the child that looks could not even be ended."""
    try:
        reading, writing = os.pipe()
        pid = os.fork()
    except OSError as error:  # the look is then taken by whoever delivers
        sys.stderr.write("no look at what a task has left: %s\n" % error)
        return True
    if pid == 0:
        _be_child(lambda: _note(directory), LOOK_SECONDS, [writing])
    os.close(writing)
    ended = _hears(reading, LOOK_SECONDS + 5)
    os.close(reading)
    if ended:
        os.waitpid(pid, 0)
    return ended


def _note(directory: str) -> None:
    from . import leavings

    leavings.note(directory)


def _hears(reading: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _be_child(work: "Callable[[], None]", seconds: int, keep: "List[int]") -> None:
    """Do one thing in a freshly forked process, within so many seconds, and end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        platforms.close_all_but([0, 1, 2, *keep])
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(seconds)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - told to the agent's log, the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


# ---- the agent's


class Courier:
    """One task's, as the agent holds it: frames come in, what the client has taken goes out."""

    def __init__(self, directory: str, task: int, skip: int) -> None:
        """Fork it; raises OSError where there is no room for another process."""
        self.link, theirs = socket.socketpair()
        self.complete = False
        self._taken = self._said = 0
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self.link.close()
            theirs.close()
            raise
        if pid == 0:
            platforms.die_with_parent(parent)
            _be_child(lambda: _carry(theirs, directory, task, skip), SILENCE_SECONDS, [theirs.fileno()])
        theirs.close()
        self.link.setblocking(False)

    def frames(self) -> "Iterator[bytes]":
        """Yield whole frames, and nothing where none is here yet; sets `complete` at the proper end."""
        held = bytearray()
        while not self.complete:
            self._say()
            try:
                data = self.link.recv(PIECE)
            except BlockingIOError:
                yield b""
                continue
            except OSError:
                return
            if not data:
                return
            held += data
            yield from self._whole(held)

    def _whole(self, held: bytearray) -> "Iterator[bytes]":
        """Take off what is whole."""
        while len(held) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(held)[0]
            if len(held) < end:
                return
            frame = bytes(held[_LENGTH.size : end])
            del held[:end]
            self.complete = not frame
            if frame:
                yield frame

    def take(self, taken: int) -> None:
        """Let it send on: so much of what it has sent was taken by the client."""
        self._taken = max(self._taken, taken)
        self._say()

    def _say(self) -> None:
        if self._said < self._taken:
            try:
                self.link.send(_TAKEN.pack(self._taken))
                self._said = self._taken
            except OSError:  # it has not read the last ones yet, or has ended
                pass

    def stop(self) -> None:
        """Have it end, and its frames too."""
        try:
            self.link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def _carry(link: socket.socket, directory: str, task: int, skip: int) -> None:
    """Send all frames, as far as the client takes them."""
    from . import leavings

    window = _Window(link)
    frames = leavings.told(directory, skip)
    while True:
        signal.alarm(SILENCE_SECONDS)
        found = next(frames, None)
        signal.alarm(0)
        if found is None:
            break
        header, body = found
        window.enter(wire.file_cost(body))
        frame = wire.encode(wire.FILE, task, header, body)
        link.sendall(_LENGTH.pack(len(frame)) + frame)
    link.sendall(_LENGTH.pack(0))


class _Window:
    """What is under way to the client."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._sent = self._taken = 0
        self._odd = b""

    def enter(self, cost: int) -> None:
        """Wait until there is room for more."""
        self._sent += cost
        self._read(socket.MSG_DONTWAIT)
        while self._sent - self._taken > wire.FILE_WINDOW:
            self._read(0)

    def _read(self, flags: int) -> None:
        try:
            data = self._link.recv(PIECE, flags)
        except BlockingIOError:
            return
        if not data:  # the agent has let go of us
            raise SystemExit
        data = self._odd + data
        whole = len(data) // _TAKEN.size * _TAKEN.size
        self._odd = data[whole:]
        if whole:
            self._taken = max(taken for (taken,) in _TAKEN.iter_unpack(data[:whole]))
