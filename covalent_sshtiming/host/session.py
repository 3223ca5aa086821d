"""Session: one connection's life with an agent, from the exec command to its loss.

Owns the order of that life (noise, announcement, archive, hello, frames), the pings that notice
a half-open link, the readiness to write, and how much a machine may say that brings nothing. Which
tasks there are is `host`'s to know: every frame and the loss are passed on.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from covalent_sshtiming.errors import ConnectError, ProtocolError, SSHTimingError
from covalent_sshtiming.host import bootstrap, refusals
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.clock import Clock
from covalent_sshtiming.host.environment import SAID_MAX, Said
from covalent_sshtiming.host.streams import Receiver, Streams
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.remote import wire

LATER = 0.02  # seconds that what is in no hurry waits for company
WORTH_A_COPY = 16 * 1024  # bytes of a frame that is put together with others
STRAY_FRAMES = 1000  # that brought nothing, between two pings of ours
STRAY_BYTES = 16 << 20  # the same, in bytes
DRIP = 4096  # bytes of a frame that is not whole yet, which count as a sign of life


class Session:
    """One connection to the agent of a target. Not reused after its loss."""

    def __init__(
        self,
        target: Target,
        on_frame: Callable[[Session, wire.Frame], bool],
        on_lost: Callable[[Session], None],
    ) -> None:
        """Hand frames to `on_frame`, which tells whether one brought anything, and the loss to `on_lost`."""
        loop = asyncio.get_running_loop()
        self.hello: dict[str, Any] = {}
        self.machine: object = None  # its id, which it tells before anything is sent to it
        self.clock = Clock()
        self.writable_now = asyncio.Event()
        self.writable_now.set()
        self.alive = False
        self.error: SSHTimingError | None = None  # why it ended, if it did not by our own wish
        self.nonce = os.urandom(12).hex()
        self.target = target
        self.said = Said()
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._streams: Streams | None = None
        self._preamble: bootstrap.Preamble | None = bootstrap.Preamble(self.nonce)
        self._announced: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._greeted: asyncio.Future[None] = loop.create_future()
        self._decoder = wire.Decoder()
        self._ended = False
        self._status: int | None = None
        self._outgoing: list[bytes] = []  # frames that leave together
        self._leaving: asyncio.Handle | None = None  # what will send them off
        self._hurries = False  # whether it does so in this round of the loop
        self._heard = time.monotonic()
        self._unheard = 0  # bytes since then
        self._strays = [0, 0]  # frames and bytes that brought nothing since our last ping
        self._pinger: asyncio.Task[None] | None = None

    # ---- opening

    async def open(self, opener: Callable[[str, Receiver], Any], client: str, number: int) -> None:
        """Start the doorman through `opener`, give it what it lacks and greet the agent.

        Raises RemoteEnvError, TransferError, ConnectError or ProtocolError.
        """
        try:
            command = await asyncio.to_thread(bootstrap.command, self.target, self.nonce)
            self._streams = await opener(command, self)
            announced = await self._within(self._announced)
            if "refused" in announced:
                raise refusals.refused(self.target, self.said, announced)
            self.machine = announced.get("machine")
            if announced.get("archive") == "need":
                self.write(bootstrap.archive().data)
            self.send(
                wire.HELLO, 0, {"client": client, "connection": number, "idle": self.target.idle_timeout}
            )
            self.alive, self._heard = not self._ended, time.monotonic()
            self.ask()
            self._pinger = asyncio.ensure_future(self._ping())
        except BaseException:
            await self.close()
            raise

    async def greeted(self) -> dict[str, Any]:
        """Wait for the agent's hello; raises like `open`."""
        await self._within(self._greeted)
        return self.hello

    async def _within(self, future: asyncio.Future[Any]) -> Any:
        try:
            return await asyncio.wait_for(asyncio.shield(future), self.target.connect_timeout)
        except asyncio.TimeoutError as error:
            raise refusals.slow(self.target, self.said, self._noise) from error

    @property
    def _noise(self) -> bytes:
        return self._preamble.noise if self._preamble else b""

    # ---- what the streams tell

    def received(self, data: bytes) -> None:
        """Take bytes from the far side: preamble first, frames then."""
        if self._ended:
            return
        try:
            if self._preamble is not None:
                found = self._preamble.feed(data)
                if found is None:
                    return
                self._preamble = None
                _settle(self._announced, found[0])
                data = found[1]
            self._unheard += len(data)
            for frame in self._decoder.feed(data):
                self._unheard = DRIP
                self._take(frame)
            if self._unheard >= DRIP:
                self._heard, self._unheard = time.monotonic(), 0
        except Exception as error:  # noqa: BLE001 - whatever a stranger's bytes set off ends this connection only
            self._violated(error)

    def _violated(self, error: Exception) -> None:
        said = printable(str(error))
        self.fail(ProtocolError(f"{self.target}: {said}. Is something else answering there?"))

    def _take(self, frame: wire.Frame) -> None:
        brought = False
        if frame.type == wire.PING:
            if self.writable_now.is_set():  # else they would pile up here
                self.send(wire.PONG)
        elif frame.type == wire.HELLO:
            if self._greeted.done():
                raise wire.ProtocolError("it said hello twice")
            self.hello = frame.header
            _settle(self._greeted, None)
            # The agent may speak first, and hears nothing before our hello. Its start was in the first
            # question's round trip; this one knows the clock better.
            if self.alive:
                self.ask()
        elif frame.type == wire.PONG:
            self.clock.answer(frame.header.get("time"))
        else:
            brought = self._on_frame(self, frame)
        if not brought:
            self._stray(len(frame.body))

    def _stray(self, size: int) -> None:
        """Count what brought nothing; raises ProtocolError for more of it than any agent sends."""
        self._strays[0] += 1
        self._strays[1] += size
        if self._strays[0] > STRAY_FRAMES or self._strays[1] > STRAY_BYTES:
            raise wire.ProtocolError("it floods us with what nobody asked for")

    def complained(self, data: bytes) -> None:
        """Keep the end of stderr, for error messages."""
        self.said.hear(data)
        if self.said.size > SAID_MAX and not self._ended:
            try:
                self._stray(len(data))
            except wire.ProtocolError as error:
                self._violated(error)

    def writable(self, free: bool) -> None:
        """Open or close the gate for uploads."""
        if free:
            self.writable_now.set()
        else:
            self.writable_now.clear()

    def lost(self, status: int | None) -> None:
        """Note the end of the streams, and tell the host once."""
        self._status = status
        self.fail(refusals.ended(self.target, status, self.said, self._noise))

    def fail(self, error: SSHTimingError) -> None:
        """End this connection for a reason of our own, and tell the host once."""
        if self._ended:
            return
        self._ended, self.error = True, error
        self.alive = False
        self.writable_now.set()
        for future in (self._announced, self._greeted):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting for this one any more
        self._on_lost(self)

    # ---- writing

    def send(self, kind: int, task: int = 0, header: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """Queue one frame. It leaves in this round of the loop, in one packet with the round's others."""
        frame = wire.encode(kind, task, header or {}, body)
        if len(frame) > WORTH_A_COPY:
            self._flush()
            self.write(frame)
            return
        self._put(frame, 0.0)

    def send_later(self, kind: int, task: int, header: dict[str, Any]) -> None:
        """Queue one frame that is in no hurry: a packet costs each end more than what is in it."""
        self._put(wire.encode(kind, task, header), LATER)

    def _put(self, frame: bytes, delay: float) -> None:
        self._outgoing.append(frame)
        if self._leaving is not None:
            if delay or self._hurries:
                return
            self._leaving.cancel()
        self._hurries = not delay
        loop = asyncio.get_running_loop()
        self._leaving = loop.call_later(delay, self._flush) if delay else loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send off what has come together."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        together, self._outgoing = self._outgoing, []
        if together:
            self.write(b"".join(together))

    def write(self, data: bytes) -> None:
        """Queue bytes; on a connection that has gone they are dropped, the loss says the rest."""
        if self._streams is None or self._ended:
            return
        with suppress(OSError):  # closing under us: `lost` is on its way
            self._streams.write(data)

    async def _ping(self) -> None:
        while not self._ended:
            await asyncio.sleep(self.target.ping)
            if time.monotonic() - self._heard > self.target.silence:
                self.fail(ConnectError(f"{self.target}: nothing was heard for {self.target.silence:g} s."))
                return
            self._strays = [0, 0]
            self.ask()

    def ask(self) -> None:
        """Ask for a sign of life, which brings the far clock's reading too."""
        self.clock.ask()
        self.send(wire.PING)

    async def close(self) -> None:
        """Let go of the connection; the far side goes on by itself."""
        self._flush()
        lost, self._ended = self._ended, True
        self.alive = False
        self.writable_now.set()
        if self._pinger is not None:
            self._pinger.cancel()
        if self._streams is not None:
            await self._streams.close(politely=not lost)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
