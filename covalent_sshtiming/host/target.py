"""Target: everything that makes one warm agent a different one from another.

Frozen and hashable, so it is the key of the pool. Owns how settings become asyncssh's options;
what a user's `~/.ssh/config` may say is left out here, so that it can.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covalent_sshtiming.errors import AuthError

KEEPALIVE_SECONDS = 15
KEEPALIVE_COUNT = 3
LOGIN_SECONDS = 30
CONFIG_FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")


@dataclass(frozen=True)
class Target:
    """One machine, as one user, with one Python; None leaves the choice to the ssh config.

    `python` is the minor version that the electron was pickled with, "3.11"; a `local` one is this
    machine, without SSH; the times are seconds.
    """

    label: str
    hostname: str
    python: str
    local: bool = False
    port: int | None = None
    username: str | None = None
    key_file: str | None = None
    known_hosts_file: str | None = None
    python_path: str = ""
    cache: str = ""
    spool: str = ""
    connect_timeout: float = 20.0
    attempts: int = 5
    retry_wait: float = 5.0
    reconnect_timeout: float = 86400.0
    idle_timeout: float = 300.0
    ping: float = 15.0  # between two signs of life asked for
    silence: float = 40.0  # after which a session is lost; with a ping's wait, noticed within 60 s

    @property
    def flavor(self) -> str:
        """Name what makes two agents with the same interpreter differ.

        A local agent has our environment, so another environment is another agent.
        """
        facts = [self.python_path, *(sorted(map(str, os.environ.items())) if self.local else ())]
        return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def __str__(self) -> str:
        """Name the machine as its user would."""
        address = "" if self.hostname == self.label else f" ({self.hostname})"
        return f"{self.label}{address}"


def config_files() -> list[str]:
    """Return the ssh configuration files that there are, the user's own first: it wins."""
    paths = [Path(name).expanduser() for name in CONFIG_FILES]
    return [str(path) for path in paths if path.is_file()]


def ssh_options(target: Target) -> dict[str, Any]:
    """Return asyncssh's keyword arguments for a target; reads files, so call it in a thread.

    Raises AuthError for a key file that is missing or that others can read.
    """
    options: dict[str, Any] = {
        "config": config_files(),
        "connect_timeout": target.connect_timeout,
        "login_timeout": LOGIN_SECONDS,
        "keepalive_interval": KEEPALIVE_SECONDS,
        "keepalive_count_max": KEEPALIVE_COUNT,
        "request_pty": False,
        "x11_forwarding": False,
        "agent_forwarding": False,
    }
    if target.port:
        options["port"] = target.port
    if target.username:
        options["username"] = target.username
    if target.key_file:
        _check_key_file(target)
        options["client_keys"] = [target.key_file]
        options["agent_path"] = None  # the server counts tries, and this key was asked for
    return options


def _check_key_file(target: Target) -> None:
    path = Path(target.key_file or "")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise AuthError(
            f"{target}: the key file {path} cannot be read ({error.strerror}); correct ssh_key_file."
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise AuthError(f"{target}: others can read the key file {path}; run `chmod 600 {path}`.")
