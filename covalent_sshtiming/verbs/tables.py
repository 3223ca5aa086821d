"""Tables that fit the terminal: which columns there is room for, and what is shortened. No verb itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from rich.console import Console

_BETWEEN = 2
_TOGETHER = 1000  # lines in one write
_READABLE, _LEAST = 24, 4  # of a text: shortened to the first before a column goes, to the second if it must


class Column(NamedTuple):
    """A column of a table: its head, whether it holds figures, and when it goes; 0 never does.

    Where the terminal is too narrow for all columns, those with the highest `goes` go first. Texts may be
    shortened; a figure never is, because half a figure is a wrong one.
    """

    head: str
    figures: bool = False
    goes: int = 0


def console() -> Console:
    """Return the console of stdout; without a terminal it is as wide as what is written on it."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 10_000
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False, width=width)


def speaks_utf8(out: Console) -> bool:
    """Say whether stdout has signs beyond ASCII for sure."""
    return out.encoding.lower().startswith("utf")


def write_table(columns: Sequence[Column], lines: Iterable[Sequence[str]]) -> None:
    """Print a table that fits the terminal; says on stderr which columns had no room."""
    from rich.text import Text

    out = console()
    cells = [list(column) for column in zip([column.head for column in columns], *lines, strict=True)]
    widths = [max(map(cells_wide, column)) for column in cells]
    kept = that_fit(columns, widths, out.width)
    widths = shortened(columns, widths, kept, out.width)
    padded = ([aligned(text, widths[i], columns[i]) for text in cells[i]] for i in kept)
    head, *body = ("  ".join(line).rstrip() for line in zip(*padded, strict=True))
    out.print(Text(head, "bold"), soft_wrap=True)
    out.print(("─" if speaks_utf8(out) else "-") * _whole(widths, kept))
    for start in range(0, len(body), _TOGETHER):
        click.echo("\n".join(body[start : start + _TOGETHER]))
    speak_of_gone(columns, kept)


def speak_of_gone(columns: Sequence[Column], kept: Sequence[int]) -> None:
    """Say on stderr which columns are not to be seen."""
    gone = [column.head for i, column in enumerate(columns) if i not in kept]
    if gone:
        click.echo(f"No room for: {', '.join(gone)}", err=True)


def that_fit(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Return which columns there is room for, when long texts are shortened."""
    least = [width if c.figures else min(width, _READABLE) for c, width in zip(columns, widths, strict=True)]
    kept = list(range(len(columns)))
    while _whole(least, kept) > room:
        leaving = max(kept, key=lambda i: (columns[i].goes, i))
        if not columns[leaving].goes:
            break
        kept.remove(leaving)
    return kept


def shortened(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int], room: int) -> list[int]:
    """Return widths with which the kept columns fit: the widest text gives way first."""
    fitting = list(widths)
    while _whole(fitting, kept) > room:
        texts = [i for i in kept if not columns[i].figures and fitting[i] > _LEAST]
        if not texts:
            break
        fitting[max(texts, key=fitting.__getitem__)] -= 1
    return fitting


def _whole(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[i] + _BETWEEN for i in kept) - _BETWEEN


def cells_wide(text: str) -> int:
    """Return how many of a terminal's cells a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def aligned(text: str, width: int, column: Column) -> str:
    """Return a text as wide as its column; one that is too long is cut."""
    wide = cells_wide(text)
    if wide > width:
        from rich.cells import set_cell_size

        return set_cell_size(text, width - 1) + "…"
    room = " " * (width - wide)
    return room + text if column.figures else text + room
