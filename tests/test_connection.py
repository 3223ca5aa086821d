"""A client's connection as the agent holds it: which answers wait for others, and for how long."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from covalent_sshtiming.remote import wire
from covalent_sshtiming.remote.connection import HOLD_SECONDS, Connection


class Client:
    """A connection, and its other end."""

    def __init__(self) -> None:
        self._link, far = socket.socketpair()
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        reading, self._own = os.pipe()
        self.connection = Connection(far, reading, writing)
        self._decoder = wire.Decoder()

    def heard(self) -> list[wire.Frame]:
        """Return the frames that have come."""
        try:
            return list(self._decoder.feed(os.read(self.reading, 1 << 16)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Let go of both ends."""
        self.connection.close()
        self._link.close()
        for handle in (self.reading, self._own):
            os.close(handle)


@pytest.fixture
def client() -> Iterator[Client]:
    """Return a connected client."""
    made = Client()
    yield made
    made.close()


def test_a_held_answer_goes_with_the_next_frame(client: Client) -> None:
    """It comes before that frame, and says how long ago it was."""
    client.connection.hold(wire.ACCEPTED, 5)
    client.connection.write()
    assert client.connection.holds
    assert client.heard() == []
    client.connection.send(wire.PING)
    client.connection.write()
    held, other = client.heard()
    assert (held.type, held.task, other.type) == (wire.ACCEPTED, 5, wire.PING)
    assert 0 <= held.header["ago"] < 1
    assert not client.connection.holds


def test_a_held_answer_goes_with_a_delivery(client: Client) -> None:
    """A task that ends at once has its acceptance in the packet of its outcome, and before it."""
    client.connection.hold(wire.ACCEPTED, 5)
    client.connection.download(iter([wire.encode(wire.OUTCOME, 5, body=b"{}")]))
    client.connection.write()
    assert [frame.type for frame in client.heard()] == [wire.ACCEPTED, wire.OUTCOME]


def test_a_held_answer_does_not_wait_for_long(client: Client) -> None:
    """Without company it goes by itself."""
    client.connection.hold(wire.ACK, 6)
    time.sleep(HOLD_SECONDS)
    client.connection.write()
    (held,) = client.heard()
    assert (held.type, held.task) == (wire.ACK, 6)
    assert held.header["ago"] >= HOLD_SECONDS
