"""The floor: a frame echoed on a warm channel, by a bare interpreter that forks once and waits for it."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.speed.stage import PYTHON, Stage
from covalent_sshtiming.host.channel import SSHStreams, open_channel
from covalent_sshtiming.host.dial import dial
from covalent_sshtiming.host.target import Target

FRAME = 1500  # bytes, about what a trivial task's request has

_ECHO = f"""
import os
def take(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or os._exit(0)
    return data
while True:
    frame = take({FRAME})
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.wait4(pid, 0)
    os.write(1, frame)
"""


class _Listener:
    """What hears of the echo."""

    def __init__(self) -> None:
        self.missing = 0
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing <= 0 and not self.whole.done():
            self.whole.set_result(None)

    def complained(self, data: bytes) -> None:
        raise RuntimeError(data.decode(errors="replace"))

    def writable(self, free: bool) -> None:
        """Nothing: a frame always fits."""

    def lost(self, status: int | None) -> None:
        """Nothing: the end is ours."""


class Floor:
    """A channel that echoes."""

    def __init__(self, streams: SSHStreams, listener: _Listener) -> None:
        self._streams = streams
        self._listener = listener

    async def once(self) -> float:
        """Send a frame; return the seconds until it is back."""
        self._listener.missing = FRAME
        self._listener.whole = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self._streams.write(bytes(FRAME))
        await self._listener.whole
        return time.perf_counter() - start


def target(stage: Stage) -> Target:
    """Return the way to the stage's server that the executor takes too."""
    settings = stage.server.settings()
    return Target(
        "floor",
        stage.server.host,
        PYTHON,
        port=int(settings["port"]),
        username=str(settings["username"]),
        key_file=str(settings["ssh_key_file"]),
        known_hosts_file=str(settings["known_hosts_file"]),
    )


@asynccontextmanager
async def floor(stage: Stage) -> AsyncIterator[Floor]:
    """Open the channel."""
    connection = await dial(target(stage))
    listener = _Listener()
    command = f"exec {shlex.quote(sys.executable)} -S -c {shlex.quote(_ECHO)}"
    streams = await open_channel(connection, command, listener)
    try:
        yield Floor(streams, listener)
    finally:
        await streams.close()
