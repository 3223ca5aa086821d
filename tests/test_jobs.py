"""`covalent-sshtiming jobs`: the list of what is on a machine, ending it and removing it by hand."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import direct, readme
from support.faults import noting, until
from support.jobs import (
    Machine,
    behind,
    burn_and_return,
    finished,
    jobs,
    known,
    left_alone,
    listed,
    write_configuration,
)
from support.there import There, begun, kill

from covalent_sshtiming import visit
from covalent_sshtiming.demo.sshserver import SSHServer


async def test_nothing_there_is_said(gpubox: Machine) -> None:
    """A machine without a task of ours gives an empty list: a sentence for people, [] for programs."""
    ran = await jobs("gpubox")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "gpubox has no task of yours.\n"
    assert await listed() == []


async def test_running_and_queued_are_listed(gpubox: Machine, far_place: There) -> None:
    """A task that runs and one that waits are listed with state, age, function, node and CPU time so far."""
    await left_alone(gpubox, burn_and_return(30))
    await left_alone(gpubox, noting(far_place / "second"))
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


async def test_the_readme_shows_what_is_printed(gpubox: Machine, place: Path) -> None:
    """The page's list of a finished, a running and a queued task, and a fetched result, are as printed."""
    dispatch = "0535b436-9e68-4c96-967c-0aebea09b1ac"

    async def leave(name: str, seconds: float, node: int) -> None:
        function = burn_and_return(seconds)
        function.__name__ = name
        await left_alone(gpubox, function, dispatch_id=dispatch, node_id=node)

    await leave("relax", 0.01, 4)
    await finished(gpubox)
    await leave("anneal", 30, 7)
    await until(lambda: begun(gpubox.spool) and len(known(gpubox)) == 2)
    await leave("anneal", 30, 8)
    await asyncio.sleep(1)
    ran = await jobs(*readme.typed("covalent-sshtiming jobs gpubox")[2:])
    assert readme.shape(ran.stdout) == readme.shape(readme.shown("covalent-sshtiming jobs gpubox"))
    key = ran.stdout.splitlines()[2].split()[0]
    ran = await jobs("gpubox", "--fetch", key[:4])
    said = (ran.stdout + ran.stderr).replace(str(place / "data"), "/home/ada/.local/share")
    said = said.replace(f"{place}/fetched.log", "/home/ada/cpu_timing.log")
    assert readme.shape(said) == readme.shape(readme.shown("covalent-sshtiming jobs gpubox --fetch"))


async def test_a_killed_task_ends_with_its_children(gpubox: Machine, far_place: There) -> None:
    """--kill ends a running task with all its processes, and one that waits before it begins."""

    def family(path: str) -> None:
        import subprocess

        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(path, "w") as file:
            file.write(str(child.pid))
        child.wait()

    await left_alone(gpubox, family, str(far_place / "child"))
    await left_alone(gpubox, noting(far_place / "never"))
    await until(lambda: (far_place / "child").exists() and bool((far_place / "child").read_text()))
    child = int((far_place / "child").read_text())
    assert gpubox.alive(child)
    keys = {job["state"]: job["key"] for job in await listed()}
    for state in ("queued", "running"):
        ran = await jobs("gpubox", "--kill", keys[state])
        assert (ran.returncode, ran.stdout) == (0, "")
        assert ran.stderr.startswith(f"{keys[state][:8]} cancelled.")
    assert not gpubox.alive(child)
    assert not (far_place / "never").exists()
    ran = await jobs("gpubox", "--kill", keys["running"])
    assert ran.returncode == 1
    assert "has finished already (cancelled)" in ran.stderr


async def test_clean_removes_what_has_finished(gpubox: Machine, place: Path) -> None:
    """--clean asks, then removes finished tasks, never one that runs or waits."""
    await left_alone(gpubox, lambda: 1)
    await finished(gpubox)
    await left_alone(gpubox, burn_and_return(30))
    ran = await jobs("gpubox", "--clean", answer="n\n")
    assert ran.returncode == 1
    assert "Remove 1 finished tasks with their results?" in ran.stderr
    assert len(await listed()) == 2
    ran = await jobs("gpubox", "--clean", "--yes")
    assert (ran.returncode, ran.stderr) == (0, "Removed 1.\n")
    assert [job["state"] for job in await listed()] == ["running"]
    assert (await jobs("gpubox", "--clean", "--yes")).stderr == "Nothing there is to be removed.\n"


async def test_what_a_dispatcher_waits_for_is_left_to_it(gpubox: Machine, far_place: There) -> None:
    """A task whose dispatcher is connected is listed as waited for, and neither fetched nor removed."""
    gate = far_place / "gate"
    running = asyncio.ensure_future(gpubox.run(behind(gate, lambda: "result")))
    await until(lambda: begun(gpubox.spool))
    (job,) = await listed()
    assert job["watched"] is True
    assert "running (waited for)" in (await jobs("gpubox")).stdout
    ran = await jobs("gpubox", "--fetch", job["key"])
    assert ran.returncode == 1
    assert "is waited for by a dispatcher that is connected" in ran.stderr
    gate.touch()
    assert (await running).value == "result"
    assert gpubox.host.connections == 1


async def test_a_killed_task_is_told_to_the_dispatcher_that_waits(gpubox: Machine, far_place: There) -> None:
    """--kill ends a task that a dispatcher waits for, which has its record then, so none is left there."""
    running = asyncio.ensure_future(gpubox.run(behind(far_place / "never", lambda: "result")))
    await until(lambda: begun(gpubox.spool))
    (job,) = await listed()
    ran = await jobs("gpubox", "--kill", job["key"])
    assert ran.stderr == f"{job['key'][:8]} cancelled. Its dispatcher has been told.\n"
    assert type((await running).error).__name__ == "TaskCancelledError"


async def test_tasks_of_another_version_are_listed(gpubox: Machine, place: Path) -> None:
    """Tasks are found on the disk, whichever agent has them, and facts that are not there are left open."""
    await left_alone(gpubox, lambda: 1)
    await finished(gpubox)
    (directory,) = gpubox.spool.glob("tasks/*")
    started = json.loads((directory / "lock").read_text())
    del started["facts"]
    (directory / "lock").write_text(json.dumps(started))
    for agent in gpubox.agents():
        kill(agent, gpubox.spool)
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
    gpubox: Machine, arguments: list[str], code: int, text: str
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


def test_the_age_is_readable() -> None:
    """Ages are in the unit that suits them."""
    from covalent_sshtiming.verbs.jobs import _duration

    seen = [_duration(seconds) for seconds in (None, 5, 300, 9000, 200_000)]
    assert seen == ["-", "5 s", "5 min", "2.5 h", "2.3 d"]


async def test_a_damaged_directory_spoils_no_list(gpubox: Machine) -> None:
    """Files of a task that hold something else are shown as far as they make sense."""
    await left_alone(gpubox, lambda: 1)
    await finished(gpubox)
    (directory,) = gpubox.spool.glob("tasks/*")
    (directory / "lock").write_text('{"facts": [1]}')
    (directory / "outcome").write_text('{"status": {"a": 1}, "record": 7}')
    (job,) = await listed()
    assert (job["state"], job["status"], job["cpu_s"], job["function"]) == ("finished", "", None, "")
