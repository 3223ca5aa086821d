"""`covalent-sshtiming compare`: what costs more than it did, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from covalent_sshtiming.verbs import shared
from covalent_sshtiming.verbs.tables import Column, write_table

if TYPE_CHECKING:
    from covalent_sshtiming.timing.change import Change, Limit
    from covalent_sshtiming.timing.reading import Reader
    from covalent_sshtiming.timing.report import Selection

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming compare before.jsonl after.jsonl
  covalent-sshtiming compare 14d..7d 7d..
  covalent-sshtiming compare 0535b436 9ad1c0e2 --fail p50:5% --fail p95:20%
"""
_FIGURES = ("cpu_s", "wall_s", "rss_peak_bytes")
_COLUMNS = (
    Column("function"),
    Column("of", goes=1),
    Column("A", figures=True, goes=3),
    Column("B", figures=True, goes=3),
    Column("in A", figures=True, goes=4),
    Column("in B", figures=True, goes=4),
    Column("change", figures=True),
    Column("95% interval", figures=True, goes=2),
    Column(""),
)


class _Side(NamedTuple):
    """One of the two: what it was called, where it is read, and which of the records are it."""

    name: str
    log: Reader
    chosen: Selection


def _limits(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[Limit]:
    from covalent_sshtiming.timing.change import limit

    try:
        return [limit(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


@click.command(epilog=_EXAMPLES, short_help="What has changed between two logs or periods.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--log", "logs", multiple=True, metavar="FILE", help="Log of dispatches and periods.")
@click.option("--figure", type=click.Choice(_FIGURES), default="cpu_s", help="What to compare; else cpu_s.")
@click.option(
    "--fail",
    "limits",
    multiple=True,
    metavar="pNN:N%",
    callback=_limits,
    help="Exit 1 if this quantile of a function has surely grown by more.",
)
@shared.selecting
@shared.listing
def compare(
    *, a: str, b: str, logs: tuple[str, ...], figure: str, limits: list[Limit], chosen: Selection, form: str
) -> None:
    """Compare the medians of each function in A and in B.

    A and B are logs, dispatches (the beginning of an id will do) or periods: FROM..TO, where either may be
    absent. Only tasks that completed count. The interval is that of a bootstrap; where it leaves 0 out,
    a function takes "more" or "less". It takes six tasks on each side to say so, for p95 twenty.
    """
    from covalent_sshtiming.timing.change import changes, costs
    from covalent_sshtiming.timing.report import SELECTED_BY

    with shared.reading():
        sides = [_side(text, logs, chosen) for text in (a, b)]
        read = [costs(_rows(side, {*SELECTED_BY, figure}), figure) for side in sides]
    parts = list(dict.fromkeys([0.5, *(limit.part for limit in limits)]))
    found = changes(read[0], read[1], parts)
    if form != "table":
        shared.write_data(form, [one.to_dict() for one in found])
    elif found:
        write_table(_COLUMNS, [_cells(one, figure) for one in found])
    for log in [side.log for side in sides][: 1 if sides[0].log.files == sides[1].log.files else 2]:
        shared.speak_of(log, shown=len(found))
    broken = [(one, limit) for limit in limits for one in found if _breaks(one, limit)]
    for one, limit in broken:
        growth = f"{100 * limit.growth:g}%"
        click.echo(f"{one.function}: {one.quantile} has grown by more than {growth}.", err=True)
    unsure = [one.function for one in found if one.verdict == "too few" and limits]
    if unsure:
        click.echo(f"Too few tasks to judge: {', '.join(map(str, dict.fromkeys(unsure)))}.", err=True)
    if broken:
        raise click.exceptions.Exit(1)


def _breaks(one: Change, limit: Limit) -> bool:
    return one.quantile == limit.name and one.exceeds(limit)


def _side(text: str, logs: Sequence[str], chosen: Selection) -> _Side:
    """Return what A or B means: a log, if there is one of that name; else a period, or a dispatch."""
    from covalent_sshtiming.timing.reading import reader_of
    from covalent_sshtiming.timing.units import instant

    try:
        return _Side(text, reader_of(text), chosen)
    except FileNotFoundError:
        pass
    now = datetime.now(timezone.utc)
    begin, dots, end = text.partition("..")
    if dots:
        try:
            since, until = (instant(part, now) if part else None for part in (begin, end))
        except ValueError as error:
            raise click.UsageError(f"{error}; and there is no log {text!r:.80}.") from error
        return _Side(text, _log_of(text, logs), replace(chosen, since=since, until=until))
    return _Side(text, _log_of(text, logs), replace(chosen, dispatch=text))


def _log_of(text: str, logs: Sequence[str]) -> Reader:
    """Return the log in which a dispatch or period is meant."""
    try:
        return shared.open_log(logs)
    except click.ClickException as error:
        raise click.ClickException(f"{text!r:.80} is no file, and there is {error.message}") from error


def _rows(side: _Side, names: set[str]) -> list[Any]:
    """Return a side's rows; that there are none, or of several dispatches, ends the command."""
    rows = list(side.chosen.of(side.log.rows(names)))
    where = ", ".join(map(str, side.log.files))
    if not rows:
        shared.speak_of_left_out(side.log)
        raise click.ClickException(
            f"{side.name!r:.80} is no log, and no task in {where} is of such a dispatch or period."
            if side.chosen.dispatch == side.name
            else f"no task of {side.name!r:.80} to compare in {where}."
        )
    dispatches = {row.dispatch_id for row in rows} if side.chosen.dispatch == side.name else set()
    if len(dispatches) > 1:
        raise click.ClickException(
            f"{len(dispatches)} dispatches in {where} begin with {side.name!r:.80}. Give more of the id."
        )
    return rows


def _cells(one: Change, figure: str) -> list[str]:
    from covalent_sshtiming.timing import units

    worded = units.size if figure.endswith("_bytes") else units.duration
    between = f"{units.change(one.low)} … {units.change(one.high)}" if one.low is not None else units.NOTHING
    return [
        units.NOTHING if one.function is None else one.function,
        one.quantile,
        worded(one.value_a),
        worded(one.value_b),
        str(one.count_a),
        str(one.count_b),
        units.change(one.change),
        between,
        one.verdict,
    ]
