"""The far end without SSH: real doormen and agents as local processes, spoken to frame by frame.

with FarSide(short_directory) as far, far.line() as line:
    line.submit(key, function, 1)
    ended = line.outcome()
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from covalent_sshtiming.electron import take_apart
from covalent_sshtiming.host import bootstrap
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.remote import places, wire
from support import direct
from support.interpreters import OWN
from support.there import alive, begun

WAIT_S = 15.0


def new_key() -> str:
    """Return a key that no task has."""
    return os.urandom(16).hex()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {WAIT_S} s for {what}")


@dataclass
class Told:
    """What a connection was told of one task: its outcome, its result and its output."""

    ended: dict[str, Any]
    result: bytes
    output: bytes

    @property
    def status(self) -> Any:
        """How the task ended."""
        return self.ended["status"]

    @property
    def value(self) -> Any:
        """Unpickle the result, as a client would."""
        return pickle.loads(self.result[sum(self.ended["result"][:2]) :])


class Line:
    """One connection to the agent, through a doorman of its own."""

    def __init__(self, target: Target, user: int | None = None) -> None:
        nonce = os.urandom(12).hex()
        home = {} if user is None else {"HOME": str(Path(target.spool).parent)}
        self.doorman = subprocess.Popen(
            ["/bin/sh", "-c", bootstrap.command(target, nonce)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **home},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        self._decoder = wire.Decoder()
        self._frames: deque[wire.Frame] = deque()
        self._numbers = itertools.count(1)
        self.tasks: dict[str, int] = {}
        self._open(bootstrap.Preamble(nonce))

    def _open(self, preamble: bootstrap.Preamble) -> None:
        while True:
            found = preamble.feed(self._read())
            if found:
                break
        if found[0].get("archive") == "need":
            self.write(bootstrap.archive().data)
        self._frames.extend(self._decoder.feed(found[1]))
        self.machine = self.expect(wire.HELLO).header

    def _read(self, seconds: float = WAIT_S) -> bytes:
        assert self.doorman.stdout is not None
        ready, _, _ = select.select([self.doorman.stdout], [], [], seconds)
        assert ready, f"nothing was heard for {seconds} s"
        data = os.read(self.doorman.stdout.fileno(), 65536)
        if not data:
            raise EOFError
        return data

    def write(self, data: bytes) -> None:
        """Write bytes to the far side."""
        assert self.doorman.stdin is not None
        self.doorman.stdin.write(data)
        self.doorman.stdin.flush()

    def send(self, kind: int, task: int = 0, header: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Send one frame."""
        self.write(wire.encode(kind, task, header or {}, body))

    def hello(self, client: str, number: int) -> None:
        """Say who this is; without it the agent listens to nothing else."""
        self.send(wire.HELLO, 0, {"client": client, "connection": number, "idle": 2})

    def receive(self, seconds: float = WAIT_S) -> wire.Frame:
        """Return the next frame, pings left out; raises EOFError at the end."""
        while True:
            while not self._frames:
                self._frames.extend(self._decoder.feed(self._read(seconds)))
            frame = self._frames.popleft()
            if frame.type != wire.PING:
                return frame

    def expect(self, kind: int) -> wire.Frame:
        """Return the next frame, which has to be of this type."""
        frame = self.receive()
        assert frame.type == kind, f"{wire.NAMES[frame.type]} {frame.header}, not {wire.NAMES[kind]}"
        return frame

    def submit(self, key: str, function: Callable[..., Any], *args: Any, **head: Any) -> None:
        """Send a small request whole."""
        facts, body = request(key, function, *args, **head)
        task = self.tasks[key] = next(self._numbers)
        self.send(wire.SUBMIT, task, {**facts, "sha256": hashlib.sha256(body).hexdigest()}, body)

    def attach(self, key: str, **have: int) -> None:
        """Ask for a task by its key."""
        task = self.tasks[key] = next(self._numbers)
        self.send(wire.ATTACH, task, {"key": key, **have})

    def cancel(self, key: str) -> None:
        """Ask for a task's end."""
        self.send(wire.CANCEL, self.tasks.get(key, 0), {"key": key})

    def acknowledge(self, key: str) -> None:
        """Say that all is safe, and wait until the far side has forgotten the task."""
        self.send(wire.ACK, 0, {"key": key})
        self.expect(wire.ACK)

    def outcome(self, key: str | None = None) -> Told:
        """Return what is told of a task, the only one by default, up to its outcome."""
        task = self.tasks[key] if key else next(reversed(self.tasks.values()))
        result, output = bytearray(), bytearray()
        while True:
            frame = self.receive()
            if frame.task != task or frame.type == wire.ACCEPTED:
                continue
            if frame.type == wire.OUTCOME:
                return Told(json.loads(frame.body), bytes(result), bytes(output))
            if frame.type == wire.DATA:
                result += frame.body
            elif frame.type == wire.STREAM:
                output += frame.body
            else:
                assert frame.type == wire.RESULT, f"{wire.NAMES[frame.type]} {frame.header}"

    def outcomes(self, keys: Sequence[str]) -> list[Told]:
        """Return what is told of several tasks, in whatever order they end."""
        numbers = {self.tasks[key]: key for key in keys}
        told: dict[str, Told] = {}
        results: dict[int, bytes] = {}
        while len(told) < len(keys):
            frame = self.receive()
            if frame.type == wire.DATA:
                results[frame.task] = results.get(frame.task, b"") + frame.body
            elif frame.type == wire.OUTCOME and frame.task in numbers:
                ended = json.loads(frame.body)
                told[numbers[frame.task]] = Told(ended, results.pop(frame.task, b""), b"")
        return [told[key] for key in keys]

    def close(self) -> None:
        """Hang up, as a lost link does."""
        for stream in (self.doorman.stdin, self.doorman.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        self.doorman.kill()
        self.doorman.wait()


def request(
    key: str, function: Callable[..., Any], *args: Any, spec: dict[str, Any] | None = None, **head: Any
) -> tuple[dict[str, Any], bytes]:
    """Return a request's head and body; `spec` is what the worker is told besides."""
    # Test modules are not over there, so their functions travel by value, as those of a script do.
    cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    call = take_apart(function, args, {})
    told = {"dispatch_id": "d", "node_id": 0, "workdir": "", "unique": False, "env": {}}
    size, chunks = call.body({**told, "max_result_bytes": 1 << 30, **(spec or {})})
    facts = {"key": key, "size": size, "dispatch_id": "d", "python": OWN, **head}
    return facts, b"".join(chunks())


@dataclass
class FarSide:
    """A spool of one's own, and the agents that serve it."""

    directory: Path
    user: int | None = None  # the user id to run as, for those who may choose
    python: str = sys.executable
    lines: list[Line] = field(default_factory=list)
    client: str = field(default_factory=new_key)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.spool = self.directory / "spool"
        self.target = Target(
            label="far",
            hostname="far",
            python=OWN,
            python_path=self.python,
            cache=str(self.directory / "cache"),
            spool=str(self.spool),
        )

    def __enter__(self) -> FarSide:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines:
            line.close()
        for path in begun(self.spool):
            kill_session(path)
        direct.end_agents(self.spool)

    def connect(self) -> Line:
        """Open a connection that has not said who it is."""
        line = Line(self.target, self.user)
        self.lines.append(line)
        return line

    @contextmanager
    def line(self, client: str = "", number: int | None = None) -> Iterator[Line]:
        """Open a connection as the newest one of a client."""
        line = self.connect()
        line.hello(client or self.client, next(self._numbers) if number is None else number)
        try:
            yield line
        finally:
            line.close()

    def task(self, key: str) -> Path:
        """Return a task's directory."""
        return self.spool / "tasks" / key

    def started(self, key: str) -> dict[str, Any]:
        """Wait until a task has started and return what its supervisor noted."""
        path = self.task(key) / places.LOCK
        return dict(until(lambda: places.read_json(str(path)), f"{key} to start"))

    def agent(self) -> int:
        """Return the process id of the agent."""
        (pid,) = direct.agents(self.spool)
        return pid

    def kill_agent(self) -> None:
        """Kill the agent, and wait until it is gone."""
        pid = self.agent()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the agent to die")

    def kill_supervisor(self, key: str) -> int:
        """Kill a running task's supervisor, and return its process id."""
        pid = int(self.started(key)["pid"])
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the supervisor to die")
        return pid


def kill_session(lock: Path) -> None:
    """Kill a task that a failed test has left."""
    known = places.read_json(str(lock)) or {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == known.get("session"):
                process.kill()
