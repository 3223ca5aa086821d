"""Target: everything that makes one warm agent a different one from another.

Frozen and hashable, so it is the key of the pool. Holds no secret, only where one is: the name of
an environment variable or of a file. How a login is made of it is `sshconfig`'s and `keys`' to know.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace

ASYNCSSH = "asyncssh"
OPENSSH = "openssh"


@dataclass(frozen=True)
class Target:
    """One machine, as one user, with one Python in one environment; None leaves it to the ssh config.

    `python` is the minor version that the electron was pickled with, "3.11"; a `local` one is this
    machine, without SSH; the times are seconds. A `jump` is a machine on the way to another one; its
    label names both.
    """

    label: str
    hostname: str
    python: str
    local: bool = False
    port: int | None = None
    username: str | None = None
    key_file: str | None = None
    passphrase_env: str | None = field(default=None, repr=False)
    passphrase_file: str | None = field(default=None, repr=False)
    certificate_file: str | None = None
    identity_agent: str | None = None
    password_env: str | None = field(default=None, repr=False)
    password_file: str | None = field(default=None, repr=False)
    proxy_jump: str | None = None
    host_key_policy: str = "strict"
    known_hosts_file: str | None = None
    transport: str = ASYNCSSH
    python_path: str = ""
    conda_env: str = ""
    setup: tuple[str, ...] = field(default=(), repr=False)
    cache: str = ""
    spool: str = ""
    connect_timeout: float = 20.0
    attempts: int = 5
    retry_wait: float = 5.0
    reconnect_timeout: float = 86400.0
    idle_timeout: float = 300.0
    ping: float = 15.0  # between two signs of life asked for
    silence: float = 40.0  # after which a session is lost; with a ping's wait, noticed within 60 s
    farewell: float = 10.0  # that a `run` waits for a cancelled task's end; the far side takes 5 to kill
    ending: float = 60.0  # that a machine which answers may take to end one
    jump: bool = False

    @property
    def flavor(self) -> str:
        """Name what makes two agents with the same interpreter differ.

        A local agent has our environment, so another environment is another agent.
        """
        ours = sorted(os.environ.items()) if self.local else []
        facts = json.dumps([self.python_path, self.conda_env, self.setup, ours])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    @property
    def prepares(self) -> bool:
        """Whether anything is to be done in the shell there before Python starts."""
        return bool(self.setup or self.conda_env)

    def by_way_of(self, hostname: str, port: int | None, username: str | None) -> Target:
        """Return a machine on the way to this one: the same keys, agent and policy, but no password."""
        return replace(
            self,
            label=f"{self.label}: jump host {hostname}",
            hostname=hostname,
            port=port,
            username=username,
            proxy_jump=None,
            password_env=None,
            password_file=None,
            jump=True,
        )

    def __str__(self) -> str:
        """Name the machine as its user would."""
        address = "" if self.jump or self.hostname == self.label else f" ({self.hostname})"
        return f"{self.label}{address}"
