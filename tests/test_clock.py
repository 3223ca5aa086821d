"""The far clock against ours: what a session's questions and answers tell of it."""

from __future__ import annotations

import time

import pytest

from covalent_sshtiming.host.clock import Clock


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
