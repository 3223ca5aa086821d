"""What the user's and the system's ssh configuration say of one login, with our settings above them.

Reads the two files as OpenSSH does: first value wins, Include in alphabetical order and relative to
the file's own directory, Match with `exec`, comments at a line's end, tokens expanded once, when everything
is known. The options' meaning is asyncssh's to know; `_Config` corrects its reading in these points. What
neither knows is passed over, and so is StrictHostKeyChecking on purpose: a file that somebody else may
manage must not loosen `host_key_policy`.
"""

from __future__ import annotations

import getpass
import glob
import grp
import os
import pwd
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncssh.config import SSHClientConfig, SSHConfig

from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.host.target import Target

USER_DIRECTORY = Path("~/.ssh")
SYSTEM_DIRECTORY = Path("/etc/ssh")
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
INCLUDES_MAX = 16  # deep, as OpenSSH has it
DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_xmss", "id_dsa")
_EXPANDED = (
    "CertificateFile",
    "IdentityAgent",
    "IdentityFile",
    "ProxyCommand",
    "ProxyJump",
    "UserKnownHostsFile",
)


class _Config(SSHClientConfig):
    """asyncssh's parser, where OpenSSH reads a file in another way."""

    def __init__(self, target: Target, final: bool) -> None:
        user: Any = target.username or ()
        port: Any = target.port or ()
        nothing: Any = None
        super().__init__(nothing, False, False, final, getpass.getuser(), user, target.hostname, port)
        self._tokens["%"] = "%"
        self._for = target
        self._depth = 0

    def parse(self, path: Path) -> None:
        """Read one file, and what it includes."""
        if not path.is_relative_to(SYSTEM_DIRECTORY):
            _check_owner(self._for, path)
        self._path, self._line_no, self._matching = path, 0, True
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            self._line_no += 1
            found = re.match(r"\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+|$)(.*)", line)
            option = found[1].lower() if found else ""
            if found and option in _HANDLERS and (self._matching or option in self._conditionals):
                self._take(option, found[2].strip())

    def _take(self, option: str, rest: str) -> None:
        name, handler = _HANDLERS[option]
        try:
            args = [rest] if option in self._no_split else shlex.split(rest)
        except ValueError as error:
            self._error(str(error))
        comment = next((i for i, word in enumerate(args) if word.startswith("#")), len(args))
        args = args[:comment]
        if not any(args):
            self._error(f"Missing {name} value")
        handler(self, name, args)
        if args:
            self._error(f"Extra data at end: {' '.join(args)}")

    def _include(self, option: str, args: list[str]) -> None:  # noqa: ARG002 - asyncssh's signature
        path, line = self._path, self._line_no
        self._depth += 1
        if self._depth > INCLUDES_MAX:
            self._error(f"Include leads over {INCLUDES_MAX} files deep, or in a circle")
        system = path.is_relative_to(SYSTEM_DIRECTORY)
        directory = SYSTEM_DIRECTORY if system else USER_DIRECTORY.expanduser()
        for pattern in args:
            names = glob.glob(str(directory / Path(pattern).expanduser()))  # noqa: PTH207 - an absolute pattern
            for name in sorted(names):
                if Path(name).is_file():
                    self.parse(Path(name))
        self._path, self._line_no, self._matching = path, line, True
        self._depth -= 1
        args.clear()

    def _match(self, option: str, args: list[str]) -> None:
        self._set_tokens()
        for i, word in enumerate(args[:-1]):
            if word.lower() in ("exec", "!exec"):
                args[i + 1] = self._expand_val(args[i + 1])
        super()._match(option, args)

    def finish(self) -> None:
        """Expand tokens, now that all files are read."""
        self._set_tokens()
        for name in _EXPANDED:
            value = self._options.get(name)
            if isinstance(value, list):
                self._options[name] = [self._expand_val(item) for item in value]
            elif isinstance(value, str):
                self._options[name] = self._expand_val(value)


_HANDLERS: dict[str, Any] = {
    **SSHClientConfig._handlers,
    "include": ("Include", _Config._include),
    "match": ("Match", _Config._match),
    "hashknownhosts": ("HashKnownHosts", SSHConfig._set_bool),
}


@dataclass(frozen=True)
class Jump:
    """A machine to go through."""

    hostname: str
    port: int | None
    username: str | None


@dataclass(frozen=True)
class Way:
    """How to log in to one target: its settings where they speak, the ssh configuration for the rest.

    `identities` are the key files to offer, in order, and `named` says that somebody asked for them;
    `agent` is a socket's path with `agent_source`, the name of who said so. `known_hosts` are files to
    look in, `recording` is the one to write to, `name` what a host key is recorded under.
    """

    config: _Config
    hostname: str
    port: int
    username: str
    name: str
    identities: Sequence[Path]
    named: bool
    certificates: Sequence[Path]
    identities_only: bool
    agent: str
    agent_source: str
    jumps: Sequence[Jump]
    proxy_command: str
    known_hosts: Sequence[Path]
    recording: Path
    hash_names: bool


def config_files() -> list[Path]:
    """Return the ssh configuration files that there are, the user's own first: it wins."""
    paths = [USER_DIRECTORY.expanduser() / "config", SYSTEM_DIRECTORY / "ssh_config"]
    return [path for path in paths if path.is_file()]


def _check_owner(target: Target, path: Path) -> None:
    """Refuse a user's configuration that others could have written, as OpenSSH does; raises ConfigError.

    A group of the user's own, as many systems give each one, has no others in it.
    """
    found = path.stat()
    loose = found.st_mode & (0o002 if _is_own_group(found.st_gid) else 0o022)
    if found.st_uid not in (0, os.getuid()) or loose:
        raise ConfigError(
            f"{target}: others can write or own {path}, and so choose what runs here; run "
            f"`chmod go-w {shlex.quote(str(path))}` as its owner, who has to be the server's user or root."
        )


def _is_own_group(number: int) -> bool:
    with suppress(KeyError):
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
        named_alike = (group.gr_gid, group.gr_name) == (user.pw_gid, user.pw_name)
        return named_alike and set(group.gr_mem) <= {user.pw_name}
    return False


def resolve(target: Target) -> Way:
    """Return the way to a target; reads files and may run a `Match exec`, so call it in a thread.

    Raises:
        ConfigError: a configuration file cannot be read, or makes no sense.
    """
    try:
        config = _load(target)
        return _way(target, config, config.get_options(reload=False))
    except KeyError as error:
        raise ConfigError(
            f"{target}: the user that the Covalent server runs as has no name; set LOGNAME for it."
        ) from error
    except (OSError, ValueError) as error:  # asyncssh's ConfigParseError is a ValueError
        raise ConfigError(
            f"{target}: the ssh configuration cannot be read ({error}). Correct that line, or leave the file "
            'out of it with transport = "openssh" if `ssh` itself accepts it.'
        ) from error


def _load(target: Target) -> _Config:
    for final in (False, True):
        config = _Config(target, final)
        for path in config_files():
            config.parse(path)
        config.loaded = True
        if not config.has_match_final():
            break
    config.finish()
    return config


def _way(target: Target, config: _Config, said: dict[str, Any]) -> Way:
    hostname, port = str(said.get("Hostname", target.hostname)), int(said.get("Port", 22))
    alias = said.get("HostKeyAlias")
    lowered = hostname.lower()
    identities, named = _identities(target, said)
    agent, agent_source = _agent(target, said)
    users, systems = _known_hosts(target, said)
    proxy = next((name for name in said if name in ("ProxyJump", "ProxyCommand")), "")  # the first one counts
    jumps = _jumps(target, said.get("ProxyJump") if proxy == "ProxyJump" else None)
    command = said.get("ProxyCommand") if proxy == "ProxyCommand" and not target.proxy_jump else None
    certificates = [target.certificate_file] if target.certificate_file else said.get("CertificateFile", [])
    return Way(
        config=config,
        hostname=hostname,
        port=port,
        username=str(said.get("User", getpass.getuser())),
        name=str(alias) if alias else lowered if port == 22 else f"[{lowered}]:{port}",
        identities=identities,
        named=named,
        certificates=[_path(name) for name in certificates],
        identities_only=bool(target.key_file) or bool(said.get("IdentitiesOnly")),
        agent=agent,
        agent_source=agent_source,
        jumps=[
            jump for jump in jumps if not (jump.hostname == target.hostname and jump.port in (None, port))
        ],
        proxy_command=str(command or ""),
        known_hosts=[path for path in (*users, *systems) if path.is_file()],
        recording=users[0],
        hash_names=bool(said.get("HashKnownHosts")),
    )


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _identities(target: Target, said: dict[str, Any]) -> tuple[list[Path], bool]:
    """Return the key files; a jump host's own in the ssh configuration come before the target's."""
    configured = [_path(name) for name in said.get("IdentityFile", [])]
    if target.key_file and not (target.jump and configured):
        return [Path(target.key_file)], True
    if "IdentityFile" in said:
        return configured, True
    return [USER_DIRECTORY.expanduser() / name for name in DEFAULT_KEYS], False


def _agent(target: Target, said: dict[str, Any]) -> tuple[str, str]:
    if target.identity_agent:
        return "" if target.identity_agent == "none" else target.identity_agent, "identity_agent"
    if "IdentityAgent" in said:
        name = said["IdentityAgent"] or ""
        if name != "SSH_AUTH_SOCK" and not name.startswith("$"):
            return str(_path(name)) if name else "", "IdentityAgent in the ssh configuration"
        variable = name.lstrip("$")
        return os.environ.get(variable, ""), f"${variable}"
    return os.environ.get("SSH_AUTH_SOCK", ""), "SSH_AUTH_SOCK"


def _known_hosts(target: Target, said: dict[str, Any]) -> tuple[list[Path], list[Path]]:
    """Return the user's and the system's files; the setting stands for all of them."""
    if target.known_hosts_file:
        return [Path(target.known_hosts_file)], []
    users = said.get("UserKnownHostsFile", KNOWN_HOSTS) or [os.devnull]
    systems = said.get("GlobalKnownHostsFile", SYSTEM_KNOWN_HOSTS)
    return [_path(name) for name in users], [_path(name) for name in systems]


def _jumps(target: Target, configured: str | None) -> list[Jump]:
    """Take a chain of jump hosts apart: [user@]host[:port] or ssh://user@host:port, the nearest first."""
    chain = target.proxy_jump or configured or "none"
    return [] if chain == "none" else [_jump(hop) for hop in chain.split(",")]


def _jump(hop: str) -> Jump:
    user, _, rest = hop.strip().removeprefix("ssh://").rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    return Jump(host, int(port) if port else None, user or None)
