"""CPUs of a task: how many threads numeric libraries start in it, and where they may run."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from support import direct

CORES = len(os.sched_getaffinity(0))
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def set_to(value: object) -> dict[str, str]:
    """Return all of them with one value."""
    return dict.fromkeys(THREADS, str(value))


async def test_numeric_libraries_are_told_how_many_threads(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each CPU of the task; what the user has set, in env or on the machine, stays."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    names = THREADS

    def told() -> dict[str, str | None]:
        import os

        return {name: os.environ.get(name) for name in names}

    async with direct.here(place / "plain") as machine:
        assert (await machine.run(told)).value == set_to(1)
        assert (await machine.run(told, options={"cpus_per_task": CORES})).value == set_to(CORES)
        assert (await machine.run(told, options={"max_parallel": 1})).value == set_to(CORES)
        own = {"cpus_per_task": CORES, "env": {"MKL_NUM_THREADS": "7"}}
        assert (await machine.run(told, options=own)).value == {**set_to(CORES), "MKL_NUM_THREADS": "7"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    async with direct.here(place / "set") as machine:
        assert (await machine.run(told)).value == {**set_to(1), "OMP_NUM_THREADS": "5"}
        wide = await machine.run(told, options={"cpus_per_task": CORES, "isolation": "spawn"})
        assert wide.value == {**set_to(CORES), "OMP_NUM_THREADS": "5"}


async def test_tasks_are_held_to_the_cpus_of_their_slots(place: Path) -> None:
    """With cpu_affinity tasks at the same time have different CPUs; without it all of them."""

    def cpus() -> list[int]:
        import os
        import time

        time.sleep(0.2)
        return sorted(os.sched_getaffinity(0))

    async with direct.here(place) as machine:
        pinned = {"cpu_affinity": True}
        ran = await asyncio.gather(*(machine.run(cpus, options=pinned) for _ in range(CORES)))
        assert sorted(one.value for one in ran) == [[cpu] for cpu in sorted(os.sched_getaffinity(0))]
        every = sorted(os.sched_getaffinity(0))
        wide = {"cpu_affinity": True, "cpus_per_task": CORES}
        assert (await machine.run(cpus, options=wide)).value == every
        assert (await machine.run(cpus)).value == every


class Seen(NamedTuple):
    """The most threads that there were all together, seconds taken, CPU seconds, seconds without a CPU."""

    threads: int
    took: float
    cpu: float
    delay: float

    def __str__(self) -> str:
        return (
            f"{self.threads} threads at most, {self.took:.1f} s, {self.cpu:.1f} s of CPU, "
            f"ready and without one {self.delay:.1f} s"
        )


async def tasks_of_numpy(machine: direct.Machine, count: int, products: int, **options: Any) -> Seen:
    """Run so many numpy tasks, each of so many products of two matrices."""

    def multiply(products: int) -> int:
        import os

        import numpy as np

        matrix = np.ones((300, 300))
        for _ in range(products):
            matrix @ matrix
        return len(os.listdir("/proc/self/task"))

    began, known = time.monotonic(), len(machine.records())
    told = asyncio.gather(*(machine.run(multiply, products, options=options) for _ in range(count)))
    most = 0
    while not told.done():
        most = max(most, sum(map(threads_of, machine.agents())))
        await asyncio.sleep(0.05)
    took = time.monotonic() - began
    records = machine.records()[known:]
    cpu, delay = (sum(record[name] for record in records) for name in ("cpu_s", "run_delay_s"))
    return Seen(max(most, *(ran.value for ran in await told)), took, cpu, delay)


def threads_of(agent: int) -> int:
    """Return how many threads there are in all of an agent's workers that have loaded numpy."""
    found = 0
    for worker in psutil.Process(agent).children(recursive=True):
        try:
            maps = Path(f"/proc/{worker.pid}/maps").read_text()
            found += worker.num_threads() if "_multiarray_umath" in maps else 0
        except (OSError, psutil.NoSuchProcess):
            pass
    return found


@pytest.mark.parametrize(
    ("count", "products"), [(8, 20), pytest.param(16, 400, marks=pytest.mark.soak)], ids=["short", "full"]
)
async def test_numpy_has_no_more_threads_than_cpus(
    place: Path, count: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numpy tasks have, all together, a thread for each CPU and not one for each CPU in each task."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    async with direct.here(place) as machine:
        alone = await tasks_of_numpy(machine, 1, products)
        seen = await tasks_of_numpy(machine, count, products)
        ideal = count * alone.cpu / CORES
        print(f"{count} numpy tasks, {CORES} CPUs, of {alone.cpu:.2f} s alone, ideal {ideal:.1f} s: {seen}")
        assert 1 <= seen.threads <= CORES
        if products >= 400:
            own = dict.fromkeys(THREADS, str(CORES))
            crowd = await tasks_of_numpy(machine, count, products, env=own, max_parallel=count)
            print(f"all at once with {CORES} threads each: {crowd}")
