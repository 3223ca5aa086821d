"""One session as a hostile machine has it, and the table of misbehaviours, by user name."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncssh

from covalent_sshtiming.remote import wire

CANARY = "SSHTIMING_CANARY"  # variable with the path of a file that no hostile pickle may make
FACTS = {"machine": "m", "boot": "b", "hostname": "evil", "user": "eve", "os": "Linux", "cores": 2}

NOTHING: dict[str, Any] = {
    "status": "completed",
    "error": None,
    "record": {},
    "result": None,
    "stdout": 0,
    "stderr": 0,
}
NASTY = "\x1b]0;owned\x07\x1b[31mred\r\n\x00\u202eback\u2028 \x9b31m"
HEAD = struct.Struct("!BBHII")  # spelt out, so that heads can lie


class Far:
    """One session as the hostile side has it: the streams, and the honest steps to go through first."""

    def __init__(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._process = process
        self._decoder = wire.Decoder()
        self._frames: list[wire.Frame] = []
        words = shlex.split(process.command or "")
        self.facts: dict[str, Any] = json.loads(base64.b64decode(words[-2]))

    async def write(self, data: bytes) -> None:
        """Write to stdout, no faster than the other side takes it."""
        self._process.stdout.write(data)
        await self._drained(self._process.stdout)

    async def complain(self, data: bytes) -> None:
        """Write to stderr."""
        self._process.stderr.write(data)
        await self._drained(self._process.stderr)

    async def _drained(self, stream: asyncssh.SSHWriter[bytes]) -> None:
        await stream.drain()
        await asyncio.sleep(0)  # an endless misbehaviour is to leave room for the others
        if self._process.channel.is_closing():
            raise EOFError

    async def send(self, kind: int, task: int = 0, header: Any = None, body: bytes = b"") -> None:
        """Send a frame whose header need not be one that our own encoder would make."""
        text = header if isinstance(header, bytes) else json.dumps(header).encode() if header else b""
        await self.write(HEAD.pack(wire.VERSION, kind, len(text), task, len(body)) + text + body)

    async def announce(self, nonce: str = "", **facts: Any) -> None:
        """Say what the doorman says."""
        line = f"\0SSHTIMING/1 {nonce or self.facts['nonce']} {json.dumps(facts or {'archive': 'have'})}\n"
        await self.write(line.encode())

    async def greet(self) -> None:
        """Announce, and say hello."""
        await self.announce()
        await self.send(wire.HELLO, 0, FACTS)

    async def frame(self, *kinds: int) -> wire.Frame:
        """Wait for a frame of one of these kinds."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.type in kinds:
                    return frame
            data = await self._process.stdin.read(65536)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)

    async def task(self, accept: bool = True) -> int:
        """Greet, wait for a task that is submitted or asked for, accept it, and return its number."""
        await self.greet()
        frame = await self.frame(wire.SUBMIT, wire.ATTACH)
        if accept:
            await self.send(wire.ACCEPTED, frame.task)
        return frame.task

    async def outcome(self, task: int, **facts: Any) -> None:
        """Tell how a task ended."""
        await self.send(wire.OUTCOME, task, None, json.dumps({**NOTHING, **facts}).encode())

    async def wait(self) -> None:
        """Hold still until the other side has gone."""
        with suppress(EOFError, wire.ProtocolError):
            await self.frame()


class Trap:
    """An object that leaves a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (os.environ[CANARY], "w")


Misbehaviour = Callable[[Far], Awaitable[None]]
MISBEHAVIOURS: dict[str, Misbehaviour] = {}


def misbehaves(work: Misbehaviour) -> Misbehaviour:
    """Enter a misbehaviour into the table, by its name."""
    MISBEHAVIOURS[work.__name__] = work
    return work
