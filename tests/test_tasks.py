"""A task's directory read from outside: its state, its first outcome, and the closing of a dead one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from covalent_sshtiming.remote import ending, jobs, places, tasks


@pytest.mark.parametrize(
    ("files", "locked", "state"),
    [
        ({}, False, tasks.UNKNOWN),
        ({"lock": ""}, False, tasks.UNKNOWN),
        ({"request.ab.tmp": "{}"}, False, tasks.UNKNOWN),
        ({"request": "{}"}, False, tasks.WAITING),
        ({"request": "{}", "lock": ""}, False, tasks.WAITING),
        ({"request": "{}", "lock": ""}, True, tasks.RUNNING),
        ({"lock": "{}"}, True, tasks.RUNNING),
        ({"lock": "{}"}, False, tasks.DIED),
        ({"lock": "\0"}, False, tasks.DIED),
        ({"request": "{}", "lock": "{}"}, False, tasks.DIED),
        ({"lock": "{}", "outcome": "{}"}, False, tasks.ENDED),
        ({"lock": "{}", "outcome": "{}"}, True, tasks.ENDED),
        ({"cancel": "", "outcome": "{}"}, False, tasks.ENDED),
    ],
)
def test_the_files_of_a_directory_say_its_state(
    tmp_path: Path, files: dict[str, str], locked: bool, state: str
) -> None:
    """What a task's state is, its directory says, by the first question of the table that is answered."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with open(tmp_path / "lock" if locked else os.devnull, "rb") as file:
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert tasks.state(str(tmp_path)) == state


def test_a_mark_is_left_once(tmp_path: Path) -> None:
    """The first to mark a locked file has it; the second changes nothing of what the first has written."""
    lock = places.try_lock(str(tmp_path / "lock"))
    assert lock is not None
    assert places.mark(lock, b"first")
    assert not places.mark(lock, b"another")
    assert (tmp_path / "lock").read_bytes() == b"first"
    os.close(lock)


def test_of_a_mark_that_cannot_be_written_nothing_stays() -> None:
    """Where a mark has no room the file is left empty, and so the task can still start."""
    handle = os.memfd_create("lock", os.MFD_ALLOW_SEALING)  # a file that grows and takes no byte
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    with pytest.raises(PermissionError):
        places.mark(handle, b"content")
    assert os.fstat(handle).st_size == 0
    os.close(handle)


def test_the_size_of_a_mark_comes_before_its_bytes() -> None:
    """What a journal keeps of a mark through a loss of power is there first, so the task is not run again."""
    handle = os.memfd_create("lock", os.MFD_ALLOW_SEALING)  # it grows, takes no byte and never shrinks
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
    with pytest.raises(PermissionError):
        places.mark(handle, b"content")
    assert os.fstat(handle).st_size == len(b"content")
    os.close(handle)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_stands_in_place_of_a_lock_says_nothing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe or a directory is no mark and can be marked by nobody, and the task is listed."""
    make(tmp_path / "lock")
    assert tasks.state(str(tmp_path)) == tasks.UNKNOWN
    told = jobs.describe("0" * 32, str(tmp_path))
    assert told is not None
    assert told["state"] == jobs.STATES[tasks.UNKNOWN]
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        places.try_lock(str(tmp_path / "lock"), regular=True)


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
    (tmp_path / "lock").write_text(json.dumps(known))
    tasks.close_dead(str(tmp_path))
    ended = json.loads((tmp_path / "outcome").read_text())
    assert ended["status"] == "killed"
    assert text in ended["error"]["text"]


def test_a_recycled_session_is_left_alone(tmp_path: Path) -> None:
    """Closing a dead task kills nobody who happens to have its session's number by now."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        known = {"boot": places.machine()[1], "pid": other.pid, "session": other.pid, "ticks": 1}
        (tmp_path / "lock").write_text(json.dumps(known))
        tasks.close_dead(str(tmp_path))
        time.sleep(0.1)
        assert other.poll() is None
        other.kill()
