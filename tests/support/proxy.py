"""A TCP proxy on loopback that makes a link slow, silent or broken, and counts connections.

Everything can be changed while it runs, from any thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_CHUNK = 65536
_QUEUE = 256  # chunks under way in one direction, so that latency does not limit throughput


@dataclass
class Direction:
    """One direction of the link.

    Attributes:
        latency: seconds that each byte is under way.
        bandwidth: bytes a second, or None for no limit.
        chunk: most bytes forwarded in one piece.
        cut_after: the link breaks, once, when this many bytes in all have gone through.
        swallow: nothing arrives any more, and what is sent meanwhile never will: a half-open link.
        count: how many bytes have gone through.
    """

    latency: float = 0.0
    bandwidth: float | None = None
    chunk: int = _CHUNK
    cut_after: int | None = None
    swallow: bool = False
    count: int = 0

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of this goes through, and whether the link breaks after it."""
        left = len(data) if self.cut_after is None else self.cut_after - self.count
        cut = left < len(data) or (self.cut_after is not None and left == len(data))
        data = data[: max(left, 0)]
        self.count += len(data)
        if cut:
            self.cut_after = None
        return data, cut


class Proxy:
    """An asynchronous context manager; `port` is where it listens.

    Attributes:
        up: from the client to the server.
        down: from the server to the client.
        connections: how many were accepted so far.
        cut_with: what breaking does: "reset" (RST), "close" (FIN) or "blackhole" (silence).
        refuse: new connections are reset at once.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = 0
        self.up = Direction()
        self.down = Direction()
        self.connections = 0
        self.cut_with = "reset"
        self.refuse = False
        self._links: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def reset(self) -> None:
        """Break every connection with a RST."""
        self._loop.call_soon_threadsafe(self._break_all, "reset")

    def close(self) -> None:
        """End every connection with a FIN."""
        self._loop.call_soon_threadsafe(self._break_all, "close")

    def blackhole(self, silent: bool = True) -> None:
        """Let nothing through any more, with every connection open; or let it through again."""
        act = self._flowing.clear if silent else self._flowing.set
        self._loop.call_soon_threadsafe(act)

    async def __aenter__(self) -> Proxy:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._break_all("reset")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        if self.refuse:
            _end(writer, "reset")
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _end(writer, "reset")
            return
        with suppress(asyncio.CancelledError):  # by `__aexit__`, and this is the task's end anyway
            await self._join((writer, far_writer), reader, far_reader)

    async def _join(
        self,
        link: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        reader: asyncio.StreamReader,
        far_reader: asyncio.StreamReader,
    ) -> None:
        self._links.add(link)
        near, far = link
        try:
            await asyncio.gather(
                self._pump(reader, far, self.up, link), self._pump(far_reader, near, self.down, link)
            )
        finally:
            self._break(link, "close")

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        link: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)
        reading = asyncio.create_task(self._read(reader, queue, direction))
        with suppress(OSError):
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0, due - self._loop.time()))
                await self._flowing.wait()
                if direction.swallow and data:
                    continue
                if writer.is_closing():  # the link was broken meanwhile
                    break
                data, cut = direction.take(data) if data else (data, False)
                writer.write(data)
                await writer.drain()
                if cut:
                    self._cut(link)
                if not data:
                    writer.write_eof()
                    break
        reading.cancel()

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        data = b"-"
        while data:
            await self._flowing.wait()
            try:
                data = await reader.read(direction.chunk)
            except OSError:
                data = b""
            await queue.put((self._loop.time() + direction.latency, data))
            if direction.bandwidth:
                await asyncio.sleep(len(data) / direction.bandwidth)

    def _cut(self, link: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        if self.cut_with == "blackhole":
            self._flowing.clear()
        else:
            self._break(link, self.cut_with)

    def _break_all(self, how: str) -> None:
        for link in list(self._links):
            self._break(link, how)

    def _break(self, link: tuple[asyncio.StreamWriter, asyncio.StreamWriter], how: str) -> None:
        self._links.discard(link)
        for writer in link:
            _end(writer, how)


def _end(writer: asyncio.StreamWriter, how: str) -> None:
    if writer.is_closing():
        return
    if how == "reset":
        raw: Any = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


@contextmanager
def threaded_proxy(host: str, port: int) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own, for tests that are not asynchronous."""
    ready: list[Proxy] = []
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with Proxy(host, port) as proxy:
            ready.append(proxy)
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield ready[0]
    finally:
        ended.set()
        thread.join()
