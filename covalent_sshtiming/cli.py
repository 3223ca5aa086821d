"""The `covalent-sshtiming` command: its verbs, their options and their exit codes.

Each verb imports what it needs inside itself, so that `--help` loads neither covalent nor asyncssh.
Data goes to stdout and words to stderr. Exit 0, 1 (it did not work, or the answer is no), 2 (usage).
"""

from __future__ import annotations

import click

from covalent_sshtiming import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="covalent-sshtiming")
def main() -> None:
    """Run Covalent electrons over SSH, and see what each of them cost."""


@main.command()
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
