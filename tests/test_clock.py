"""The far clock against ours: what a session's questions and answers tell of it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest
from support import direct
from support.faults import noting, runs, until

from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.host.clock import Clock
from covalent_sshtiming.visit import job_of


def test_an_answer_gives_the_offset_within_its_error() -> None:
    """A clock that is 100 s ahead is found to be so, within half the round trip."""
    clock = Clock()
    clock.ask()
    time.sleep(0.02)
    far = time.time() + 100
    time.sleep(0.01)
    clock.answer(far)
    assert clock.offset is not None
    assert 0.015 <= clock.offset.error < 0.5
    assert abs(clock.offset.seconds - 100) <= clock.offset.error


def test_the_quickest_answer_counts() -> None:
    """A slow round trip, such as that of a hello which had to start the agent, does not spoil a quick one."""
    clock = Clock()
    for wait in (0.05, 0.0, 0.03):
        clock.ask()
        time.sleep(wait)
        clock.answer(time.time() - 5)
    assert clock.offset is not None
    assert clock.offset.error < 0.015
    assert abs(clock.offset.seconds + 5) <= clock.offset.error + 0.001


@pytest.mark.parametrize("far", [None, "now", True, float("nan"), float("inf"), 1e300, [1], 10**400])
def test_what_is_no_time_is_left_out(far: object) -> None:
    """Whatever a stranger sends for a time, there is an offset only from a time."""
    clock = Clock()
    clock.ask()
    clock.answer(far)
    assert clock.offset is None


def test_an_answer_that_nobody_asked_for_is_left_out() -> None:
    """Pongs without a ping say nothing, however many there are."""
    clock = Clock()
    clock.answer(time.time())
    assert clock.offset is None


# What Python runs at its start: a clock that somebody sets, by a file.
SET_CLOCK = """
import time
def read(right=time.time):
    with open({name!r}) as file:
        return right() + float(file.read())
time.time = read
"""


@pytest.mark.parametrize("jump", [-86_400, 35 * 86_400])
async def test_a_clock_that_is_set_makes_no_duration_negative(
    sshd: SSHServer, place: Path, jump: int
) -> None:
    """The far clock jumps while a task runs: its result comes, and no age or duration is below zero."""
    offset = place / "offset"
    offset.write_text("0")
    (place / "sitecustomize.py").write_text(SET_CLOCK.format(name=str(offset)))
    python = place / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={place} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    async with direct.machine(sshd, place, python_path=str(python)) as machine:
        running = asyncio.ensure_future(machine.run(noting(place / "ran", 1.0)))
        await until(lambda: runs(place / "ran"))
        new = place / "new"
        new.write_text(str(jump))
        new.replace(offset)
        (job,) = await machine.host.jobs(job_of)
        assert job.age_s >= 0
        assert (await running).value == "result"
        assert (await machine.run(lambda: 1)).value == 1
        first, second = machine.records()
    for record in (first, second):
        durations = {
            name: value for name, value in record.items() if name.endswith("_s") and value is not None
        }
        del durations["clock_offset_s"]
        assert len(durations) > 10
        assert min(durations.values()) >= 0, durations
