"""No room for files that come and go, and none for the log: what is lost is said, and no result is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import direct
from support.disks import mounted, remount
from support.faults import noting, runs

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer

# ---- files that come and go


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB at `place / "disk"`."""
    with mounted(place / "disk", "1m") as disk:
        yield disk


def leaves(sizes: dict[str, int]) -> Callable[[], str]:
    """Return a function that leaves files of these sizes."""

    def function() -> str:
        for name, size in sizes.items():
            with open(name, "wb") as file:
                file.write(b"x" * size)
        return "done"

    return function


async def test_a_full_disk_here_costs_a_file_and_no_result(
    small_disk: Path, sshd: SSHServer, place: Path
) -> None:
    """What finds no room here is told of with path and errno, what fits is kept, and the result too."""
    options = {"fetch": ["*.h5"], "fetch_to": str(small_disk / "out"), "remote_workdir": str(place / "work")}
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(leaves({"a.h5": 1000, "b.h5": 3 << 20, "c.h5": 1000}), options=options)
        assert ran.value == "done"
        assert ran.stderr == (
            f"warning: '{small_disk}/out/b.h5' was not kept here: No space left on device (errno 28). It is "
            "still in the task's working directory.\n"
        )
        assert sorted(path.name for path in small_disk.rglob("*")) == ["a.h5", "c.h5", "out"]
        record = machine.records()[-1]
        assert (record["fetched_files"], record["fetched_bytes"], record["fetched_left"]) == (2, 2000, 1)


async def test_a_read_only_disk_here_costs_no_result(small_disk: Path, sshd: SSHServer, place: Path) -> None:
    """A directory that cannot be made here is told of for each file; the result is kept."""
    remount(small_disk, "ro")
    options = {"fetch": ["*.h5"], "fetch_to": str(small_disk / "out"), "remote_workdir": str(place / "w")}
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(leaves({"a.h5": 1}), options=options)
    assert ran.value == "done"
    assert ran.stderr.startswith(
        f"warning: '{small_disk}/out/a.h5' was not kept here: Read-only file system (er"
    )


async def test_a_full_disk_there_takes_no_file(small_disk: Path, sshd: SSHServer, place: Path) -> None:
    """A file that finds no room in the working directory ends the task before it begins; nothing stays."""
    (place / "a.bin").write_bytes(bytes(2 << 20))
    options = {"send": [str(place / "a.bin")], "remote_workdir": str(small_disk)}
    async with direct.machine(sshd, place) as machine:
        ran = await machine.run(noting(place / "ran"), options=options)
    assert str(ran.error).startswith(
        f"127.0.0.1: note could not begin: 'a.bin' could not be put into {small_disk}: No space left on "
    )
    assert isinstance(ran.error.__cause__ if ran.error else None, errors.TransferError)
    assert not list(small_disk.iterdir())
    assert not runs(place / "ran")


# ---- the near log


@pytest.fixture
def small_log(place: Path) -> Iterator[Path]:
    """Mount a file system of two pages where the log will be."""
    with mounted(place / "log", "8k") as disk:
        yield disk / "timing.log"


async def test_a_full_log_costs_no_result(small_log: Path, sshd: SSHServer, place: Path) -> None:
    """Once the log's disk is full results still come, each with a warning and its record on stderr."""
    async with direct.machine(sshd, place, timing_filepath=str(small_log)) as machine:
        rans = [await machine.run(noting(place / f"r{i}"), i, node_id=i) for i in range(12)]
        assert [ran.value for ran in rans] == list(range(12))
    warned = [ran for ran in rans if "warning: " in ran.stderr]
    assert warned
    for ran in warned:
        assert "No space left on device" in ran.stderr
        assert str(small_log.parent) in ran.stderr
    told = [json.loads(ran.stderr.split("the record: ")[1].splitlines()[0]) for ran in warned]
    lines = small_log.with_name("timing.log.jsonl").read_text()
    assert lines.endswith("\n")
    written = [json.loads(line)["node_id"] for line in lines.splitlines()]
    assert {*written, *(record["node_id"] for record in told)} == set(range(12))
    assert len(written) == len(set(written)) > 0


async def test_a_read_only_log_is_found_before_the_task(
    small_log: Path, sshd: SSHServer, place: Path
) -> None:
    """A log on a read-only disk is a ConfigError, and nothing is submitted."""
    remount(small_log.parent, "ro")
    async with direct.machine(sshd, place, timing_filepath=str(small_log)) as machine:
        ran = await machine.run(noting(place / "ran"))
        assert not direct.pool.hosts()
    assert isinstance(ran.error, errors.ConfigError)
    assert "Read-only file system" in str(ran.error)
    assert str(small_log) in str(ran.error)
    assert str(ran.error).endswith("nothing was submitted.")
    assert not runs(place / "ran")
