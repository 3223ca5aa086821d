"""The board: what a worker leaves for its supervisor, and what becomes of it if user code writes over it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from covalent_sshtiming.remote import board
from covalent_sshtiming.remote.board import Board


@pytest.fixture
def shared() -> Iterator[Board]:
    """Return a new board."""
    made = Board()
    yield made
    made.close()


def test_a_fork_leaves_mark_and_report(shared: Board) -> None:
    """What a child leaves, its parent reads, and finds nothing once it is cleared."""
    assert (shared.first_mark(), shared.report()) == (None, {})
    if os.fork() == 0:
        shared.mark(2.0, 0.5, None)
        shared.leave({"status": "completed", "text": "größte Lücke"})
        os._exit(0)
    os.wait()
    assert shared.first_mark() == (2.0, 0.5, None)
    assert shared.report() == {"status": "completed", "text": "größte Lücke"}
    shared.clear()
    assert (shared.first_mark(), shared.report()) == (None, {})


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff\xff", b"null"])
def test_what_is_no_report_counts_as_none(shared: Board, text: bytes) -> None:
    """Bytes that user code has written over the report are no report, and no error."""
    shared.leave({})
    shared._memory[32 : 32 + len(text)] = text
    shared._memory[24:32] = len(text).to_bytes(8, "little")
    assert shared.report() == {}


@pytest.mark.parametrize("length", [board.SIZE, 1 << 63])
def test_a_length_that_cannot_be_counts_as_none(shared: Board, length: int) -> None:
    """A length beyond the board is not believed."""
    shared.leave({"status": "completed"})
    shared._memory[24:32] = length.to_bytes(8, "little")
    assert shared.report() == {}


def test_a_report_that_does_not_fit_is_refused(shared: Board) -> None:
    """Nothing of it is left then."""
    with pytest.raises(ValueError, match="report of"):
        shared.leave({"text": "x" * board.SIZE})
    assert shared.report() == {}
