"""send: files of the server's machine are in a task's working directory before anything of it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support import direct, farside, faults
from support.faults import noting, runs, until

from covalent_sshtiming import errors, sending
from covalent_sshtiming.demo.sshserver import SSHServer


@pytest.fixture
def place(place: Path) -> Path:
    """Return that directory with one for the files that are sent."""
    (place / "mine").mkdir()
    return place


@pytest.fixture
async def machine(sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a machine whose tasks work in `place / "work"`."""
    async with direct.machine(sshd, place, remote_workdir=str(place / "work")) as reached:
        yield reached


def reads() -> Callable[[], dict[str, bytes]]:
    """Return a function that tells what is in its working directory."""

    def function() -> dict[str, bytes]:
        import os

        found = {}
        for path, _, names in os.walk("."):
            for name in names:
                with open(os.path.join(path, name), "rb") as file:
                    found[os.path.relpath(os.path.join(path, name))] = file.read()
        return found

    return function


def make(directory: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """Make files, and return them again."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


async def test_what_was_sent_is_there(machine: direct.Machine, place: Path) -> None:
    """Paths get their own name there, patterns the part from their first sign on; times and mode go along."""
    mine = place / "mine"
    make(mine, {"one.txt": b"1", "data/a.csv": b"A" * 70_000, "data/deep/b.csv": b"", "data/.c.csv": b"no"})
    make(mine, {"x[1].bin": os.urandom(200_000), "run.sh": b"#!/bin/sh\necho ran"})
    (mine / "run.sh").chmod(0o750)
    os.utime(mine / "one.txt", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    (mine / "link.txt").symlink_to("one.txt")
    paths = ("one.txt", "data/**/*.csv", "x[1].bin", "run.sh", "link.txt")
    ran = await machine.run(reads(), options={"send": [str(mine / path) for path in paths]})
    names = {name: name for name in ("one.txt", "x[1].bin", "run.sh")}
    names |= {"link.txt": "one.txt", "a.csv": "data/a.csv", "deep/b.csv": "data/deep/b.csv"}
    assert ran.value == {name: (mine / path).read_bytes() for name, path in names.items()}
    work = place / "work"
    assert (work / "one.txt").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (work / "run.sh").stat().st_mode & stat.S_IXUSR
    assert not (work / "one.txt").stat().st_mode & 0o111
    record = machine.records()[-1]
    size = sum(len((mine / path).read_bytes()) for path in names.values())
    assert (record["sent_files"], record["sent_bytes"], record["fetched_files"]) == (6, size, None)
    assert record["request_bytes"] > size


async def test_hooks_find_them_too(machine: direct.Machine, place: Path) -> None:
    """A call_before hook runs when the files are there, however small or large the request is."""
    make(place / "mine", {"a.txt": b"hello"})

    def first_line() -> str:
        with open("a.txt") as file:
            return file.read()

    options = {"send": [str(place / "mine" / "a.txt")]}
    before = [direct.hook(first_line, retval="line")]
    ran = await machine.run(lambda data, line: (len(data), line), b"x" * 100, before=before, options=options)
    assert ran.value == (100, "hello")
    ran = await machine.run(
        lambda data, line: (len(data), line), bytes(300_000), before=before, options=options
    )
    assert ran.value == (300_000, "hello")


async def test_what_is_there_is_replaced_and_not_followed(machine: direct.Machine, place: Path) -> None:
    """A file of the name is replaced as a whole, and so is a link: what it leads to is untouched."""
    make(place, {"outside.txt": b"mine", "work/a.txt": b"longer than the new one"})
    (place / "work" / "b.txt").symlink_to(place / "outside.txt")
    make(place / "mine", {"a.txt": b"new", "b.txt": b"new"})
    ran = await machine.run(reads(), options={"send": [str(place / "mine" / "*")]})
    assert ran.value == {"a.txt": b"new", "b.txt": b"new"}
    assert (place / "outside.txt").read_bytes() == b"mine"


async def test_a_link_in_the_way_is_refused(machine: direct.Machine, place: Path) -> None:
    """A file whose directory there is a link is not put through it: the task does not begin, and says why."""
    (place / "outside").mkdir()
    (place / "work").mkdir()
    (place / "work" / "d").symlink_to(place / "outside")
    make(place / "mine", {"d/a.txt": b"new"})
    ran = await machine.run(noting(place / "ran"), options={"send": [str(place / "mine" / "**")]})
    assert isinstance(ran.error.__cause__ if ran.error else None, errors.TransferError)
    assert str(ran.error) == (
        f"127.0.0.1: note could not begin: 'd/a.txt' could not be put into {place}/work: Not a directory (d)"
        ". Make room there, or correct its permissions."
    )
    assert not list((place / "outside").iterdir())
    assert not runs(place / "ran")


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
async def test_there_and_back_again(machine: direct.Machine, place: Path, isolation: str) -> None:
    """What was sent comes back only where the task has changed it, be it at once and to the same size."""
    make(place / "mine", {"a.txt": b"1", "b.txt": b"1"})

    def change() -> None:
        with open("b.txt", "w") as file:
            file.write("2")

    options = {"send": [str(place / "mine" / "*.txt")], "fetch": ["*.txt"], "isolation": isolation}
    os.utime(place / "mine" / "a.txt", (1e9, 1e9))
    os.utime(place / "mine" / "b.txt", (1e9, 1e9))
    ran = await machine.run(change, node_id=4, options=options)
    assert (ran.error, ran.stderr) == (None, "")
    back = machine.log.parent / "dispatch" / "node_4"
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {"b.txt": b"2"}


def test_a_cancel_leaves_no_file_half(tmp_path: Path) -> None:
    """A task that is told to end while its files are put there takes the one that is half away again."""
    (tmp_path / "there").mkdir()
    code = (
        "import sys; from covalent_sshtiming.remote import staging; files = [['a', 5, 0, 0],['b', 9, 0, 0]]; "
        "staging.prepare({'send': files}, sys.stdin.buffer.raw, '')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path / "there", stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        for piece in (b"whole", b"half"):
            process.stdin.write(piece)
            process.stdin.flush()
        farside.until(lambda: len(list((tmp_path / "there").iterdir())) == 2, "the second file to be begun")
        process.terminate()
        process.stdin.write(b"rest")
        process.stdin.close()
        assert process.wait() == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a"]


async def test_by_the_local_executor(place: Path) -> None:
    """TimingExecutor puts files into its tasks' working directory in the same way."""
    files = make(place / "mine", {"a.txt": b"1"})
    async with direct.here(place, remote_workdir=str(place / "work")) as machine:
        ran = await machine.run(reads(), options={"send": [str(place / "mine" / "*")]})
    assert ran.value == files


async def test_a_relative_path_is_the_clients(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, or pattern, is relative to the directory that the executor was made in."""
    monkeypatch.chdir(place)
    executor = direct.TimingSSHExecutor(hostname="far", send=["data/*.csv", "~/x", "/y"])
    assert executor.send == [str(place / "data" / "*.csv"), "~/x", "/y"]


# ---- what is refused before anything is sent


NO_SUCH_FILE = (
    "send names {mine}/none.txt, which cannot be read on the Covalent server's machine (No such file or "
    "directory); make it there before the task is dispatched, or correct the path."
)
NOTHING_FITS = (
    "send names {mine}/*.none, and no file on the Covalent server's machine fits; correct the pattern, or "
    "make them before the task is dispatched."
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("none.txt", NO_SUCH_FILE),
        ("*.none", NOTHING_FITS),
        ("d", "send names {mine}/d, which is no regular file; write {mine}/d/** for all that is in it."),
        ("pipe", "send names {mine}/pipe, which is no regular file; name another one."),
    ],
)
async def test_what_cannot_be_sent_is_refused(
    machine: direct.Machine, place: Path, path: str, text: str
) -> None:
    """A path without a file, of a directory or of a pipe is a ConfigError before anything is sent."""
    mine = place / "mine"
    make(mine, {"d/a.txt": b"1"})
    os.mkfifo(mine / "pipe")
    ran = await machine.run(noting(place / "ran"), options={"send": [str(mine / path)]})
    assert isinstance(ran.error, errors.ConfigError)
    assert str(ran.error) == text.format(mine=mine)
    assert not direct.pool.hosts()
    assert not runs(place / "ran")
    assert not machine.records()


def test_two_files_of_one_name_are_refused(place: Path) -> None:
    """Two files that would be one there are named; the same one twice is sent once."""
    make(place, {"d/a.txt": b"1", "e/a.txt": b"2"})
    paths = [str(place / "d" / "a.txt"), str(place / "d" / "*.txt")]
    assert [local.name for local in sending.find(paths, 100)] == ["a.txt"]
    with pytest.raises(errors.ConfigError, match=r"d/a\.txt and .*/e/a\.txt would both be a\.txt"):
        sending.find([*paths, str(place / "e" / "a.txt")], 100)


def test_too_much_is_refused(place: Path) -> None:
    """What is over send_max_bytes, or too many, is refused with both figures."""
    make(place, {f"{n}.txt": b"x" * 10 for n in range(11)})
    assert len(sending.find([str(place / "*.txt")], 110)) == 11
    with pytest.raises(errors.ConfigError, match="11 files of 110 bytes, over send_max_bytes = 109"):
        sending.find([str(place / "*.txt")], 109)


# ---- on the way


async def test_a_file_that_changes_meanwhile_is_not_sent(sshd: SSHServer, place: Path) -> None:
    """A file that is not what it was when it was found ends the task before it begins; nothing stays."""
    path = place / "mine" / "a.bin"
    path.write_bytes(bytes(12 << 20))
    async with faults.linked(sshd, place) as (machine, proxy):
        assert (await machine.run(lambda: "warm")).value == "warm"
        proxy.up.bandwidth = 12e6
        running = asyncio.ensure_future(machine.run(noting(place / "ran"), options={"send": [str(path)]}))
        await until(lambda: list(machine.spool.glob("tasks/*/request.*.tmp")))
        path.write_bytes(b"shorter")
        ran = await running
        assert isinstance(ran.error, errors.TransferError)
        assert str(ran.error) == (
            f"127.0.0.1: {path} changed while it was being sent (its size or time is another one now), so "
            "the task was not started; dispatch it anew once nobody writes to that file."
        )
        await until(lambda: not list(machine.spool.glob("tasks/*")), 3)  # and not with the connection's end
        assert (await machine.run(lambda: "next")).value == "next"
    assert not runs(place / "ran")


async def test_a_cut_in_mid_file_sends_it_again(sshd: SSHServer, place: Path) -> None:
    """Wherever the link is cut while a file goes out, it is there whole in the end; the task ran once."""
    content = os.urandom(1 << 16) * 40
    (place / "mine" / "a.bin").write_bytes(content)
    async with faults.linked(sshd, place, retry_wait_time=0.1, remote_workdir=str(place / "work")) as (
        machine,
        proxy,
    ):
        assert (await machine.run(lambda: "warm")).value == "warm"
        for number, share in enumerate((0.1, 0.9)):
            proxy.up.cut_after = proxy.up.count + int(share * len(content))
            options = {"send": [str(place / "mine" / "*")]}
            ran = await machine.run(noting(place / f"ran{number}"), options=options)
            assert ran.value == "result"
            assert len(runs(place / f"ran{number}")) == 1
            assert (place / "work" / "a.bin").read_bytes() == content
            assert proxy.connections == number + 2


async def test_sending_does_not_hold_others_up(sshd: SSHServer, place: Path) -> None:
    """While a file of 24 MiB goes out over a slow link, tasks on the same connection go on as ever."""
    (place / "mine" / "a.bin").write_bytes(bytes(24 << 20))
    async with faults.linked(sshd, place, remote_workdir=str(place / "work")) as (machine, proxy):
        assert (await machine.run(lambda: "warm")).value == "warm"
        proxy.up.bandwidth = 12e6
        options: dict[str, Any] = {"send": [str(place / "mine" / "*")]}
        running = asyncio.ensure_future(machine.run(lambda: "large", options=options))
        ended = 0
        while not running.done():
            assert (await machine.run(lambda n: n, ended)).value == ended
            ended += 1
        assert ((await running).value, machine.host.connections) == ("large", 1)
        assert (place / "work" / "a.bin").stat().st_size == 24 << 20
        assert ended > 5
