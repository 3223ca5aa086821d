"""What the reading verbs share: which log, which of its records, the forms of a listing. No verb itself."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from covalent_sshtiming.timing.reading import Reader

_STATUSES = ("completed", "failed", "cancelled", "killed", "timeout", "lost")
_SCHEMAS = 3  # that are named
_TOGETHER = 1000  # objects in one write


def configured_logs() -> list[Path]:
    """Return the timing logs of covalent.conf: the section's own, then those of single machines.

    Raises:
        ConfigError: if covalent.conf cannot be read.
    """
    from covalent_sshtiming import settings
    from covalent_sshtiming.timing.files import expanded

    section = settings.load_section()
    hosts = section.get("hosts")
    tables = [section, *(hosts.values() if isinstance(hosts, dict) else ())]
    named = [table.get("timing_filepath") for table in tables if isinstance(table, dict)]
    logs = [named[0] or settings.default_timing_log(), *filter(None, named[1:])]
    return list(dict.fromkeys(expanded(str(log)) for log in logs))


def open_log(files: Sequence[str]) -> Reader:
    """Return the reader of the named files, or of the configured logs; none at all ends the command.

    Raises:
        ClickException: where nothing is, with all places that were looked at.
    """
    from covalent_sshtiming.errors import SSHTimingError
    from covalent_sshtiming.timing.reading import Reader, reader_of

    found: list[Path] = []
    missing: list[str] = []
    try:
        for one in files or configured_logs():
            try:
                found += [file for file in reader_of(one).files if file not in found]
            except FileNotFoundError as error:
                missing.append(str(error.filename))
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error
    if missing and (files or not found):
        advice = (
            "" if files else " A log appears when the first task has ended; name FILE if yours is elsewhere."
        )
        raise click.ClickException(f"no timing log: there is no {' and no '.join(missing)}.{advice}")
    return Reader(found)


@contextmanager
def reading() -> Iterator[None]:
    """Read a log; a file that cannot be read ends the command with its name, not with a traceback."""
    collects = gc.isenabled()
    gc.disable()  # records have no cycles, and looking for some takes a sixth of the time of 100,000
    try:
        yield
    except OSError as error:
        if not error.filename:
            raise
        raise click.ClickException(f"{error.filename} cannot be read: {error.strerror}.") from error
    finally:
        if collects:
            gc.enable()


def speak_of(log: Reader, *, shown: int) -> None:
    """Say on stderr what the listing cannot: lines that were left out, and that there was nothing."""
    speak_of_left_out(log)
    if not shown:
        click.echo(f"No task to show in {', '.join(map(str, log.files))}.", err=True)


def speak_of_left_out(log: Reader) -> None:
    """Say on stderr how many lines are no record, and how many are records of another version."""
    others = log.others.total()
    bad = log.bad_lines - others
    if bad:
        click.echo(f"Left out: {bad} {'line that is' if bad == 1 else 'lines that are'} no record.", err=True)
    if others:
        schemas = ", ".join(list(log.others)[:_SCHEMAS])
        records, them = ("1 record", "it") if others == 1 else (f"{others} records", "them")
        click.echo(
            f"Left out: {records} that another version wrote ({schemas}); only that version reads {them}.",
            err=True,
        )


@contextmanager
def writing(output: str) -> Iterator[IO[bytes]]:
    """Open the file that -o names, or stdout for "-"; one that cannot be written ends the command."""
    from covalent_sshtiming.timing.export import Unwritable, whole_file

    if output == "-":
        yield sys.stdout.buffer
        return
    try:
        with whole_file(Path(output)) as file:
            yield file
    except Unwritable as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}.") from error


def speak_of_file(output: str, count: int) -> None:
    """Say on stderr how many tasks a file has."""
    if output != "-":
        click.echo(f"{output}: {count} {'task' if count == 1 else 'tasks'}.", err=True)


def files_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add [FILE]...: logs to read instead of the configured one."""
    return click.argument("files", metavar="[FILE]...", nargs=-1)(function)


def selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which records are meant; they arrive as one `chosen`."""

    @functools.wraps(function)
    def with_selection(**values: Any) -> Any:
        from covalent_sshtiming.timing.report import Selection

        names = ("dispatch", "node", "function", "host", "since", "until", "helpers")
        chosen = {name: values.pop(name) for name in names}
        return function(chosen=Selection(status=frozenset(values.pop("status")), **chosen), **values)

    options = (
        click.option("--dispatch", metavar="ID", help="Only this dispatch; the beginning of its id will do."),
        click.option("--node", type=int, metavar="N", help="Only this node."),
        click.option("--function", metavar="NAME", help="Only this function; * and ? stand for others."),
        click.option("--host", metavar="NAME", help="Only this machine; * and ? stand for others."),
        click.option(
            "--status", multiple=True, type=click.Choice(_STATUSES), help="Only these; may be repeated."
        ),
        click.option("--since", metavar="WHEN", callback=_instant, help="From 2h, 7d, 2026-11-20 (UTC) on."),
        click.option("--until", metavar="WHEN", callback=_instant, help="Up to then."),
        click.option("--helpers", is_flag=True, help="With the electrons that Covalent adds by itself."),
    )
    for option in reversed(options):
        with_selection = option(with_selection)
    return with_selection


def _instant(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from covalent_sshtiming.timing.units import instant

    if value is None:
        return None
    try:
        return instant(value, datetime.now(timezone.utc))
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def listing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --csv; they arrive as one `form`: "json", "csv" or "table"."""

    @functools.wraps(function)
    def with_form(*, as_json: bool, as_csv: bool, **values: Any) -> Any:
        if as_json and as_csv:
            raise click.UsageError("only one of --json and --csv at a time.")
        return function(form="json" if as_json else "csv" if as_csv else "table", **values)

    with_form = click.option(
        "--csv", "as_csv", is_flag=True, help="Comma-separated, with unrounded figures."
    )(with_form)
    return click.option("--json", "as_json", is_flag=True, help="A list of flat objects, unrounded.")(
        with_form
    )


def write_data(form: str, objects: Iterable[dict[str, Any]]) -> None:
    """Print flat objects of equal keys as JSON or CSV; an absent value is null, or an empty cell."""
    chunks = (_json if form == "json" else _csv)(iter(objects))
    for chunk in chunks:
        click.echo(chunk, nl=False)


def _json(objects: Iterator[dict[str, Any]]) -> Iterator[str]:
    escaped = (
        not (sys.stdout.encoding or "").lower().startswith("utf")
    )  # what it has no sign for is no "?" here
    before = "[\n"
    while some := list(itertools.islice(objects, _TOGETHER)):
        yield before + ",\n".join(json.dumps(one, ensure_ascii=escaped) for one in some)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _csv(objects: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    from covalent_sshtiming.timing import separated

    heads = True
    while some := list(itertools.islice(objects, _TOGETHER)):
        rows = [list(some[0])] * heads + [list(one.values()) for one in some]
        yield b"".join(map(separated.row, rows))
        heads = False
