"""A private Covalent server with a home, a configuration, a database and a port of its own.

Owns everything below its home directory; the user's own covalent.conf is neither read nor written.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import toml

from covalent_sshtiming.demo import covalent_server
from covalent_sshtiming.demo.processes import (
    DemoError,
    Guarded,
    guarded,
    private_environment,
    wait_until,
)

_CONFIG = Path(".config/covalent/covalent.conf")


class Dispatcher:
    """A running private Covalent server, and the way to run clients of it."""

    def __init__(self, home: Path, port: int, process: Guarded, *, keep_home: bool) -> None:
        self.home = home
        self.port = port
        self.process = process
        self._keep_home = keep_home
        self._clients = itertools.count()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """The file with everything that the server prints."""
        return self.process.log

    @property
    def config_file(self) -> Path:
        """The server's own covalent.conf."""
        return self.home / _CONFIG

    def configure(self, section: Mapping[str, Any]) -> None:
        """Merge tables into the server's covalent.conf while it runs, in one step."""
        _write_config(self.config_file, _merged(toml.load(self.config_file), section))

    def client_environment(self) -> dict[str, str]:
        """Return the environment of a new client, whose own covalent.conf holds the server's address alone.

        So what only the server knows, such as credentials, reaches no client; and clients that start at
        the same time do not wait for each other's lock on one file.
        """
        home = self.home / f"client-{next(self._clients)}"
        address = {"address": "127.0.0.1", "port": self.port}
        config = {"sdk": {"no_cluster": "true"}, "dispatcher": address, "user_interface": address}
        _write_config(home / _CONFIG, config)
        return private_environment(home, keep_home=self._keep_home)

    def run_client(
        self, script: Path, *arguments: str, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as a client of this server, as `__main__`, so that its electrons travel by value."""
        env = self.client_environment()
        home = Path(env["COVALENT_CONFIG_DIR"]).parents[1]
        output, errors = home / "stdout", home / "stderr"
        command = [sys.executable, str(script), *arguments]
        with guarded(command, log=errors, stdout=output, env=env, cwd=cwd or home) as client:
            code = _wait(client, script, timeout)
        return subprocess.CompletedProcess(command, code, output.read_text(), errors.read_text())


def _wait(client: Guarded, script: Path, timeout: float) -> int:
    try:
        return client.wait(timeout)
    except subprocess.TimeoutExpired:
        raise DemoError(f"{script.name} did not end within {timeout:.0f} s.\n{client.tail()}") from None


@contextmanager
def dispatcher(
    home: Path,
    *,
    executors: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    keep_home: bool = False,
) -> Iterator[Dispatcher]:
    """Run a private Covalent server.

    Args:
        home: a directory of its own; what Covalent keeps is below it.
        executors: the `[executors]` tables of its covalent.conf.
        environment: further variables of the server.
        keep_home: leave HOME as it is, so that SSH finds the user's own configuration.
    """
    _write_config(home / _CONFIG, {"executors": dict(executors or {})})
    env = {**private_environment(home, keep_home=keep_home), **(environment or {})}
    told = home / "port"
    command = [sys.executable, covalent_server.__file__, str(told)]
    with guarded(command, log=home / "server.log", env=env, cwd=home) as process:
        wait_until(told.exists, process, what="The private Covalent server")
        port = int(told.read_text())
        wait_until(lambda: _answers(port), process, what="The private Covalent server")
        yield Dispatcher(home, port, process, keep_home=keep_home)


def _answers(port: int) -> bool:
    """Say whether Covalent serves its pages; the socket is open long before it does."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        with suppress(OSError, HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
    finally:
        connection.close()
    return False


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Replace a covalent.conf in one step, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(toml.dumps(config))
    new.replace(path)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        merged[key] = _merged(old[key], value) if both else value
    return merged
