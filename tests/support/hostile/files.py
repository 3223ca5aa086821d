"""Misbehaviours in files that a machine sends: their names, sizes and sums, and how many there are."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import Any

from covalent_sshtiming.remote import wire
from support.hostile.far import NASTY, Far, misbehaves


async def _sends(far: Far, header: dict[str, Any], body: bytes = b"") -> None:
    """Send one whole file, or what claims to be one, and end the task."""
    task = await far.task()
    await far.send(
        wire.FILE, task, {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), **header}, body
    )
    await far.send(wire.FILE, task, {"end": True, "more": 0})
    await far.outcome(task, status="failed", error={"class": "TaskFailed", "text": "all sent"})
    await far.wait()


@misbehaves
async def file_goes_up(far: Far) -> None:
    """Send a file whose name leads out of its directory."""
    await _sends(far, {"name": "../../owned.h5"}, b"owned")


@misbehaves
async def file_is_absolute(far: Far) -> None:
    """Send a file with an absolute name."""
    await _sends(far, {"name": os.path.join(tempfile.gettempdir(), "owned.h5")}, b"owned")


@misbehaves
async def file_not_asked_for(far: Far) -> None:
    """Send a file that no pattern names."""
    await _sends(far, {"name": ".bashrc"}, b"owned")


@misbehaves
async def file_with_a_nasty_name(far: Far) -> None:
    """Tell of files that are left, with names, sizes and reasons that are none."""
    task = await far.task()
    reasons: tuple[object, ...] = (NASTY, None, {}, "max_bytes", "{max_bytes.__class__}", 7)
    for why in reasons:
        facts = {"name": f"../../{NASTY * 100}.h5", "size": 1 << 60, "left": why, "errno": 10**19}
        await far.send(wire.FILE, task, facts)
    await far.send(wire.FILE, task, {"end": NASTY, "more": NASTY, "broken": NASTY})
    await far.outcome(task, status="failed", error={"class": "TaskFailed", "text": "all told"})
    await far.wait()


@misbehaves
async def file_with_another_checksum(far: Far) -> None:
    """Send a file whose content is not what its SHA-256 says."""
    await _sends(far, {"name": "wrong.h5", "sha256": hashlib.sha256(b"right").hexdigest()}, b"wrong")


@misbehaves
async def file_with_no_checksum(far: Far) -> None:
    """Send a file whose SHA-256 is something else."""
    await _sends(far, {"name": "wrong.h5", "sha256": [NASTY]}, b"wrong")


@misbehaves
async def file_shorter_than_announced(far: Far) -> None:
    """Send less of a file than was announced, and say that it is whole."""
    await _sends(far, {"name": "short.h5", "size": 1000}, b"short")


@misbehaves
async def file_longer_than_announced(far: Far) -> None:
    """Send more of a file than was announced, for ever."""
    task = await far.task()
    await far.send(wire.FILE, task, {"name": "long.h5", "size": 100})
    while True:
        await far.send(wire.FILE, task, None, bytes(1 << 16))


@misbehaves
async def file_without_end(far: Far) -> None:
    """Announce a file of an exabyte, and send it."""
    task = await far.task()
    await far.send(wire.FILE, task, {"name": "endless.h5", "size": 1 << 60})
    while True:
        await far.send(wire.FILE, task, None, bytes(1 << 16))


@misbehaves
async def files_without_end(far: Far) -> None:
    """Send one small file after the other, for ever."""
    task, number = await far.task(), 0
    facts = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    while True:
        number += 1
        await far.send(wire.FILE, task, {**facts, "name": f"{number}.h5"})


@misbehaves
async def files_left_without_end(far: Far) -> None:
    """Tell of files that are left there, for ever."""
    task, number = await far.task(), 0
    while True:
        number += 1
        await far.send(wire.FILE, task, {"name": f"{number}.h5", "size": 0, "left": "link"})


@misbehaves
async def bytes_of_no_file(far: Far) -> None:
    """Send bytes of a file that was never announced."""
    task = await far.task()
    while True:
        await far.send(wire.FILE, task, None, bytes(1 << 16))


@misbehaves
async def file_in_a_file(far: Far) -> None:
    """Announce a file in the middle of another."""
    task = await far.task()
    for name in ("a.h5", "b.h5"):
        await far.send(wire.FILE, task, {"name": name, "size": 100}, b"half")
    await far.wait()
