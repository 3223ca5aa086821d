"""`covalent-sshtiming demo`: the how-to's workflow once, and the words around it."""

from __future__ import annotations

import click

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming demo
  covalent-sshtiming demo --host user@machine
"""


@click.command(epilog=_EXAMPLES, short_help="The how-to's workflow, once, on private servers.")
@click.option(
    "--host",
    metavar="[USER@]MACHINE[:PORT]",
    help="Run on this machine, with your own SSH configuration, instead of a private SSH server.",
)
def demo(host: str | None) -> None:
    """Run the how-to's workflow once, on a private Covalent server.

    Starts a private SSH server on loopback too, unless --host names a machine. Prints the result, the
    log's lines and where the time went, and stops everything that it started. None of your own Covalent
    or SSH configuration is changed.
    """
    from covalent_sshtiming.demo.run import run_demo
    from covalent_sshtiming.errors import SSHTimingError

    try:
        run_demo(host)
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error
