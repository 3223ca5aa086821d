"""The board: what a worker leaves for its supervisor, and what becomes of it if user code writes over it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest

from covalent_sshtiming.remote import board
from covalent_sshtiming.remote.board import Board, Mark, Relative


@pytest.fixture
def shared() -> Iterator[Board]:
    """Return a new board."""
    made = Board()
    yield made
    made.close()


def test_a_fork_leaves_mark_and_report(shared: Board) -> None:
    """What a child leaves, its parent reads, and finds nothing once it is cleared."""
    assert (shared.marks(), shared.gap(), shared.older(), shared.report()) == ({}, 0.0, {}, {})
    if os.fork() == 0:
        shared.begin("start", Mark(1.0, 0.0, 0.0))
        shared.begin("call", Mark(2.0, 0.5, 0.25))
        shared.surround(None, {7: Relative(1, 0.5)})
        shared.leave({"status": "completed", "text": "größte Lücke"})
        os._exit(0)
    os.wait()
    assert list(shared.marks().items()) == [("start", (1.0, 0.0, 0.0)), ("call", (2.0, 0.5, 0.25))]
    assert (shared.gap(), shared.older()) == (None, {7: (1, 0.5)})
    assert shared.report() == {"status": "completed", "text": "größte Lücke"}
    shared.clear()
    assert (shared.marks(), shared.older(), shared.report()) == ({}, {}, {})


def test_what_is_no_mark_counts_as_none(shared: Board) -> None:
    """Numbers that user code has written over marks, and that JSON does not know, are left out."""
    shared.begin("start", Mark(1.0, 0.0, 0.0))
    shared.begin("call", Mark(2.0, math.nan, 0.0))
    shared.surround(math.inf, {7: Relative(1, math.nan), 8: Relative(1, 0.5)})
    assert (list(shared.marks()), shared.gap(), list(shared.older())) == (["start"], None, [8])


def test_of_many_processes_the_first_are_kept(shared: Board) -> None:
    """A board takes what it has room for, and its report stays whole."""
    shared.leave({"text": "x"})
    shared.surround(0.0, {pid: Relative(1, 0.0) for pid in range(1, 10_000)})
    assert list(shared.older()) == list(range(1, board.RELATIVES + 1))
    assert shared.report() == {"text": "x"}


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff\xff", b"null"])
def test_what_is_no_report_counts_as_none(shared: Board, text: bytes) -> None:
    """Bytes that user code has written over the report are no report, and no error."""
    shared.leave({})
    shared._memory[board._TEXT_AT : board._TEXT_AT + len(text)] = text
    shared._memory[board._LENGTH_AT : board._TEXT_AT] = len(text).to_bytes(8, "little")
    assert shared.report() == {}


@pytest.mark.parametrize("length", [board.SIZE, 1 << 63])
def test_a_length_that_cannot_be_counts_as_none(shared: Board, length: int) -> None:
    """A length beyond the board is not believed."""
    shared.leave({"status": "completed"})
    shared._memory[board._LENGTH_AT : board._TEXT_AT] = length.to_bytes(8, "little")
    assert shared.report() == {}


def test_a_report_that_does_not_fit_is_refused(shared: Board) -> None:
    """Nothing of it is left then."""
    with pytest.raises(ValueError, match="report of"):
        shared.leave({"text": "x" * board.SIZE})
    assert shared.report() == {}
