"""The attach table, row by row, on the disk and on the wire, with everything killed in between."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.farside import FarSide, new_key, request, until
from support.there import alive

from covalent_sshtiming.remote import ending, places, tasks, wire


@pytest.fixture
def far() -> Iterator[FarSide]:
    """Return a far side with a spool of its own, whose path is short enough for a socket."""
    with (
        tempfile.TemporaryDirectory(prefix="far-", dir="/tmp", ignore_cleanup_errors=True) as name,
        FarSide(Path(name)) as side,
    ):
        yield side


def noting(path: Path, seconds: float = 0.0) -> Callable[[], int]:
    """Return a function that leaves a line in a file each time it runs."""
    name = str(path)

    def note() -> int:
        import os
        import time

        with open(name, "a") as file:
            file.write(f"{os.getpid()}\n")
        print("noted")
        time.sleep(seconds)
        return 42

    return note


def runs(path: Path) -> list[int]:
    """Return the process ids that have run."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def digits() -> None:
    """Print ten digits."""
    print("0123456789", end="")


def seven() -> int:
    """Return seven."""
    return 7


# ---- on the disk


@pytest.mark.parametrize(
    ("files", "locked", "state"),
    [
        ((), False, tasks.UNKNOWN),
        (("lock",), False, tasks.UNKNOWN),
        (("request.ab.tmp",), False, tasks.UNKNOWN),
        (("request",), False, tasks.WAITING),
        (("request", "lock"), False, tasks.WAITING),
        (("request", "lock"), True, tasks.RUNNING),
        (("lock", "started"), True, tasks.RUNNING),
        (("lock", "started"), False, tasks.DIED),
        (("request", "lock", "started"), False, tasks.DIED),
        (("lock", "started", "outcome"), False, tasks.ENDED),
        (("lock", "started", "outcome"), True, tasks.ENDED),
        (("cancel", "outcome"), False, tasks.ENDED),
    ],
)
def test_the_files_of_a_directory_say_its_state(
    tmp_path: Path, files: tuple[str, ...], locked: bool, state: str
) -> None:
    """What a task's state is, its directory says, by the first question of the table that is answered."""
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    with open(tmp_path / "lock" if locked else os.devnull, "rb") as file:
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert tasks.state(str(tmp_path)) == state


def test_no_directory_is_unknown(tmp_path: Path) -> None:
    """A key that was never claimed is unknown."""
    assert tasks.state(str(tmp_path / "none")) == tasks.UNKNOWN


def test_the_first_outcome_stays(tmp_path: Path) -> None:
    """Whoever publishes second changes nothing and leaves nothing behind."""
    tasks.finish(str(tmp_path), ending.outcome("completed"))
    tasks.finish(str(tmp_path), ending.outcome("cancelled"))
    assert json.loads((tmp_path / "outcome").read_text())["status"] == "completed"
    assert [path.name for path in tmp_path.iterdir()] == ["outcome"]


@pytest.mark.parametrize(
    ("boot", "text"),
    [("another", "was running when its machine rebooted"), ("", "lost its supervisor")],
)
def test_a_dead_task_says_whether_its_machine_rebooted(tmp_path: Path, boot: str, text: str) -> None:
    """A task without a supervisor was ended by a reboot if the boot differs, else by somebody."""
    known = {"boot": boot or places.machine()[1], "pid": 1, "session": 0}
    (tmp_path / "started").write_text(json.dumps(known))
    tasks.close_dead(str(tmp_path))
    ended = json.loads((tmp_path / "outcome").read_text())
    assert ended["status"] == "killed"
    assert text in ended["error"]["text"]


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
    assert (told.value, told.output) == (42, b"noted\n")
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
    first, second = new_key(), new_key()
    with far.line() as line:
        line.submit(first, noting(tmp_path / "first", 1.0), max_parallel=1)
        line.submit(second, noting(tmp_path / "second"), max_parallel=1)
        far.started(first)
        far.kill_agent()
    assert not (far.task(second) / "started").exists()
    with far.line() as line:
        line.attach(second)
        assert line.outcome().value == 42
        line.attach(first)
        assert line.outcome().value == 42
    assert len(runs(tmp_path / "first")) == len(runs(tmp_path / "second")) == 1


def test_a_new_agent_finds_what_waits_without_being_asked(far: FarSide, tmp_path: Path) -> None:
    """The queue of a killed agent goes on with the next connection, whoever opens it."""
    first, second = new_key(), new_key()
    with far.line() as line:
        line.submit(first, noting(tmp_path / "first", 1.0), max_parallel=1)
        line.submit(second, noting(tmp_path / "second"), max_parallel=1)
        far.started(first)
        far.kill_agent()
    with far.line(client=new_key()):
        until((far.task(second) / "outcome").exists, "the waiting task to end")
    assert len(runs(tmp_path / "second")) == 1


def test_a_waiting_task_goes_to_no_other_environment(far: FarSide, tmp_path: Path) -> None:
    """An agent with another set-up leaves a waiting request to one that has its own."""
    own, (first, second) = far.target, (new_key(), new_key())
    with far.line() as line:
        line.submit(first, noting(tmp_path / "first", 0.5), max_parallel=1)
        line.submit(second, noting(tmp_path / "second"), max_parallel=1)
        far.started(first)
        far.kill_agent()
    far.target = replace(own, setup=("export OTHER=1",))
    with far.line(client=new_key()) as line:
        line.attach(second)
        until((far.task(first) / "outcome").exists, "the first task to end")
        time.sleep(0.3)  # three looks at a queue, if it were in one
        assert not (far.task(second) / "started").exists()
    far.target = own
    with far.line() as line:
        line.attach(second)
        assert line.outcome().value == 42
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
        assert line.outcome().value == 42
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
        assert line.outcome().value == 42
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
            assert second.outcome().value == 42
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
        assert line.outcome().value == 42
        line.submit(key, noting(tmp_path / "ran", 0.3))
        assert line.outcome().value == 42
    assert len(runs(tmp_path / "ran")) == 1


def test_a_stalled_old_connection_starts_nothing(far: FarSide, tmp_path: Path) -> None:
    """A submission that arrives on an old connection, after the task was run and forgotten, is not read."""
    key = new_key()
    with far.line() as old, far.line() as new:
        new.submit(key, noting(tmp_path / "ran"))
        assert new.outcome().value == 42
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
        assert line.outcome().value == 42
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
    first, second = new_key(), new_key()
    with far.line() as line:
        line.submit(first, noting(tmp_path / "first", 0.6), max_parallel=1)
        line.submit(second, noting(tmp_path / "second"), max_parallel=1)
        far.started(first)
        line.cancel(second)
        assert line.outcome(second).status == "cancelled"
        assert not (far.spool / "tasks" / second / "request").exists()
        assert line.outcome(first).value == 42
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


def test_a_recycled_session_is_left_alone(tmp_path: Path) -> None:
    """Closing a dead task kills nobody who happens to have its session's number by now."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        known = {"boot": places.machine()[1], "pid": other.pid, "session": other.pid, "ticks": 1}
        (tmp_path / "started").write_text(json.dumps(known))
        tasks.close_dead(str(tmp_path))
        time.sleep(0.1)
        assert other.poll() is None
        other.kill()


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
        assert line.outcome().value == 42
        line.attach(running)
        assert line.outcome().value == 42
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
