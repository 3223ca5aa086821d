"""The log: many writers, torn lines, full disks, and what a reader makes of them."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.disks import mounted

from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import MAX_TEXT, TimingRecord
from covalent_sshtiming.timing.timings import read_log

WRITERS = 8
TEXT_FIELDS = [f.name for f in fields(TimingRecord) if f.type == "str | None" and f.name != "record_id"][:15]


def record_of(record_id: str, **values: Any) -> TimingRecord:
    """An electron's record with a sentence to it."""
    known = {"kind": "electron", "dispatch_id": "d", "node_id": 1, "cpu_s": 0.5, **values}
    return TimingRecord(record_id=record_id, **known)


def ids(path: Path) -> list[str | None]:
    """Which records a log holds."""
    return [record.record_id for record in read_log(path).records]


def padded(record_id: str, size: int) -> TimingRecord:
    """A record with about this many bytes of text in it."""
    sizes = (min(MAX_TEXT, max(0, size - i * MAX_TEXT)) for i in range(len(TEXT_FIELDS)))
    texts: dict[str, Any] = {name: "x" * n for name, n in zip(TEXT_FIELDS, sizes, strict=True)}
    return TimingRecord(record_id=record_id, **texts)


def write_many(path: Path, writer: int, each: int, start: Any) -> None:
    """One of several processes that write at the same time."""
    log = TimingLog(path)
    start.wait()
    for i in range(each):
        spread = (i * 77 + writer) % each / each  # sizes large and small, in no order
        log.append(padded(f"{writer}-{i}", int(100 * 640**spread)))


def run_all(processes: list[Any]) -> None:
    """Start processes, and see each of them end well."""
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


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


def test_torn_last_line_is_repaired(tmp_path: Path) -> None:
    """A record that follows half a line begins on a line of its own; the half line is counted."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.append(record_of("a"))
    with log.path.open("a") as file:
        file.write('{"schema":"sshtim')
    log.append(record_of("b"))
    assert ids(log.path) == ["a", "b"]
    assert read_log(log.path).bad_lines == 1


def test_reader_stops_at_the_last_newline(tmp_path: Path) -> None:
    """A line that is still being written is no record yet, and no bad line either."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.append(record_of("a"))
    with log.path.open("a") as file:
        file.write(record_of("b").to_json())
    assert ids(log.path) == ["a"]
    assert read_log(log.path).bad_lines == 0


def test_foreign_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    """Lines that are no record of ours hide no record; empty ones are not even counted."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.append(record_of("a"))
    with log.path.open("ab") as file:
        file.write(b'\nhello\n\xff\xfe\n[]\n{"cpu_s":1}\n{"schema":"sshtiming.task/2"}\n  \n')
    log.append(record_of("b"))
    assert ids(log.path) == ["a", "b"]
    assert read_log(log.path).bad_lines == 5


def test_missing_log_is_named(tmp_path: Path) -> None:
    """Where nothing was ever logged, the error names the file that was looked for."""
    with pytest.raises(FileNotFoundError) as caught:
        read_log(tmp_path / "timing.txt")
    assert caught.value.filename == str(tmp_path / "timing.txt.jsonl")


def fill_to_the_limit(path: Path, limit: int) -> None:
    """Write below a file size limit that the second record does not fit under."""
    log = TimingLog(path)
    log.append(record_of("a"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    before = path.read_bytes()
    with pytest.raises(OSError, match="File too large") as caught:
        log.append(padded("b", 5000))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.append(record_of("c"))


def test_record_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    """A write that the kernel cuts short leaves the log as it was, and the next one succeeds."""
    path, spawn = tmp_path / "log.jsonl", multiprocessing.get_context("spawn")
    run_all([spawn.Process(target=fill_to_the_limit, args=(path, 5000))])
    assert ids(path) == ["a", "c"]
    assert read_log(path).bad_lines == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two pages, where this user may mount one."""
    with mounted(tmp_path / "disk", "8k") as disk:
        yield disk


def test_full_disk_leaves_no_torn_line(small_disk: Path) -> None:
    """On a full disk the error names the log and the cause, and every line there is whole."""
    log = TimingLog(small_disk / "log.jsonl")
    written = []

    def fill() -> None:
        for i in range(20):
            log.append(padded(f"{i}", 300))
            written.append(f"{i}")

    with pytest.raises(OSError, match="No space left on device") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(log.path)
    assert ids(log.path) == written != []
    assert log.path.read_bytes().endswith(b"}\n")


def test_sentence_that_does_not_fit_costs_no_record(tmp_path: Path) -> None:
    """The record is written before its sentence, so a sentence that fails loses nothing else."""
    log = TimingLog(tmp_path / "timing.txt")
    log.path.mkdir()
    with pytest.raises(IsADirectoryError, match=r"timing\.txt") as caught:
        log.append(record_of("a"))
    assert caught.value.filename == str(log.path)
    assert ids(log.path) == ["a"]


def test_log_goes_on_after_rotation(tmp_path: Path) -> None:
    """A log that was renamed between two records is begun anew, and privately."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.append(record_of("a"))
    log.path.rename(tmp_path / "log.jsonl.old")
    log.append(record_of("b"))
    assert ids(log.path) == ["b"]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_writer_that_waits_out_a_rotation_writes_to_the_new_file(tmp_path: Path) -> None:
    """A writer that opened the log before a rotation does not write to the old file after it."""
    log, old = TimingLog(tmp_path / "log.jsonl"), tmp_path / "log.jsonl.old"
    log.append(record_of("a"))
    before = log.path.read_bytes()
    writer = threading.Thread(target=log.append, args=(record_of("b"),))
    with log.path.open("rb") as rotator:
        fcntl.flock(rotator, fcntl.LOCK_EX)
        writer.start()
        time.sleep(0.2)
        log.path.rename(old)
    writer.join()
    assert old.read_bytes() == before
    assert ids(log.path) == ["b"]


@pytest.mark.parametrize("name", ["log.jsonl", "timing.txt"])
def test_lock_that_is_never_given_back_costs_a_shard(tmp_path: Path, name: str) -> None:
    """A writer does not wait for ever on a lock; its records go beside the log and are read with it."""
    log = TimingLog(tmp_path / name, lock_wait_s=0.05)
    log.append(record_of("a"))
    before = log.records.read_bytes()
    with log.records.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        log.append(record_of("b"))
        log.append(record_of("c"))
    assert log.records.read_bytes() == before
    shard = tmp_path / f"{log.records.name}.{os.uname().nodename}.{os.getpid()}.jsonl"
    assert stat.S_IMODE(shard.stat().st_mode) == 0o600
    assert ids(log.path) == ["a", "b", "c"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_costs_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where locks do not exist each process writes a file of its own, records and sentences alike."""

    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    log = TimingLog(tmp_path / "odd [name].txt")
    log.append(record_of("a"))
    mine = f"{os.uname().nodename}.{os.getpid()}"
    sentences = tmp_path / f"odd [name].txt.{mine}.txt"
    assert sentences.read_text() == "Node 1 in dispatch d took 0.5s of CPU time.\n"
    assert (tmp_path / f"odd [name].txt.jsonl.{mine}.jsonl").exists()
    assert log.records.read_bytes() == b""
    assert ids(log.path) == ["a"]


def test_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that fails for another reason is not taken for a missing one."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    log = TimingLog(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match="Input/output error") as caught:
        log.append(record_of("a"))
    assert caught.value.filename == str(log.path)
    assert list(tmp_path.iterdir()) == [log.path]


def test_fsync_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is forced to the disk when asked for, and only then."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    TimingLog(tmp_path / "log.jsonl").append(record_of("a"))
    assert synced == []
    TimingLog(tmp_path / "log.jsonl", fsync=True).append(record_of("b"))
    assert len(synced) == 1
    assert ids(tmp_path / "log.jsonl") == ["a", "b"]


def test_appending_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """However an append ends, it closes what it opened."""
    log = TimingLog(tmp_path / "timing.txt")
    log.append(record_of("a"))
    before = len(list(Path("/dev/fd").iterdir()))
    log.append(record_of("b"))
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(IsADirectoryError):
        log.append(record_of("c"))
    assert len(list(Path("/dev/fd").iterdir())) == before
