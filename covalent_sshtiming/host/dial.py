"""Dial: one SSH connection to a target, or one of our errors that says why not.

Owns the translation of everything that can go wrong between a name and an authenticated
connection. Retrying is `host`'s business; here each error only says whether it is worth it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import asyncssh

from covalent_sshtiming.errors import AuthError, ConfigError, ConnectError, ServerBusy, SSHTimingError
from covalent_sshtiming.host import trust
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.target import Target, config_files, ssh_options


async def dial(target: Target) -> asyncssh.SSHClientConnection:
    """Connect and authenticate; raises ConnectError, AuthError, HostKeyError or ConfigError."""
    options = await asyncio.to_thread(ssh_options, target)
    verifier: trust.Verifier | None = None
    try:
        configured = await asyncssh.SSHClientConnectionOptions.construct(
            host=target.hostname, config=config_files()
        )
        files = await asyncio.to_thread(trust.known_hosts_files, target, configured.known_hosts)
        verifier = trust.Verifier(target, await asyncio.to_thread(trust.read, files))
        client = verifier
        return await asyncssh.connect(
            target.hostname, client_factory=lambda: client, known_hosts=client.known_hosts, **options
        )
    except SSHTimingError:
        raise
    except Exception as error:  # translated below, or raised again as it is
        translated = (verifier and verifier.verdict) or translate(target, error)
        if translated is None:
            raise
        raise translated from error


def translate(target: Target, error: BaseException) -> SSHTimingError | None:
    """Return our error for one of the SSH library or the system; None for one that is nobody's but ours."""
    for kinds, translate in _TRANSLATIONS:
        if isinstance(error, kinds):
            return translate(target, error)
    return None


def _refused_login(target: Target, error: Exception) -> SSHTimingError:
    user = f"as {target.username}" if target.username else "as the user of your ssh config"
    tried = f"the key {target.key_file}" if target.key_file else "the keys of your ssh config and key agent"
    return AuthError(
        f"{target}: the login {user} with {tried} was refused ({printable(str(error))}). Set username and "
        "ssh_key_file, or add the public key to ~/.ssh/authorized_keys there."
    )


def _bad_key(target: Target, error: Exception) -> SSHTimingError:
    return AuthError(
        f"{target}: the key {target.key_file or 'of your ssh config'} cannot be used "
        f"({printable(str(error))}). Load an encrypted key into a key agent and leave ssh_key_file empty, "
        "or set another one."
    )


def _bad_config(target: Target, error: Exception) -> SSHTimingError:
    return ConfigError(
        f"{target}: the ssh configuration cannot be read ({printable(str(error))}); correct it."
    )


def _unresolved(target: Target, error: Exception) -> SSHTimingError:
    text = f"{target}: the name does not resolve"
    if getattr(error, "errno", None) == socket.EAI_AGAIN:
        return ConnectError(f"{text} just now; is the network up?")
    failure = ConnectError(f"{text}; correct hostname, or give it an address in ~/.ssh/config.")
    failure.retriable = False
    return failure


def _timed_out(target: Target, _: Exception) -> SSHTimingError:
    return ConnectError(
        f"{target}: no SSH handshake within {target.connect_timeout:g} s; is it up, and is port "
        f"{target.port or 22} open to this machine?"
    )


def _busy(target: Target, error: Exception) -> SSHTimingError:
    return ServerBusy(
        f"{target}: its SSH server has no room for another session ({printable(str(error))}); "
        "raise MaxSessions or MaxStartups there, or lower the load."
    )


def _dropped(target: Target, error: Exception) -> SSHTimingError:
    return ConnectError(f"{target}: the connection was dropped at login ({printable(str(error))}).")


def _unusable(target: Target, error: Exception) -> SSHTimingError:
    failure = ConnectError(
        f"{target}: no SSH session could be agreed on ({printable(str(error))}); is that an SSH server?"
    )
    failure.retriable = False
    return failure


def _unreachable(target: Target, error: Exception) -> SSHTimingError:
    port = target.port or 22
    return ConnectError(
        f"{target}: port {port} cannot be reached ({printable(str(error))}); is the machine up, and sshd?"
    )


_Translation = tuple[tuple[type[Exception], ...], Callable[[Target, Any], SSHTimingError]]
# The first match counts, so what is narrower comes first: a time-out and a failed lookup are OSErrors too.
_TRANSLATIONS: list[_Translation] = [
    ((asyncssh.PermissionDenied,), _refused_login),
    ((asyncssh.KeyImportError, asyncssh.KeyEncryptionError), _bad_key),
    ((asyncssh.ConfigParseError,), _bad_config),
    ((asyncssh.ChannelOpenError,), _busy),
    ((asyncssh.ConnectionLost,), _dropped),
    ((asyncssh.DisconnectError,), _unusable),
    ((socket.gaierror,), _unresolved),
    ((TimeoutError, asyncio.TimeoutError), _timed_out),
    ((OSError,), _unreachable),
]
