"""Process: streams to a local child process, by its stdin, stdout and stderr.

Owns that process from its start to its end. What it runs is the caller's affair: the far program
itself, on this very machine, or a program that carries bytes to another one.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

from covalent_sshtiming.host.streams import Receiver

EXIT_SECONDS = 5.0


class _Protocol(asyncio.SubprocessProtocol):
    """The event loop's callbacks, turned into a receiver's."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._transport: asyncio.SubprocessTransport | None = None
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports, which the Covalent server has, are no subclasses of these.
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._receiver.complained(data)
        else:
            self._receiver.received(data)

    def pause_writing(self) -> None:
        self._receiver.writable(False)

    def resume_writing(self) -> None:
        self._receiver.writable(True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        status = self._transport.get_returncode() if self._transport else None
        self.ended.set()
        # A signal's negative number is no status that a program chose: the way to it has gone.
        self._receiver.lost(status if status is not None and status >= 0 else None)


class ProcessStreams:
    """A child process that carries our bytes."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        """Queue bytes for its stdin."""
        stdin = self._stdin()
        if stdin is not None and not stdin.is_closing():  # closed under us: uvloop's raises RuntimeError
            stdin.write(data)

    def _stdin(self) -> asyncio.WriteTransport | None:
        return cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))

    async def close(self, politely: bool = True) -> None:
        """Close its stdin and wait a little for its end; then, or without politeness, kill it."""
        stdin = self._stdin()
        if politely and stdin is not None:
            stdin.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._protocol.ended.wait(), EXIT_SECONDS)
        self._transport.close()  # which kills what still runs


async def open_process(
    argv: Sequence[str], receiver: Receiver, env: Mapping[str, str] | None = None
) -> ProcessStreams:
    """Start a program in a session of its own, so that a terminal's Ctrl-C is not for it.

    Args:
        argv: the program and its arguments; no shell reads them.
        receiver: who is told what it prints, and when it ends.
        env: its environment; by default ours.

    Raises:
        OSError: if it cannot be started.
    """
    transport, protocol = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Protocol(receiver),
        *argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env) if env is not None else None,
        start_new_session=True,
    )
    return ProcessStreams(transport, protocol)
