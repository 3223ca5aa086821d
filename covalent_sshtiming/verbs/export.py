"""`covalent-sshtiming export`: the log for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from covalent_sshtiming.verbs import shared

if TYPE_CHECKING:
    from covalent_sshtiming.timing.report import Selection

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming export > timings.csv
  covalent-sshtiming export -o timings.parquet --since 30d
  covalent-sshtiming export -o trace.json --dispatch 0535b436     # open it in ui.perfetto.dev
"""
_FORMS = ("csv", "parquet", "trace")


@click.command(epilog=_EXAMPLES, short_help="CSV, Parquet or a Chrome trace.")
@shared.files_argument
@click.option(
    "-o", "--output", default="-", metavar="OUT", help="File; its name's end says the form. Else stdout."
)
@click.option("--format", "form", type=click.Choice(_FORMS), help="If the name does not say it; else csv.")
@shared.selecting
def export(*, files: tuple[str, ...], output: str, form: str | None, chosen: Selection) -> None:
    """Write tasks as CSV, as Parquet or as a Chrome trace, which ui.perfetto.dev opens.

    Every field of the record is a column, whatever the log has of it. Parquet needs pyarrow:
    python -m pip install 'covalent-sshtiming[parquet]'.

    A trace leaves out tasks without phases, such as those that never came to their machine.
    """
    from covalent_sshtiming.timing.export import SUFFIXES, WRITERS

    form = form or (SUFFIXES.get(Path(output).suffix.lower()) if output != "-" else "csv")
    if form is None:
        raise click.UsageError(
            f"{output!r} does not say the form: end it in .csv, .parquet or .json, or add --format."
        )
    if form == "parquet" and output == "-" and sys.stdout.isatty():
        raise click.UsageError("Parquet is nothing for a terminal: name a file with -o.")
    log = shared.open_log(files)
    try:
        with shared.writing(output) as out, shared.reading():
            count = WRITERS[form](log, chosen, out)
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from error
    shared.speak_of(log, shown=count)
    shared.speak_of_file(output, count)
