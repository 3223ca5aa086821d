"""Supervisors forked ahead: each serves one task after the other, and what is not needed goes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
from support import direct
from support.faults import until

from covalent_sshtiming.remote import crew

MIB = 1 << 20


async def test_supervisors_come_back(place: Path) -> None:
    """Many tasks in a row are the work of a few supervisors, which keep nothing of them."""

    def processes() -> tuple[int, int]:
        import os

        return os.getppid(), os.getpid()

    async with direct.here(place) as machine:
        await machine.run(processes)
        (agent,) = machine.agents()
        await until(lambda: len(ready(agent)) == crew.AHEAD)
        before = {one.pid: held(one) for one in ready(agent)}
        ran = [(await machine.run(processes)).value for _ in range(20)]
        assert len({supervisor for supervisor, _ in ran}) <= crew.AHEAD + 1  # one has the task
        assert len({worker for _, worker in ran}) == 20
        await until(lambda: len(ready(agent)) == len(psutil.Process(agent).children()) == crew.AHEAD)
        after = {one.pid: held(one) for one in ready(agent)}
        assert len(before.keys() & after.keys()) >= crew.AHEAD - 1
        assert set(after.values()) == set(before.values())


async def test_a_task_inherits_nothing_from_the_one_before(place: Path) -> None:
    """Environment, directory, umask, limits and modules of a task end with it."""

    def change(place: str) -> tuple[str | None, str, int, int, bool]:
        import os
        import resource
        import sys

        mask = os.umask(0o007)
        seen = os.environ.get("CHANGED"), os.getcwd(), mask, resource.getrlimit(resource.RLIMIT_AS)[0]
        known = "wave" in sys.modules
        import wave  # noqa: F401 - a module that nothing else imports

        os.environ["CHANGED"] = "yes"
        os.chdir(place)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return (*seen, known)

    async with direct.here(place) as machine:
        first = (await machine.run(change, str(place), options={"memory_limit": 900 * MIB})).value
        rest = [(await machine.run(change, str(place))).value for _ in range(9)]
    assert first[3] == 900 * MIB
    assert rest == [(*first[:3], -1, False)] * 9
    assert first[0] is None


async def test_random_numbers_are_each_tasks_own(place: Path) -> None:
    """Two tasks of one agent do not draw the same numbers."""

    def draw() -> float:
        import random

        return random.random()

    async with direct.here(place) as machine:
        drawn = [(await machine.run(draw)).value for _ in range(6)]
    assert len(set(drawn)) == 6


async def test_a_crowd_thins_out(place: Path) -> None:
    """What many tasks at once had needed goes again within seconds, down to those that wait ahead."""

    def rest() -> int:
        import os
        import time

        time.sleep(0.3)
        return os.getppid()

    async with direct.here(place, max_parallel=12) as machine:
        ran = await asyncio.gather(*(machine.run(rest) for _ in range(12)))
        assert len({one.value for one in ran}) == 12
        (agent,) = machine.agents()
        await until(lambda: {one.pid for one in psutil.Process(agent).children()} == pids(ready(agent)))
        await until(lambda: len(psutil.Process(agent).children()) == crew.AHEAD, 20)


async def test_a_supervisor_that_died_while_it_waited(place: Path) -> None:
    """One that something killed between two tasks is replaced, and the next task does not notice."""
    async with direct.here(place, max_parallel=1) as machine:
        assert (await machine.run(lambda: 1)).value == 1
        (agent,) = machine.agents()
        await until(lambda: len(ready(agent)) == crew.AHEAD)
        for one in ready(agent)[:2]:
            one.kill()
        assert [(await machine.run(lambda: 2)).value for _ in range(4)] == [2] * 4


def ready(agent: int) -> list[psutil.Process]:
    """Return the supervisors of an agent without tasks that have a worker waiting."""
    return [one for one in psutil.Process(agent).children() if has_worker(one)]


def has_worker(supervisor: psutil.Process) -> bool:
    """Whether a supervisor has its one child."""
    try:
        return len(supervisor.children()) == 1
    except psutil.NoSuchProcess:
        return False


def pids(processes: list[psutil.Process]) -> set[int]:
    """Return their process ids."""
    return {one.pid for one in processes}


def held(process: psutil.Process) -> int:
    """Return how many descriptors a process holds."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))
