"""`covalent-sshtiming stats`: what groups of tasks cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from covalent_sshtiming.verbs import shared
from covalent_sshtiming.verbs.tables import Column, write_table

if TYPE_CHECKING:
    from covalent_sshtiming.timing.report import Selection

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming stats
  covalent-sshtiming stats --by function,host --since 7d
  covalent-sshtiming stats --by dispatch --json
"""
_FIGURES = (
    Column("count", figures=True),
    Column("failed", figures=True, goes=4),
    Column("median", figures=True),
    Column("spread", figures=True, goes=7),
    Column("p95", figures=True, goes=3),
    Column("total", figures=True, goes=1),
    Column("wall", figures=True, goes=6),
    Column("eff.", figures=True, goes=5),
    Column("share", figures=True, goes=2),
)


@click.command(epilog=_EXAMPLES, short_help="What functions, machines and dispatches cost.")
@shared.files_argument
@click.option("--by", default="function", metavar="A,B,...", help="Of function, host, dispatch and status.")
@shared.selecting
@shared.listing
def stats(*, files: tuple[str, ...], by: str, chosen: Selection, form: str) -> None:
    """Add tasks up, by function or by what --by says; the most expensive group comes first.

    "median", "spread" (upper less lower quartile) and "p95" are CPU time of tasks that completed; "total",
    "wall" and "share" are of all tasks. "failed" counts failed, killed, timeout and lost, not cancelled.
    "eff." is CPU time by wall time and cores.
    """
    from covalent_sshtiming.timing.report import GROUPS, NEEDED, SELECTED_BY, cells, summarise
    from covalent_sshtiming.timing.units import NOTHING

    wrong = [name for name in _names(by) if name not in GROUPS]
    if wrong or not _names(by):
        raise click.UsageError(f"--by {by!r:.80}: write some of {', '.join(GROUPS)}, with commas between.")
    fields = [GROUPS[name] for name in _names(by)]
    log = shared.open_log(files)
    with shared.reading():
        groups = summarise(chosen.of(log.rows({*NEEDED, *SELECTED_BY, *fields})), fields).groups
    if form != "table":
        shared.write_data(form, [group.to_dict() for group in groups])
    elif groups:
        columns = [*(Column(name) for name in _names(by)), *_FIGURES]
        keys = ([NOTHING if key is None else str(key) for key in group.keys.values()] for group in groups)
        lines = [[*key, *cells(group)] for key, group in zip(keys, groups, strict=True)]
        write_table(columns, lines)
    shared.speak_of(log, shown=len(groups))


def _names(by: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
