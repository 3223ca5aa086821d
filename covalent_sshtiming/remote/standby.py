"""What a supervisor holds while it waits for a task: a worker forked ahead, their pipes, board and group.

Owns the worker's process from its fork to the moment when it is let go: what it inherits, which signals
it has, the control group that it joins, and its rehearsal.
"""

import functools
import os
import select
import signal
import socket
import time
from typing import Dict, Optional, Tuple

from . import cgroup, phases, places, platforms, pump, spawn, worker
from .board import Board

WAKE_BYTES = 4096
_END = b"\0\0"
RETRY_FORK = 0.2  # seconds between two attempts to have a worker


class Standby:
    """What a supervisor holds for one task, from before it comes: worker, pipes, board and group."""

    def __init__(self, control: socket.socket, spool: str, mask: int, groups: "Optional[str]") -> None:
        out, err, go = os.pipe(), os.pipe(), os.pipe()
        self.board = Board()
        parent = os.getpid()
        self.group = cgroup.Group.make(groups, parent)
        self.pid = _fork_in_time(control)
        if self.pid == 0:
            _be_worker(parent, (go[0], out[1], err[1]), spool, mask, self.board, self.group)
        self.board.keep_to_ourselves()
        for handle in (out[1], err[1], go[0]):
            os.close(handle)
        if self.group is not None:
            self.group.rehearse()  # after the fork, which made each page one to be copied
        self.go = go[1]
        self._sleeps = True
        self.stdout, self.stderr = pump.Pump(out[0]), pump.Pump(err[0])

    def wake(self, directory: str, environment: "Dict[str, str]") -> None:
        """Let the worker go, to the task in `directory`, with these variables."""
        words = [directory, *("%s=%s" % item for item in environment.items())]
        places.write_all(self.go, "\0".join(words).encode("utf-8", "surrogatepass") + _END)
        self._sleeps = False
        os.close(self.go)

    def __enter__(self) -> "Standby":
        return self

    def __exit__(self, *_: object) -> None:
        """Let all of it go; a worker that never had a task ends first."""
        if self._sleeps:
            os.close(self.go)
            os.waitpid(self.pid, 0)
        self.stdout.close()
        self.stderr.close()
        self.board.close()
        if self.group is not None:
            self.group.remove()


def _fork_in_time(control: socket.socket) -> int:
    """Fork, as soon as the machine has room for another process; a task that comes meanwhile waits."""
    agent = select.poll()
    agent.register(control, 0)  # its end only: an order is for later
    while True:
        try:
            return os.fork()
        except OSError:  # EAGAIN, ENOMEM
            if agent.poll(RETRY_FORK * 1000):
                os._exit(0)


def _be_worker(
    parent: int,
    pipes: "Tuple[int, int, int]",
    spool: str,
    mask: int,
    board: Board,
    group: "Optional[cgroup.Group]",
) -> None:
    """Wait to be let go, then run the task; never returns."""
    code = 1
    go, out, err = pipes
    try:
        platforms.die_with_parent(parent)
        os.setpgid(0, 0)  # a task that kills its process group means its own
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        platforms.close_all_but([0, 1, 2, go, board.handle])
        if group is not None and not group.join():
            group = None
        worker.open_streams()
        inherited = worker.rehearse(board, group, mask)
        here = spawn.Here(spool, mask, parent, board.handle, group.path if group else None)
        afresh = functools.partial(spawn.become, here)
        directory, environment = _wait(go)
        if directory:
            marks = phases.Phases(time.monotonic(), board, group, inherited)
            worker.run(directory, spool, mask, environment, marks, board, afresh)
            code = 0
    finally:
        os._exit(code)


def _wait(go: int) -> "Tuple[str, Dict[str, str]]":
    """Wait for the task's directory and variables; the directory is "" where none comes."""
    heard = b""
    while not heard.endswith(_END):
        data = os.read(go, WAKE_BYTES)
        if not data:
            return "", {}
        heard += data
    os.close(go)
    directory, *words = heard[: -len(_END)].decode("utf-8", "surrogatepass").split("\0")
    return directory, dict(word.split("=", 1) for word in words)
