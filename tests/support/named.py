"""The sshd that SSHTIMING_TEST_HOST names, which the integration tests go to instead of one of their own.

Owns what the four variables mean, and the sentence where they lead nowhere:

SSHTIMING_TEST_HOST         user@host:port
SSHTIMING_TEST_KEY          the private key that lets us in
SSHTIMING_TEST_KNOWN_HOSTS  a known_hosts file with its host key; otherwise the key that it shows first is it
SSHTIMING_TEST_PYTHON       a Python there of our minor version; otherwise python3.X or python3 on its PATH
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import asyncssh

from covalent_sshtiming import forms
from support.interpreters import OWN
from support.there import FarPath, Shell, There

# The order in which asyncssh and ssh prefer them.
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")

# Prints the first of these programs that is a Python of our minor version.
_PYTHON = f"""
for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
    test "$version" = {OWN} && command -v "$python" && exit
done
exit 1
"""


class Server(Protocol):
    """What it takes to log in to an sshd, whoever has started it."""

    @property
    def host(self) -> str:
        """Its name or address."""

    @property
    def port(self) -> int:
        """Its port."""

    @property
    def username(self) -> str:
        """Who is let in."""

    @property
    def key_file(self) -> Path:
        """The private key for that, with the public one beside it."""

    @property
    def known_hosts_file(self) -> Path:
        """A file with one line, its host key."""

    @property
    def remote_home(self) -> There:
        """HOME of its sessions."""

    def settings(self) -> dict[str, str | int]:
        """Return the executor's settings that reach it."""


class NamedError(Exception):
    """The named server cannot be used; says why, and what to do."""


@dataclass(frozen=True)
class NamedServer:
    """The named server; `shell` is a connection to it, `directory` an empty one there."""

    host: str
    port: int
    username: str
    key_file: Path
    known_hosts_file: Path
    python_path: str
    shell: Shell
    directory: FarPath
    remote_home: FarPath

    def settings(self) -> dict[str, str | int]:
        """Return the executor's settings that reach this server."""
        python = {"python_path": self.python_path} if self.python_path else {}
        return {
            "port": self.port,
            "username": self.username,
            "ssh_key_file": str(self.key_file),
            "known_hosts_file": str(self.known_hosts_file),
            **python,
        }


def is_named() -> bool:
    """Say whether a server is named."""
    return bool(os.environ.get("SSHTIMING_TEST_HOST"))


@contextmanager
def named_server(directory: Path) -> Iterator[NamedServer]:
    """Log in to the named server; `directory` is for what is to be known of it here.

    Raises:
        NamedError: it cannot be reached, or has no Python of our minor version.
    """
    host, port, username = _address(os.environ["SSHTIMING_TEST_HOST"])
    key, known = _key(), directory / "known_hosts"
    known.write_text(f"{recorded(host, port)} {_host_key(host, port)}\n")
    login = {"username": username, "client_keys": [str(key)], "known_hosts": str(known)}
    try:
        shell = Shell("", host=host, port=port, **login)
    except (OSError, ValueError, asyncssh.Error) as error:  # a key that cannot be read is a ValueError
        raise NamedError(
            f"{host}: {username} is not let in: {error}. Correct SSHTIMING_TEST_HOST or SSHTIMING_TEST_KEY."
        ) from error
    try:
        shell.python = _python(host, shell)
        # The six letters are mktemp's own form of a template.
        made = shell.run("sh", "-c", 'mktemp -d "${TMPDIR:-/tmp}/sst-XXXXXX"').strip()
        home = shell.run("sh", "-c", "cd && pwd -P").strip()
        made_there, home_there = (FarPath(shell, PurePosixPath(place)) for place in (made, home))
        python = os.environ.get("SSHTIMING_TEST_PYTHON", "")
        yield NamedServer(host, port, username, key, known, python, shell, made_there, home_there)
        shell.run("rm", "-rf", made)
    finally:
        shell.close()


def recorded(host: str, port: int) -> str:
    """Return the name under which known_hosts has a server."""
    return host if port == 22 else f"[{host}]:{port}"


def _address(text: str) -> tuple[str, int, str]:
    try:
        host, user, port = forms.machine(text)
    except ValueError as error:
        raise NamedError(f"SSHTIMING_TEST_HOST: {error}.") from error
    return host, port or 22, user or getpass.getuser()


def _key() -> Path:
    """Return the private key, which has its public half beside it."""
    given = os.environ.get("SSHTIMING_TEST_KEY", "")
    key = Path(given).expanduser().absolute()
    if not given or not key.is_file() or not Path(f"{key}.pub").is_file():
        raise NamedError(
            f"SSHTIMING_TEST_KEY is {given!r}: name the private key that SSHTIMING_TEST_HOST lets in, with "
            "its public key beside it as .pub."
        )
    if key.stat().st_mode & 0o077:
        raise NamedError(
            f"SSHTIMING_TEST_KEY: others can read {key}, so it is refused; run "
            f"`chmod 600 {shlex.quote(str(key))}`."
        )
    return key


def _host_key(host: str, port: int) -> str:
    """Return the host key that is on record, or that the server shows now; type and base64."""
    given = os.environ.get("SSHTIMING_TEST_KNOWN_HOSTS")
    name = recorded(host, port)
    command = (
        ["ssh-keygen", "-F", name, "-f", given]
        if given
        else ["ssh-keyscan", "-T", "10", "-p", str(port), "-t", "ed25519,ecdsa,rsa", host]
    )
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split() for line in ran.stdout.splitlines() if line and line[0] not in "#@"]
    keys = {words[1]: words[2] for words in lines if len(words) >= 3}
    for kind in _KINDS:
        if kind in keys:
            return f"{kind} {keys[kind]}"
    if given:
        raise NamedError(
            f"{host}: SSHTIMING_TEST_KNOWN_HOSTS, {given}, has no host key for {name}. Correct "
            "SSHTIMING_TEST_HOST, or that file."
        )
    said = next((f" ({line})" for line in ran.stderr.splitlines() if line and line[0] != "#"), "")
    raise NamedError(
        f"{host}: no SSH server answers at port {port}{said}. Is it running, and is SSHTIMING_TEST_HOST "
        "right?"
    )


def _python(host: str, shell: Shell) -> str:
    given = os.environ.get("SSHTIMING_TEST_PYTHON")
    wanted = [given] if given else [f"python{OWN}", "python3"]
    with suppress(asyncssh.ProcessError):
        return shell.run("sh", "-c", _PYTHON, "sh", *wanted).strip()
    raise NamedError(
        f"{host} has no Python {OWN} ({', '.join(wanted)}), and what these tests pickle needs one. Run "
        "them under a Python of its version, or name one there as SSHTIMING_TEST_PYTHON."
    )
