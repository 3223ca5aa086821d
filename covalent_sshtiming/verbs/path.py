"""`covalent-sshtiming path`: where the timing log is."""

from __future__ import annotations

import click

from covalent_sshtiming.verbs import shared

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming path
  tail -f "$(covalent-sshtiming path)"
"""


@click.command(epilog=_EXAMPLES, short_help="Where the timing log is.")
@shared.listing
def path(*, form: str) -> None:
    """Print where the configured timing log is; several, if machines in covalent.conf have their own.

    Whether there is anything yet is said on stderr. --json and --csv have every file of a log, and its size.
    """
    from covalent_sshtiming.errors import SSHTimingError
    from covalent_sshtiming.timing.files import records_path, shards
    from covalent_sshtiming.timing.units import size

    try:
        logs = shared.configured_logs()
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error
    files = {log: [*dict.fromkeys((log, records_path(log))), *shards(records_path(log))] for log in logs}
    if form != "table":
        every = [(log, file) for log in logs for file in files[log]]
        told = [
            {"log": str(log), "file": str(file), "bytes": file.stat().st_size if file.exists() else None}
            for log, file in every
        ]
        shared.write_data(form, told)
        return
    for log in logs:
        click.echo(str(log))
        there = [f"{file.name} has {size(file.stat().st_size)}" for file in files[log] if file.exists()]
        click.echo(f"{', '.join(there)}." if there else "Nothing is there yet.", err=True)
