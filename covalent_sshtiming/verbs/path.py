"""`covalent-sshtiming path`: where the timing log is."""

from __future__ import annotations

import json

import click

from covalent_sshtiming.verbs import shared

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming path
  tail -f "$(covalent-sshtiming path)"
"""


@click.command(epilog=_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="A list with every file and its size.")
def path(*, as_json: bool) -> None:
    """Print where the configured timing log is; several, if machines in covalent.conf have their own.

    Whether there is anything yet is said on stderr.
    """
    from covalent_sshtiming.errors import SSHTimingError
    from covalent_sshtiming.timing.files import records_path, shards
    from covalent_sshtiming.timing.units import size

    try:
        logs = shared.configured_logs()
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error
    files = {log: [*dict.fromkeys((log, records_path(log))), *shards(records_path(log))] for log in logs}
    if as_json:
        every = [(log, file) for log in logs for file in files[log]]
        told = [
            {"log": str(log), "file": str(file), "bytes": file.stat().st_size if file.exists() else None}
            for log, file in every
        ]
        click.echo(json.dumps(told, indent=1))
        return
    for log in logs:
        click.echo(str(log))
        there = [f"{file.name} has {size(file.stat().st_size)}" for file in files[log] if file.exists()]
        click.echo(f"{', '.join(there)}." if there else "Nothing is there yet.", err=True)
