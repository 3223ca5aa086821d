"""Files of ours on the remote machine: modes, owners, names, and what others may have put in their place."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support import direct, farside, faults
from support.standins import (
    STRANGER,
    a_strangers,
    file,
    link,
    mode,
    needs_root,
    open_to_others,
    pipe,
    umask,
)

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.remote import places

# ---- the far side's directories


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_a_directory_of_ours_is_ours_alone(place: Path, mask: int) -> None:
    """Whatever the umask, a directory is made with 0700 or less; one that is there and right is taken."""
    with umask(mask):
        places.private_directory(str(place / "new"))
    assert mode(place / "new") == 0o700 & ~mask
    places.private_directory(str(place / "new"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pipe, "not a directory"),
        (link, "not a directory"),
        (file, "not a directory"),
        (open_to_others, "can be read or written by others (chmod 700 it)"),
        pytest.param(a_strangers, f"belongs to user id {STRANGER}", marks=needs_root),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
async def test_a_spool_that_somebody_else_made_is_refused(
    sshd: SSHServer, place: Path, make: Callable[[Path], None], said: str
) -> None:
    """A link, a pipe, a file, an open or a stranger's directory in its place ends in TransferError."""
    make(place / "spool")
    async with direct.machine(sshd, place, max_connection_attempts=1) as machine:
        ran = await asyncio.wait_for(machine.run(lambda: 1), 20)
    assert type(ran.error) is errors.TransferError
    assert said in str(ran.error)
    assert "Set remote_spool to another one." in str(ran.error)
    assert not list(place.glob("target/*"))


@needs_root
@pytest.mark.parametrize("make", [a_strangers, pipe], ids=lambda make: str(make.__name__))
def test_who_takes_the_default_place_first_only_moves_us(make: Callable[[Path], None]) -> None:
    """In sticky /var/tmp a directory of somebody else's under our name sends us to the next place."""
    user = STRANGER + 1
    taken = Path(f"/var/tmp/covalent-sshtiming-{user}")
    with tempfile.TemporaryDirectory(dir="/tmp") as other:
        os.chown(other, user, user)
        make(taken)
        try:
            code = f"import os; from covalent_sshtiming.remote import places; os.setuid({user})"
            ran = subprocess.run(
                [sys.executable, "-c", f"{code}; print(places.spool_base())"],
                env={**os.environ, "TMPDIR": other, "PYTHONPATH": str(Path(__file__).parents[1])},
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            assert ran.stdout.strip() == f"{other}/covalent-sshtiming-{user}", ran.stderr
            assert stat.S_ISFIFO(taken.lstat().st_mode) or not list(taken.iterdir())
        finally:
            taken.unlink() if make is pipe else taken.rmdir()


# ---- the far side's files


async def test_every_file_of_a_task_is_the_users_alone(sshd: SSHServer, place: Path) -> None:
    """Under any umask, while a task runs and after it, directories are 0700 and files 0600."""
    here, go = place / "here", place / "go"
    names = str(here), str(go)

    def work() -> int:
        import os
        import time

        print("out")
        open(names[0], "w").close()
        while not os.path.exists(names[1]):
            time.sleep(0.01)
        return os.umask(0)

    async with direct.machine(sshd, place, do_cleanup=False) as machine:
        with umask(0):
            running = asyncio.ensure_future(machine.run(work))
            await faults.until(lambda: here.exists() and any(machine.spool.glob("tasks/*/stdout")))
            during = {path: path.lstat() for path in machine.spool.rglob("*")}
            go.touch()
            ran = await running
        after = {path: path.lstat() for path in machine.spool.rglob("*")}
    assert ran.value == 0o022  # the login's: the user's function has the user's own
    assert mode(machine.spool) == 0o700
    for path, facts in (*during.items(), *after.items()):
        wanted = 0o700 if stat.S_ISDIR(facts.st_mode) else 0o600
        allowed = wanted if not stat.S_ISSOCK(facts.st_mode) else 0o700
        assert stat.S_IMODE(facts.st_mode) & ~allowed == 0, path
        assert facts.st_uid == os.getuid(), path
        assert facts.st_nlink == 1 or stat.S_ISDIR(facts.st_mode), path
    tasks = [path.parent.name for path in after if path.name == "outcome"]
    assert len(tasks) == 1
    assert places.is_key(tasks[0])
    assert {"lock", "stdout"} <= {path.name for path in during}


async def test_what_prints_nothing_has_no_file_for_it(sshd: SSHServer, place: Path) -> None:
    """A silent task leaves what it was and what became of it, and one that prints to one stream its file."""
    async with direct.machine(sshd, place, do_cleanup=False) as machine:
        await machine.run(lambda: None)
        (silent,) = machine.spool.glob("tasks/*")
        ran = await machine.run(lambda: print("trouble", file=sys.stderr))
        (loud,) = set(machine.spool.glob("tasks/*")) - {silent}
    assert ran.stderr == "trouble\n"
    kept = {"lock", "result", "outcome"}
    assert {path.name for path in silent.iterdir()} == kept
    assert {path.name for path in loud.iterdir()} == {*kept, "stderr"}


async def test_what_stands_in_place_of_a_file_stops_nobody(sshd: SSHServer, place: Path) -> None:
    """Pipes, links and directories where an old task's files should be leave an agent free for others."""
    spool = place / "spool"
    (place / "secret").write_text("not theirs")
    for part in ("", "tasks", "agents", "clients", "slots"):
        (spool / part).mkdir(mode=0o700)
    for number, name in enumerate((places.OUTCOME, places.REQUEST, places.LOCK)):
        for kind in range(3):
            directory = spool / "tasks" / f"{number}{kind}".rjust(32, "0")
            directory.mkdir(mode=0o700)
            if kind == 0:
                os.mkfifo(directory / name)
            elif kind == 1:
                (directory / name).symlink_to(place / "secret")
            else:
                (directory / name).mkdir()
    (spool / "tasks" / ("f" * 32)).symlink_to(place)
    async with direct.machine(sshd, place) as machine:
        ran = await asyncio.wait_for(machine.run(lambda: 5), 30)
        assert ran.value == 5
    assert (place / "secret").read_text() == "not theirs"


@pytest.mark.parametrize("make", [pipe, link, file])
def test_nothing_is_written_through_what_is_there(place: Path, make: Callable[[Path], None]) -> None:
    """A file is made where there is none, or not at all; one that replaces another leaves a link's target."""
    make(place / "name")
    name = str(place / "name")
    assert places.create(name, b"ours") is False
    assert places.publish(name, b"ours") is False
    before = (place / "name").lstat().st_ino
    places.replace(name, b"ours")
    assert (place / "name").read_bytes() == b"ours"
    assert (place / "name").lstat().st_ino != before
    assert not list(place.glob("target/*"))
    assert mode(place / "name") == 0o600


@pytest.mark.parametrize("make", [pipe, link])
def test_what_is_no_file_is_not_read(place: Path, make: Callable[[Path], None]) -> None:
    """A link is not followed and a pipe not waited for, neither to read nor to lock."""
    make(place / "name")
    for work in (places.read, places.read_json, places.open_file):
        with pytest.raises(OSError, match=r"not a regular file|Too many levels of symbolic links"):
            work(str(place / "name"))
    if make is link:
        with pytest.raises(OSError, match="symbolic links"):
            places.try_lock(str(place / "name"))


def test_a_hard_link_is_replaced_and_not_written_to(place: Path) -> None:
    """What has a second name elsewhere keeps its content there when ours is replaced or removed."""
    (place / "elsewhere").write_text("theirs")
    (place / "task").mkdir()
    os.link(place / "elsewhere", place / "task" / "outcome")
    places.replace(str(place / "task" / "outcome"), b"ours")
    places.remove_tree(str(place / "task"))
    assert (place / "elsewhere").read_text() == "theirs"
    assert not (place / "task").exists()


def test_removing_follows_no_link(place: Path) -> None:
    """A task directory goes with the links in it, and not with what they lead to."""
    (place / "kept").mkdir()
    (place / "kept" / "file").write_text("kept")
    (place / "task").mkdir()
    (place / "task" / "link").symlink_to(place / "kept")
    places.remove_tree(str(place / "task"))
    assert (place / "kept" / "file").exists()
    (place / "task").symlink_to(place / "kept")
    with suppress(OSError):
        places.remove_tree(str(place / "task"))
    assert (place / "kept").is_dir()


def test_a_key_cannot_be_guessed() -> None:
    """A task's name has 128 random bits, and nothing that is a path or another name passes for one."""
    keys = {farside.new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(map(places.is_key, keys))
    for text in (
        "",
        "a" * 31,
        "a" * 33,
        "A" * 32,
        "../" + "a" * 29,
        "a" * 31 + "\n",
        "é" * 32,
        None,
        7,
        ["a"] * 32,
    ):
        assert not places.is_key(text)
