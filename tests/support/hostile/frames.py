"""Misbehaviours of the stream itself: noise, a wrong announcement, frames that are none, floods of them."""

from __future__ import annotations

import asyncio
import os
import pickle
import time

from covalent_sshtiming.remote import wire
from support.hostile.far import FACTS, HEAD, NASTY, Far, Trap, misbehaves

# ---- before the first frame


@misbehaves
async def endless_noise(far: Far) -> None:
    """Print for ever, and never announce anything."""
    while True:
        await far.write(b"welcome to evil! " * 4096)


@misbehaves
async def endless_complaint(far: Far) -> None:
    """Fill stderr for ever, with a task under way."""
    await far.task()
    while True:
        await far.complain(b"error! " * 8192)


@misbehaves
async def wrong_nonce(far: Far) -> None:
    """Announce with the nonce of another connection."""
    await far.announce(nonce="0" * 24)
    await far.send(wire.HELLO, 0, FACTS)
    await far.wait()


@misbehaves
async def announcement_without_end(far: Far) -> None:
    """Begin the announcement's line, and never end it."""
    await far.write(b"\0SSHTIMING/1 %s {" % far.facts["nonce"].encode())
    while True:
        await far.write(b" " * 4096)


@misbehaves
async def announcement_is_a_pickle(far: Far) -> None:
    """Announce with a pickle."""
    await far.write(b"\0SSHTIMING/1 %s " % far.facts["nonce"].encode() + pickle.dumps(Trap(), 0) + b"\n\n")
    await far.wait()


@misbehaves
async def says_nothing(far: Far) -> None:
    """Log in, and never say a byte."""
    await far.wait()


@misbehaves
async def drips_before(far: Far) -> None:
    """Say one byte a tenth of a second, and never announce anything."""
    while True:
        await far.write(b".")
        await asyncio.sleep(0.1)


@misbehaves
async def asks_again_for_the_archive(far: Far) -> None:
    """Ask for the archive on each connection, take it, and go."""
    await far.announce(archive="need")
    await asyncio.sleep(0.05)


@misbehaves
async def lies_about_python(far: Far) -> None:
    """Refuse with texts that steer terminals and are much too long."""
    await far.announce(refused="python_version", python=NASTY * 5, executable=NASTY * 20, text=NASTY)
    await far.wait()


# ---- frames that are none


@misbehaves
async def garbage_instead_of_frames(far: Far) -> None:
    """Announce, and go on in another language."""
    await far.announce()
    await far.write(os.urandom(1 << 16).replace(b"\x01", b"\x02"))
    await far.wait()


@misbehaves
async def version_lie(far: Far) -> None:
    """Send frames of another version."""
    await far.announce()
    await far.write(HEAD.pack(2, wire.HELLO, 2, 0, 0) + b"{}")
    await far.wait()


@misbehaves
async def lying_length(far: Far) -> None:
    """Announce a body of four gigabytes."""
    task = await far.task()
    await far.write(HEAD.pack(1, wire.DATA, 0, task, 0xFFFFFFFF))
    while True:
        await far.write(bytes(1 << 16))


@misbehaves
async def not_a_number(far: Far) -> None:
    """Send a header with NaN in it."""
    await far.send(wire.RESULT, await far.task(), b'{"parts":[0,0,NaN]}')
    await far.wait()


@misbehaves
async def endless_number(far: Far) -> None:
    """Send a number of sixty thousand digits."""
    await far.send(wire.RESULT, await far.task(), b'{"parts":[0,0,' + b"9" * 60_000 + b"]}")
    await far.wait()


@misbehaves
async def deep_json(far: Far) -> None:
    """Send a header that is nested thirteen thousand times."""
    await far.send(wire.STREAM, await far.task(), b'{"a":' * 13_000)
    await far.wait()


@misbehaves
async def closes_in_mid_frame(far: Far) -> None:
    """Begin a frame, and close."""
    task = await far.task()
    await far.write(HEAD.pack(1, wire.DATA, 0, task, 1000) + b"half")


@misbehaves
async def hello_twice(far: Far) -> None:
    """Say hello again and again, and read nothing any more."""
    await far.greet()
    while True:
        await far.send(wire.HELLO, 0, FACTS)


# ---- floods


@misbehaves
async def floods_stdout(far: Far) -> None:
    """Send output for ever, with offsets that rise."""
    task, offset = await far.task(), 0
    while True:
        await far.send(wire.STREAM, task, {"fd": 1, "offset": offset}, bytes(1 << 16))
        offset += 1 << 16


@misbehaves
async def floods_with_pings(far: Far) -> None:
    """Ping for ever, and read no answer."""
    await far.task()
    ping = HEAD.pack(1, wire.PING, 0, 0, 0)
    while True:
        await far.write(ping * 5000)


@misbehaves
async def floods_unknown_tasks(far: Far) -> None:
    """Send results of tasks that nobody has."""
    await far.task()
    number = 1000
    while True:
        number += 1
        await far.send(wire.DATA, number, None, bytes(1 << 16))


@misbehaves
async def floods_after_its_end(far: Far) -> None:
    """End a task, and go on sending to it; then end the next one properly."""
    task = await far.task()
    await far.outcome(task, status="failed", error={"class": "TaskFailed", "text": "first"})
    while True:
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@misbehaves
async def never_heard_of_it(far: Far) -> None:
    """Answer each submission with "unknown", so that it is sent again."""
    task = await far.task(accept=False)
    while True:
        await far.send(wire.UNKNOWN, task)


@misbehaves
async def breaks_each_connection(far: Far) -> None:
    """Print a line of output, so that something was brought, and send garbage; on each connection anew."""
    task = await far.task()
    await far.send(wire.STREAM, task, {"fd": 1, "offset": time.time_ns() // 1000}, b"news")
    await far.write(b"\xff" * 12)
    await far.wait()


@misbehaves
async def drips(far: Far) -> None:
    """Greet, accept, and then send one byte of a frame every tenth of a second."""
    task = await far.task()
    await far.write(HEAD.pack(1, wire.DATA, 0, task, 60_000))
    while True:
        await far.write(b".")
        await asyncio.sleep(0.1)


@misbehaves
async def deaf_to_a_cancel(far: Far) -> None:
    """Accept a task, answer signs of life, and do nothing else whatever is asked."""
    await far.task()
    while True:
        await far.frame(wire.PING)
        await far.send(wire.PONG)
