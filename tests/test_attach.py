"""The attach table on the wire, row by row, all killed in between; and that nothing runs twice."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.endings import seven
from support.farside import FarSide, new_key, request, until
from support.faults import noting, one_behind_another, runs
from support.there import alive

from covalent_sshtiming.remote import wire


def digits() -> None:
    """Print ten digits."""
    print("0123456789", end="")


# ---- on the wire: each row


def test_a_key_that_nobody_claimed_is_unknown(far: FarSide) -> None:
    """An attach to a key that was never submitted is answered with "unknown"."""
    with far.line() as line:
        line.attach(new_key())
        line.expect(wire.UNKNOWN)


def test_an_ended_task_is_told_again_until_it_is_acknowledged(far: FarSide) -> None:
    """Outcome and result are sent to everyone who asks, until the acknowledgement removes them."""
    key = new_key()
    with far.line() as line:
        line.submit(key, seven)
        first = line.outcome()
    with far.line() as line:
        line.attach(key)
        second = line.outcome()
        line.acknowledge(key)
        line.attach(key)
        line.expect(wire.UNKNOWN)
    assert first.value == second.value == 7
    assert first.ended == second.ended
    assert not far.task(key).exists()


def test_a_running_task_is_told_when_it_ends(far: FarSide, tmp_path: Path) -> None:
    """A connection that attaches in mid-run gets the outcome of that very run, output included."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 0.5))
        far.started(key)
    with far.line() as line:
        line.attach(key)
        told = line.outcome()
    assert (told.value, told.output) == ("result", b"done\n")
    assert len(runs(tmp_path / "ran")) == 1


def test_output_goes_on_where_it_was(far: FarSide) -> None:
    """An attach that names stream offsets gets only what lies behind them."""
    key = new_key()
    with far.line() as line:
        line.submit(key, digits)
        assert line.outcome().output == b"0123456789"
        line.attach(key, stdout=4)
        assert line.outcome().output == b"456789"


def test_a_waiting_task_runs_after_its_agent_was_killed(far: FarSide, tmp_path: Path) -> None:
    """A request that waits on disk is queued by the next agent, and runs once."""
    with far.line() as line:
        first, second = one_behind_another(far, line, tmp_path)
        far.kill_agent()
    assert not (far.task(second) / "lock").exists()
    with far.line() as line:
        line.attach(second)
        assert line.outcome().value == "result"
        line.attach(first)
        assert line.outcome().value == "result"
    assert len(runs(tmp_path / "first")) == len(runs(tmp_path / "second")) == 1


def test_a_new_agent_finds_what_waits_without_being_asked(far: FarSide, tmp_path: Path) -> None:
    """The queue of a killed agent goes on with the next connection, whoever opens it."""
    with far.line() as line:
        _, second = one_behind_another(far, line, tmp_path)
        far.kill_agent()
    with far.line(client=new_key()):
        until((far.task(second) / "outcome").exists, "the waiting task to end")
    assert len(runs(tmp_path / "second")) == 1


def test_a_waiting_task_goes_to_no_other_environment(far: FarSide, tmp_path: Path) -> None:
    """An agent with another set-up leaves a waiting request to one that has its own."""
    own = far.target
    with far.line() as line:
        first, second = one_behind_another(far, line, tmp_path, 0.5)
        far.kill_agent()
    far.target = replace(own, setup=("export OTHER=1",))
    with far.line(client=new_key()) as line:
        line.attach(second)
        until((far.task(first) / "outcome").exists, "the first task to end")
        time.sleep(0.3)  # three looks at a queue, if it were in one
        assert not (far.task(second) / "lock").exists()
    far.target = own
    with far.line() as line:
        line.attach(second)
        assert line.outcome().value == "result"
    assert len(runs(tmp_path / "second")) == 1


def test_a_running_task_outlives_its_agent(far: FarSide, tmp_path: Path) -> None:
    """A killed agent changes nothing for a task that runs: the next agent tells its outcome."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 0.8))
        pid = far.started(key)["pid"]
        far.kill_agent()
        with pytest.raises(EOFError):
            line.outcome()
    assert alive(pid)
    with far.line() as line:
        line.attach(key)
        assert line.outcome().value == "result"
    assert len(runs(tmp_path / "ran")) == 1


def test_a_task_whose_supervisor_was_killed_has_died(far: FarSide, tmp_path: Path) -> None:
    """A task that lost its supervisor is told as dead, at once, and its worker goes too."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 60))
        (worker,) = until(lambda: runs(tmp_path / "ran"), "the function to run")
        far.kill_supervisor(key)
        told = line.outcome()
    assert told.status == "killed"
    assert told.ended["error"]["class"] == "TaskDied"
    until(lambda: not alive(worker), "the worker to go")


def test_whoever_finds_a_dead_task_closes_it(far: FarSide, tmp_path: Path) -> None:
    """With agent and supervisor both killed, the next agent tells the task as dead and runs nothing."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 60))
        until(lambda: runs(tmp_path / "ran"), "the function to run")
        far.kill_agent()
    far.kill_supervisor(key)
    with far.line() as line:
        line.attach(key)
        assert line.outcome().status == "killed"
    assert len(runs(tmp_path / "ran")) == 1


def test_a_killed_doorman_costs_the_connection_only(far: FarSide, tmp_path: Path) -> None:
    """The agent lives on without its doorman, and so does the task; the next connection is told."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 0.5))
        far.started(key)
        agent = far.agent()
        line.doorman.send_signal(signal.SIGKILL)
    with far.line() as line:
        line.attach(key)
        assert line.outcome().value == "result"
    assert far.agent() == agent
    assert len(runs(tmp_path / "ran")) == 1


def test_a_stopped_agent_is_replaced(far: FarSide, tmp_path: Path) -> None:
    """A doorman whose agent does not answer ends it and starts another, which goes on from the disk."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran"))
        line.outcome()
        stopped = far.agent()
        os.kill(stopped, signal.SIGSTOP)
        begun = time.monotonic()
        with far.line() as second:
            second.attach(key)
            assert second.outcome().value == "result"
    assert not alive(stopped)
    assert time.monotonic() - begun > 5, "the agent was given no time to answer"


# ---- once, and only once


def test_a_key_submitted_twice_runs_once(far: FarSide, tmp_path: Path) -> None:
    """A second submission of a key is an attach, while it runs and after it ended."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 0.3))
        far.started(key)
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 0.3))
        assert line.outcome().value == "result"
        line.submit(key, noting(tmp_path / "ran", 0.3))
        assert line.outcome().value == "result"
    assert len(runs(tmp_path / "ran")) == 1


def test_a_stalled_old_connection_starts_nothing(far: FarSide, tmp_path: Path) -> None:
    """A submission that arrives on an old connection, after the task was run and forgotten, is not read."""
    key = new_key()
    with far.line() as old, far.line() as new:
        new.submit(key, noting(tmp_path / "ran"))
        assert new.outcome().value == "result"
        new.acknowledge(key)
        with pytest.raises((EOFError, OSError)):
            old.submit(key, noting(tmp_path / "ran"))
            old.outcome()
    assert not far.task(key).exists()
    assert len(runs(tmp_path / "ran")) == 1


def test_an_old_connection_is_refused_by_a_new_agent_too(far: FarSide, tmp_path: Path) -> None:
    """A connection that says hello after a newer one of its client is closed, also by an agent born since."""
    key = new_key()
    with far.line(number=8) as new:
        new.submit(key, noting(tmp_path / "ran"))
        new.outcome()
        new.acknowledge(key)
        far.kill_agent()
    with far.line(number=7) as old, pytest.raises((EOFError, OSError)):
        old.submit(key, noting(tmp_path / "ran"))
        old.outcome()
    assert len(runs(tmp_path / "ran")) == 1


def test_an_interrupted_upload_claims_nothing(far: FarSide, tmp_path: Path) -> None:
    """Half a request is forgotten with its connection; the same key can be submitted again and runs once."""
    key = new_key()
    facts, body = request(key, noting(tmp_path / "ran"))
    with far.line() as line:
        line.send(wire.SUBMIT, 1, facts, body[: len(body) // 2])
        until(lambda: list(far.task(key).glob("request.*")), "the upload to begin")
    with far.line() as line:
        until(lambda: not far.task(key).exists(), "the claim to go")
        line.attach(key)
        line.expect(wire.UNKNOWN)
        line.submit(key, noting(tmp_path / "ran"))
        assert line.outcome().value == "result"
    assert len(runs(tmp_path / "ran")) == 1


@pytest.mark.parametrize("damage", ["digest", "short", "long"])
def test_a_damaged_request_never_starts(far: FarSide, tmp_path: Path, damage: str) -> None:
    """A request of another length or SHA-256 than announced is refused, and nothing is left of it."""
    key = new_key()
    facts, body = request(key, noting(tmp_path / "ran"))
    digest = hashlib.sha256(b"" if damage == "digest" else body).hexdigest()
    sent = {"digest": body, "short": body[:-1], "long": body + b"x"}[damage]
    with far.line() as line:
        line.send(wire.SUBMIT, 1, facts, sent)
        line.send(wire.END, 1, {"sha256": digest})
        line.expect(wire.REFUSED)
    assert not far.task(key).exists()
    assert not runs(tmp_path / "ran")
