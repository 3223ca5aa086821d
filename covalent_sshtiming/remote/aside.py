"""Processes of the agent's, each with one socket; and those aside, for what may take long or other modules.

Owns their fork. A process aside is no task and none of a task's: it has nothing of the agent's open, leads a
session of its own, and the agent's death does not end it, but the end of the socket should.
"""

import os
import signal
import socket
import sys
from typing import Callable, List, Optional, Sequence

from . import platforms


def start(body: "Callable[[socket.socket], object]", keep: "Sequence[int]" = ()) -> "Optional[socket.socket]":
    """Run `body` with one of two joined sockets, and with the descriptors `keep`, in a process aside.

    Returns the other socket, as `fork` does.
    """
    return fork(lambda link: _be(body, link, keep))


def fork(child: "Callable[[socket.socket], None]") -> "Optional[socket.socket]":
    """Fork a process that goes on in `child`, which never returns, with one of two joined sockets.

    Returns the other one, which does not block; None if no fork is to be had.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError:  # EMFILE
        return None
    try:
        pid = os.fork()
    except OSError:  # EAGAIN, ENOMEM: the machine is full
        ours.close()
        theirs.close()
        return None
    if pid == 0:
        ours.close()
        child(theirs)
    theirs.close()
    ours.setblocking(False)
    return ours


def let_go(handles: "List[int]") -> None:
    """Close descriptors, the last time in another process.

    The last close of a large file without a name frees it, which takes a tenth of a second for a gibibyte.
    """
    link = start(lambda link: link.recv(1), handles) if handles else None
    for handle in handles:
        os.close(handle)
    if link is not None:
        link.close()  # which it waits for


def _be(body: "Callable[[socket.socket], object]", link: socket.socket, keep: "Sequence[int]") -> None:
    """Run the body; never returns."""
    code = 1
    try:
        os.setsid()
        platforms.close_all_but([0, 1, 2, link.fileno(), *keep])
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        body(link)
        code = 0
    except BaseException:  # noqa: BLE001 - told to the agent's log, the process ends
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(code)
