"""`covalent-sshtiming report`: the log to look at, as one HTML file."""

from __future__ import annotations

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


@click.command(epilog=_EXAMPLES, short_help="One HTML file with charts and a table.")
@shared.files_argument
@click.option(
    "-o", "--output", default="timings.html", metavar="OUT", help="File, or - for stdout; else timings.html."
)
@click.option("--title", default="Timings", metavar="TEXT", help="The page's heading.")
@shared.selecting
def report(*, files: tuple[str, ...], output: str, title: str, chosen: Selection) -> None:
    """Write one HTML file with totals, charts and a table; it needs no network and no other file.

    A timeline by machine, CPU against wall time, phases, the spread of each function, and all tasks to sort
    and filter. Opens in any browser of the last years, light or dark as that is.
    """
    from covalent_sshtiming.timing.html import NEEDED, Page
    from covalent_sshtiming.timing.report import SELECTED_BY

    log = shared.open_log(files)
    page = Page()
    with shared.reading():
        page.add(chosen.of(log.rows({*NEEDED, *SELECTED_BY})))
    with shared.writing(output) as out:
        out.writelines(page.pieces(title, [path.name for path in log.files]))
    shared.speak_of(log, shown=page.count)
    shared.speak_of_file(output, page.count)
