"""`covalent-sshtiming rotate`: begin a new timing log, keep the old one."""

from __future__ import annotations

import click

from covalent_sshtiming.verbs import shared

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming rotate --gzip
  covalent-sshtiming stats 'timing.log.jsonl*'     # the old ones and the new one
"""


@click.command(epilog=_EXAMPLES, short_help="Begin a new timing log, and keep the old one.")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--gzip", "compress", is_flag=True, help="Compress what was renamed; every verb reads it so.")
def rotate(*, file: str | None, compress: bool) -> None:
    """Rename the configured timing log, or FILE, to its name and the time.

    Safe while Covalent servers write to it: each line is in the old log or in the new one. Prints the new
    names.
    """
    from covalent_sshtiming.errors import SSHTimingError
    from covalent_sshtiming.timing.rotation import rotated

    try:
        logs = [file] if file else shared.configured_logs()
        moved = [new for log in logs for new in rotated(log, compress=compress)]
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be rotated: {error.strerror}.") from error
    if not moved:
        raise click.ClickException(f"nothing to rotate: no records in {', '.join(map(str, logs))}.")
    for path in moved:
        click.echo(str(path))
