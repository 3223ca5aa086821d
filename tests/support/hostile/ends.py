"""Misbehaviours in what a task has come to: results, outcomes, lists, and texts that will be shown."""

from __future__ import annotations

import itertools
import json
import pickle

from covalent_sshtiming.remote import wire
from support.hostile.far import FACTS, NASTY, Far, Trap, misbehaves

# ---- results and outcomes


@misbehaves
async def over_cap_result(far: Far) -> None:
    """Announce a result over the cap, and send it for ever."""
    task = await far.task()
    await far.send(wire.RESULT, task, {"parts": [100, 100, 1 << 50]})
    while True:
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@misbehaves
async def longer_than_announced(far: Far) -> None:
    """Send more of a result than was announced, for ever."""
    task = await far.task()
    await far.send(wire.RESULT, task, {"parts": [10, 10, 10]})
    while True:
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@misbehaves
async def result_again_and_again(far: Far) -> None:
    """Announce and send a result for ever, and never end."""
    task = await far.task()
    while True:
        await far.send(wire.RESULT, task, {"parts": [0, 0, 1 << 16]})
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@misbehaves
async def senseless_sizes(far: Far) -> None:
    """Announce a result with sizes that are no sizes."""
    task = await far.task()
    await far.send(wire.RESULT, task, {"parts": [-1, True, "4"]})
    await far.outcome(task)
    await far.wait()


@misbehaves
async def outcome_before_accepted(far: Far) -> None:
    """Tell of a completed task that was never accepted, and has no result."""
    await far.outcome(await far.task(accept=False))
    await far.wait()


@misbehaves
async def pickled_outcome(far: Far) -> None:
    """Send a pickle where an outcome should be."""
    await far.send(wire.OUTCOME, await far.task(), None, pickle.dumps(Trap()))
    await far.wait()


@misbehaves
async def pickled_header(far: Far) -> None:
    """Send a pickle where a result's header should be."""
    task, trap = await far.task(), pickle.dumps(Trap())
    await far.send(wire.RESULT, task, {"parts": [len(trap), 0, 0]})
    await far.send(wire.DATA, task, None, trap)
    await far.outcome(task)
    await far.wait()


@misbehaves
async def pickled_result(far: Far) -> None:
    """Send a well-formed result whose pickle leaves a file where it is unpickled."""
    task, trap = await far.task(), pickle.dumps(Trap())
    versions = {"py_version": "3.11.0", "cloudpickle_version": "3"}
    header = json.dumps({**versions, "attrs": {"doc": NASTY, "name": "../../x"}}).encode()
    await far.send(wire.RESULT, task, {"parts": [len(header), 4, len(trap)]})
    await far.send(wire.DATA, task, None, header + b"text" + trap)
    await far.outcome(task)
    await far.wait()


@misbehaves
async def endless_list(far: Far) -> None:
    """Answer the question for tasks with a list that has no end."""
    await far.greet()
    task = (await far.frame(wire.LIST)).task
    numbers = itertools.count()
    while True:
        jobs = [{"key": f"{next(numbers):032x}", "state": "queued"} for _ in range(900)]
        await far.send(wire.LIST, task, None, json.dumps(jobs).encode())


@misbehaves
async def list_of_nothing(far: Far) -> None:
    """Answer the question for tasks with lists of empty lists, thirty times their size, for ever."""
    await far.greet()
    task = (await far.frame(wire.LIST)).task
    while True:
        await far.send(wire.LIST, task, None, b"[[" + b",".join([b"[]"] * 1000) + b"]]")


# ---- what is shown and written down


@misbehaves
async def steers_terminals(far: Far) -> None:
    """Fail with control characters in every text."""
    error = {"class": "TaskFailed", "text": NASTY * 500, "traceback": NASTY, "phase": NASTY}
    await far.outcome(await far.task(), status="failed", error=error, exit_signal=NASTY)
    await far.wait()


@misbehaves
async def refuses_with_a_novel(far: Far) -> None:
    """Refuse a task with fields that are too long, of the wrong type and full of control characters."""
    facts = {"text": NASTY * 200, "path": NASTY * 200, "errno": NASTY * 200, "free": 10**19}
    await far.greet()
    while True:
        submitted = await far.frame(wire.SUBMIT)
        await far.send(wire.REFUSED, submitted.task, facts)


@misbehaves
async def names_like_paths(far: Far) -> None:
    """Put paths and somebody else's names wherever a record has a field."""
    paths = ("record_id", "dispatch_id", "function", "host", "hostname", "kind", "schema", "timing_filepath")
    record = {**dict.fromkeys(paths, "../../../../etc/passwd"), "cpu_s": float(10**300), "node_id": -1}
    error = {"class": "../../TaskFailed", "text": "/etc/passwd"}
    await far.outcome(await far.task(), status="../../completed", record=record, error=error)
    await far.wait()


@misbehaves
async def enormous_hello(far: Far) -> None:
    """Say hello with as many facts as a frame holds, and fail."""
    await far.announce()
    await far.send(wire.HELLO, 0, {**FACTS, "hostname": NASTY * 600, "python": "9" * 5000, "cores": 10**19})
    frame = await far.frame(wire.SUBMIT, wire.ATTACH)
    await far.outcome(frame.task, status="failed", error={"class": "TaskFailed", "text": "here"})
    await far.wait()
