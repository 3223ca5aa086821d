"""A private SSH server on loopback, with throwaway host and user keys in one directory.

The system's OpenSSH where there is one, else an embedded asyncssh server; both run commands as the current
user. Owns what differs between two such servers; `sshd_config`, beside this module, has what they share with
the Docker image's.
"""

from __future__ import annotations

import asyncio
import glob
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import asyncssh

from covalent_sshtiming.demo import embedded
from covalent_sshtiming.demo.processes import DemoError, Guarded, free_port, guarded, wait_until

Kind = Literal["openssh", "embedded"]

LOOPBACK = "127.0.0.1"

_START_ATTEMPTS = 5

SETTINGS = Path(__file__).with_name("sshd_config")
"""What every private sshd reads."""

_OWN_SETTINGS = """\
{options}
Port {port}
ListenAddress {address}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
{environment}
Include "{shared}"
"""


@dataclass(frozen=True)
class SSHServer:
    """A running private SSH server, and what a client needs to log in to it."""

    kind: Kind
    host: str
    port: int
    username: str
    key_file: Path
    known_hosts_file: Path
    remote_home: Path
    process: Guarded

    @property
    def pid(self) -> int:
        """The process id of the listening server."""
        return self.process.pid

    def settings(self) -> dict[str, str | int]:
        """Return the executor's settings that reach this server."""
        return {
            "port": self.port,
            "username": self.username,
            "ssh_key_file": str(self.key_file),
            "known_hosts_file": str(self.known_hosts_file),
        }


def sshd_config(
    directory: str | Path,
    port: int,
    *,
    options: Mapping[str, str | int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the text of one server's own sshd_config, which includes the shared one.

    Args:
        directory: where `host_key` and `authorized_keys` are.
        port: the port to listen on.
        options: further options, such as MaxSessions; they win over ours and over the shared ones.
        environment: variables of every session, HOME and PATH among them if wanted.
    """
    return _OWN_SETTINGS.format(
        # sshd takes an option's first value, so these come first.
        options="\n".join(f"{name} {value}" for name, value in (options or {}).items()),
        directory=directory,
        port=port,
        address=LOOPBACK,
        environment=_set_env(environment or {}),
        shared=glob.escape(str(SETTINGS)),  # sshd takes the name for a pattern
    )


def _set_env(environment: Mapping[str, str]) -> str:
    """Return one SetEnv line, because sshd reads the first such line only."""
    if not environment:
        return ""
    for name, value in environment.items():
        if re.search(r'["\\\n\r\0]', f"{name}{value}"):
            raise DemoError(f"sshd cannot set {name} to {value!r}: quotes and newlines have no form there.")
    return "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items())


def find_sshd() -> str | None:
    """Return the path of the system's sshd, which is rarely on an ordinary user's PATH."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which("sshd", path=os.pathsep.join(places))


@contextmanager
def ssh_server(
    directory: Path,
    *,
    kind: Kind | None = None,
    options: Mapping[str, str | int] | None = None,
    environment: Mapping[str, str] | None = None,
    remote_home: Path | None = None,
) -> Iterator[SSHServer]:
    """Run a private SSH server.

    Args:
        directory: an empty or absent directory for its keys and its log.
        kind: None takes OpenSSH where it is installed and starts, else the embedded server.
        options: sshd_config options that win over ours (OpenSSH only).
        environment: variables of every session.
        remote_home: HOME of every session; by default a directory of its own in `directory`.
    """
    home = remote_home or directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    _write_keys(directory)
    variables = {"HOME": str(home), **(environment or {})}
    with _started(directory, kind, options or {}, variables) as (used, port, process):
        yield SSHServer(
            kind=used,
            host=LOOPBACK,
            port=port,
            username=_username(),
            key_file=directory / "user_key",
            known_hosts_file=_write_known_hosts(directory, port),
            remote_home=home,
            process=process,
        )


@contextmanager
def _started(
    directory: Path, kind: Kind | None, options: Mapping[str, str | int], environment: Mapping[str, str]
) -> Iterator[tuple[Kind, int, Guarded]]:
    """Start the server, on another port where somebody took the first, of the other kind where one fails."""
    problem = DemoError("OpenSSH's sshd is not installed here.")
    wanted: tuple[Kind, ...] = (kind,) if kind else ("openssh", "embedded")
    kinds = [one for one in wanted if one == "embedded" or find_sshd()]
    with ExitStack() as stack:
        for used, _ in product(kinds, range(_START_ATTEMPTS)):
            port = free_port(LOOPBACK)
            command = _command(used, directory, port, options, environment)
            with ExitStack() as attempt:
                try:
                    server = attempt.enter_context(_running(command, directory, port))
                    if used != kinds[-1]:  # there is another kind to fall back on
                        _check_login(directory, port)
                except DemoError as error:
                    problem = error
                    continue
                stack.push(attempt.pop_all())
            yield used, port, server
            return
    raise problem


@contextmanager
def _running(command: list[str | Path], directory: Path, port: int) -> Iterator[Guarded]:
    with guarded(command, log=directory / "server.log", env=os.environ, cwd=directory) as process:
        wait_until(lambda: _greets(port), process, what="The private SSH server", timeout=20)
        yield process


def _command(
    kind: Kind,
    directory: Path,
    port: int,
    options: Mapping[str, str | int],
    environment: Mapping[str, str],
) -> list[str | Path]:
    if kind == "embedded":
        return [sys.executable, embedded.__file__, directory, str(port), json.dumps(dict(environment))]
    sshd = find_sshd() or "sshd"
    config = directory / "sshd_config"
    config.write_text(sshd_config(directory, port, options=options, environment=environment))
    _make_privilege_directory(sshd, config)
    return [sshd, "-D", "-e", "-f", config]


def _make_privilege_directory(sshd: str, config: Path) -> None:
    """Make the directory that sshd wants when root starts it, and that only its init script makes."""
    checked = subprocess.run([sshd, "-t", "-f", config], capture_output=True, text=True, check=False)
    missing = re.search(r"Missing privilege separation directory: (/\S+)", checked.stderr)
    if missing:
        Path(missing[1]).mkdir(mode=0o755, exist_ok=True)


def _username() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _check_login(directory: Path, port: int) -> None:
    """Raise DemoError where sshd lets this account in no more than it would elsewhere: locked, no shell."""

    async def log_in() -> None:
        keys = [str(directory / "user_key")]
        async with asyncssh.connect(
            LOOPBACK,
            port,
            username=_username(),
            client_keys=keys,
            known_hosts=None,
            agent_path=None,
            config=None,
        ) as connection:
            await connection.run("exit 0", check=True)

    try:
        # In a thread, because our caller may be running an event loop of its own.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, log_in()).result()
    except (OSError, asyncssh.Error) as error:
        raise DemoError(f"The private SSH server lets nobody in: {error}") from error


def _greets(port: int) -> bool:
    """Say whether an SSH server answers on this port."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=5) as connection:
        return connection.recv(8).startswith(b"SSH-2.0")
    return False


def _write_keys(directory: Path) -> None:
    """Make the keys of the server and of its one user."""
    for name in ("host_key", "user_key"):
        key = asyncssh.generate_private_key("ssh-ed25519", comment="covalent-sshtiming demo")
        path = directory / name
        path.touch(mode=0o600)
        path.write_bytes(key.export_private_key())
        path.with_suffix(".pub").write_bytes(key.export_public_key())
    (directory / "authorized_keys").write_bytes((directory / "user_key.pub").read_bytes())


def _write_known_hosts(directory: Path, port: int) -> Path:
    path = directory / "known_hosts"
    path.write_text(f"[{LOOPBACK}]:{port} {(directory / 'host_key.pub').read_text()}")
    return path
