"""`covalent-sshtiming log`: the newest tasks, a line each, and those that come while one looks."""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from covalent_sshtiming.verbs import shared
from covalent_sshtiming.verbs.tables import (
    Column,
    aligned,
    cells_wide,
    console,
    shortened,
    speak_of_gone,
    that_fit,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from covalent_sshtiming.timing.report import Selection

_POLL_S = 0.3
_EFFICIENCY = "efficiency"
_EFFICIENCY_OF = ("cpu_s", "wall_s", "cores_available")
_EXAMPLES = """
\b
Examples:
  covalent-sshtiming log
  covalent-sshtiming log -n 5 --sort cpu_s --since 7d
  covalent-sshtiming log --status failed --function 'relax*' old/timing.log
  covalent-sshtiming log --fields function,cpu_s,ctx_voluntary --csv
  covalent-sshtiming log -f
"""


class _Shown(NamedTuple):
    """A column of the usual listing, and the field whose value is in it."""

    field: str
    column: Column


_USUAL = (
    _Shown("record_id", Column("id", goes=2)),
    _Shown("submitted_at", Column("when (UTC)", goes=5)),
    _Shown("function", Column("function")),
    _Shown("host", Column("host", goes=4)),
    _Shown("status", Column("status")),
    _Shown("cpu_s", Column("CPU", figures=True)),
    _Shown("wall_s", Column("wall", figures=True, goes=3)),
    _Shown(_EFFICIENCY, Column("eff.", figures=True, goes=7)),
    _Shown("rss_peak_bytes", Column("peak", figures=True, goes=6)),
)
# Of a log of sentences nothing else is known.
_OF_SENTENCES = (
    _Shown("dispatch_id", Column("dispatch")),
    _Shown("node_id", Column("node", figures=True)),
    _Shown("cpu_s", Column("CPU", figures=True)),
)


@click.command(epilog=_EXAMPLES, short_help="The newest tasks; with -f those that come.")
@shared.files_argument
@click.option(
    "-n",
    "count",
    default=20,
    type=click.IntRange(min=0),
    metavar="N",
    help="How many; 0 is all. Otherwise 20.",
)
@click.option("--sort", metavar="FIELD", help="The largest of this field first, instead of the newest.")
@click.option("--fields", metavar="A,B,...", help="These fields of the record; `all` is every one.")
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@shared.selecting
@shared.listing
def log(
    *,
    files: tuple[str, ...],
    count: int,
    sort: str | None,
    fields: str | None,
    follow: bool,
    chosen: Selection,
    form: str,
) -> None:
    """List the newest tasks of the configured timing log, or of FILE, the newest first.

    FILE is either name of a log, a glob, or a file of any of these compressed by gzip. "eff." is CPU time by
    wall time and cores, "peak" is memory. With -f the newest come last, and --json is an object a line.
    """
    names = _names(fields, form)
    by = _field(sort) if sort else "submitted_at"
    if follow and (sort or form == "csv"):
        raise click.UsageError("-f goes with neither --sort nor --csv.")
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
            _follow(files, count, names, chosen, form)
        return
    source = shared.open_log(files)
    with shared.reading():
        rows = _largest(chosen.of(source.rows(_needed(names, by))), by, count)
    if form == "table":
        if fields is None and not any(row.record_id or row.function for row in rows):
            names = [shown.field for shown in _OF_SENTENCES]
        if rows:
            write_table(_columns(names), _lines(rows, names))
    else:
        shared.write_data(form, _objects(rows, names))
    shared.speak_of(source, shown=len(rows))


def _names(fields: str | None, form: str) -> list[str]:
    """Return which fields are to be seen."""
    from covalent_sshtiming.timing.record import FIELDS

    if fields is None:
        return [shown.field for shown in _USUAL] + (["dispatch_id", "node_id"] if form != "table" else [])
    if fields == "all":
        return list(FIELDS)
    names = [_field(name.strip()) for name in fields.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--fields is empty: write names of fields, with commas between, or `all`.")
    return list(dict.fromkeys(names))


def _field(name: str) -> str:
    import difflib

    from covalent_sshtiming.timing.record import FIELDS

    if name in FIELDS or name == _EFFICIENCY:
        return name
    near = difflib.get_close_matches(name, [*FIELDS, _EFFICIENCY], n=1)
    raise click.UsageError(
        f"{name!r:.80} is no field of a record{f': did you mean {near[0]}?' if near else '.'}"
    )


def _needed(names: Iterable[str], *more: str) -> set[str]:
    from covalent_sshtiming.timing.report import SELECTED_BY

    wanted = {*names, *more, *SELECTED_BY}
    return wanted - {_EFFICIENCY} | {*_EFFICIENCY_OF} if _EFFICIENCY in wanted else wanted


def _getter(name: str) -> Callable[[Any], Any]:
    """Return the function from a row to its value of this name."""
    from covalent_sshtiming.timing.report import efficiency

    if name != _EFFICIENCY:
        return attrgetter(name)
    return lambda row: efficiency(row.cpu_s, row.wall_s, row.cores_available)


def _largest(rows: Iterable[Any], by: str, count: int) -> list[Any]:
    """Return the rows with the largest values; of equal ones, and of those without any, the later first."""
    order = itertools.count()
    value_of = _getter(by)

    def key(pair: tuple[int, Any]) -> tuple[bool, Any, int]:
        value = value_of(pair[1])
        return value is not None, 0 if value is None else value, pair[0]

    numbered = ((next(order), row) for row in rows)
    if count > 0:
        pairs = heapq.nlargest(count, numbered, key=key)
    else:
        pairs = sorted(numbered, key=key, reverse=True)
    return [row for _, row in pairs]


def _columns(names: Sequence[str]) -> list[Column]:
    for usual in (_USUAL, _OF_SENTENCES):
        if [shown.field for shown in usual] == list(names):
            return [shown.column for shown in usual]
    return [Column(name, figures=name not in _TEXTS, goes=place) for place, name in enumerate(names)]


_TEXTS = {"record_id", "dispatch_id", "function", "host", "hostname", "status", "kind", "error_type"}


def _objects(rows: Iterable[Any], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each row for programs."""
    ways = [(name, _getter(name)) for name in names]
    for row in rows:
        yield {name: get(row) for name, get in ways}


def _lines(rows: Iterable[Any], names: Sequence[str]) -> Iterator[list[str]]:
    """Yield each row as it is to be read."""
    from covalent_sshtiming.timing.units import NOTHING

    ways = [(_getter(name), _wording(name)) for name in names]
    for row in rows:
        yield [NOTHING if (value := get(row)) is None else word(value) for get, word in ways]


def _wording(name: str) -> Callable[[Any], str]:
    """Return how a field's values are worded."""
    from covalent_sshtiming.timing import units

    if name == "record_id":
        return lambda value: str(value)[:8]
    if name == _EFFICIENCY:
        return units.share
    ends: dict[str, Callable[[Any], str]] = {"_at": units.moment, "_s": units.duration, "_bytes": units.size}
    return next((word for end, word in ends.items() if name.endswith(end)), str)


def _follow(files: tuple[str, ...], count: int, names: list[str], chosen: Selection, form: str) -> None:
    """Print the newest, oldest first, and then each that comes."""
    import json

    from covalent_sshtiming.timing.files import Tail
    from covalent_sshtiming.timing.reading import decoder

    paths = list(files) or [str(path) for path in shared.configured_logs()]
    decode, matches = decoder(frozenset(_needed(names))), chosen.matcher()
    tail = Tail(paths)
    printed: Callable[[Any], None]
    if form == "json":

        def printed(row: Any) -> None:
            (told,) = _objects([row], names)
            click.echo(json.dumps(told, ensure_ascii=False))
    else:
        printed = _Aligned(names).write
    there = (row for line in tail.new() if (row := decode(line)) is not None and matches(row))
    first = collections.deque(there, maxlen=count or None)
    if not first:
        click.echo(f"Waiting for tasks in {', '.join(paths)}.", err=True)
    for row in first:
        printed(row)
    while True:
        time.sleep(_POLL_S)
        for line in tail.new():
            if (row := decode(line)) is not None and matches(row):
                printed(row)


class _Aligned:
    """Lines one by one, in columns that grow where they have to, as far as the terminal has room."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._columns = _columns(names)
        least = {"submitted_at": 19, "function": 16, "host": 12, "status": 9, "record_id": 8}
        self._widths = [max(len(c.head), least.get(n, 8)) for c, n in zip(self._columns, names, strict=True)]
        self._room = console().width
        self._kept = that_fit(self._columns, self._widths, self._room)
        self._begun = False

    def write(self, row: Any) -> None:
        if not self._begun:
            self._begun = True
            speak_of_gone(self._columns, self._kept)
            self._line([column.head for column in self._columns])
        (cells,) = _lines([row], self._names)
        self._line(cells)

    def _line(self, cells: Sequence[str]) -> None:
        self._widths = [max(width, cells_wide(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        widths = shortened(self._columns, self._widths, self._kept, self._room)
        click.echo("  ".join(aligned(cells[i], widths[i], self._columns[i]) for i in self._kept).rstrip())
