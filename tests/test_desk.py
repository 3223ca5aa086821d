"""What the agent makes of frames: cancels, damaged directories, nonsense; and when it goes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.endings import seven
from support.farside import FarSide, new_key, until
from support.faults import noting, one_behind_another, runs
from support.there import alive

from covalent_sshtiming.remote import wire

# ---- cancel


def test_a_cancelled_key_is_refused_from_then_on(far: FarSide, tmp_path: Path) -> None:
    """The cancel of an unknown key leaves a cancelled outcome: a submission that comes late does not run."""
    key = new_key()
    with far.line() as line:
        line.cancel(key)
        line.submit(key, noting(tmp_path / "ran"))
        assert line.outcome().status == "cancelled"
    assert not runs(tmp_path / "ran")


def test_a_waiting_task_is_cancelled_in_the_queue(far: FarSide, tmp_path: Path) -> None:
    """A task that waits for a slot ends as cancelled at once and never runs."""
    with far.line() as line:
        first, second = one_behind_another(far, line, tmp_path, 0.6)
        line.cancel(second)
        assert line.outcome(second).status == "cancelled"
        assert not (far.spool / "tasks" / second / "request").exists()
        assert line.outcome(first).value == "result"
    assert not runs(tmp_path / "second")


def test_a_running_task_is_cancelled_with_all_its_children(far: FarSide, tmp_path: Path) -> None:
    """A cancel ends the function and what it has started, also what has left its session."""
    key = new_key()
    name = str(tmp_path / "child")

    def parent() -> None:
        import subprocess
        import time

        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        with open(name + ".tmp", "w") as file:
            file.write(str(child.pid))
        import os

        os.rename(name + ".tmp", name)
        time.sleep(60)

    with far.line() as line:
        line.submit(key, parent)
        (child,) = until(lambda: runs(tmp_path / "child"), "the child to start")
        line.cancel(key)
        assert line.outcome().status == "cancelled"
    assert not alive(child)


def test_a_cancel_after_the_end_changes_nothing(far: FarSide) -> None:
    """What an outcome says is final."""
    key = new_key()
    with far.line() as line:
        line.submit(key, seven)
        line.outcome()
        line.cancel(key)
        line.attach(key)
        assert line.outcome().value == 7


# ---- damage


def raises_with_a_long_name() -> None:
    """Raise an error whose every text is longer than a frame."""
    raise ModuleNotFoundError("\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 50_000, name="y" * 70_000)


def test_an_outcome_is_told_however_long_its_texts_are(far: FarSide) -> None:
    """An error text that no frame can hold is shortened, and the outcome arrives."""
    with far.line() as line:
        line.submit(new_key(), raises_with_a_long_name)
        told = line.outcome()
    assert told.status == "failed"
    assert told.ended["error"]["text"].startswith("ModuleNotFoundError: \N{CJK UNIFIED IDEOGRAPH-4E2D}")


def test_a_directory_that_vanishes_makes_its_task_unknown(far: FarSide, tmp_path: Path) -> None:
    """Whoever watches a task whose directory was removed is told so when it ends."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(tmp_path / "ran", 0.5))
        line.expect(wire.ACCEPTED)
        until(lambda: runs(tmp_path / "ran"), "the function to run")
        shutil.rmtree(far.task(key))
        line.expect(wire.UNKNOWN)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"status": 7}', b'{"result": [1, 2, 3]}'])
def test_a_damaged_outcome_is_told_as_failed(far: FarSide, content: bytes) -> None:
    """An outcome or a result that cannot be read ends its task, and neither agent nor connection."""
    key = new_key()
    with far.line() as line:
        line.submit(key, seven)
        line.outcome()
        (far.task(key) / "outcome").write_bytes(content)
        (far.task(key) / "result").unlink()
        line.attach(key)
        told = line.outcome()
        assert told.status == "failed"
        assert "cannot be read" in told.ended["error"]["text"]
        line.acknowledge(key)


# ---- manners


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (wire.SUBMIT, {"key": "../../etc", "size": 1}),
        (wire.SUBMIT, {"key": "0" * 32, "size": -1}),
        (wire.ATTACH, {"key": 7}),
        (wire.ATTACH, {"key": "0" * 32, "stdout": -1}),
        (wire.CANCEL, {}),
        (wire.ACK, {"key": "x" * 32}),
        (wire.OUTCOME, {}),
        (wire.HELLO, {"client": "0" * 32, "connection": "x"}),
    ],
)
def test_a_senseless_frame_ends_its_connection_only(far: FarSide, kind: int, header: dict[str, Any]) -> None:
    """A frame that makes no sense costs its sender the connection, and nobody else anything."""
    with far.line(client=new_key()) as other, far.line() as line:
        line.send(kind, 1, header)
        with pytest.raises(EOFError):
            line.receive()
        other.attach(new_key())
        other.expect(wire.UNKNOWN)


def test_nothing_is_heard_before_a_hello(far: FarSide) -> None:
    """A connection that does not say who it is cannot submit."""
    line = far.connect()
    line.submit(new_key(), seven)
    with pytest.raises(EOFError):
        line.outcome()


@pytest.mark.parametrize(
    ("kind", "header"),
    [(wire.PING, {"x": "y" * 65_000}), (wire.HELLO, {"client": "1" * 32, "connection": 9, "idle": 10**400})],
)
def test_a_frame_out_of_all_bounds_harms_nobody(far: FarSide, kind: int, header: dict[str, Any]) -> None:
    """What one client sends never ends the agent that the others use."""
    with far.line() as other:
        agent = far.agent()
        with far.line(client=new_key()) as line:
            line.send(kind, 0, header)
            other.attach(new_key())
            other.expect(wire.UNKNOWN)
        assert far.agent() == agent


def test_what_nobody_fetches_stays_for_a_week(far: FarSide, tmp_path: Path) -> None:
    """An ended task is removed when it is older than a week; what is younger, runs or waits is not."""
    old, young, running, waiting = (new_key() for _ in range(4))
    with far.line() as line:
        for key in (old, young):
            line.submit(key, seven)
            line.outcome()
        line.submit(running, noting(tmp_path / "running", 2.0), max_parallel=1)
        far.started(running)
        line.submit(waiting, noting(tmp_path / "waiting"), max_parallel=1)
        until((far.task(waiting) / "request").exists, "the request")
        far.kill_agent()
    day, now = 24 * 3600, time.time()
    for key, days in ((old, 7.1), (young, 6.9), (running, 8), (waiting, 8)):
        os.utime(far.task(key), (now - days * day, now - days * day))
    with far.line() as line:
        line.attach(waiting)
        assert line.outcome().value == "result"
        line.attach(running)
        assert line.outcome().value == "result"
        line.attach(young)
        assert line.outcome().value == 7
        line.attach(old)
        line.expect(wire.UNKNOWN)


def test_an_idle_agent_goes(far: FarSide) -> None:
    """An agent without connection or task ends after the idle time that its last client wished for."""
    with far.line():
        agent = far.agent()
    until(lambda: not alive(agent), "the idle agent to go")
    assert not list((far.spool / "agents").glob("*.sock"))
