"""The `covalent-sshtiming` command: the group of its verbs, and what holds for all of them.

Each verb imports what it needs inside itself, so that `--help` loads neither covalent nor asyncssh.
Data goes to stdout and words to stderr. Exit 0, 1 (it did not work, or the answer is no), 2 (usage).
"""

from __future__ import annotations

import click

from covalent_sshtiming import __version__
from covalent_sshtiming.verbs.demo import demo
from covalent_sshtiming.verbs.jobs import jobs


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="covalent-sshtiming")
def main() -> None:
    """Run Covalent electrons over SSH, and see what each of them cost."""


main.add_command(demo)
main.add_command(jobs)
