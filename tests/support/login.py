"""Logging in as covalent.conf says, and what a test of that needs: keys, certificates, a command's end."""

from __future__ import annotations

import asyncio
import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from support import direct  # noqa: F401 - imports Covalent under a configuration of its own, and so before ours

# isort: split
from covalent_sshtiming import errors, reach, settings
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.host import pool
from support.named import Server, recorded

target_of = functools.partial(reach.target_of, local=False)  # as the executor makes it
SECRET = "correct horse"  # noqa: S105 - opens keys that a test makes


class Listener:
    """A receiver that keeps what it hears, up to the end."""

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def received(self, data: bytes) -> None:
        """Keep stdout."""
        self.output += data

    def complained(self, data: bytes) -> None:
        """Keep stderr."""
        self.errors += data

    def writable(self, free: bool) -> None:
        """Nothing is written here."""

    def lost(self, status: int | None) -> None:
        """Keep the end."""
        if not self.status.done():
            self.status.set_result(status)


def host_key(server: Server) -> str:
    """Return a server's plain host key: type and base64."""
    return server.known_hosts_file.read_text().split(" ", 1)[1]


def shown_by(server: Server) -> str:
    """Return the fingerprint of a server's plain host key."""
    return asyncssh.import_public_key(host_key(server)).get_fingerprint()


def shown_for(server: Server, kind: str) -> str:
    """Return the fingerprint of the host key that a server shows to whom has one of this kind on record."""
    command = ["ssh-keyscan", "-T", "10", "-p", str(server.port), "-t", kind, server.host]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    keys = [line.split(" ", 1)[1] for line in told.splitlines() if line[:1] != "#"]
    return asyncssh.import_public_key(keys[0]).get_fingerprint() if keys else shown_by(server)


def name_of(server: Server) -> str:
    """Return the name under which known_hosts files have a server."""
    return recorded(server.host, server.port)


def port_flag(server: Server) -> str:
    """Return how ssh is told a server's port, where that needs saying."""
    return "" if server.port == 22 else f" -p {server.port}"


def known_file(home: Path) -> str:
    """Return the place of a test's own known_hosts file."""
    return str(home / "known")


def reaching(server: Server, **more: Any) -> dict[str, Any]:
    """Return the covalent.conf section that reaches a server; None takes a setting away."""
    section = {"hostname": server.host, **server.settings(), "connect_timeout": 10, **more}
    return {name: value for name, value in section.items() if value is not None}


async def enter(section: Mapping[str, Any]) -> str:
    """Log in as a section of covalent.conf says, run a command there, and return what it printed."""
    target = target_of(settings.resolve({}, section), "3.11")
    listener = Listener()
    streams = await pool.open_ssh(target, "echo in; echo complaint >&2; exit 3", listener)
    status = await asyncio.wait_for(listener.status, 10)
    await streams.close()
    assert (status, listener.errors) == (3, b"complaint\n")
    return listener.output.decode().strip()


async def refusal(section: Mapping[str, Any], kind: type[errors.SSHTimingError]) -> str:
    """Return the sentence with which a login fails, which has to be of this class."""
    with pytest.raises(errors.SSHTimingError) as caught:
        await asyncio.wait_for(enter(section), 30)
    assert type(caught.value) is kind, repr(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def authorize(server: SSHServer, other: Server) -> None:
    """Let the user of another server in by the same key."""
    file = server.key_file.with_name("authorized_keys")
    file.write_text(file.read_text() + Path(f"{other.key_file}.pub").read_text())


def connection(server: Server) -> asyncssh.misc._ACMWrapper[asyncssh.SSHClientConnection]:
    """Return a connection to a server without our help, to be opened."""
    return asyncssh.connect(
        server.host,
        server.port,
        username=server.username,
        client_keys=[str(server.key_file)],
        known_hosts=str(server.known_hosts_file),
        agent_path=None,
        config=None,
    )
