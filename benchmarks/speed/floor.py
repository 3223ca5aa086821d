"""The floor: a frame echoed on a warm channel, by a bare interpreter that forks once and waits for it.

And what stands on it: the least that calls a function in a process of its own. There the interpreter has
cloudpickle, and its fork loads the function from the frame, calls it and dumps the result. No disk, timing,
limits, cancel or supervisor: nothing that forks for each call can cost less.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import cloudpickle

from benchmarks.speed.stage import PYTHON, Stage
from covalent_sshtiming.host.channel import SSHStreams, open_channel
from covalent_sshtiming.host.dial import dial
from covalent_sshtiming.host.target import Target

FRAME = 1500  # bytes, about what a trivial task's request has

_TAKE = """
import os
def take(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or os._exit(0)
    return data
"""

_ECHO = f"""
{_TAKE}
while True:
    frame = take({FRAME})
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.wait4(pid, 0)
    os.write(1, frame)
"""

_CALL = f"""
{_TAKE}
import gc, pickle
import cloudpickle
gc.freeze()
while True:
    frame = take({FRAME})
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(sink, cloudpickle.dumps(pickle.loads(frame)()))
        os._exit(0)
    os.close(sink)
    result = os.read(source, 65536)
    os.close(source)
    os.wait4(pid, 0)
    os.write(1, result.ljust({FRAME}))
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

    def __init__(self, streams: SSHStreams, listener: _Listener, frame: bytes) -> None:
        self._streams = streams
        self._listener = listener
        self._frame = frame

    async def once(self) -> float:
        """Send a frame; return the seconds until it is back."""
        self._listener.missing = FRAME
        self._listener.whole = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self._streams.write(self._frame)
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
    """Open the channel to a bare fork."""
    async with _opened(stage, f"-S -c {shlex.quote(_ECHO)}", bytes(FRAME)) as found:
        yield found


@asynccontextmanager
async def least(stage: Stage, function: Callable[[], Any]) -> AsyncIterator[Floor]:
    """Open the channel to a fork that calls `function`."""
    frame = cloudpickle.dumps(function).ljust(FRAME)
    async with _opened(stage, f"-c {shlex.quote(_CALL)}", frame) as found:
        yield found


@asynccontextmanager
async def _opened(stage: Stage, words: str, frame: bytes) -> AsyncIterator[Floor]:
    connection = await dial(target(stage))
    listener = _Listener()
    streams = await open_channel(connection, f"exec {shlex.quote(sys.executable)} {words}", listener)
    try:
        yield Floor(streams, listener, frame)
    finally:
        await streams.close()
