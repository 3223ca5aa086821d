"""A machine without room for another process: tasks wait, and none fails."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import LIMITED_USER
from support import farside, there
from support.farside import FarSide, Told, new_key
from support.there import begun


@pytest.mark.parametrize(
    ("room", "ready"),
    [(0, True), (0, False), (1, False)],
    ids=["for no worker", "for no supervisor", "for a supervisor without a worker"],
)
def test_a_task_waits_where_no_fork_is_to_be_had(crowded: FarSide, room: int, ready: bool) -> None:
    """Where fork fails with EAGAIN a task waits; with room again it runs, and none fails."""

    def nap() -> int:
        import time

        time.sleep(0.1)
        return 7

    keys = [new_key() for _ in range(6)]
    with crowded.line() as line:
        line.submit(keys[0], nap, max_parallel=2)
        assert line.outcome().value == 7
        agent = crowded.agent()
        limit(agent, 1)  # so that nothing is forked ahead any more
        if not ready:
            kill(psutil.Process(agent).children())
        with suppress(EOFError):
            for key in keys[1:]:
                line.submit(key, nap, max_parallel=2)
        farside.until(lambda: not workers(agent), "the workers forked ahead to be used")
        # The last one's outcome comes a moment after its worker's end.
        started = len(begun(crowded.spool))
        farside.until(lambda: len(found(crowded, "outcome")) == started, "the outcomes of these")
        ended = found(crowded, "outcome")
        limit(agent, len(counted()) + room)
        time.sleep(2.5)
        more = found(crowded, "outcome") - ended
        assert not more, [path.read_text() for path in more]
        assert len(ended) < len(keys)
        limit(agent, 1000)
        told = [line_outcome(crowded, key) for key in keys[1:]]
    assert [one.value for one in told] == [7] * 5


def found(far: FarSide, name: str) -> set[Path]:
    """Return the files of a name in the task directories."""
    return set(far.spool.glob(f"tasks/*/{name}"))


def line_outcome(far: FarSide, key: str) -> Told:
    """Ask for a task over a connection of its own."""
    with far.line() as line:
        line.attach(key)
        return line.outcome()


def counted() -> list[psutil.Process]:
    """Return the processes that count against the limit; the zombies among them will be reaped."""
    every = psutil.process_iter(["uids"])
    return [one for one in every if one.info["uids"].real == LIMITED_USER and there.alive(one.pid)]


def limit(agent: int, processes: int) -> None:
    """Set how many processes its user may have when the agent, or what it forks from now on, forks."""
    for process in (psutil.Process(agent), *psutil.Process(agent).children(recursive=True)):
        # As that user: even root may be forbidden to change another's.
        subprocess.run(
            ["prlimit", f"--pid={process.pid}", f"--nproc={processes}:"],
            user=LIMITED_USER,
            group=LIMITED_USER,
            check=False,
        )


def kill(supervisors: list[psutil.Process]) -> None:
    """Kill supervisors, with which their workers end."""
    doomed = [one for supervisor in supervisors for one in (supervisor, *supervisor.children())]
    for supervisor in supervisors:
        supervisor.kill()
    farside.until(lambda: not any(there.alive(one.pid) for one in doomed), "the supervisors' end")


def workers(agent: int) -> list[psutil.Process]:
    """Return the processes below an agent's supervisors that have not ended."""
    below = {one.pid for one in psutil.Process(agent).children()}
    return [
        one
        for one in psutil.Process(agent).children(recursive=True)
        if one.pid not in below and there.alive(one.pid)
    ]
