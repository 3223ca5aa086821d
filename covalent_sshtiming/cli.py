"""The `covalent-sshtiming` command: the group of its verbs, and what holds for all of them.

Each verb imports what it needs inside itself, so that `--help` loads neither covalent nor asyncssh.
Data goes to stdout and words to stderr. Exit 0, 1 (it did not work, or the answer is no), 2 (usage).
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

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

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class _Verbs(click.Group):
    """The verbs in the order of their use; a stdout that takes no more is said in a sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # of a terminal that has not all signs
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno not in _NO_ROOM or error.filename:
                raise
            # Or the interpreter would try to write the rest, and complain once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.ClickException(f"the output cannot be written: {error.strerror}.") from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="covalent-sshtiming")
def main() -> None:
    """Run Covalent electrons over SSH, and see what each of them cost."""


for verb in (log, show, stats, compare, report, export, path, rotate, check, jobs, demo):
    main.add_command(verb)
