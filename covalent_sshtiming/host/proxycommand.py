"""A ProxyCommand of the ssh configuration: a local program whose stdin and stdout lead to the SSH server.

Run by a shell as `ssh` would, over a socket pair, and not by asyncssh: that one knows no shell, and takes
what the program writes to stderr for the SSH server's words.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress

from covalent_sshtiming.host.bootstrap import printable

STDERR_MAX = 8 * 1024
EXIT_SECONDS = 2.0


class ProxyCommand:
    """A running ProxyCommand; closed with the connection that it carries.

    `said` is the end of what it wrote to stderr, for the text of an error.
    """

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self.sock = sock
        self._process = process
        self._stderr = bytearray()
        self._reader = asyncio.ensure_future(self._read())
        self._closing: asyncio.Future[None] | None = None

    @property
    def said(self) -> str:
        """Return the end of what it wrote to stderr, as one printable line."""
        return printable(bytes(self._stderr))

    async def _read(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (data := await stderr.read(4096)):
            self._stderr = (self._stderr + data)[-STDERR_MAX:]

    def get_extra_info(self, name: str) -> None:
        """Say that nothing carries this; asyncssh's connections have a method of that name."""

    def close(self) -> None:
        """Begin to end it; asyncssh calls this when the connection has gone."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end())

    async def wait_closed(self) -> None:
        """Wait until it has ended."""
        self.close()
        if self._closing is not None:
            await self._closing

    async def _end(self) -> None:
        self.sock.close()
        with suppress(asyncio.TimeoutError):  # its stdin has ended: most leave by themselves
            await asyncio.wait_for(self._process.wait(), EXIT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        with suppress(asyncio.TimeoutError):  # somebody else may hold its stderr
            await asyncio.wait_for(self._reader, EXIT_SECONDS)


async def start(command: str) -> ProxyCommand:
    """Start a ProxyCommand in a session of its own, so that it cannot ask anybody.

    Raises:
        OSError: if there is no shell, or no room for another process.
    """
    ours, theirs = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            f"exec {command}",
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ProxyCommand(process, ours)
