"""Slots: how many tasks a machine runs at once, whoever sends them."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import executor_settings
from support import direct, farside
from support.clients import dispatch_script
from support.farside import FarSide, Line, new_key
from support.naps import most_at_once, nap, spans_of, submit
from support.there import begun

from covalent_sshtiming.demo.dispatcher import dispatcher
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.remote import crew, supervisor

CORES = len(os.sched_getaffinity(0))


# ---- two dispatchers


def test_two_clients_keep_to_max_parallel(place: Path) -> None:
    """Two clients' tasks are never more than max_parallel at once, nor after a link or the agent broke."""
    clients = (new_key(), new_key())
    with FarSide(place) as far:
        with far.line(clients[0], 1) as first, far.line(clients[1], 1) as second:
            lines = (first, second)
            keys = [submit(line, 5, 0.25, str(line.doorman.pid), max_parallel=2) for line in lines]
            far.started(keys[1][0])
            first.close()
            with far.line(clients[0], 2) as again:
                attach(again, keys[0])
                time.sleep(0.3)
            far.kill_agent()
        with far.line(clients[0], 3) as first, far.line(clients[1], 3) as second:
            for line, some in zip((first, second), keys, strict=True):
                attach(line, some)
            spans = [*spans_of(first, keys[0]), *spans_of(second, keys[1])]
    assert most_at_once(spans) == 2


def attach(line: Line, keys: Sequence[str]) -> None:
    """Ask for tasks that are there."""
    for key in keys:
        line.attach(key)


FAN_OUT = """
import json, sys, time
import covalent as ct

@ct.electron(executor="sshtiming")
def nap(number):
    import time
    begun = time.monotonic()
    time.sleep(1.0)
    return begun, time.monotonic()

@ct.lattice
def workflow(count):
    return [nap(number) for number in range(count)]

result = ct.get_result(ct.dispatch(workflow)(int(sys.argv[1])), wait=True)
print(json.dumps({"status": str(result.status), "spans": result.result}))
"""


@pytest.mark.soak
@pytest.mark.timeout(400)
async def test_two_covalent_servers_keep_to_max_parallel(
    sshd: SSHServer, place: Path, tmp_path: Path
) -> None:
    """Two Covalent servers with max_parallel = 2 never run more than two tasks at once, nor after a kill."""
    table = {**executor_settings(sshd, place / "spool"), "max_parallel": 2}
    with (
        dispatcher(tmp_path / "one", executors={"sshtiming": table}) as one,
        dispatcher(tmp_path / "two", executors={"sshtiming": table}) as two,
    ):
        told = asyncio.gather(
            *(asyncio.to_thread(dispatch_script, server, FAN_OUT, "10", timeout=300) for server in (one, two))
        )
        started = functools.partial(begun, place / "spool")
        await asyncio.to_thread(farside.until, started, "a task")
        await asyncio.sleep(2)
        for agent in direct.agents(place / "spool"):  # and with it both connections
            os.kill(agent, signal.SIGKILL)
        answers = await told
    direct.end_agents(place / "spool")
    spans = [tuple(span) for answer in answers for span in answer["spans"]]
    print(f"two Covalent servers, {len(spans)} tasks, an agent killed: {most_at_once(spans)} at once at most")
    assert [answer["status"] for answer in answers] == ["COMPLETED"] * 2
    assert (len(spans), most_at_once(spans)) == (20, 2)


# ---- several CPUs for a task


def test_a_wide_task_is_not_overtaken_for_ever(place: Path) -> None:
    """One that takes all CPUs runs alone, and comes soon although many of one CPU each were there before."""
    with FarSide(place) as far, far.line() as line:
        narrow = submit(line, CORES + 12, 0.1, "narrow")
        wide = submit(line, 2, 0.1, "wide", cpus_per_task=CORES)
        spans = spans_of(line, [*narrow, *wide])
    small, large = spans[:-2], spans[-2:]
    for start, end in large:
        assert not [span for span in [*small, *large] if start < span[0] < end or start < span[1] < end]
    before = [span for span in small if span[0] < large[0][0]]
    assert len(before) <= 2 * CORES
    assert most_at_once(small) == CORES


def test_a_task_of_another_need_is_not_held_up(place: Path) -> None:
    """A task that waits for a device lets those of its dispatch that need none start."""
    with FarSide(place) as far, far.line() as line:
        holders = submit(line, 2, 0.5, "d", max_parallel=4, slot_env={"DEVICE": ["only"]})
        free = submit(line, 1, 0.0, "d", max_parallel=4)
        first, second, other = spans_of(line, [*holders, *free])
    assert first[1] <= second[0]
    assert other[1] < first[1]


def test_two_agents_with_wide_tasks_do_not_block_each_other(place: Path) -> None:
    """Two agents of one user share the slots; tasks of all CPUs of both come to their end, one at a time."""
    with FarSide(place) as far:
        other = FarSide(place)
        other.target = replace(far.target, cache=str(place / "other"))  # another archive, another agent
        with far.line() as first, other.line() as second:
            keys = [submit(line, 4, 0.05, "wide", cpus_per_task=CORES) for line in (first, second)]
            keys = [[*keys[0], *submit(first, 4, 0.05, "one")], [*keys[1], *submit(second, 4, 0.05, "one")]]
            spans = [spans_of(first, keys[0]), spans_of(second, keys[1])]
            assert len(direct.agents(far.spool)) == 2
    wide = [*spans[0][:4], *spans[1][:4]]
    assert most_at_once(wide) == 1
    assert most_at_once([*spans[0], *spans[1]]) <= CORES


def test_more_cpus_than_there_are_is_refused(place: Path) -> None:
    """A task that asks for more CPUs than there are ends at once, and the text says how many there are."""
    with FarSide(place) as far, far.line() as line:
        line.submit(new_key(), nap, 0.0, cpus_per_task=CORES + 1)
        ended = line.outcome().ended
    assert ended["status"] == "failed"
    text = f"needs {CORES + 1} CPUs (cpus_per_task), and there are {CORES}; ask for fewer"
    assert ended["error"] == {"class": "RemoteEnvError", "text": text, "phase": "queue"}


async def test_a_refusal_is_a_sentence_and_has_a_record(place: Path) -> None:
    """What never started is our own error with the machine's name, and a failed record."""
    async with direct.here(place, cpus_per_task=CORES + 1) as machine:
        ran = await machine.run(nap, 0.0)
        (record,) = machine.records()
    assert str(ran.error) == (
        f"localhost: nap needs {CORES + 1} CPUs (cpus_per_task), and there are {CORES}; ask for fewer."
    )
    assert type(ran.error).__name__ == "RemoteEnvError"
    assert (record["status"], record["error_type"]) == ("failed", "RemoteEnvError")


def test_an_order_may_hold_more_locks_than_fit_a_message() -> None:
    """A task of 600 CPUs has 600 descriptors, which the kernel passes on in several messages."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as one:
        handles = [os.dup(one.fileno()) for _ in range(600)]
        assert crew._deliver(ours, {"key": "k"}, handles)
        for handle in handles:
            os.close(handle)
        order = supervisor._receive(theirs)
        assert order is not None
        assert (order["key"], len(set(order["handles"]))) == ("k", 600)
        for handle in order["handles"]:
            os.close(handle)


def test_a_spool_that_was_tidied_up_has_slots_again(place: Path) -> None:
    """A task whose directory of slots is gone gets one of a new directory, and does not wait for ever."""
    with FarSide(place) as far, far.line() as line:
        assert len(spans_of(line, submit(line, 1, 0.0, "d"))) == 1
        shutil.rmtree(far.spool / "slots")
        assert len(spans_of(line, submit(line, 1, 0.0, "d"))) == 1
        shutil.rmtree(far.spool / "slots")
        (far.spool / "slots").symlink_to("nowhere")
        line.submit(new_key(), nap, 0.0)
        error = line.outcome().ended["error"]
    assert error["text"].startswith(f"cannot have a slot there: {far.spool}/slots: not a directory")


def test_as_many_as_there_are_is_no_list(place: Path) -> None:
    """A max_parallel beyond all measure is none, and costs the agent nothing."""
    with FarSide(place) as far, far.line() as line:
        spans = spans_of(line, submit(line, 6, 0.2, "d", max_parallel=2**53))
        (agent,) = direct.agents(far.spool)
        assert psutil.Process(agent).memory_info().rss < 60 << 20
    assert most_at_once(spans) == 6


def test_who_waits_for_a_slot_can_be_cancelled(place: Path) -> None:
    """A cancelled task leaves the queue of its need, and those behind it go on."""
    head = {"max_parallel": 4, "slot_env": {"DEVICE": ["only"]}}
    with FarSide(place) as far, far.line() as line:
        first, second, third = submit(line, 3, 0.4, "d", **head)
        far.started(first)
        line.cancel(second)
        ended = {
            key: told.status
            for key, told in zip([first, second, third], line.outcomes([first, second, third]), strict=True)
        }
    assert list(ended.values()) == ["completed", "cancelled", "completed"]
