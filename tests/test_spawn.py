"""isolation = "spawn": a task in an interpreter of its own, and in all else one like the others."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from support import direct, works
from support.faults import until
from support.interpreters import OWN, require_interpreter
from support.pickles import pickled_by
from support.there import alive

from covalent_sshtiming import resources, settings

MIB = 1 << 20


@pytest.mark.parametrize(
    ("wanted", "variables", "expected"),
    [
        ("fork", ["OMP_NUM_THREADS", "PATH", "LDFLAGS", "LCD", "MYPYTHON"], "fork"),
        ("fork", ["PATH", "LD_LIBRARY_PATH"], "spawn"),
        ("fork", ["PYTHONHASHSEED"], "spawn"),
        ("fork", ["LC_ALL"], "spawn"),
        ("fork", ["LANG"], "spawn"),
        ("fork", ["TZ"], "spawn"),
        ("fork", ["MALLOC_ARENA_MAX"], "spawn"),
        ("spawn", [], "spawn"),
    ],
)
def test_what_a_fork_ignores_is_spawned(wanted: str, variables: list[str], expected: str) -> None:
    """A variable that is read when a process or interpreter starts makes its task spawn; others do not."""
    assert resources.isolation(wanted, variables) == expected


async def test_variables_that_are_read_at_the_start_count(place: Path) -> None:
    """The loader, the interpreter and the C library have seen what `env` sets: such a task is spawned."""

    def told() -> tuple[Any, ...]:
        import locale
        import os
        import sys
        import time

        limit = os.environ.get("LD_LIBRARY_PATH"), os.environ.get("PYTHONPATH")
        codec = locale.setlocale(locale.LC_CTYPE)
        return sys.flags.optimize, hash("a"), sys.path[:1], codec, time.tzname[0], limit, os.getcwd()

    env = {
        "LD_LIBRARY_PATH": "/opt/lib",
        "PYTHONPATH": "/opt/modules",
        "PYTHONOPTIMIZE": "2",
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC-3",
    }
    async with direct.here(place, remote_workdir=str(place)) as machine:
        plain = (await machine.run(told)).value
        first = (await machine.run(told, options={"env": env})).value
        again = (await machine.run(told, options={"env": env})).value
    assert first == again
    assert first[0] == 2
    assert first[2:6] == (["/opt/modules"], "C.UTF-8", "UTC-3"[:3], ("/opt/lib", "/opt/modules"))
    assert (plain[0], plain[5]) == (0, (os.environ.get("LD_LIBRARY_PATH"), os.environ.get("PYTHONPATH")))
    assert plain[6] == first[6] == str(place)


async def test_a_devices_variable_may_be_one_of_those(place: Path) -> None:
    """A variable of slot_env that a fork would ignore makes its task spawn, as one of env does."""

    def told() -> int:
        import sys

        return sys.flags.optimize

    async with direct.here(place, slot_env={"PYTHONOPTIMIZE": ["2"]}) as machine:
        assert (await machine.run(told)).value == 2


async def test_the_interpreter_is_a_fresh_one(place: Path) -> None:
    """It has the fork's process, place, streams and descriptors, but nothing that the agent has imported."""

    def told() -> dict[str, Any]:
        import os
        import random
        import sys

        print("said")
        mask = os.umask(0o22)
        os.umask(mask)
        return {
            "modules": "covalent_sshtiming_agent" in sys.modules or any("foreman" in m for m in sys.modules),
            "argv": sys.argv,
            "empty": "" in sys.path,
            "open": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
            "group": os.getpgid(0) == os.getpid(),
            "stdin": sys.stdin.read(),
            "encodings": (sys.stdout.encoding, sys.stderr.encoding),
            "mask": mask,
            "random": random.random(),
        }

    async with direct.here(place) as machine:
        forked, spawned = [await machine.run(told, options={"isolation": kind}) for kind in ("fork", "spawn")]
    assert spawned.stdout == forked.stdout == "said\n"
    seen, other = spawned.value, forked.value
    assert (other.pop("modules"), seen.pop("modules")) == (True, False)
    assert seen.pop("random") != other.pop("random")
    assert seen.pop("argv") == [""]
    other.pop("argv")
    assert seen == other
    assert (seen["open"], seen["empty"], seen["group"]) == ([0, 1, 2], False, True)


async def test_it_runs_where_a_fork_would(place: Path) -> None:
    """A HOME in env does not move the working directory, and a relative PYTHONPATH means that directory."""

    def told() -> tuple[str, str | None, str | None, str | None]:
        import importlib.util
        import os

        found = importlib.util.find_spec("beside")
        origin = None if found is None else found.origin
        return os.getcwd(), os.environ.get("PWD"), os.environ.get("HOME"), origin

    home, modules = place / "home", place / "elsewhere"
    modules.mkdir()
    env = {"HOME": str(modules), "PYTHONPATH": "src"}
    options = {"python_path": sys.executable, "setup_commands": [f"HOME={home}"]}
    async with direct.here(place, remote_workdir="place", create_unique_workdir=True, **options) as machine:
        module = home / "place" / "dispatch" / "node_7000" / "src" / "beside.py"
        module.parent.mkdir(parents=True)
        module.touch()
        moved = (await machine.run(told, node_id=7000, options={"env": {"HOME": str(modules)}})).value
        spawned = (await machine.run(told, node_id=7000, options={"env": env})).value
    work = str(module.parents[1])
    assert moved == (work, work, str(modules), None)
    assert spawned == (work, work, str(modules), str(module))


WORK = (
    works.BURN
    + """
def perform(text):
    names = {}
    exec(text, names)
    return sys.version_info[:2], names.get("result")
"""
)
# Burns of its own, of a child and of an orphan, beside a second of nothing.
MIXED = (
    works.BURN
    + f"""
burn(0.2)
subprocess.run([sys.executable, '-c', {works.single_thread(0.2)!r}], check=True)
os.read(apart(burn, 0.2), 1)
time.sleep(0.05)
"""
)


@pytest.mark.parametrize("minor", list(dict.fromkeys(["3.8", OWN, "3.13"])))
async def test_its_start_is_no_cost_of_the_function(minor: str, place: Path) -> None:
    """cpu_s of a spawned task is its function's, children and orphans too; the start is a phase's."""
    python = sys.executable if minor == OWN else str(require_interpreter(minor))
    parts = pickled_by(python, WORK, "perform", repr(MIXED), repr(works.NOTHING))
    async with direct.here(place, python_path=python, isolation="spawn") as machine:
        burnt = await machine.run(*parts[:2])
        await machine.run(parts[0], parts[2])
        one, nothing = machine.records()
    assert burnt.value[0] == tuple(map(int, minor.split(".")))
    start = nothing["phase_start_wall_s"]
    print(f"{minor}: {one['cpu_s']} s of 0.6; nothing {nothing['cpu_s']}, its start {start}")
    assert 0.59 < one["cpu_s"] < 0.75
    assert one["cpu_complete"] is True
    assert nothing["cpu_s"] < 0.005
    assert nothing["phase_start_cpu_s"] > nothing["cpu_s"]
    assert nothing["rss_peak_bytes"] < 40 * MIB


async def test_both_kinds_at_once_from_one_agent(place: Path) -> None:
    """Forked and spawned tasks share agent, supervisors and slots, and none has the other's variables."""

    def told(seconds: float) -> tuple[str | None, int, str]:
        import os
        import sys
        import time

        time.sleep(seconds)
        return os.environ.get("MARK"), sys.flags.dont_write_bytecode, sys.executable

    def options(number: int) -> dict[str, Any]:
        extra = {"PYTHONDONTWRITEBYTECODE": "1"} if number % 2 else {}
        return {"env": {"MARK": str(number), **extra}}

    flag = sys.flags.dont_write_bytecode
    async with direct.here(place, max_parallel=4) as machine:
        ran = await asyncio.gather(*(machine.run(told, 0.05, options=options(n)) for n in range(16)))
        after = (await machine.run(told, 0.0)).value
        assert len(machine.agents()) == 1
    assert [one.value[:2] for one in ran] == [(str(n), 1 if n % 2 else flag) for n in range(16)]
    assert after[:2] == (None, flag)


# ---- what ends it


async def test_limits_hold_for_a_spawned_task_too(place: Path) -> None:
    """time_limit ends it with its children, memory_limit is its own, a signal is named, a cancel ends it."""

    def sleep(path: str) -> None:
        import os
        import time

        open(path, "w").close()
        os.fork()
        time.sleep(60)

    def swell() -> int:
        return len(bytearray(600 << 20))

    def die() -> None:
        import os

        os.kill(os.getpid(), 9)

    note = place / "note"
    async with direct.here(place, isolation="spawn") as machine:
        late = await machine.run(sleep, os.devnull, options={"time_limit": 1})
        large = await machine.run(swell, options={"memory_limit": 500 * MIB})
        dead = await machine.run(die)
        running = asyncio.ensure_future(machine.run(sleep, str(note), dispatch_id="d", node_id=1))
        await until(note.exists)
        await machine.executor().cancel({"dispatch_id": "d", "node_id": 1}, None)
        with pytest.raises(direct.TaskCancelledError):
            (await running).value  # noqa: B018 - it raises
        assert (await machine.run(lambda: 5)).value == 5
        records = machine.records()
    assert "ran longer than its time limit of 1 s" in str(late.error)
    assert "swell raised MemoryError" in str(large.error)
    assert "was killed by SIGKILL" in str(dead.error)
    states = [record["status"] for record in records]
    assert states == ["timeout", "failed", "killed", "cancelled", "completed"]


@pytest.mark.parametrize("victim", ["supervisor", "agent"])
async def test_it_dies_with_its_supervisor_and_not_with_the_agent(place: Path, victim: str) -> None:
    """A killed supervisor takes a spawned worker along; a killed agent does not, and the outcome comes."""

    def work(path: str, seconds: float) -> int:
        import os
        import time

        with open(path, "w") as file:
            file.write(f"{os.getpid()} {os.getppid()}")
        time.sleep(seconds)
        return 5

    note = place / "note"
    async with direct.here(place, isolation="spawn") as machine:
        running = asyncio.ensure_future(machine.run(work, str(note), 60 if victim == "supervisor" else 1))
        await until(lambda: note.exists() and note.read_text())
        worker, supervisor = map(int, note.read_text().split())
        (agent,) = machine.agents()
        if victim == "supervisor":
            os.kill(agent, signal.SIGSTOP)  # so that it is not the one who ends the worker
            os.kill(supervisor, signal.SIGKILL)
            await until(lambda: not alive(worker))
            os.kill(agent, signal.SIGCONT)
        else:
            os.kill(agent, signal.SIGKILL)
        ran = await running
    if victim == "agent":
        assert ran.value == 5
    else:
        assert "lost its supervisor" in str(ran.error)


async def test_an_interpreter_that_does_not_start_says_so(place: Path) -> None:
    """Where env keeps Python from starting, that is the error, with Python's own words in stderr."""
    async with direct.here(place) as machine:
        ran = await machine.run(lambda: 1, options={"env": {"PYTHONHOME": "/nowhere"}})
        (record,) = machine.records()
        assert (await machine.run(lambda: 1)).value == 1
    assert str(ran.error) == (
        "localhost: <lambda>: its fresh interpreter exited 1 before it began: see its stderr, and what env "
        "sets for it."
    )
    assert "encodings" in ran.stderr
    assert (record["status"], record["error_type"]) == ("failed", "RemoteEnvError")
    assert record["cpu_s"] is None


async def test_an_interpreter_that_has_gone_is_named(place: Path) -> None:
    """A Python that was removed under the agent runs forks; a spawned task says what is missing."""
    venv.create(place / "env", symlinks=True)
    python = place / "env" / "bin" / "python"
    async with direct.here(place, python_path=str(python)) as machine:
        assert (await machine.run(lambda: 1)).value == 1
        shutil.rmtree(python.parent)
        assert (await machine.run(lambda: 2)).value == 2
        gone = await machine.run(lambda: 3, options={"isolation": "spawn"})
    assert f"{python} could not be started afresh: [Errno 2]" in str(gone.error)


def test_only_fork_and_spawn_are_isolation() -> None:
    """The default is `fork`, and a machine's table sets it for all of its tasks."""
    section = {"hosts": {"m": {"isolation": "spawn"}}}
    assert settings.resolve({"hostname": "n"}, section).isolation == "fork"
    assert settings.resolve({"hostname": "m"}, section).isolation == "spawn"
