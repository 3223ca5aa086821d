"""The log: many writers, torn lines, full disks, and what a reader makes of them."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.logs import ids, padded, record_of, run_all

from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import TimingRecord
from covalent_sshtiming.timing.timings import read_log

WRITERS = 8


def write_many(path: Path, writer: int, each: int, start: Any) -> None:
    """One of several processes that write at the same time."""
    log = TimingLog(path)
    start.wait()
    for i in range(each):
        spread = (i * 77 + writer) % each / each  # sizes large and small, in no order
        log.append(padded(f"{writer}-{i}", int(100 * 640**spread)))


@pytest.mark.parametrize("each", [300, pytest.param(2500, marks=pytest.mark.accuracy)])
def test_eight_processes_lose_no_record(tmp_path: Path, each: int) -> None:
    """Eight processes that write records of 100 B to 64 KiB lose none, tear none and mix none up."""
    path, spawn = tmp_path / "log.jsonl", multiprocessing.get_context("spawn")
    start = spawn.Barrier(WRITERS)
    run_all([spawn.Process(target=write_many, args=(path, writer, each, start)) for writer in range(WRITERS)])
    page = read_log(path)
    by_id = {record.record_id: record for record in page.records}
    assert page.bad_lines == 0
    assert len(page.records) == WRITERS * each
    assert set(by_id) == {f"{writer}-{i}" for writer in range(WRITERS) for i in range(each)}
    assert max(len(line) for line in path.read_bytes().splitlines()) > 50_000


def test_threads_of_one_process_lose_no_record(tmp_path: Path) -> None:
    """Threads that share one TimingLog keep out of each other's lines."""
    log = TimingLog(tmp_path / "log.jsonl")

    def write(name: int) -> None:
        for i in range(100):
            log.append(padded(f"{name}-{i}", 5000))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids(log.path))) == 400
    assert read_log(log.path).bad_lines == 0


def test_every_key_is_on_every_line_of_the_file(tmp_path: Path) -> None:
    """Every line of a log has the same keys in the same order."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.append(record_of("a"))
    log.append(TimingRecord())
    lines = [list(json.loads(line)) for line in log.path.read_text().splitlines()]
    assert lines == [[f.name for f in fields(TimingRecord)]] * 2


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "LOG.JSONL"])
def test_record_file_gets_records_and_no_sentence(tmp_path: Path, name: str) -> None:
    """A log with a name for JSON lines is one file of them."""
    log = TimingLog(tmp_path / name)
    log.check_writable()
    log.append(record_of("a"))
    assert list(tmp_path.iterdir()) == [log.path]
    assert log.path.read_text() == record_of("a").to_json() + "\n"


@pytest.mark.parametrize("name", ["timing.txt", "timing", "cpu timing.log"])
def test_sentence_file_has_its_records_beside_it(tmp_path: Path, name: str) -> None:
    """Any other name gets a sentence a line, and the full records in a second file."""
    log = TimingLog(tmp_path / name)
    log.append(record_of("a", status="failed"))
    assert log.path.read_text() == "Node 1 in dispatch d took 0.5s of CPU time.\n"
    assert (tmp_path / f"{name}.jsonl").read_text() == record_of("a", status="failed").to_json() + "\n"
    assert ids(log.path) == ids(tmp_path / f"{name}.jsonl") == ["a"]


@pytest.mark.parametrize("values", [{"kind": "helper"}, {"kind": None}, {"cpu_s": None}])
def test_sentences_are_for_electrons_with_a_cpu_time(tmp_path: Path, values: dict[str, Any]) -> None:
    """Covalent's helpers, and tasks of unknown CPU time, have a record and no sentence."""
    log = TimingLog(tmp_path / "timing.txt")
    log.append(record_of("a", **values))
    assert not log.path.exists()
    assert ids(log.path) == ["a"]


def test_files_are_private_from_the_start(tmp_path: Path) -> None:
    """A log that we create is its owner's alone, and one that was there keeps its mode."""
    log = TimingLog(tmp_path / "new" / "deep" / "timing.txt")
    log.check_writable()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (log.path, log.records)] == [0o600, 0o600]
    log.path.chmod(0o644)
    log.append(record_of("a"))
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o644


def test_a_check_lasts_for_a_moment(tmp_path: Path) -> None:
    """A log that was just found writable is known to be, another is not."""
    log = TimingLog(tmp_path / "timing.log")
    assert not log.was_writable()
    log.check_writable()
    assert log.was_writable()
    assert TimingLog(tmp_path / "timing.log").was_writable()
    assert not TimingLog(tmp_path / "other.log").was_writable()


def test_checking_writes_nothing(tmp_path: Path) -> None:
    """Checking a log leaves an empty one empty and a full one as it was."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.check_writable()
    assert log.path.read_bytes() == b""
    log.append(record_of("a"))
    before = log.path.read_bytes()
    log.check_writable()
    assert log.path.read_bytes() == before


def unusable(tmp_path: Path, kind: str) -> Path:
    """A path that no log can be at."""
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "below a file":
        path.touch()
        path /= "y.txt"
    elif kind == "records taken":
        (tmp_path / "x.jsonl").mkdir()
    elif kind == "NUL":
        path = tmp_path / "a\0b"
    elif kind == "loop":
        path.symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("kind", "at", "why"),
    [
        ("directory", "x", "Is a directory. Name a file in that directory"),
        ("records taken", "x.jsonl", "Is a directory. Name a file in that directory"),
        (
            "below a file",
            "x/y.txt",
            "Not a directory. One of the directories above it is a file; choose another place",
        ),
        ("pipe", "x", "it is not a regular file. Name a file that this user may create and write"),
        ("NUL", "a\\x00b", "embedded null byte. Name a file that this user may create and write"),
        (
            "loop",
            "x",
            f"{os.strerror(errno.ELOOP)}. Name a file that this user may create and write",
        ),
    ],
)
def test_unusable_log_is_a_config_error(tmp_path: Path, kind: str, at: str, why: str) -> None:
    """A log that cannot be opened is refused with its path, the cause and what to do."""
    log = TimingLog(unusable(tmp_path, kind))
    with pytest.raises(ConfigError) as caught:
        log.check_writable()
    assert str(caught.value) == (
        f"The timing log '{tmp_path}/{at}' cannot be opened for appending: {why}; nothing was submitted."
    )


def test_unknown_home_is_a_config_error() -> None:
    """A home directory that does not exist is named, and no directory called ~ is made."""
    with pytest.raises(ConfigError) as caught:
        TimingLog("~no-such-user-here/log.jsonl")
    assert str(caught.value) == (
        "The timing log '~no-such-user-here/log.jsonl' is in the home directory of a user that this "
        "machine does not know. Write the path out in full."
    )


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log under ~ is written to, and read from, the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    TimingLog("~/log.jsonl").append(record_of("a"))
    assert ids(tmp_path / "log.jsonl") == ids(Path("~/log.jsonl")) == ["a"]


def test_symlink_is_followed(tmp_path: Path) -> None:
    """A log that is a link to a file elsewhere is written there, and stays a link."""
    link, target = tmp_path / "log.jsonl", tmp_path / "elsewhere"
    link.symlink_to(target)
    TimingLog(link).append(record_of("a"))
    assert link.is_symlink()
    assert target.read_text() == record_of("a").to_json() + "\n"
