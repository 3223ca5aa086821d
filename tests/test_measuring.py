"""The oracles: tasks whose cost is known, over a real SSH server, against what the record says they cost.

Each runs on this Python, a few on the others that there are; `make accuracy` runs all of them on all
that Covalent supports (the mark `accuracy`). The tolerances are those that the definitions set.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import direct, works
from support.interpreters import OWN, require_interpreter
from support.named import Server
from support.pickles import pickled_by
from support.there import There

from covalent_sshtiming.demo.sshserver import SSHServer

SUPPORTED = ("3.10", "3.11", "3.12")  # by Covalent
SMOKE = ("3.8", "3.10", "3.11", "3.12", "3.13")  # all that the far side may be, without one in the middle

MIB = 1 << 20

# An electron that runs a work, and what hooks do, in the grammar of the oldest far side.
FAR_SOURCE = (
    works.BURN
    + """
def perform(text, *_):
    names = {}
    exec(text, names)
    return names.get("result")

def swell(mebibytes):
    data = bytearray(mebibytes << 20)
    for i in range(0, len(data), 4096):
        data[i] = 1

class Swells:
    # Needs much memory while it is unpickled, and none afterwards.
    def __init__(self, mebibytes):
        self.mebibytes = mebibytes

    def __reduce__(self):
        return swell, (self.mebibytes,)

def child_burns(seconds, wait):
    reading, writing = os.pipe()
    if os.fork() == 0:
        burn(seconds)
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    if wait:
        os.wait()

def wait_for_any():
    try:
        os.wait()
    except ChildProcessError:
        pass
"""
)


def on(*minors: str) -> pytest.MarkDecorator:
    """Run a test on these Pythons in full, and on those that are not only the full run's in each run."""
    marks = {minor: () if minor == OWN else (pytest.mark.accuracy,) for minor in minors}
    return pytest.mark.parametrize("minor", [pytest.param(m, marks=marks[m]) for m in minors])


everywhere = on(*dict.fromkeys((*SUPPORTED, OWN)))
smoke = pytest.mark.parametrize("minor", SMOKE)


class Far:
    """A far side of one Python: `measured` runs a work there and returns the record."""

    def __init__(self, machine: direct.Machine, python: str) -> None:
        self.machine = machine
        self.python = python

    def pickled(self, *expressions: str) -> list[Any]:
        """Return what expressions are worth there, pickled by that Python."""
        return pickled_by(self.python, FAR_SOURCE, *expressions)

    def hook(self, call: str, *args: object) -> tuple[Any, ...]:
        """Return a hook that calls a function of FAR_SOURCE."""
        return (*self.pickled(call, repr(list(args)), "{}"), "")

    async def measured(
        self,
        work: str,
        *extra: str,
        before: Sequence[Any] = (),
        status: str = "completed",
        python: str = "",
    ) -> dict[str, Any]:
        """Run a work, with further arguments that it ignores, and return its record."""
        parts = self.pickled("perform", repr(work), *extra)
        ran = await self.machine.run(*parts, before=before, options={"python_path": python or self.python})
        record = self.machine.records()[-1]
        assert record["status"] == status, ran.stderr
        return record


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.accuracy)])
def isolation(request: pytest.FixtureRequest) -> str:
    """Return how the tasks are isolated; tests/test_spawn.py has a few of spawned ones for each run."""
    return str(request.param)


@pytest.fixture
async def far(minor: str, isolation: str, sshd: SSHServer, place: Path) -> AsyncIterator[Far]:
    """Return a far side of the Python that the test asks for."""
    python = sys.executable if minor == OWN else str(require_interpreter(minor))
    async with direct.machine(sshd, place, python_path=python, isolation=isolation) as machine:
        yield Far(machine, python)


def within(low: float, value: float, high: float) -> bool:
    """Tell whether a figure is what it should be, and show it where it is not."""
    print(f"{low} <= {value} <= {high}")
    return low <= value <= high


def is_whole(record: dict[str, Any]) -> bool:
    """Tell whether a record claims that its CPU time is complete, and by what it knows."""
    return record["cpu_complete"] is True and record["cpu_source"] in ("wait4_subreaper", "cgroup2")


@smoke
async def test_the_main_thread(far: Far) -> None:
    """A second of pure Python costs a second, and the harness's end next to nothing."""
    found = await far.measured(works.single_thread(1.0))
    assert within(0.99, found["cpu_s"], 1.05)
    assert is_whole(found)
    assert within(0, found["phase_exit_cpu_s"], 0.005)


async def test_known_costs_on_any_machine(any_sshd: Server, place: Path, far_place: There) -> None:
    """Half a second in the function, or in a daemon of its making, costs that on whichever machine it is."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        for work, late in ((works.single_thread(0.5), 0.0), (works.double_fork(0.5), 0.45)):
            await machine.run(lambda text: exec(text, {}), work)  # noqa: S102 - a text of ours, over there
            found = machine.records()[-1]
            assert found["status"] == "completed"
            assert within(0.49, found["cpu_s"], 0.60)
            assert found["cpu_late_s"] >= late


@everywhere
async def test_threads_without_the_lock(far: Far) -> None:
    """Four threads that burn a second each, the interpreter's lock released, cost four."""
    found = await far.measured(works.FOUR_THREADS)
    assert within(3.98, found["cpu_s"], 4.15)
    assert found["threads_alive"] == 0


@everywhere
async def test_a_subprocess(far: Far) -> None:
    """A child that was waited for counts, as a child."""
    found = await far.measured(works.subprocess(1.0))
    assert within(0.99, found["cpu_s"], 1.15)
    assert within(0.99, found["cpu_children_s"], 1.15)
    assert found["cpu_self_s"] < 0.05


@everywhere
async def test_a_child_that_nobody_waited_for(far: Far) -> None:
    """A child that had ended, and was never reaped by the function, counts as late."""
    found = await far.measured(works.NOT_WAITED_FOR)
    assert within(0.49, found["cpu_s"], 0.56)
    assert found["cpu_late_s"] > 0.45


@smoke
async def test_a_double_fork(far: Far) -> None:
    """A daemon that ended in the call, its parent long gone, counts as late."""
    found = await far.measured(works.double_fork(1.0))
    assert within(0.99, found["cpu_s"], 1.10)
    assert found["cpu_late_s"] > 0.9


@smoke
async def test_a_pool_that_is_left_open(far: Far) -> None:
    """Workers of a concurrent.futures pool that live when the function returns are counted and reported."""
    found = await far.measured(works.pool_left_open(0.5))
    assert within(0.49, found["cpu_s"], 0.60)
    assert found["cpu_late_s"] > 0.45
    assert found["descendants_alive"] == 2


@everywhere
async def test_sleep_is_free(far: Far) -> None:
    """A second of sleep costs next to nothing, and takes a second."""
    found = await far.measured(works.SLEEP)
    assert found["cpu_s"] < 0.02
    assert within(0.99, found["wall_s"], 1.2)


@everywhere
async def test_children_that_the_kernel_forgets_are_owned_up_to(far: Far) -> None:
    """With SIGCHLD ignored children's usage is in the record, or that says that it may be incomplete."""
    found = await far.measured(works.SIGCHLD_IGNORED)
    assert found["cpu_complete"] is False or (
        found["cpu_source"] == "cgroup2" and within(0.99, found["cpu_s"], 1.10)
    )


@everywhere
async def test_peak_memory_is_the_calls(far: Far) -> None:
    """256 MiB that were touched and let go are the peak, and a task that touches none has a small one."""
    large = await far.measured(works.touch(256))
    assert within(0.95 * 256 * MIB, large["rss_peak_bytes"], 1.05 * 256 * MIB)
    small = await far.measured(works.NOTHING)
    assert within(0, small["rss_peak_bytes"], 40 * MIB)


@pytest.fixture
def swollen(minor: str, place: Path) -> str:
    """Return a Python of the same version whose every process carries 400 MiB from its start on."""
    python = sys.executable if minor == OWN else require_interpreter(minor)
    subprocess.run([python, "-m", "venv", "--without-pip", place / "swollen"], check=True)
    (packages,) = (place / "swollen").glob("lib/python*/site-packages")
    (packages / "swell.pth").write_text("import sys; sys.swollen = bytearray(b'x') * (400 << 20)\n")
    return str(place / "swollen" / "bin" / "python")


@everywhere
async def test_peak_memory_is_not_the_agents(far: Far, swollen: str) -> None:
    """What an agent that carries 400 MiB is forked with adds nothing to its tasks' peaks."""
    small = await far.measured(works.NOTHING, python=swollen)
    assert within(0, small["rss_peak_bytes"], 40 * MIB)
    large = await far.measured(works.touch(256), python=swollen)
    assert within(0.95 * 256 * MIB, large["rss_peak_bytes"], 1.05 * 256 * MIB)


@everywhere
async def test_peak_memory_is_not_what_came_before_the_call(far: Far) -> None:
    """400 MiB that a hook, or unpickling an argument, needed are not the function's peak."""
    hook = far.hook("swell", 400)
    assert within(0, (await far.measured(works.NOTHING, before=[hook]))["rss_peak_bytes"], 40 * MIB)
    assert within(0, (await far.measured(works.NOTHING, "Swells(400)"))["rss_peak_bytes"], 40 * MIB)


@everywhere
async def test_peak_memory_is_not_what_passed_through_the_agent(far: Far) -> None:
    """50 MB of argument and of result leave the agent so small that the next task's peak is too."""
    await far.measured(works.LARGE_RESULT, "'x' * 50_000_000")
    assert within(0, (await far.measured(works.NOTHING))["rss_peak_bytes"], 40 * MIB)


@everywhere
async def test_a_task_killed_in_its_call(far: Far) -> None:
    """What a killed task and its orphan had burnt until then is on record."""
    found = await far.measured(works.KILLED, status="killed")
    assert within(0.98, found["cpu_s"], 1.10)
    assert found["cpu_late_s"] > 0.55


@everywhere
async def test_the_end_of_a_task_with_a_large_result(far: Far) -> None:
    """50 MB of result cost the function nothing, and the process's end little."""
    found = await far.measured(works.LARGE_RESULT)
    assert found["result_bytes"] >= 50_000_000
    assert within(0, found["phase_exit_cpu_s"], 0.015)


@everywhere
async def test_input_and_output_are_counted(far: Far) -> None:
    """What the function writes and reads appears in the record, and its page faults."""
    found = await far.measured(
        f"open('/dev/null', 'wb').write(bytes({MIB}))\nopen('/dev/zero', 'rb').read({MIB})\n"
    )
    assert within(MIB, found["write_chars"], 1.1 * MIB)
    assert within(MIB, found["read_chars"], 1.2 * MIB)
    assert found["faults_minor"] > 0
    assert found["load_1m_start"] >= 0


@pytest.mark.parametrize("wait", [True, False])
@everywhere
async def test_what_a_hook_started_is_not_the_functions(far: Far, wait: bool) -> None:
    """A child of a call_before hook is not in cpu_s, whether the hook or the function waits for it."""
    work = FAR_SOURCE + "wait_for_any()\n"
    found = await far.measured(work, before=[far.hook("child_burns", 0.4, wait)])
    assert found["cpu_s"] < 0.05
    assert within(0.4, found["cpu_total_s"], 0.6)


# A source tree that burns two seconds while it is built, by a build backend of its own.
BACKEND = """
import time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    end = time.process_time() + 2.0
    while time.process_time() < end:
        pass
    name, info = "sst_costly-1.0-py3-none-any.whl", "sst_costly-1.0.dist-info/"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.writestr("sst_costly.py", "ANSWER = 42")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: sst_costly\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "sst_costly"
version = "1.0"
"""


@everywhere
async def test_what_pip_costs_is_not_the_functions(far: Far, tmp_path: Path) -> None:
    """A DepsPip that builds for seconds is in its own phase and in the total, and not in cpu_s."""
    from covalent import DepsPip

    package, target = tmp_path / "package", tmp_path / "installed"
    package.mkdir()
    (package / "backend.py").write_text(BACKEND)
    (package / "pyproject.toml").write_text(PROJECT)
    install = DepsPip(["--no-index", "--disable-pip-version-check", f"--target={target}", str(package)])
    work = f"import sys\nsys.path.append({str(target)!r})\nimport sst_costly\nresult = sst_costly.ANSWER\n"
    found = await far.measured(work, before=[install.apply()])
    assert found["cpu_s"] < 0.05
    assert found["phase_before_cpu_s"] > 2.0
    assert found["cpu_total_s"] > 2.0
