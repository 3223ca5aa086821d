"""`covalent-sshtiming jobs`: which tasks are on a machine, and what a person may do with one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from covalent_sshtiming.verbs import shared
from covalent_sshtiming.verbs.connecting import without_warnings
from covalent_sshtiming.verbs.tables import Column, write_table

if TYPE_CHECKING:
    from covalent_sshtiming.visit import Brought, Job, Visit

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming jobs gpubox
  covalent-sshtiming jobs me@gpubox:2222 --json
  covalent-sshtiming jobs gpubox --fetch 3f9a
  covalent-sshtiming jobs gpubox --fetch all
  covalent-sshtiming jobs gpubox --kill 3f9a
"""
_COLUMNS = (
    Column("key"),
    Column("state"),
    Column("age", figures=True, goes=2),
    Column("CPU", figures=True, goes=1),
    Column("function"),
    Column("dispatch", goes=4),
    Column("node", figures=True, goes=3),
)


@click.command(epilog=_EXAMPLES, short_help="Tasks of yours that are still on a machine.")
@click.argument("host", metavar="HOST")
@click.option("--fetch", metavar="KEY|all", help="Bring a finished task's record, result and files home.")
@click.option("--kill", metavar="KEY", help="End a task with all its processes.")
@click.option("--clean", is_flag=True, help="Remove what has finished and nobody has fetched.")
@click.option("--yes", is_flag=True, help="Do not ask before --clean.")
@click.option("--log", "log_path", metavar="FILE", help="Timing log for --fetch, if not the configured one.")
@shared.listing
def jobs(
    *,
    host: str,
    fetch: str | None,
    kill: str | None,
    clean: bool,
    yes: bool,
    log_path: str | None,
    form: str,
) -> None:
    """List the tasks of yours that are on HOST: queued, running, or finished and not fetched.

    HOST is a machine of covalent.conf, or [user@]machine[:port]. A KEY may be cut short as long as it
    fits one task only. A finished task that a dispatcher still waits for is left to it.
    """
    if (fetch is not None) + (kill is not None) + clean > 1:
        raise click.UsageError("only one of --fetch, --kill and --clean at a time.")
    if "" in (fetch, kill):  # as of a variable that a script has not set
        raise click.UsageError("the key is empty.")
    from covalent_sshtiming.errors import SSHTimingError
    from covalent_sshtiming.visit import visit

    async def go() -> None:
        async with visit(host, log_path) as there:
            found = await there.jobs()
            if fetch:
                await _fetch(there, found, fetch)
            elif kill:
                await _kill(there, _one(found, kill))
            elif clean:
                await _clean(there, found, yes=yes)
            else:
                _show(found, host, form)

    try:
        with without_warnings():
            asyncio.run(go())
    except SSHTimingError as error:
        raise click.ClickException(str(error)) from error


def _one(found: Sequence[Job], key: str) -> Job:
    """Return the job whose key begins so."""
    fitting = [job for job in found if job.key.startswith(key)]
    if len(fitting) == 1:
        return fitting[0]
    many = f"{len(fitting)} tasks there have keys that begin with {key!r}: give more of it."
    raise click.ClickException(many if fitting else f"no task there has a key that begins with {key!r}.")


def _fail(text: str) -> NoReturn:
    raise click.ClickException(text)


async def _fetch(there: Visit, found: Sequence[Job], key: str) -> None:
    from covalent_sshtiming.errors import SSHTimingError

    if key == "all":
        chosen = [job for job in found if job.state == "finished" and not job.watched]
    else:
        chosen = [_one(found, key)]
    failed = 0
    for job in chosen:
        if job.watched:
            _fail(f"{job.key[:8]} is waited for by a dispatcher that is connected; it will have it.")
        if job.state != "finished":
            _fail(f"{job.key[:8]} is {job.state}; fetch it when it has finished.")
        try:
            brought = await there.fetch(job)
        except SSHTimingError as error:  # the others may come all the same
            click.echo(f"{job.key[:8]} was not fetched: {error}", err=True)
            failed += 1
        else:
            _say(job, brought)
    if not chosen:
        click.echo("Nothing there waits to be fetched.", err=True)
    if failed:
        _fail(f"{failed} of {len(chosen)} were not fetched.")


def _say(job: Job, brought: Brought) -> None:
    if brought.error:
        click.echo(brought.error, err=True)
    if brought.path:
        click.echo(str(brought.path))
        click.echo(f"Read it with covalent_sshtiming.load_result({job.key[:8]!r}).", err=True)
    if brought.files:
        click.echo(str(brought.files))
    if brought.warnings:
        click.echo(brought.warnings, nl=False, err=True)
    click.echo(f"{job.key[:8]} {job.status}: its record is in {brought.log}", err=True)


async def _kill(there: Visit, job: Job) -> None:
    if job.state == "finished":
        _fail(f"{job.key[:8]} has finished already ({job.status}).")
    status = await there.kill(job)
    further = "Its dispatcher has been told." if job.watched else "Its record can be had with --fetch."
    click.echo(f"{job.key[:8]} {status}. {further}", err=True)


async def _clean(there: Visit, found: Sequence[Job], *, yes: bool) -> None:
    chosen = [job for job in found if job.state == "finished" and not job.watched]
    if not chosen:
        click.echo("Nothing there is to be removed.", err=True)
        return
    if not yes:
        click.confirm(f"Remove {len(chosen)} finished tasks with their results?", abort=True, err=True)
    asked = {job.key for job in chosen}  # a dispatcher may have come back meanwhile
    chosen = [job for job in await there.jobs() if job.key in asked and not job.watched]
    await there.forget(chosen)
    click.echo(f"Removed {len(chosen)}.", err=True)


def _show(found: Sequence[Job], host: str, form: str) -> None:
    if form != "table":
        shared.write_data(form, [job.to_dict() for job in found])
        return
    if not found:
        click.echo(f"{host} has no task of yours.", err=True)
        return
    width = _unique(job.key for job in found)
    write_table(_COLUMNS, [_cells(job, width) for job in found])


def _cells(job: Job, width: int) -> list[str]:
    from covalent_sshtiming.timing import units

    state = job.status or job.state if job.state == "finished" else job.state
    return [
        job.key[:width],
        state + (" (waited for)" if job.watched else ""),
        _duration(job.age_s),
        units.duration(job.cpu_s),
        job.function,
        job.dispatch_id[:8],
        units.NOTHING if job.node_id is None else str(job.node_id),
    ]


def _unique(keys: Any) -> int:
    """Return how many characters tell these keys apart, 8 at least."""
    known = list(keys)
    return next((size for size in range(8, 32) if len({key[:size] for key in known}) == len(known)), 32)


_UNITS: tuple[tuple[float, str, Callable[[float], str]], ...] = (
    (60, "s", "{:.0f}".format),
    (3600, "min", lambda s: f"{s / 60:.0f}"),
    (86400, "h", lambda s: f"{s / 3600:.1f}"),
    (float("inf"), "d", lambda s: f"{s / 86400:.1f}"),
)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return next(f"{form(seconds)} {unit}" for limit, unit, form in _UNITS if seconds < limit)
