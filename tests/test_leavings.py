"""What a task has left, as the far side tells of it: what counts as the task's, from where, and how fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import farside
from support.farside import FarSide, new_key
from support.fetching import writes, writes_much

from covalent_sshtiming.remote import leavings, wire


def test_what_cannot_be_read_stays(crowded: FarSide, place: Path) -> None:
    """What may not be read is told of; the rest comes, and the next task begins."""
    (place / "work").mkdir()
    (place / "work").chmod(0o777)
    lock = "os.mkdir('shut'); os.mkdir('listed'); open('listed/b.h5', 'w').close(); os.chmod('a.h5', 0)"
    lock += "; os.chmod('shut', 0); os.chmod('listed', 0o444)"
    told = []
    for function in (writes({"a.h5": b"A", "c.h5": b"C"}, lock), writes({"d.h5": b"D"})):
        with crowded.line() as line:
            submit(line, new_key(), function, place / "work", "**")
            told += [(head.get("name"), head.get("left")) for head, _ in files(line) if "end" not in head]
    stays = [("a.h5", "unreadable"), ("c.h5", None), ("listed", "unreadable"), ("shut", "unreadable")]
    assert told == [*stays, ("d.h5", None)]


def test_who_attaches_goes_on_where_it_was(place: Path) -> None:
    """An attach says how many files are settled, and is told of the others; else it is told of none."""
    key = new_key()
    with FarSide(place / "far") as far:
        with far.line() as line:
            submit(line, key, writes({f"{n}.h5": b"%d" % n for n in range(4)}), place / "work")
            assert [header.get("name") for header, _ in files(line)] == ["0.h5", "1.h5", "2.h5", "3.h5", None]
        with far.line() as line:
            line.attach(key, files=3)
            (header, body), (last, _) = files(line)
            assert (header["name"], header["size"], body, last) == ("3.h5", 1, b"3", {"end": True, "more": 0})
        (place / "work" / "1.h5").write_text("changed")
        (place / "work" / "2.h5").unlink()
        with far.line() as line:
            line.attach(key, files=1)
            told = [header.get("left", "") for header, _ in files(line)]
            assert told == ["changed", "gone", "", ""]
            line.attach(key)
            assert line.outcome(key).status == "completed"  # which fails for a frame of a file


def test_what_comes_after_its_end_is_not_the_tasks(place: Path) -> None:
    """What somebody puts into the working directory between a task's end and its delivery does not come."""
    key = new_key()
    with FarSide(place / "far") as far:
        with far.line() as line:
            submit(line, key, writes({"a.h5": b"A"}), place / "work")
            far.started(key)
        farside.until((far.task(key) / "outcome").exists, "the task to end")
        (place / "work" / "b.h5").write_text("somebody else's")
        with far.line() as line:
            line.attach(key, files=0)
            assert [header.get("name") for header, _ in files(line)] == ["a.h5", None]


def test_what_was_written_a_moment_before_counts_as_the_tasks(tmp_path: Path) -> None:
    """A file that is written within a tick of its clock before the task may be written again unnoticed."""
    (tmp_path / "old.h5").touch()
    os.utime(tmp_path / "old.h5", (1e9, 1e9))
    (tmp_path / "new.h5").touch()
    directory = noted_in(tmp_path)
    assert [entry.name for entry in leavings.noted(directory).entries] == ["new.h5"]


def noted_in(work: Path) -> str:
    """Have a task begin in a directory, and return its own."""
    directory = work / "task"
    directory.mkdir()
    leavings.remember(str(directory), leavings.Order(str(work), ["*.h5"], 1 << 20, 100))
    return str(directory)


@pytest.mark.parametrize("how", ["rewritten", "shorter", "longer", "replaced"])
def test_what_changes_while_it_is_read_is_left(tmp_path: Path, how: str) -> None:
    """A file that changes on its way is told of as changed, and never passed as whole."""
    path, size = tmp_path / "a.h5", 3 * leavings.PIECE
    path.write_bytes(b"1" * size)
    told = leavings.told(noted_in(tmp_path), 0)
    header, body = next(told)
    assert (header, body) == ({"name": "a.h5", "size": size}, b"1" * leavings.PIECE)
    if how == "replaced":
        path.unlink()
    path.write_bytes(b"2" * {"shorter": 5, "longer": 2 * size}.get(how, size))
    rest = list(told)
    assert rest[-1] == ({"end": True, "more": 0}, b"")
    if how == "replaced":  # the one that it had open is still what it was
        assert "sha256" in rest[-2][0]
    else:
        assert rest[-2] == ({"left": "changed"}, b"")


def submit(line: Any, key: str, function: Callable[[], Any], work: Path, pattern: str = "*.h5") -> None:
    """Submit a task that is asked for what it leaves in a directory."""
    line.submit(key, function, spec={"workdir": str(work), "fetch": [[pattern], 1 << 30, 1000]}, files=0)


def files(line: Any) -> list[tuple[dict[str, Any], bytes]]:
    """Return the frames of files that a line is told, up to the outcome; each is taken at once."""
    found: list[tuple[dict[str, Any], bytes]] = []
    taken = 0
    while True:
        frame = line.receive()
        if frame.type == wire.OUTCOME:
            return found
        if frame.type == wire.FILE:
            found.append((frame.header, frame.body))
            taken += wire.file_cost(frame.body)
            line.send(wire.FILE, frame.task, {"taken": taken})


def test_no_more_than_a_window_is_under_way(place: Path) -> None:
    """A client that takes nothing is sent so much and no more; once it takes, the rest comes."""
    key, size = new_key(), 3 * wire.FILE_WINDOW
    with FarSide(place / "far") as far, far.line() as line:
        submit(line, key, writes_much(size), place / "work")
        frame, got = line.receive(), 0
        while frame.type != wire.FILE:
            frame = line.receive()
        with pytest.raises(AssertionError, match="nothing was heard"):
            while True:
                got += len(frame.body)
                frame = line.receive(1.0)
        assert wire.FILE_WINDOW - 2 * wire.MAX_BODY < got <= wire.FILE_WINDOW
        line.send(wire.FILE, frame.task, {"taken": 1 << 62})
        assert got + sum(len(body) for _, body in files(line)) == size
