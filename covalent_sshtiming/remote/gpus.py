"""GPUs: which there are, as `nvidia-smi` tells, and which of them may be handed out.

The agent asks once, aside of its loop, when the first task wants a GPU. An answer without any is forgotten
after a while, because drivers come back.
"""

import json
import os
import select
import selectors
import signal
import socket
import time
from typing import Dict, Optional, Tuple

from . import aside
from .needs import GPUS, Devices, Never

ASK_SECONDS = 30.0  # a driver that nobody uses is loaded first, which takes seconds for each GPU
_LATE_SECONDS = 5.0  # later it hangs in the kernel, where nothing ends it
FORGET_SECONDS = 30.0
_COMMAND = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
_TEXT_MAX = 300  # characters
_SAID_MAX = 64 * 1024  # bytes


class Finder:
    """What `nvidia-smi` has told; it is asked at need, and has so many seconds to answer."""

    def __init__(self, selector: selectors.BaseSelector, patience: float = ASK_SECONDS) -> None:
        self._selector = selector
        self._patience = patience
        self._link: "Optional[socket.socket]" = None
        self._heard = b""
        self._uuids: "Optional[Dict[str, str]]" = None
        self._until = 0.0  # when what is known is forgotten, or what was asked counts as unanswered
        self.why = ""  # there are none

    def found(self) -> "Optional[Dict[str, str]]":
        """Return each GPU's UUID by its index; None while that is being asked."""
        late = time.monotonic() > self._until
        if self._link is not None and late:
            self._answer({}, _unanswered(self._patience))
        elif self._link is None and (self._uuids is None or (not self._uuids and late)):
            self._ask()
        return self._uuids

    def _ask(self) -> None:
        self._uuids, self._heard = None, b""
        self._link = aside.start(lambda link: _query(link, self._patience))
        self._until = time.monotonic() + self._patience + _LATE_SECONDS
        if self._link is not None:
            self._selector.register(self._link, selectors.EVENT_READ, lambda _: self._hear())

    def _hear(self) -> None:
        assert self._link is not None  # noqa: S101 - else it is not registered
        try:
            data = self._link.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard += data
        if not data:
            try:
                told = json.loads(self._heard.decode())
            except ValueError:  # whoever asked was killed
                told = {"uuids": {}, "why": "nobody could ask nvidia-smi"}
            self._answer(told["uuids"], told["why"])

    def _answer(self, uuids: "Dict[str, str]", why: str) -> None:
        assert self._link is not None  # noqa: S101 - else nothing was asked
        self._selector.unregister(self._link)
        self._link.close()
        self._link = None
        self._uuids, self.why = uuids, why
        self._until = time.monotonic() + FORGET_SECONDS


def _query(link: socket.socket, patience: float) -> None:
    """Ask `nvidia-smi`, and send what it tells; the body of a process aside of the agent."""
    uuids: "Dict[str, str]" = {}
    try:
        code, said = _run(link, time.monotonic() + patience)
        uuids = _parse(said) if code == 0 else {}
        why = "nvidia-smi exited %d: %s" % (code, " ".join(said.split())[:_TEXT_MAX] or "no word")
    except OSError as error:
        why = "nvidia-smi cannot be run: %s" % error.strerror
    except ValueError as error:
        why = str(error) or _unanswered(patience)
    try:
        link.sendall(json.dumps({"uuids": uuids, "why": why}).encode())
    except OSError:  # nobody wants to know any more
        pass


def _run(link: socket.socket, deadline: float) -> "Tuple[int, str]":
    """Run `nvidia-smi`; return its exit code and all that it says.

    Raises:
        OSError: if there is none.
        ValueError: if it says too much, does not end in time, or `link` has ended.
    """
    import subprocess

    said = b""
    with subprocess.Popen(
        _COMMAND,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        source = child.stdout.fileno()
        watched = [source, link.fileno()]
        try:
            while select.select(watched, [], [], max(0.0, deadline - time.monotonic()))[0] == [source]:
                data = os.read(source, _SAID_MAX)
                said += data
                if len(said) > _SAID_MAX:
                    raise ValueError("nvidia-smi said over %d bytes" % _SAID_MAX)
                if not data:
                    return child.wait(max(0.0, deadline - time.monotonic())), said.decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill_group(child.pid)
    raise ValueError


def _kill_group(leader: int) -> None:
    """Kill a process and what it has started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has ended; macOS says so of zombies
        pass


def _unanswered(patience: float) -> str:
    return "nvidia-smi did not answer within %g s" % patience


def _parse(text: str) -> "Dict[str, str]":
    """Return the UUIDs that lines of an index and a UUID tell, by index."""
    lines = [[word.strip() for word in line.split(",")] for line in text.splitlines()]
    return {words[0]: words[1] for words in lines if len(words) == 2 and words[0].isdigit() and words[1]}


def identity(value: str, uuids: "Dict[str, str]") -> str:
    """Return the UUID of the GPU that a value of CUDA_VISIBLE_DEVICES names, by index or by its beginning.

    The value itself where no such GPU is known.
    """
    return next((uuid for index, uuid in uuids.items() if value == index or uuid.startswith(value)), value)


def candidates(asked: Devices, uuids: "Dict[str, str]", why: str) -> "Dict[str, str]":
    """Return the GPUs of which a task may have some, each by its identity; raises Never if they are too few.

    Those that it names, else those of this process's CUDA_VISIBLE_DEVICES, else those that there are.
    """
    outside = os.environ.get(GPUS)
    if asked.values:
        values, source = asked.values, "gpus lists"
    elif outside is not None:
        values, source = _listed(outside), GPUS + " there lists"
    else:
        values, source = tuple(uuids), "nvidia-smi there lists"
    found = {identity(value, uuids): value for value in values}
    if asked.number > len(found):
        start = "needs %d GPU%s (gpus_per_task)" % (asked.number, "s" * (asked.number > 1))
        if not values and outside is None:
            raise Never("%s, and none is known there: %s; list them in gpus, or see to that" % (start, why))
        raise Never("%s, and %s %s; ask for fewer" % (start, source, len(found) or "none"))
    return found


def _listed(text: str) -> "Tuple[str, ...]":
    """Return the values of a CUDA_VISIBLE_DEVICES, as CUDA reads it: up to the first that names no device."""
    found = []
    for value in (part.strip() for part in text.split(",")):
        if not value or not (value.isdigit() or value.startswith(("GPU-", "MIG-"))):
            break
        found.append(value)
    return tuple(found)
