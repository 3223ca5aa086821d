"""Spawn: a task in an interpreter of its own instead of a fork of the agent's.

Owns how the worker that was forked ahead becomes that interpreter, by exec: so it is the same process to
supervisor, group and kernel, with the same pipes, limits and CPUs, and it goes on with the same code. What
it knew goes along as an argument, and the board as an open descriptor, which is closed before the task.
"""

import json
import os
import sys
from typing import NamedTuple, Optional

from . import causes, cgroup, phases, platforms, worker
from .board import Board

# No current directory on the path, neither now nor for the task.
_START = (
    "import sys;sys.path[:]=[p for p in sys.path if p];sys.path.insert(0,sys.argv[1]);"
    "from %s import spawn;spawn.go_on(sys.argv[2])"
)


class Here(NamedTuple):
    """Where a worker stands, whatever its task: its supervisor, and what they share."""

    spool: str
    mask: int
    supervisor: int
    board: int
    group: "Optional[str]"


def become(here: Here, directory: str, woken: float) -> None:
    """Go on with the task in a fresh interpreter with our variables and directory; raises CannotSpawn.

    They are the task's: a relative PYTHONPATH means its directory. `woken` is the moment when the worker
    was, by the monotonic clock.
    """
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    words = [sys.executable, "-c", _START % __package__, place, json.dumps([here, directory, woken])]
    os.set_inheritable(here.board, True)
    try:
        os.execve(sys.executable, words, os.environ)  # noqa: S606 - this very interpreter
    except (OSError, ValueError) as error:
        text = "%s could not be started afresh: %s" % (sys.executable or "Python", error)
        raise causes.CannotSpawn(text) from error


def go_on(text: str) -> None:
    """Run the task; the body of the fresh interpreter; never returns."""
    code = 1
    try:
        told, directory, woken = json.loads(text)
        workdir = os.environ["PWD"]  # the rehearsal goes elsewhere
        here = Here(*told)
        platforms.die_with_parent(here.supervisor)
        sys.argv[:] = [""]
        board = Board(here.board)
        platforms.close_all_but([0, 1, 2])  # the board's too, of which the mapping has made a second one
        group = cgroup.Group(here.group) if here.group else None
        if "PYTHONIOENCODING" not in os.environ:
            worker.open_streams()
        inherited = worker.rehearse(board, group, here.mask)
        worker.let_installed_modules_come_first()
        marks = phases.Phases(woken, board, group, inherited)
        worker.run(directory, here.spool, here.mask, {}, marks, board, workdir=workdir)
        code = 0
    except BaseException:  # noqa: BLE001 - goes to the task's own stderr
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
