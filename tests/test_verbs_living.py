"""A log that is being written: followed by `log -f`, and rotated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.cells import cell_len
from support import timings
from support.verbs import environment, run_verb, told

from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import TimingRecord


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log whose functions have long names and wide ones."""
    return timings.long_names(tmp_path_factory.mktemp("long"))


@contextmanager
def following(*arguments: str, home: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `log -f` for as long as the block lasts."""
    command = [sys.executable, "-m", "covalent_sshtiming", "log", "-f", *arguments]
    pipe = subprocess.PIPE
    shell = environment(home, PYTHONUNBUFFERED="1", **more)
    with subprocess.Popen(command, env=shell, cwd=home, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_follow_shows_what_comes(tmp_path: Path) -> None:
    """`log -f` prints the newest, oldest first, then each new one, across a rotation."""
    made = [one for one in timings.records(60) if one.kind == "electron"]
    log = TimingLog(tmp_path / "log.jsonl")
    for one in made[:3]:
        log.append(one)
    with following("-n", "2", "--json", "log.jsonl", home=tmp_path) as process:
        assert process.stdout
        shown = [json.loads(process.stdout.readline())["record_id"] for _ in range(2)]
        log.append(made[3])
        shown.append(json.loads(process.stdout.readline())["record_id"])
        run_verb("rotate", "log.jsonl", home=tmp_path)
        log.append(made[4])
        shown.append(json.loads(process.stdout.readline())["record_id"])
    assert shown == [one.record_id for one in made[1:5]]


def test_follow_fits_a_narrow_terminal_and_ends_by_ctrl_c(long_names: Path) -> None:
    """`log -f` keeps to the terminal's width, names what has no room, and Ctrl-C is its quiet end."""
    with following("long.jsonl", home=long_names.parent, COLUMNS="40") as process:
        assert process.stdout
        assert process.stderr
        lines = [process.stdout.readline().rstrip("\n") for _ in range(6)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == "No room for: id, when (UTC), host, wall, eff., peak\n"
    assert lines[0].split() == ["function", "status", "CPU"]
    assert max(map(cell_len, lines)) <= 40
    assert all(line.endswith("completed  250.0 ms") for line in lines[1:])


def test_follow_waits_for_a_log(tmp_path: Path) -> None:
    """`log -f` on a log that is not there yet says so, and shows the first task when it has ended."""
    one = timings.records(1)[0]
    with following("new.log", home=tmp_path) as process:
        assert process.stdout
        assert process.stderr
        assert process.stderr.readline() == "Waiting for tasks in new.log.\n"
        TimingLog(tmp_path / "new.log").append(one)
        assert process.stdout.readline().split()[:2] == ["id", "when"]
        assert (one.function or "-") in process.stdout.readline()


def test_rotating_loses_no_line(tmp_path: Path) -> None:
    """While eight threads write, rotations leave each record in exactly one of the files."""
    log = TimingLog(tmp_path / "timing.log")
    rotated = threading.Event()
    written: dict[int, int] = {}

    def write(name: int) -> None:
        number = 0
        while number < 60 or not rotated.is_set():  # so each rotation finds something
            log.append(
                TimingRecord(record_id=f"{name}-{number}", kind="electron", cpu_s=1.0, dispatch_id="d")
            )
            number += 1
            time.sleep(0.002)
        written[name] = number

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    try:
        moved = [run_verb("rotate", "timing.log", *["--gzip"] * one, home=tmp_path) for one in (0, 1)]
    finally:
        rotated.set()
        for thread in threads:
            thread.join()
    assert [ran.code for ran in moved] == [0, 0]
    every = told("log", "timing.log.jsonl*", "-n", "0", "--fields", "record_id", "--json", home=tmp_path)
    assert sorted(one["record_id"] for one in json.loads(every)) == sorted(
        f"{name}-{number}" for name in range(8) for number in range(written[name])
    )
    names = [name for ran in moved for name in ran.out.split()]
    assert all((tmp_path / name).is_file() for name in names)
    assert sum(name.endswith(".gz") for name in names) >= 1


def test_rotate_says_why_not(tmp_path: Path) -> None:
    """Nothing to rotate is exit 1, and so is a lock that somebody keeps."""
    import fcntl

    ran = run_verb("rotate", "timing.jsonl", home=tmp_path)
    assert (ran.out, ran.code) == ("", 1)
    assert "nothing to rotate: no records in timing.jsonl." in ran.err
    (tmp_path / "timing.jsonl").write_text("{}\n")
    with (tmp_path / "timing.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran = run_verb("rotate", "timing.jsonl", home=tmp_path)
    assert (ran.out, ran.code) == ("", 1)
    assert "was not rotated, because no lock on it could be had in 5 s. Try again;" in ran.err
