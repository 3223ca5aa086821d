"""`covalent-sshtiming jobs`: what is on a machine, and fetching, ending and removing it by hand."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toml
from support import direct, readme
from support.faults import noting, until
from support.named import Server
from support.there import There, kill, parent

import covalent_sshtiming
from covalent_sshtiming import errors, results, visit
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.timing.timings import read_log

Machine = direct.Machine[There]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="jobs-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
async def machine(
    any_sshd: Server, place: Path, far_place: There, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Machine]:
    """Return a machine that covalent.conf calls gpubox, with a data directory of our own."""
    monkeypatch.setenv("COVALENT_CONFIG_DIR", str(place / "conf"))
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    async with direct.machine_at(any_sshd, place, far_place, max_parallel=1) as reached:
        write_configuration(place, reached.settings)
        yield reached


def write_configuration(place: Path, settings: dict[str, Any]) -> None:
    """Write the covalent.conf that calls a machine gpubox."""
    names = ("port", "username", "ssh_key_file", "known_hosts_file", "remote_spool", "python_path")
    table = {name: settings[name] for name in names if name in settings}
    table |= {"timing_filepath": str(place / "fetched.log")}
    table |= {"hosts": {"gpubox": {"hostname": settings["hostname"]}}}
    (place / "conf").mkdir()
    (place / "conf" / "covalent.conf").write_text(toml.dumps({"executors": {"sshtiming": table}}))


async def jobs(*arguments: str, answer: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run the verb in a process of its own; further keywords are environment variables."""
    command = [sys.executable, "-m", "covalent_sshtiming", "jobs", *arguments]
    env = {**os.environ, **more}
    return await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        input=answer,
        timeout=60,
        check=False,
        env=env,
    )


async def listed(*arguments: str) -> list[dict[str, Any]]:
    """Return what `jobs gpubox --json` prints."""
    ran = await jobs("gpubox", "--json", *arguments)
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


async def left_alone(machine: Machine, function: Callable[..., Any], *args: Any, **more: Any) -> None:
    """Submit a task and let go of it and of the connection, as a killed dispatcher does."""
    before = known(machine)
    gate = machine.spool.parent / f"gate-{len(before)}"
    options = {"on_shutdown": "leave", **more.pop("options", {})}
    running = asyncio.ensure_future(machine.run(behind(gate, function), *args, options=options, **more))
    await until(lambda: known(machine) > before)
    await direct.pool.close_all()
    gate.touch()
    await running


def behind(gate: There, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that waits for a file before it does its work: nobody is to see it end."""
    name = str(gate)

    def wait(*args: Any) -> Any:
        import os
        import time

        while not os.path.exists(name):
            time.sleep(0.01)
        return function(*args)

    wait.__name__ = function.__name__
    return wait


def known(machine: Machine) -> set[str]:
    """Return the keys of the tasks that were accepted."""
    return {
        path.parent.name for name in ("request", "started") for path in machine.spool.glob(f"tasks/*/{name}")
    }


async def finished(machine: Machine, count: int = 1) -> None:
    """Wait until so many tasks have their outcome on disk."""
    await until(lambda: len(list(machine.spool.glob("tasks/*/outcome"))) == count, 20)


def burn_and_return(seconds: float) -> Callable[[], dict[str, int]]:
    """Return a function that burns CPU time and returns a value."""

    def burner() -> dict[str, int]:
        import time

        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return {"answer": 42}

    return burner


async def test_nothing_there_is_said(machine: Machine) -> None:
    """A machine without a task of ours gives an empty list: a sentence for people, [] for programs."""
    ran = await jobs("gpubox")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "gpubox has no task of yours.\n"
    assert await listed() == []


async def test_running_and_queued_are_listed(machine: Machine, far_place: There) -> None:
    """A task that runs and one that waits are listed with state, age, function, node and CPU time so far."""
    await left_alone(machine, burn_and_return(30))
    await left_alone(machine, noting(far_place / "second"))
    await asyncio.sleep(1)
    found = {job["state"]: job for job in await listed()}
    assert set(found) == {"running", "queued"}
    running, queued = found["running"], found["queued"]
    assert (running["function"], queued["function"]) == ("burner", "note")
    assert 0.5 < running["cpu_s"] < 20
    assert queued["cpu_s"] is None
    assert running["age_s"] > queued["age_s"] > 0
    assert running["dispatch_id"] == "dispatch"
    assert isinstance(running["node_id"], int)
    ran = await jobs("gpubox")
    header, _, first, second = ran.stdout.splitlines()
    assert header.split() == ["key", "state", "age", "CPU", "function", "dispatch", "node"]
    assert first.split()[:2] == [running["key"][:8], "running"]
    assert second.split()[:2] == [queued["key"][:8], "queued"]
    (one, other) = csv.DictReader(io.StringIO((await jobs("gpubox", "--csv")).stdout))
    assert [one["key"], other["key"], other["cpu_s"]] == [running["key"], queued["key"], ""]
    narrow = await jobs("gpubox", COLUMNS="30")
    assert narrow.stdout.splitlines()[0].split() == ["key", "state", "function"]
    assert narrow.stderr == "No room for: age, CPU, dispatch, node\n"


async def test_the_readme_shows_what_is_printed(machine: Machine, place: Path) -> None:
    """The page's list of a finished, a running and a queued task, and a fetched result, are as printed."""
    dispatch = "0535b436-9e68-4c96-967c-0aebea09b1ac"

    async def leave(name: str, seconds: float, node: int) -> None:
        function = burn_and_return(seconds)
        function.__name__ = name
        await left_alone(machine, function, dispatch_id=dispatch, node_id=node)

    await leave("relax", 0.01, 4)
    await finished(machine)
    await leave("anneal", 30, 7)
    await until(lambda: list(machine.spool.glob("tasks/*/started")) and len(known(machine)) == 2)
    await leave("anneal", 30, 8)
    await asyncio.sleep(1)
    ran = await jobs(*readme.typed("covalent-sshtiming jobs gpubox")[2:])
    assert readme.shape(ran.stdout) == readme.shape(readme.shown("covalent-sshtiming jobs gpubox"))
    key = ran.stdout.splitlines()[2].split()[0]
    ran = await jobs("gpubox", "--fetch", key[:4])
    said = (ran.stdout + ran.stderr).replace(str(place / "data"), "/home/ada/.local/share")
    said = said.replace(f"{place}/fetched.log", "/home/ada/cpu_timing.log")
    assert readme.shape(said) == readme.shape(readme.shown("covalent-sshtiming jobs gpubox --fetch"))


async def test_a_result_is_fetched_once_and_read(machine: Machine, place: Path) -> None:
    """--fetch appends the record, writes the result where load_result reads it, and the task is forgotten."""
    await left_alone(machine, burn_and_return(0.3))
    await finished(machine)
    (job,) = await listed()
    assert (job["state"], job["status"]) == ("finished", "completed")
    assert 0.29 < job["cpu_s"] < 0.5
    ran = await jobs("gpubox", "--fetch", job["key"][:6])
    assert ran.returncode == 0, ran.stderr
    path = Path(ran.stdout.strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert f"its record is in {place / 'fetched.log'}" in ran.stderr
    for name in (job["key"], job["key"][:8], str(path)):
        assert covalent_sshtiming.load_result(name) == {"answer": 42}
    (record,) = read_log(place / "fetched.log").records
    assert (record.record_id, record.status, record.host) == (job["key"], "completed", "gpubox")
    assert (record.function, record.dispatch_id, record.node_id) == ("burner", "dispatch", job["node_id"])
    assert record.cpu_s == job["cpu_s"]
    assert record.result_bytes is not None
    assert record.submitted_at is not None
    assert not list(machine.spool.glob("tasks/*"))
    ran = await jobs("gpubox", "--fetch", job["key"])
    assert ran.returncode == 1
    assert "no task there has a key that begins with" in ran.stderr


KILLED = """
import asyncio, json, os, sys, time
from pathlib import Path
from support import direct

def task(number, gate):
    while not os.path.exists(gate):
        time.sleep(0.01)
    return number

async def main(settings, gate):
    machine = direct.Machine(settings, Path(settings["remote_spool"]), Path(settings["timing_filepath"]))
    await asyncio.gather(*(machine.run(task, number, gate, node_id=number) for number in range(3)))

asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2]))
"""


async def test_what_a_killed_dispatcher_left_is_fetched(
    machine: Machine, place: Path, far_place: There
) -> None:
    """What a killed near process had running and waiting ends by itself, and all of it is fetched."""
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in machine.settings.items()
    }
    near = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, json.dumps(settings), str(far_place / "gate")),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        await until(lambda: len(known(machine)) == 3, 30)
    finally:
        near.kill()
        await near.wait()
    (far_place / "gate").touch()
    await finished(machine, 3)
    ran = await jobs("gpubox", "--fetch", "all")
    assert ran.returncode == 0, ran.stderr
    assert sorted(covalent_sshtiming.load_result(path) for path in ran.stdout.split()) == [0, 1, 2]
    assert {record.node_id for record in read_log(place / "fetched.log").records} == {0, 1, 2}
    assert not list(machine.spool.glob("tasks/*"))


async def test_a_result_that_cannot_be_written_here_stays_there(machine: Machine, place: Path) -> None:
    """A fault of the near disk is called one, and the task can be fetched again."""
    await left_alone(machine, lambda: 1)
    await finished(machine)
    (job,) = await listed()
    (place / "data").write_text("no directory")
    ran = await jobs("gpubox", "--fetch", job["key"])
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "was not fetched: the result cannot be written here, to " in ran.stderr
    assert "Traceback" not in ran.stderr
    (place / "data").unlink()
    assert (await jobs("gpubox", "--fetch", job["key"])).returncode == 0
    assert covalent_sshtiming.load_result(job["key"]) == 1


async def test_a_failed_task_brings_its_error(machine: Machine, place: Path) -> None:
    """--fetch of a task that raised prints its traceback and sentence, and appends its record."""

    def fail() -> None:
        raise ValueError("no such luck")

    await left_alone(machine, fail)
    await finished(machine)
    ran = await jobs("gpubox", "--fetch", "all")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "Traceback" in ran.stderr
    assert "gpubox: fail raised ValueError: no such luck." in ran.stderr
    (record,) = read_log(place / "fetched.log").records
    assert (record.status, record.error_type) == ("failed", "TaskFailed")
    assert (await jobs("gpubox", "--fetch", "all")).stderr == "Nothing there waits to be fetched.\n"


async def test_the_files_that_a_task_has_left_come_too(
    machine: Machine, place: Path, far_place: There
) -> None:
    """--fetch brings what the task's `fetch` named, however it ended, into a directory of its key."""

    def fail() -> None:
        with open("a\nb.h5", "w") as file:
            file.write("A")
        with open("other", "w") as file:
            file.write("no")
        raise ValueError("no such luck")

    work = {"remote_workdir": str(far_place / "work"), "fetch": ["*.h5", "dir"]}
    (far_place / "work").mkdir()
    (far_place / "work" / "dir").mkdir()
    await left_alone(machine, fail, options=work)
    await finished(machine)
    (job,) = await listed()
    ran = await jobs("gpubox", "--fetch", "all")
    assert ran.returncode == 0, ran.stderr
    directory = Path(ran.stdout.strip())
    assert directory == results.directory() / f"{job['key']}.files"
    assert [path.name for path in directory.iterdir()] == ["a\nb.h5"]
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    (record,) = read_log(place / "fetched.log").records
    assert (record.status, record.fetched_files, record.fetched_bytes) == ("failed", 1, 1)
    assert not list(machine.spool.glob("tasks/*"))


async def test_a_killed_task_ends_with_its_children(machine: Machine, far_place: There) -> None:
    """--kill ends a running task with all its processes, and one that waits before it begins."""

    def family(path: str) -> None:
        import subprocess

        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(path, "w") as file:
            file.write(str(child.pid))
        child.wait()

    await left_alone(machine, family, str(far_place / "child"))
    await left_alone(machine, noting(far_place / "never"))
    await until(lambda: (far_place / "child").exists() and bool((far_place / "child").read_text()))
    child = int((far_place / "child").read_text())
    assert machine.alive(child)
    keys = {job["state"]: job["key"] for job in await listed()}
    for state in ("queued", "running"):
        ran = await jobs("gpubox", "--kill", keys[state])
        assert (ran.returncode, ran.stdout) == (0, "")
        assert ran.stderr.startswith(f"{keys[state][:8]} cancelled.")
    assert not machine.alive(child)
    assert not (far_place / "never").exists()
    ran = await jobs("gpubox", "--kill", keys["running"])
    assert ran.returncode == 1
    assert "has finished already (cancelled)" in ran.stderr


async def test_clean_removes_what_has_finished(machine: Machine, place: Path) -> None:
    """--clean asks, then removes finished tasks, never one that runs or waits."""
    await left_alone(machine, lambda: 1)
    await finished(machine)
    await left_alone(machine, burn_and_return(30))
    ran = await jobs("gpubox", "--clean", answer="n\n")
    assert ran.returncode == 1
    assert "Remove 1 finished tasks with their results?" in ran.stderr
    assert len(await listed()) == 2
    ran = await jobs("gpubox", "--clean", "--yes")
    assert (ran.returncode, ran.stderr) == (0, "Removed 1.\n")
    assert [job["state"] for job in await listed()] == ["running"]
    assert (await jobs("gpubox", "--clean", "--yes")).stderr == "Nothing there is to be removed.\n"


async def test_what_a_dispatcher_waits_for_is_left_to_it(machine: Machine, far_place: There) -> None:
    """A task whose dispatcher is connected is listed as waited for, and neither fetched nor removed."""
    gate = far_place / "gate"
    running = asyncio.ensure_future(machine.run(behind(gate, lambda: "result")))
    await until(lambda: list(machine.spool.glob("tasks/*/started")))
    (job,) = await listed()
    assert job["watched"] is True
    assert "running (waited for)" in (await jobs("gpubox")).stdout
    ran = await jobs("gpubox", "--fetch", job["key"])
    assert ran.returncode == 1
    assert "is waited for by a dispatcher that is connected" in ran.stderr
    gate.touch()
    assert (await running).value == "result"
    assert machine.host.connections == 1


async def test_a_killed_task_is_told_to_the_dispatcher_that_waits(machine: Machine, far_place: There) -> None:
    """--kill ends a task that a dispatcher waits for, which has its record then, so none is left there."""
    running = asyncio.ensure_future(machine.run(behind(far_place / "never", lambda: "result")))
    await until(lambda: list(machine.spool.glob("tasks/*/started")))
    (job,) = await listed()
    ran = await jobs("gpubox", "--kill", job["key"])
    assert ran.stderr == f"{job['key'][:8]} cancelled. Its dispatcher has been told.\n"
    assert type((await running).error).__name__ == "TaskCancelledError"


async def test_a_task_that_died_can_be_fetched(machine: Machine, place: Path, far_place: There) -> None:
    """A task whose supervisor was killed is listed as killed, and its record says so."""
    await left_alone(machine, noting(far_place / "ran", 60))
    await until((far_place / "ran").exists)
    worker = int((far_place / "ran").read_text())
    kill(parent(worker, far_place), far_place)  # its supervisor
    await until(lambda: not machine.alive(worker))
    (job,) = await listed()
    assert (job["state"], job["status"]) == ("finished", "killed")
    ran = await jobs("gpubox", "--fetch", job["key"], "--log", str(place / "other.jsonl"))
    assert "lost its supervisor, which something killed" in ran.stderr
    (record,) = read_log(place / "other.jsonl").records
    assert record.status == "killed"


async def test_tasks_of_another_version_are_listed(machine: Machine, place: Path) -> None:
    """Tasks are found on the disk, whichever agent has them, and facts that are not there are left open."""
    await left_alone(machine, lambda: 1)
    await finished(machine)
    (directory,) = machine.spool.glob("tasks/*")
    started = json.loads((directory / "started").read_text())
    del started["facts"]
    (directory / "started").write_text(json.dumps(started))
    for agent in machine.agents():
        kill(agent, machine.spool)
    (job,) = await listed()
    assert (job["function"], job["node_id"], job["age_s"]) == ("", None, None)
    assert (await jobs("gpubox", "--fetch", job["key"])).returncode == 0


async def test_a_machine_without_our_minor_version_is_looked_at(
    sshd: SSHServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list needs no Python of our minor version there, and HOST may be an address with a port."""
    monkeypatch.setenv("COVALENT_CONFIG_DIR", str(place / "conf"))
    name = f"{sshd.username}@{sshd.host}:{sshd.port}"
    async with direct.machine(sshd, place, python_path=other_python()) as reached:
        write_configuration(place, reached.settings)
        ran = await jobs(name)
    assert (ran.returncode, ran.stderr) == (0, f"{name} has no task of yours.\n")


def other_python() -> str:
    """Return a Python of another minor version."""
    from support.interpreters import find_interpreter

    for minor in ("3.8", "3.9", "3.12", "3.13"):
        path = find_interpreter(minor)
        if path and f"{sys.version_info[0]}.{sys.version_info[1]}" != minor:
            return str(path)
    pytest.skip("no Python of another minor version")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nobody@", "--json"], 1, "'nobody@' is not [user@]machine[:port]."),
        (["127.0.0.1:1"], 1, "127.0.0.1"),
        (["gpubox", "--fetch", "a", "--clean"], 2, "only one of --fetch, --kill and --clean at a time."),
        (["gpubox", "--fetch", ""], 2, "the key is empty."),
        (["gpubox", "--kill", ""], 2, "the key is empty."),
        ([], 2, "Missing argument 'HOST'"),
    ],
)
async def test_what_cannot_be_done_is_said(
    machine: Machine, arguments: list[str], code: int, text: str
) -> None:
    """Bad usage exits with 2, a machine that is not there with 1, each with a sentence on stderr."""
    ran = await jobs(*arguments)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "connect.failed" not in ran.stderr  # the log's words for the same


def test_a_machines_words_are_made_fit_for_a_terminal() -> None:
    """Control characters, wrong types and numbers out of bounds of a hostile machine do not come through."""
    key = "0" * 32
    told: dict[str, Any] = {
        "key": key,
        "state": "running",
        "function": "\x1b[31mred\n" + "x" * 5000,
        "dispatch_id": {"a": 1},
        "node_id": True,
        "age_s": float("nan"),
        "cpu_s": -1,
        "watched": "yes",
    }
    job = visit.job_of(told)
    assert job is not None
    assert "\x1b" not in job.function
    assert "\n" not in job.function
    assert len(job.function) <= 200
    assert (job.dispatch_id, job.node_id, job.age_s, job.cpu_s, job.watched) == ("", None, None, None, False)
    wrong: Any
    for wrong in (None, [], {**told, "key": "../../etc"}, {**told, "state": "odd"}, {**told, "key": "0"}):
        assert visit.job_of(wrong) is None


def test_a_result_file_believes_no_sizes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that make no sense, a result over the cap, one too long or too short: no file appears."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    for parts in (None, [1, 2], [1, 2, -3], [1, 2, True], [0, 0, "9"], [2 << 20, 0, 0]):
        with pytest.raises((errors.ResultError, errors.ResultTooLarge)):
            results.ResultFile("a" * 32, 100).begin(parts)
    with pytest.raises(errors.ResultTooLarge, match="over max_result_bytes = 100"):
        results.ResultFile("a" * 32, 100).begin([0, 0, 101])
    file = results.ResultFile("a" * 32, 100)
    file.begin([1, 1, 3])
    with pytest.raises(errors.ResultError, match="longer"):
        file.add(b"123456")
    file.begin([1, 1, 3])
    file.add(b"1234")
    with pytest.raises(errors.ResultError, match="shorter"):
        file.finish()
    file.close()
    assert not list(results.directory().iterdir())


def test_two_fetches_at_once_do_not_share_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that begins, and breaks off, while another writes the same result leaves that one whole."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    first, second = (results.ResultFile("a" * 32, 1 << 20) for _ in range(2))
    text = pickle.dumps("x" * 100_000)
    first.begin([0, 0, len(text)])
    first.add(text[:50_000])
    second.begin([0, 0, len(text)])
    first.add(text[50_000:])
    path = first.finish()
    second.close()
    assert covalent_sshtiming.load_result(path) == "x" * 100_000
    assert list(results.directory().iterdir()) == [path]


def test_load_result_says_what_is_wrong(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such key, more than one, no such file and a file of something else are four sentences."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    results.directory().mkdir(parents=True)
    for name in ("ab1", "ab2"):
        (results.directory() / f"{name}.result").write_bytes(b"something else\n")
    for name, words in (
        ("ff", "has no result whose key begins with 'ff'"),
        ("ab", "has 2 results whose key begins with 'ab'"),
        ("../x", "there is no file ../x"),
        ("ab1", "is no result that was fetched"),
    ):
        with pytest.raises(errors.ConfigError, match=words):
            covalent_sshtiming.load_result(name)


def test_the_age_is_readable() -> None:
    """Ages are in the unit that suits them."""
    from covalent_sshtiming.verbs.jobs import _duration

    seen = [_duration(seconds) for seconds in (None, 5, 300, 9000, 200_000)]
    assert seen == ["-", "5 s", "5 min", "2.5 h", "2.3 d"]


async def test_one_result_that_cannot_come_keeps_no_other(machine: Machine, place: Path) -> None:
    """--fetch all goes on after a result over the cap, which stays there, and exits with 1."""
    await left_alone(machine, lambda: bytes(100_000))
    await finished(machine)
    await left_alone(machine, lambda: "small")
    await finished(machine, 2)
    conf = Path(os.environ["COVALENT_CONFIG_DIR"], "covalent.conf")
    found = toml.loads(conf.read_text())
    found["executors"]["sshtiming"]["max_result_bytes"] = 50_000
    conf.write_text(toml.dumps(found))
    ran = await jobs("gpubox", "--fetch", "all")
    assert ran.returncode == 1
    assert "was not fetched: " in ran.stderr
    assert "over max_result_bytes = 50000: raise it." in ran.stderr
    assert "1 of 2 were not fetched." in ran.stderr
    assert covalent_sshtiming.load_result(ran.stdout.strip()) == "small"
    assert len(await listed()) == 1


async def test_a_damaged_directory_spoils_no_list(machine: Machine) -> None:
    """Files of a task that hold something else are shown as far as they make sense."""
    await left_alone(machine, lambda: 1)
    await finished(machine)
    (directory,) = machine.spool.glob("tasks/*")
    (directory / "started").write_text('{"facts": [1]}')
    (directory / "outcome").write_text('{"status": {"a": 1}, "record": 7}')
    (job,) = await listed()
    assert (job["state"], job["status"], job["cpu_s"], job["function"]) == ("finished", "", None, "")
