"""`covalent-sshtiming report`: the log to look at, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from covalent_sshtiming.verbs import shared

if TYPE_CHECKING:
    from covalent_sshtiming.timing.report import Selection

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming report -o timings.html
  covalent-sshtiming report -o week.html --since 7d --title "This week"
"""


@click.command(epilog=_EXAMPLES)
@shared.files_argument
@click.option(
    "-o", "--output", default="timings.html", metavar="OUT", help="File to write; else timings.html."
)
@click.option("--title", default="Timings", metavar="TEXT", help="The page's heading.")
@shared.selecting
def report(*, files: tuple[str, ...], output: str, title: str, chosen: Selection) -> None:
    """Write one HTML file with totals, charts and a table; it needs no network and no other file.

    A timeline by machine, CPU against wall time, phases, the spread of each function, and all tasks to sort
    and filter. Opens in any browser of the last years, light or dark as that is.
    """
    from covalent_sshtiming.timing.export import Unwritable, whole_file
    from covalent_sshtiming.timing.html import NEEDED, Page
    from covalent_sshtiming.timing.report import SELECTED_BY

    log = shared.open_log(files)
    page = Page()
    with shared.reading_errors():
        page.add(chosen.of(log.rows({*NEEDED, *SELECTED_BY})))
    try:
        with whole_file(Path(output)) as out:
            out.writelines(page.pieces(title, [path.name for path in log.files]))
    except Unwritable as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}.") from error
    shared.speak_of(log, shown=page.count)
    click.echo(f"{output}: {page.count} {'task' if page.count == 1 else 'tasks'}.", err=True)
