"""The channel: its window, as much as the link holds; and what a write does where the other end has gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop  # the Covalent server's
from support.faults import known_through
from support.login import authorize
from support.proxy import Proxy

from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.host.channel import RECEIVE, open_channel, window_for
from covalent_sshtiming.host.dial import dial
from covalent_sshtiming.host.process import open_process
from covalent_sshtiming.host.streams import Streams
from covalent_sshtiming.host.target import Target

MIB = 1 << 20


class Deaf:
    """A receiver that wants nothing."""

    def received(self, data: bytes) -> None:
        """Nothing."""

    complained = received

    def writable(self, free: bool) -> None:
        """Nothing."""

    def lost(self, status: int | None) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("round_trip", "window"),
    [(0.0, MIB), (0.0002, MIB), (0.002, int(2.048 * MIB)), (0.1, 8 * MIB), (None, 4 * MIB)],
)
def test_the_window_is_what_the_link_holds(round_trip: float | None, window: int) -> None:
    """A near machine has a small window, a far one a large one, one of an unknown distance the middle."""
    assert window_for(round_trip) == pytest.approx(window, rel=0.001)


def way(server: SSHServer, known: Path, hop: SSHServer | None = None) -> Target:
    """Return the way to a server, which may be through another one."""
    return Target(
        "far",
        server.host,
        "3.11",
        port=server.port,
        username=server.username,
        key_file=str(server.key_file),
        known_hosts_file=str(known),
        proxy_jump=f"{hop.username}@{hop.host}:{hop.port}" if hop else None,
    )


async def test_the_round_trip_is_the_connections_own(sshd: SSHServer, tmp_path: Path) -> None:
    """The loopback is near; how far a machine behind a jump host is, the kernel cannot know.

    Of a near one no more piles up here than one read takes.
    """
    known = tmp_path / "known_hosts"
    with ssh_server(tmp_path / "hop", kind="openssh") as hop:
        authorize(hop, sshd)
        known.write_text(sshd.known_hosts_file.read_text() + hop.known_hosts_file.read_text())
        for target, window in ((way(sshd, known), MIB), (way(sshd, known, hop), 4 * MIB)):
            connection = await dial(target)
            sock = connection.get_extra_info("socket")
            left = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            streams = await open_channel(connection, "exec sleep 60", Deaf())
            try:
                assert streams._channel.get_recv_window() == window
                kept = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                assert kept == (2 * RECEIVE if target.proxy_jump is None else left)
            finally:
                await streams.close()


class Ear(Deaf):
    """A receiver that notes the end."""

    def __init__(self) -> None:
        self.ends: list[int | None] = []

    def lost(self, status: int | None) -> None:
        """Note it."""
        self.ends.append(status)


def turn(loop: asyncio.AbstractEventLoop, act: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop, to the loop's end."""
    try:
        loop.run_until_complete(act)
    finally:
        loop.close()


async def write_until_lost(streams: Streams, ear: Ear) -> None:
    """Write in every turn of the loop until the end is told."""
    while not ear.ends:
        with suppress(OSError):
            streams.write(b"x")
        await asyncio.sleep(0)
    await streams.close(politely=False)


on_either_loop = pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.Loop])


@on_either_loop
def test_a_write_to_a_link_that_breaks_raises_no_more_than_oserror(
    loop: Any, sshd: SSHServer, tmp_path: Path
) -> None:
    """It raises that or nothing, also in the turn between the socket's end and the news."""

    async def act() -> None:
        async with Proxy(sshd.host, sshd.port) as proxy:
            target = replace(way(sshd, known_through(proxy, sshd, tmp_path)), port=proxy.port)
            ear = Ear()
            streams = await open_channel(await dial(target), "exec sleep 60", ear)
            proxy.reset()
            await write_until_lost(streams, ear)

    turn(loop(), act())


@on_either_loop
def test_a_write_to_a_process_that_ends_raises_no_more_than_oserror(loop: Any) -> None:
    """It raises that or nothing, also between the pipe's end and the news."""

    async def act() -> None:
        ear = Ear()
        await write_until_lost(await open_process(["sleep", "0.2"], ear), ear)

    turn(loop(), act())
