"""The crew: supervisors forked ahead, so that a task finds its process waiting for it.

Owns when one is forked, and its control socket while it has no task. A supervisor comes back after
each task, so a busy agent forks none. A control socket that the agent loses (it closes it, or dies) ends
a supervisor that waits, or that has a task after the task.
"""

import array
import json
import os
import socket
from typing import Any, Dict, List, Optional

from . import aside, cgroup, supervisor

AHEAD = 3  # waiting supervisors that an idle agent keeps


class Crew:
    """The waiting supervisors; `refill` while idle, `send` one its task."""

    def __init__(self, base: str, mask: int) -> None:
        self._base = base
        self._mask = mask
        self._groups = cgroup.find_home()
        self._waiting: "List[socket.socket]" = []
        self._fewest = 0  # that waited at once since the last `thin_out`

    def __len__(self) -> int:
        return len(self._waiting)

    def tidy(self) -> None:
        """Remove what supervisors that were killed have left of their tasks' groups."""
        cgroup.sweep(self._groups)

    def refill(self) -> bool:
        """Fork one more if fewer than `AHEAD` wait; False where that is not needed or not possible."""
        if len(self._waiting) >= AHEAD:
            return False
        control = self._fork()
        if control is not None:
            self._waiting.append(control)
        return control is not None

    def send(self, order: "Dict[str, Any]", handles: "List[int]") -> "Optional[socket.socket]":
        """Give a supervisor its order and its locks; its control socket, or None if no fork is to be had."""
        while True:
            control = self._waiting.pop(0) if self._waiting else self._fork()
            self._fewest = min(self._fewest, len(self._waiting))
            if control is None:
                return None
            if _deliver(control, order, handles):
                return control
            control.close()

    def take_back(self, control: socket.socket) -> None:
        """Keep a supervisor whose task is over for another one."""
        self._waiting.append(control)

    def thin_out(self) -> None:
        """Let those go whom nobody has needed since the last time, down to `AHEAD`."""
        for control in self._waiting[: max(0, self._fewest - AHEAD)]:
            self._waiting.remove(control)
            control.close()
        self._fewest = len(self._waiting)
        reap()

    def _fork(self) -> "Optional[socket.socket]":
        """Return a new supervisor's control socket; None if no fork is to be had, and the task waits."""
        reap()  # what has ended counts against the user's limit on processes until then
        return aside.fork(lambda control: supervisor.stand_by(control, self._base, self._mask, self._groups))


def _deliver(control: socket.socket, order: "Dict[str, Any]", handles: "List[int]") -> bool:
    """Send the order; False where that supervisor has died while it waited."""
    words = json.dumps(dict(order, handles=len(handles))).encode()
    try:
        for first in range(0, len(handles), supervisor.HANDLES_MAX):
            some = array.array("i", handles[first : first + supervisor.HANDLES_MAX])
            control.sendmsg([words], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)])
            words = b"+"
    except OSError:
        return False
    return True


def reap() -> None:
    """Collect supervisors that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
