"""What a task leaves behind: processes, which end with it, and files of its own in the spool, which go."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest
from support import direct
from support.endings import seven
from support.farside import until
from support.there import There, kill

Machine = direct.Machine[There]

LINUX_ONLY = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's subreaper")


async def test_a_background_process_is_ended(machine: Machine) -> None:
    """A child that outlives the function ends with the task, and run() waits no longer than `linger`."""

    def leaves_child() -> int:
        return subprocess.Popen(["sleep", "300"]).pid

    begun = time.monotonic()
    pid = (await machine.run(leaves_child)).value
    assert time.monotonic() - begun < 1
    assert not machine.alive(pid)


@LINUX_ONLY
async def test_a_background_process_that_ignores_term(machine: Machine) -> None:
    """A leftover child that ignores TERM is killed once `linger` is over, and not before."""

    def leaves_stubborn() -> int:
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(300)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        next(iter(child.stdout or ()))
        return child.pid

    begun = time.monotonic()
    pid = (await machine.run(leaves_stubborn, options={"linger": 0.5})).value
    assert 0.5 <= time.monotonic() - begun < 3
    assert not machine.alive(pid)


@LINUX_ONLY
async def test_a_daemon_is_ended(machine: Machine, far_place: There) -> None:
    """A leftover that forked twice and has a session of its own ends with the task as well."""
    note = far_place / "daemon"
    name = str(note)

    def leaves_daemon() -> None:
        first = os.fork()
        if first == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                with open(name + ".new", "w") as file:
                    file.write(str(os.getpid()))
                os.rename(name + ".new", name)
                time.sleep(300)
            os._exit(0)
        os.waitpid(first, 0)
        while not os.path.exists(name):
            time.sleep(0.01)

    begun = time.monotonic()
    ran = await machine.run(leaves_daemon, options={"linger": 0.3})
    assert ran.error is None
    assert time.monotonic() - begun < 3
    pid = int(note.read_text())
    try:
        assert not machine.alive(pid)
    finally:
        kill(pid, far_place)


async def test_output_of_a_leftover_does_not_hold_the_task(machine: Machine) -> None:
    """A leftover that holds the task's stdout open does not keep run() waiting for its end."""

    def leaves_writer() -> str:
        subprocess.Popen(["sh", "-c", "echo from the background; sleep 300"])
        time.sleep(0.3)
        return "done"

    begun = time.monotonic()
    ran = await machine.run(leaves_writer)
    assert ran.value == "done"
    assert time.monotonic() - begun < 2
    assert ran.stdout == "from the background\n"


def tasks_in(spool: There) -> set[str]:
    """Return the names of the task directories in a spool."""
    return {path.name for path in (spool / "tasks").iterdir()}


async def test_nothing_of_a_task_stays_in_the_spool(machine: Machine) -> None:
    """Once result and record are safe the task's directory goes."""
    assert (await machine.run(seven)).value == 7
    before = tasks_in(machine.spool)  # those of tests whose agent was killed right after
    assert (await machine.run(seven)).value == 7
    await asyncio.to_thread(until, lambda: tasks_in(machine.spool) <= before, "the directory to go")
