"""A session's first words: whatever the agent says first, and however it arrives."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.streams import Receiver
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.remote import wire

TARGET = Target(label="far", hostname="far", python="3.11")


class Wire:
    """Streams whose far side is the test: what was written, and a way to answer."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.sent = b""
        self.writes = 0

    def write(self, data: bytes) -> None:
        """Keep what is written."""
        self.sent += data
        self.writes += 1

    async def close(self, politely: bool = True) -> None:
        """Do nothing."""

    def frames(self) -> list[wire.Frame]:
        """Return what was written, as frames."""
        return list(wire.Decoder().feed(self.sent))


def announcement(command: str) -> bytes:
    """Return a doorman's announcement with the nonce of an exec command."""
    import base64
    import shlex

    params = json.loads(base64.b64decode(shlex.split(command)[-2]))
    return b"\0SSHTIMING/1 %s %s\n" % (params["nonce"].encode(), json.dumps({"archive": "have"}).encode())


async def opened(*, at_once: bool) -> tuple[Session, Wire]:
    """Open a session whose agent greets together with the announcement, or only after our hello."""
    wires: list[Wire] = []
    hello = wire.encode(wire.HELLO, 0, {"machine": "m", "time": time.time() - 1000})

    async def opener(command: str, receiver: Receiver) -> Any:
        wires.append(Wire(receiver))
        receiver.received(announcement(command) + (hello if at_once else b""))
        return wires[0]

    session = Session(TARGET, lambda _, __: False, lambda _: None)
    await session.open(opener, "c" * 32, 1)
    if not at_once:
        wires[0].receiver.received(hello)
    await asyncio.wait_for(session.greeted(), 5)
    return session, wires[0]


async def test_nothing_is_said_before_our_hello() -> None:
    """An agent that greets before our hello is out hears the hello first: it drops whoever says else."""
    session, streams = await opened(at_once=True)
    assert [frame.type for frame in streams.frames()] == [wire.HELLO, wire.PING]
    await session.close()


async def test_an_agent_that_greets_later_is_asked_for_its_clock_again() -> None:
    """A hello that comes after ours sets off a second question, without the agent's start in it."""
    session, streams = await opened(at_once=False)
    assert [frame.type for frame in streams.frames()] == [wire.HELLO, wire.PING, wire.PING]
    await session.close()


async def test_a_greeting_is_no_answer_to_a_question() -> None:
    """The clock in a hello was read before anybody asked: only pongs tell the offset."""
    session, streams = await opened(at_once=True)
    before = session.clock.offset
    assert before is None
    streams.receiver.received(wire.encode(wire.PONG, 0, {"time": time.time() + 50}))
    offset = session.clock.offset
    assert offset is not None
    assert abs(offset.seconds - 50) < 1
    await session.close()


async def test_frames_of_one_round_leave_in_one_packet() -> None:
    """What is sent in one round of the loop leaves together and in order, a large frame by itself."""
    session, far = await opened(at_once=True)
    await asyncio.sleep(0)
    before, writes = len(far.frames()), far.writes
    for number in (1, 2):
        session.send(wire.CANCEL, number)
    assert far.writes == writes
    session.send(wire.DATA, 3, body=bytes(wire.MAX_BODY))
    for number in (4, 5):
        session.send(wire.CANCEL, number)
    await asyncio.sleep(0)
    assert [frame.task for frame in far.frames()[before:]] == [1, 2, 3, 4, 5]
    assert far.writes == writes + 3
    await session.close()


async def test_what_is_in_no_hurry_waits_for_company() -> None:
    """An acknowledgement leaves with the next frame, by itself a moment later, or as the session closes."""
    session, far = await opened(at_once=True)
    await asyncio.sleep(0)
    writes = far.writes
    session.send_later(wire.ACK, 7, {"key": "0" * 32})
    await asyncio.sleep(0)
    assert far.writes == writes
    session.send(wire.CANCEL, 8)
    await asyncio.sleep(0)
    assert [frame.task for frame in far.frames()[-2:]] == [7, 8]
    assert far.writes == writes + 1
    session.send_later(wire.ACK, 9, {"key": "0" * 32})
    await asyncio.sleep(0.1)
    assert far.frames()[-1].task == 9
    session.send_later(wire.ACK, 10, {"key": "0" * 32})
    await session.close()
    assert far.frames()[-1].task == 10
