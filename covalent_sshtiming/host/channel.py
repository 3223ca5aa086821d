"""Channel: streams over one asyncssh channel, on a connection that it owns."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncssh

from covalent_sshtiming.host.streams import Receiver

# Bytes that may be under way to us before we take them: at least, at most, and for an unknown round trip.
WINDOW_LEAST, WINDOW_MOST, WINDOW_UNKNOWN = 1 << 20, 8 << 20, 4 << 20
PACE = 1 << 30  # bytes a second that the window leaves room for
PACKET = 128 * 1024
NEAR = 0.001  # seconds of a round trip
RECEIVE = 128 * 1024  # bytes that the kernel keeps for us of a near machine; Linux doubles that, for its own
DISCONNECT_SECONDS = 5.0
_RTT_AT = 148  # where Linux's tcp_info has tcpi_min_rtt, four bytes of microseconds
CARRIER = "carrier"  # a connection's extra info: the jump host's connection, or the ProxyCommand, below it
_NO_SOCKET = (OSError, ValueError)  # of one that is no TCP, or closed under us: the latter is uvloop's


class _Session(asyncssh.SSHClientSession[bytes]):
    """The callbacks of one channel, turned into a receiver's."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._status: int | None = None

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self._receiver.complained(data)
        else:
            self._receiver.received(data)

    def pause_writing(self) -> None:
        self._receiver.writable(False)

    def resume_writing(self) -> None:
        self._receiver.writable(True)

    def exit_status_received(self, status: int) -> None:
        self._status = status

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.lost(self._status if exc is None else None)


class SSHStreams:
    """A channel on an asyncssh connection that it owns."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, channel: asyncssh.SSHClientChannel[Any]
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._socket = _tcp_socket(connection)

    def write(self, data: bytes) -> None:
        """Queue bytes for the doorman's stdin."""
        with _as_one(self._socket):
            self._channel.write(data)

    async def close(self, politely: bool = True) -> None:
        """Close the connection; by force if it is known to be dead, or if the other end does not answer."""
        if politely:
            self._connection.close()
            try:
                await asyncio.wait_for(self._connection.wait_closed(), DISCONNECT_SECONDS)
            except asyncio.TimeoutError:
                self._connection.abort()
        else:
            self._connection.abort()
        carrier = self._connection.get_extra_info(CARRIER)
        while carrier is not None:  # jump hosts and a ProxyCommand, which go with what they carry
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(carrier.wait_closed(), DISCONNECT_SECONDS)
            carrier = carrier.get_extra_info(CARRIER)


async def open_channel(
    connection: asyncssh.SSHClientConnection, command: str, receiver: Receiver
) -> SSHStreams:
    """Start `command` over a connection; bytes both ways, no terminal."""
    round_trip = _round_trip(connection)
    _take_little_at_once(connection, round_trip)
    opening = asyncio.ensure_future(
        connection.create_session(
            lambda: _Session(receiver),
            command,
            env={},  # what the ssh config would set or send is not for us
            send_env=[],
            encoding=None,
            window=window_for(round_trip),
            max_pktsize=PACKET,
        )
    )
    try:
        await asyncio.sleep(0)  # the open is out
        # sshd holds its second small answer back until its first is acknowledged, which can take 40 ms.
        _acknowledge_at_once(connection)
        channel, _session = await opening
    finally:
        opening.cancel()  # does nothing if it is done
    return SSHStreams(connection, channel)


def _tcp_socket(connection: asyncssh.SSHClientConnection) -> Any:
    """Return the connection's own socket; None where a jump host or a ProxyCommand carries it."""
    return None if connection.get_extra_info(CARRIER) is not None else connection.get_extra_info("socket")


@contextmanager
def _as_one(sock: Any) -> Iterator[None]:
    """Have what is written meanwhile leave together, where the kernel has such an option.

    asyncssh puts an empty packet before each of its own, and the loop writes each at once, which would wake
    sshd twice for each of our frames.
    """
    if sock is None or not hasattr(socket, "TCP_CORK"):
        yield
        return
    try:
        _cork(sock, 1)
        yield
    finally:
        _cork(sock, 0)


def _cork(sock: Any, on: int) -> None:
    with suppress(*_NO_SOCKET):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)


def window_for(round_trip: float | None) -> int:
    """Return a channel's window for a round trip of so many seconds, in bytes.

    What a link does not hold lies about on the way. A small task's answer waits behind it, and the event
    loop takes all of it in one step: 20 ms for 4 MiB.
    """
    if round_trip is None:
        return WINDOW_UNKNOWN
    return min(WINDOW_MOST, max(WINDOW_LEAST, int(round_trip * PACE)))


def _take_little_at_once(connection: asyncssh.SSHClientConnection, round_trip: float | None) -> None:
    """Keep the kernel from piling up what a near machine sends.

    uvloop goes on reading, up to 8 MB in one turn of the loop, for as long as a read fills its 256,000 bytes:
    nobody else had a turn for 20 to 100 ms. So much a millisecond is more than we can take anyway; a far
    machine's bytes come slowly, and need the room.
    """
    sock = _tcp_socket(connection)
    if sock is not None and round_trip is not None and round_trip <= NEAR:
        with suppress(*_NO_SOCKET):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE)


def _round_trip(connection: asyncssh.SSHClientConnection) -> float | None:
    """Return the shortest one that the kernel has seen, `tcpi_min_rtt` of TCP_INFO, in seconds; or None."""
    sock = _tcp_socket(connection)
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_AT + 4)
    except _NO_SOCKET:
        return None
    return int.from_bytes(told[_RTT_AT:], sys.byteorder) / 1e6 if len(told) == _RTT_AT + 4 else None


def _acknowledge_at_once(connection: asyncssh.SSHClientConnection) -> None:
    """Have the kernel acknowledge what comes next without delay, where it has such an option."""
    sock = connection.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        with suppress(*_NO_SOCKET):  # a jump host's channel, a pipe of a ProxyCommand
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
