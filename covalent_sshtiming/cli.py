"""The `covalent-sshtiming` command: the group of its verbs, and what holds for all of them.

Each verb imports what it needs inside itself, so that `--help` loads neither covalent nor asyncssh.
Data goes to stdout and words to stderr. Exit 0, 1 (it did not work, or the answer is no), 2 (usage).
"""

from __future__ import annotations

import click

from covalent_sshtiming import __version__
from covalent_sshtiming.verbs.check import check
from covalent_sshtiming.verbs.compare import compare
from covalent_sshtiming.verbs.demo import demo
from covalent_sshtiming.verbs.export import export
from covalent_sshtiming.verbs.jobs import jobs
from covalent_sshtiming.verbs.log import log
from covalent_sshtiming.verbs.path import path
from covalent_sshtiming.verbs.report import report
from covalent_sshtiming.verbs.rotate import rotate
from covalent_sshtiming.verbs.show import show
from covalent_sshtiming.verbs.stats import stats


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="covalent-sshtiming")
def main() -> None:
    """Run Covalent electrons over SSH, and see what each of them cost."""


for verb in (log, show, stats, compare, report, export, path, rotate, check, jobs, demo):
    main.add_command(verb)
