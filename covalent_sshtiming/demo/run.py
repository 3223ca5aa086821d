"""The demo: the how-to's workflow, once, on private servers, and what it says about it.

Owns what is printed. Words go to standard error as they come, the findings to standard output.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
from rich.console import Console
from rich.table import Table

from covalent_sshtiming import forms
from covalent_sshtiming.demo.dispatcher import Dispatcher, dispatcher
from covalent_sshtiming.demo.processes import DemoError
from covalent_sshtiming.demo.sshserver import ssh_server

WORKFLOW = Path(__file__).with_name("workflow.py")
"""What the client runs; importing it here would run it."""

_REAL_MACHINE: dict[str, str | int] = {
    "idle_timeout": 5,  # the agent is not to outlive the demo for long
    "max_connection_attempts": 2,  # somebody is watching
    "reconnect_timeout": 60,
}

_PHASES = (
    ("connect", "connection, login, agent"),
    ("upload", "request sent"),
    ("queue", "waiting for a slot"),
    ("start", "worker woken"),
    ("before", "hooks before the call"),
    ("load", "function unpickled"),
    ("call", "the function itself"),
    ("after", "hooks after the call"),
    ("dump", "result pickled"),
    ("exit", "worker gone"),
    ("download", "result fetched"),
)

_MILLISECOND = 1e-3
_SECOND = 1.0


class Machine(NamedTuple):
    """Where the demo's electron runs: the name to give the executor, and its settings in covalent.conf."""

    hostname: str
    settings: dict[str, str | int]
    private: bool


def run_demo(host: str | None) -> None:
    """Run the demo on a private SSH server, or on `host`, which is [user@]machine[:port]."""
    with (
        _ending_on_signals(),
        tempfile.TemporaryDirectory(prefix="sshtiming-demo-", ignore_cleanup_errors=True) as name,
        ExitStack() as servers,
    ):
        directory = Path(name)
        machine = parse_host(host) if host else _start_ssh(servers, directory / "ssh")
        server = _start_covalent(servers, directory / "covalent", machine)
        log = directory / "cpu_timing.log"
        outcome = _run_workflow(server, machine, log)
        _print_findings(outcome, log)
        _say("Stopping everything that was started")


def parse_host(text: str) -> Machine:
    """Take [user@]machine[:port] apart; an IPv6 address with a port stands in brackets."""
    try:
        name, user, port = forms.machine(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--host") from error
    settings = dict(_REAL_MACHINE)
    if user:
        settings["username"] = user
    if port:
        settings["port"] = port
    return Machine(name, settings, private=False)


def _start_ssh(servers: ExitStack, directory: Path) -> Machine:
    with _step("Starting a private SSH server"):
        server = servers.enter_context(ssh_server(directory))
    _say(f"  {server.kind}, port {server.port} of {server.host}")
    settings = {
        **server.settings(),
        # The electron needs the Python that pickled it, wherever that is; this one is bare but for that.
        "python_path": base_python(),
        "remote_spool": str(directory / "spool"),
    }
    return Machine(server.host, settings, private=True)


def base_python() -> str:
    """Return the interpreter behind our virtual environment, or that of the environment itself."""
    python = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    return str(python) if python.exists() else sys.executable


def _start_covalent(servers: ExitStack, home: Path, machine: Machine) -> Dispatcher:
    with _step("Starting a private Covalent server"):
        executors = {"sshtiming": {"hosts": {machine.hostname: machine.settings}}}
        server = servers.enter_context(dispatcher(home, executors=executors, keep_home=not machine.private))
    _say(f"  port {server.port}, in {home}")
    return server


def _run_workflow(server: Dispatcher, machine: Machine, log: Path) -> Mapping[str, Any]:
    with _step(f"Running the how-to's workflow on {machine.hostname}"):
        client = server.run_client(WORKFLOW, machine.hostname, str(log), timeout=300)
    if client.returncode != 0:
        raise DemoError(f"The workflow's client failed:\n{client.stderr}\n{server.process.tail()}")
    outcome: dict[str, Any] = json.loads(client.stdout)
    if outcome["status"] != "COMPLETED":
        raise DemoError(f"The workflow ended {outcome['status']}: {outcome['error'].strip()}")
    return outcome


def _print_findings(outcome: Mapping[str, Any], log: Path) -> None:
    click.echo(f"\nResult: {outcome['result']!r}, which is nearly e\n")
    click.echo(f"{log.name}:\n{log.read_text()}")
    record = json.loads(Path(f"{log}.jsonl").read_text().splitlines()[-1])
    Console(highlight=False).print(where_the_time_went(record))


def where_the_time_went(record: Mapping[str, Any]) -> Table:
    """Return a table of one record's phases."""
    table = Table("phase", "what", title=f"Where the time of {record['function']} went", title_justify="left")
    table.add_column("wall", justify="right")
    table.add_column("CPU there", justify="right")
    for phase, what in _PHASES:
        wall, cpu = (record.get(f"phase_{phase}_{clock}_s") for clock in ("wall", "cpu"))
        if wall is not None:
            table.add_row(
                phase, what, _duration(wall), _duration(cpu), style="bold" if phase == "call" else ""
            )
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < _MILLISECOND:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < _SECOND:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


@contextmanager
def _step(words: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    click.echo(f"{words} ... ", err=True, nl=False)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        click.echo("failed", err=True)
        raise
    click.echo(f"{time.monotonic() - start:.1f} s", err=True)


def _say(words: str) -> None:
    click.echo(words, err=True)


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Leave through every `finally` also when we are terminated or the terminal is closed."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
