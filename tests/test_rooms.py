"""slots_dir: a directory by which several users share CPUs and devices."""

from __future__ import annotations

import itertools
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LIMITED_USER
from support.farside import FarSide, new_key
from support.naps import most_at_once, nap, spans_of, submit

from covalent_sshtiming.remote import rooms


@pytest.fixture
def shared(place: Path) -> Path:
    """Return a directory as an administrator makes it for all users."""
    room = place / "slots"
    room.mkdir()
    room.chmod(0o1777)
    place.chmod(0o755)
    return room


def test_two_users_share_their_slots(crowded: FarSide, shared: Path, place: Path) -> None:
    """Tasks of two users with one slots_dir are never more than max_parallel at once, nor on one device."""
    head = {"max_parallel": 2, "slots_dir": str(shared), "slot_env": {"DEVICE": ["a/b", "c"]}}
    with FarSide(place) as ours, crowded.line() as theirs, ours.line() as line:
        keys = [submit(one, 4, 0.15, "d", **head) for one in (theirs, line)]
        spans = [spans_of(theirs, keys[0]), spans_of(line, keys[1])]
    assert most_at_once(itertools.chain(*spans)) == 2
    made = {path.name: path.stat() for path in shared.iterdir()}
    assert {stat.S_IMODE(one.st_mode) for one in made.values()} == {0o666}
    assert {"0", "1", "DEVICE-c"} < set(made)
    assert {one.st_size for one in made.values()} == {0}
    assert {one.st_uid for one in made.values()} <= {0, LIMITED_USER}


def missing(room: Path) -> str:
    """No such directory."""
    room.rmdir()
    return f"{room}: No such file or directory"


def a_file(room: Path) -> str:
    """A file in its place."""
    room.rmdir()
    room.touch()
    return f"{room}: not a directory"


def not_sticky(room: Path) -> str:
    """A directory from which others can take what is locked."""
    room.chmod(0o777)
    return f"{room}: others may remove files there (chmod +t it)"


def a_link(room: Path) -> str:
    """A link in a slot's place."""
    (room.parent / "target").touch()
    (room / "0").symlink_to(room.parent / "target")
    return f"{room}/0: Too many levels of symbolic links"


def a_pipe(room: Path) -> str:
    """A pipe in a slot's place."""
    os.mkfifo(room / "0")
    return f"{room}/0: not a regular file"


def a_directory(room: Path) -> str:
    """A directory in a slot's place."""
    (room / "0").mkdir()
    return f"{room}/0: Is a directory"


@pytest.mark.parametrize("spoil", [missing, a_file, not_sticky, a_link, a_pipe, a_directory])
def test_a_shared_directory_that_cannot_be_used_says_why(shared: Path, spoil: Any) -> None:
    """Whatever is wrong with the place or a slot in it is named, and nothing there is touched."""
    cause = spoil(shared)
    with pytest.raises(rooms.Unusable, match=f"^{re.escape(cause)}$"):
        rooms.SharedRoom(str(shared)).lock(["0"], 1)


def test_a_task_does_not_wait_for_what_cannot_be_had(shared: Path, place: Path) -> None:
    """A task whose slots_dir cannot be used ends at once, with the place and the cause."""
    cause = not_sticky(shared)
    with FarSide(place) as far, far.line() as line:
        line.submit(new_key(), nap, 0.0, slots_dir=str(shared))
        error = line.outcome().ended["error"]
    assert error["text"] == f"cannot have a slot there: {cause}; correct slots_dir or that place"


def test_another_users_private_file_is_no_slot(crowded: FarSide, shared: Path) -> None:
    """A file that this user may not lock is named."""
    (shared / "0").touch(mode=0o600)
    with crowded.line() as line:
        line.submit(new_key(), nap, 0.0, slots_dir=str(shared))
        error = line.outcome().ended["error"]
    assert f"{shared}/0: Permission denied" in error["text"]


LOCKS = """
import os, sys
from covalent_sshtiming.remote import rooms
os.umask(0o077)
room = rooms.SharedRoom(sys.argv[1])
print([name for name, _ in room.lock(["0", "1", "2"], int(sys.argv[2])) or ()], flush=True)
sys.stdin.read()
"""


def test_locks_end_with_whoever_held_them(shared: Path) -> None:
    """What a process has locked is free once it was killed; all or nothing is taken meanwhile."""
    room = rooms.SharedRoom(str(shared))
    with subprocess.Popen(
        [sys.executable, "-c", LOCKS, shared, "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "['0', '1']\n"
        assert room.lock(["0", "1", "2"], 2) is None
        rest = room.lock(["0", "1", "2"], 1) or []
        assert [name for name, _ in rest] == ["2"]
        other.kill()
    rooms.close(rest)
    found = room.lock(["0", "1", "2"], 3) or ()
    assert [name for name, _ in found] == ["0", "1", "2"]
    rooms.close(found)


def test_a_place_that_is_not_absolute_is_none() -> None:
    """A relative slots_dir would be another place for each agent."""
    with pytest.raises(rooms.Unusable, match=r"^slots: not an absolute path$"):
        rooms.SharedRoom("slots")
