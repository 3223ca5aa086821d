"""The gate: the doorman's second half, from a stored archive to an agent that has our streams.

Owns the agent's socket, its start lock and its pid file while it looks for the agent: connects,
or starts one under the lock; hands stdin and stdout over the socket, so nothing is copied
through this process; then waits until the agent lets go, because sshd ends the session when the
process that it started ends. An agent that does not answer within 10 s is ended and replaced:
what was on disk goes on.
"""

import array
import fcntl
import os
import signal
import socket
import sys
import time
from typing import Any, Dict, Optional

from . import places

ANSWER_SECONDS = 10.0
STALE_ENVIRONMENT = ("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "SSH_ORIGINAL_COMMAND")


def pass_through(params: "Dict[str, Any]", place: str, mask: int) -> None:
    """Give this process's stdin and stdout to the agent and wait for it to be done with them."""
    try:
        base = places.spool_base(params["spool"])
        places.rooms(base)
        agent = places.agent_id(place, params["flavor"])
        door = places.socket_path(base, agent)
    except OSError as error:
        _complain("spool", error)
        sys.exit(6)
    for _ in range(3):
        link = _connect(door) or _connect_or_start(base, agent, door, mask)
        if link is not None and _hand_over(link):
            _wait(link)
            return
        end_agent(base, agent)
    _complain("agent", OSError("no agent could be started; its log is %s.log" % door[:-5]))
    sys.exit(7)


def _complain(what: str, error: OSError) -> None:
    """Report on stderr, which the near end quotes, in a form that it can recognise."""
    sys.stderr.write("SSHTIMING-%s: %s\n" % (what, error))
    sys.stderr.flush()


def _connect(door: str) -> "Optional[socket.socket]":
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(door)
    except OSError:
        link.close()
        return None
    return link


def _connect_or_start(base: str, agent: str, door: str, mask: int) -> "Optional[socket.socket]":
    """Start the agent unless somebody else just did; one at a time, by the start lock."""
    handle = os.open(
        os.path.join(base, "agents", agent + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
    )
    try:
        if not _wait_for_lock(handle):
            return None
        link = _connect(door)
        if link is None:
            _start_agent(door, mask, agent, base, handle)
            link = _connect(door)
        return link
    finally:
        os.close(handle)


def _wait_for_lock(handle: int) -> bool:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False


def _start_agent(door: str, mask: int, agent: str, base: str, lock: int) -> None:
    """Fork a daemon that listens on `door`, and return once it does (or has died)."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        try:
            os.close(ready)
            os.close(lock)
            os.setsid()
            if os.fork() == 0:
                _become_agent(base, agent, door, mask, tell)
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    os.wait()


def _become_agent(base: str, agent: str, door: str, mask: int, tell: int) -> None:
    """Turn this forked copy into the agent; never returns."""
    log = os.open(door[:-5] + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    for handle in (null, log):
        if handle > 2:
            os.close(handle)
    for name in STALE_ENVIRONMENT:
        os.environ.pop(name, None)
    os.chdir(base)
    sys.argv[:] = [""]
    from . import agent as agent_module

    agent_module.serve(base, agent, door, mask, tell)


def _hand_over(link: socket.socket) -> bool:
    """Send our stdin and stdout; True once the agent has said that it took them."""
    link.settimeout(ANSWER_SECONDS)
    streams = array.array("i", [0, 1])
    try:
        link.sendmsg([b"D"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        taken = link.recv(1) == b"T"
    except OSError:
        taken = False
    if not taken:
        link.close()
        return False
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return True


def _wait(link: socket.socket) -> None:
    link.settimeout(None)
    try:
        while link.recv(64):
            pass
    except OSError:
        pass


def end_agent(base: str, agent: str) -> None:
    """End an agent that does not answer, if its pid file says that one is alive."""
    path = os.path.join(base, "agents", agent + ".pid")
    if not places.is_locked(path):
        return
    known = places.read_json(path) or {}
    try:
        os.kill(int(known["pid"]), signal.SIGKILL)
    except (KeyError, ValueError, ProcessLookupError):
        return
    deadline = time.monotonic() + ANSWER_SECONDS
    while places.is_locked(path) and time.monotonic() < deadline:
        time.sleep(0.01)
