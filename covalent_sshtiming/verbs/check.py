"""`covalent-sshtiming check`: goes to a machine step by step, and says which one fails and what to do."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from covalent_sshtiming.verbs import shared
from covalent_sshtiming.verbs.connecting import without_warnings
from covalent_sshtiming.verbs.tables import console

if TYPE_CHECKING:
    from rich.console import Console

    from covalent_sshtiming.checking.walk import Step

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming check gpubox
  covalent-sshtiming check me@gpubox:2222 -o ssh_key_file=~/.ssh/other
  covalent-sshtiming check gpubox --through-dispatcher
  covalent-sshtiming check gpubox --json | jq '.[] | select(.ok == false)'
"""
_STATES: dict[bool | None, tuple[str, str]] = {
    True: ("ok", "green"),
    False: ("failed", "bold red"),
    None: ("not tried", "dim"),
}
_NARROW = 40  # columns for the details, below which they go under their step


@click.command(epilog=_EXAMPLES, short_help="Go to a machine step by step; say what fails.")
@click.argument("host", metavar="HOST")
@click.option(
    "-o",
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    help="An argument of TimingSSHExecutor; may be repeated.",
)
@click.option(
    "--through-dispatcher",
    is_flag=True,
    help="Let the running Covalent server do it: its key agent, PATH and covalent.conf count, not yours.",
)
@shared.listing
@click.option("--in-server", is_flag=True, hidden=True)  # what --through-dispatcher runs over there
def check(*, host: str, options: Sequence[str], through_dispatcher: bool, form: str, in_server: bool) -> None:
    """Connect to HOST as an electron would, step by step, and time each step.

    HOST is a machine of covalent.conf, or [user@]machine[:port]. The first step that fails is explained
    with what to do about it, and the exit code is 1. Two tiny tasks run there; the timing log has no word
    of them.
    """
    overrides = dict(map(_override, options))
    steps = _far_steps(host, options) if through_dispatcher else None
    found: list[Step] = []
    report = _printer(found) if form == "table" else found.append
    good = _replayed(steps, report) if steps is not None else _walked(host, overrides, report, in_server)
    if form != "table":
        shared.write_data(form, [step.to_dict() for step in found])
    if not good:
        raise click.exceptions.Exit(1)


def _walked(host: str, overrides: dict[str, Any], report: Callable[[Step], None], in_server: bool) -> bool:
    from covalent_sshtiming.checking.check import check as go

    with without_warnings():
        return asyncio.run(go(host, overrides, report, in_server=in_server))


def _far_steps(host: str, options: Sequence[str]) -> list[Step]:
    """Have the Covalent server check."""
    from covalent_sshtiming.checking.dispatched import steps_of_server
    from covalent_sshtiming.errors import SSHTimingError

    try:
        return steps_of_server(host, options)
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error


def _replayed(steps: Sequence[Step], report: Callable[[Step], None]) -> bool:
    for step in steps:
        report(step)
    return all(step.ok for step in steps)


def _override(text: str) -> tuple[str, Any]:
    """Take NAME=VALUE apart; a value that TOML reads as a number, truth, list or table is one."""
    import toml

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{text!r:.80} is not NAME=VALUE.", param_hint="-o")
    try:
        read = toml.loads(f"value = {value}")["value"]
    except (ValueError, IndexError, KeyError):
        read = value
    return name.strip(), read


def _printer(found: list[Step]) -> Callable[[Step], None]:
    """Return what prints a step as it comes, and keeps it."""
    from covalent_sshtiming.checking.walk import STEPS

    out = console()
    width = max(map(len, STEPS))

    def report(step: Step) -> None:
        found.append(step)
        _print(out, step, width)

    return report


def _print(out: Console, step: Step, width: int) -> None:
    from rich.text import Text

    from covalent_sshtiming.timing import units

    word, style = _STATES[step.ok]
    time = "" if step.seconds is None else units.duration(step.seconds)
    front = f"{step.step:<{width}}  {word:<9}  {time:>8}"
    room = out.width - len(front) - 2
    line = Text(front.rstrip() if not step.detail else front)
    line.stylize(style, width + 2, width + 2 + len(word))
    if not step.detail:
        out.print(line)
    elif room >= _NARROW:
        first, *rest = textwrap.wrap(step.detail, room, break_on_hyphens=False)
        out.print(line.append(f"  {first}"))
        for more in rest:
            out.print(Text(" " * (len(front) + 2) + more))
    else:
        out.print(Text.assemble(line))
        for more in textwrap.wrap(step.detail, max(20, out.width - 2), break_on_hyphens=False):
            out.print(Text(f"  {more}"))
