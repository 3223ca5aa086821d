"""A log among torn lines, strangers' lines, full disks, rotations and locks that cannot be had."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import mounted
from support.logs import ids, padded, record_of, run_all

from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.timings import read_log


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
