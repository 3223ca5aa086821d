"""Trust: whether the host key that a machine presents is the one on record.

Strict: a key that no known_hosts file has is refused, a changed one and a revoked one too, each
with its own error, both fingerprints and the command that puts it right. The files are those of
OpenSSH (hashed entries, ports, certificate authorities and revocations are asyncssh's to read).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh

from covalent_sshtiming.errors import HostKeyChanged, HostKeyError, HostKeyRevoked, HostKeyUnknown
from covalent_sshtiming.host.target import Target

DEFAULT_FILES = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_FILES = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


def known_hosts_files(target: Target, configured: object) -> list[Path]:
    """Return the files to look in: the setting's, else the ssh config's, else the usual ones."""
    if target.known_hosts_file:
        names: Sequence[str] = [target.known_hosts_file]
    elif isinstance(configured, list) and configured:
        names = [str(name) for name in configured]
    else:
        names = (*DEFAULT_FILES, *SYSTEM_FILES)
    return [path for path in (Path(name).expanduser() for name in names) if path.is_file()]


def read(files: Sequence[Path]) -> asyncssh.SSHKnownHosts:
    """Read known_hosts files; blocks."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return asyncssh.import_known_hosts("\n".join(texts) + "\n")


class Verifier(asyncssh.SSHClient):
    """One connection's judgement of its host key; `verdict` says why a key was refused."""

    def __init__(self, target: Target, known: asyncssh.SSHKnownHosts) -> None:
        self.verdict: HostKeyError | None = None
        self._target = target
        self._known = known
        self._trusted: list[Any] = []
        self._revoked: list[Any] = []
        self._name = target.hostname

    def known_hosts(self, host: str, addr: str, port: int) -> Sequence[Any]:
        """Answer asyncssh's lookup, and remember it: the key to judge comes later.

        Revoked keys are taken out of the trusted ones instead of being handed over, because
        asyncssh would refuse them without telling us which key it was.
        """
        keys, authorities, revoked = self._known.match(host, addr, port)[:3]
        if port and port != 22:
            self._name = f"[{host}]:{port}"
            if not keys and not authorities and not revoked:
                keys, authorities, revoked = self._known.match(host, addr, None)[:3]
        else:
            self._name = host
        self._trusted, self._revoked = list(keys), list(revoked)
        trusted = [key for key in keys if key not in revoked]
        return trusted, [key for key in authorities if key not in revoked], []

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002 - asyncssh's signature
        """Refuse the key, which is not a trusted one, and say in `verdict` why."""
        shown = key.get_fingerprint()
        if key in self._revoked:
            self.verdict = HostKeyRevoked(
                f"{self._target}: its host key {shown} is marked @revoked in known_hosts. Do not connect; "
                "ask whoever runs that machine for its new key."
            )
        elif self._trusted:
            known = ", ".join(sorted({known.get_fingerprint() for known in self._trusted}))
            self.verdict = HostKeyChanged(
                f"{self._target}: its host key has changed: it presents {shown}, known_hosts has {known}. "
                "Somebody may be in between. If the change is meant, run "
                f"`ssh-keygen -R '{self._name}'{self._file_flag(' -f ')}` and connect once with "
                f"`{self._ssh(host, port)}` to check the new key."
            )
        else:
            self.verdict = HostKeyUnknown(
                f"{self._target}: no known_hosts file has its host key {shown}. Compare that fingerprint "
                f"with the machine's own and record it: run `{self._ssh(host, port)}` once."
            )
        return False

    def _ssh(self, host: str, port: int) -> str:
        """Return the ssh command that records a key where we look for it."""
        port_flag = f" -p {port}" if port and port != 22 else ""
        return f"ssh{port_flag}{self._file_flag(' -o UserKnownHostsFile=')} {host}"

    def _file_flag(self, flag: str) -> str:
        file = self._target.known_hosts_file
        return f"{flag}{shlex.quote(file)}" if file else ""
