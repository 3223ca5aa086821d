"""`covalent-sshtiming jobs --fetch`: results, errors, records and files of tasks that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import toml
from support.faults import noting, until
from support.jobs import Machine, burn_and_return, finished, jobs, known, left_alone, listed
from support.there import There, kill, parent

import covalent_sshtiming
from covalent_sshtiming import results
from covalent_sshtiming.timing.timings import read_log


async def test_a_result_is_fetched_once_and_read(gpubox: Machine, place: Path) -> None:
    """--fetch appends the record, writes the result where load_result reads it, and the task is forgotten."""
    await left_alone(gpubox, burn_and_return(0.3))
    await finished(gpubox)
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
    assert not list(gpubox.spool.glob("tasks/*"))
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
    gpubox: Machine, place: Path, far_place: There
) -> None:
    """What a killed near process had running and waiting ends by itself, and all of it is fetched."""
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in gpubox.settings.items()
    }
    near = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, json.dumps(settings), str(far_place / "gate")),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        await until(lambda: len(known(gpubox)) == 3, 30)
    finally:
        near.kill()
        await near.wait()
    (far_place / "gate").touch()
    await finished(gpubox, 3)
    ran = await jobs("gpubox", "--fetch", "all")
    assert ran.returncode == 0, ran.stderr
    assert sorted(covalent_sshtiming.load_result(path) for path in ran.stdout.split()) == [0, 1, 2]
    assert {record.node_id for record in read_log(place / "fetched.log").records} == {0, 1, 2}
    assert not list(gpubox.spool.glob("tasks/*"))


async def test_a_result_that_cannot_be_written_here_stays_there(gpubox: Machine, place: Path) -> None:
    """A fault of the near disk is called one, and the task can be fetched again."""
    await left_alone(gpubox, lambda: 1)
    await finished(gpubox)
    (job,) = await listed()
    (place / "data").write_text("no directory")
    ran = await jobs("gpubox", "--fetch", job["key"])
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "was not fetched: the result cannot be written here, to " in ran.stderr
    assert "Traceback" not in ran.stderr
    (place / "data").unlink()
    assert (await jobs("gpubox", "--fetch", job["key"])).returncode == 0
    assert covalent_sshtiming.load_result(job["key"]) == 1


async def test_a_failed_task_brings_its_error(gpubox: Machine, place: Path) -> None:
    """--fetch of a task that raised prints its traceback and sentence, and appends its record."""

    def fail() -> None:
        raise ValueError("no such luck")

    await left_alone(gpubox, fail)
    await finished(gpubox)
    ran = await jobs("gpubox", "--fetch", "all")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "Traceback" in ran.stderr
    assert "gpubox: fail raised ValueError: no such luck." in ran.stderr
    (record,) = read_log(place / "fetched.log").records
    assert (record.status, record.error_type) == ("failed", "TaskFailed")
    assert (await jobs("gpubox", "--fetch", "all")).stderr == "Nothing there waits to be fetched.\n"


async def test_the_files_that_a_task_has_left_come_too(
    gpubox: Machine, place: Path, far_place: There
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
    await left_alone(gpubox, fail, options=work)
    await finished(gpubox)
    (job,) = await listed()
    ran = await jobs("gpubox", "--fetch", "all")
    assert ran.returncode == 0, ran.stderr
    directory = Path(ran.stdout.strip())
    assert directory == results.directory() / f"{job['key']}.files"
    assert [path.name for path in directory.iterdir()] == ["a\nb.h5"]
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o700
    (record,) = read_log(place / "fetched.log").records
    assert (record.status, record.fetched_files, record.fetched_bytes) == ("failed", 1, 1)
    assert not list(gpubox.spool.glob("tasks/*"))


async def test_a_task_that_died_can_be_fetched(gpubox: Machine, place: Path, far_place: There) -> None:
    """A task whose supervisor was killed is listed as killed, and its record says so."""
    await left_alone(gpubox, noting(far_place / "ran", 60))
    await until((far_place / "ran").exists)
    worker = int((far_place / "ran").read_text())
    kill(parent(worker, far_place), far_place)  # its supervisor
    await until(lambda: not gpubox.alive(worker))
    (job,) = await listed()
    assert (job["state"], job["status"]) == ("finished", "killed")
    ran = await jobs("gpubox", "--fetch", job["key"], "--log", str(place / "other.jsonl"))
    assert "lost its supervisor, which something killed" in ran.stderr
    (record,) = read_log(place / "other.jsonl").records
    assert record.status == "killed"


async def test_one_result_that_cannot_come_keeps_no_other(gpubox: Machine, place: Path) -> None:
    """--fetch all goes on after a result over the cap, which stays there, and exits with 1."""
    await left_alone(gpubox, lambda: bytes(100_000))
    await finished(gpubox)
    await left_alone(gpubox, lambda: "small")
    await finished(gpubox, 2)
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
