"""Causes: what can go wrong between a name and an authenticated connection, in our own words.

Each sentence names the machine (a jump host among them), the cause and what to do next, with the
setting's name where there is one. Whether it is worth another try is in the error's class.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED
from asyncssh.saslprep import SASLPrepError

from covalent_sshtiming.errors import AuthError, ConfigError, ConnectError, ServerBusy, SSHTimingError
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.keys import Ring
from covalent_sshtiming.host.target import Target

_CLOSED = "SSH connection closed"  # asyncssh's words for a channel whose connection goes while it opens
TOO_MANY = "Too many authentication failures"  # sshd's words, at its MaxAuthTries


def translate(target: Target, error: BaseException) -> SSHTimingError | None:
    """Return our error for one of the SSH library or the system; None for one that is nobody's but ours."""
    for kinds, translate in _TRANSLATIONS:
        if isinstance(error, kinds):
            return translate(target, error)
    return None


def no_way_on(jump: Target, target: Target, error: asyncssh.ChannelOpenError) -> SSHTimingError:
    """Word that a jump host does not reach the next machine."""
    port = target.port or 22
    if error.code == OPEN_ADMINISTRATIVELY_PROHIBITED:
        cause = f"does not pass connections on to {target.hostname} port {port}"
        failure = ConnectError(
            f"{jump}: it {cause} ({printable(error.reason)}); AllowTcpForwarding and PermitOpen there decide."
        )
        failure.retriable = False
        return failure
    return ConnectError(
        f"{jump}: it cannot reach {target.hostname} port {port} ({printable(error.reason)}); correct "
        "hostname and port, which it looks up for itself, or proxy_jump."
    )


def no_answer_to_name(target: Target) -> SSHTimingError:
    """Word that nobody has looked the name up in time."""
    return ConnectError(
        f"{target}: nobody looked the name up within {target.connect_timeout:g} s; is the name server up? "
        "Give the machine an address in ~/.ssh/config, or raise connect_timeout."
    )


def no_session(target: Target) -> SSHTimingError:
    """Word that a server let us in and then fell silent."""
    return ConnectError(
        f"{target}: logged in, but its SSH server opened no session within {target.connect_timeout:g} s; "
        "does `ssh` run a command there? If it is only slow, raise connect_timeout."
    )


def no_room_at_the_door(target: Target, error: Exception) -> ServerBusy:
    """Word that a server let go of us before it said a word, as one does that has too many at its login."""
    return ServerBusy(
        f"{target}: its SSH server closed the connection before it said a word ({printable(str(error))}); "
        "raise MaxStartups there, or lower the load. Or is this machine's address banned, does port lead "
        "elsewhere?"
    )


def proxy_failed(target: Target, said: str) -> SSHTimingError:
    """Word that a ProxyCommand ended before there was a connection."""
    words = f" ({said})" if said else ""
    return ConnectError(
        f"{target}: the ProxyCommand of the ssh configuration ended before an SSH server answered{words}; "
        "try it by hand, or set hostname to a machine without one."
    )


def refused_login(target: Target, username: str, ring: Ring, error: Exception) -> AuthError:
    """Word a refused login: the user, what was tried and what could not be."""
    tried = []
    if ring.pairs:
        keys = "the keys of your ssh config and key agent"
        tried.append(f"the key {target.key_file}" if target.key_file else keys)
    fix = "Set username and ssh_key_file, or add the public key to ~/.ssh/authorized_keys there."
    if ring.password is not None:
        setting = "password_env" if target.password_env else "password_file"
        tried.append(f"the password of {setting}")
        fix = f"Correct username, or the password that {setting} leads to, or set ssh_key_file."
    also = f" Not offered: {'; '.join(ring.notes)}." if ring.notes else ""
    if TOO_MANY in str(error):
        also += " The server counts each key as a try: name the right one, or set IdentitiesOnly."
    return AuthError(
        f"{target}: the login as {username} with {' and '.join(tried) or 'no key at all'} was refused "
        f"({printable(str(error))}).{also} {fix}"
    )


def _bad_key(target: Target, error: Exception) -> SSHTimingError:
    return AuthError(
        f"{target}: the key {target.key_file or 'of your ssh config'} cannot be used "
        f"({printable(str(error))}); set ssh_key_file to another one."
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
        f"{target.port or 22} open to this machine? Correct hostname or port, or raise connect_timeout."
    )


def _busy(target: Target, error: asyncssh.ChannelOpenError) -> SSHTimingError:
    if error.reason == _CLOSED:
        return _dropped(target, error)
    return ServerBusy(
        f"{target}: its SSH server has no room for another session ({printable(str(error))}); "
        "raise MaxSessions or MaxStartups there, or lower the load."
    )


def _dropped(target: Target, error: Exception) -> SSHTimingError:
    return ConnectError(
        f"{target}: the connection was dropped at login ({printable(str(error))}); the SSH server's log "
        "there says why. Is this machine's address banned, does port lead elsewhere?"
    )


def _unusable(target: Target, error: Exception) -> SSHTimingError:
    failure = ConnectError(
        f"{target}: no SSH session could be agreed on ({printable(str(error))}); is that an SSH server? "
        "Correct hostname or port, or the algorithms of the ssh configuration."
    )
    failure.retriable = False
    return failure


def _unreachable(target: Target, error: Exception) -> SSHTimingError:
    port = target.port or 22
    return ConnectError(
        f"{target}: port {port} cannot be reached ({printable(str(error))}); is the machine up, and sshd? If "
        "so, correct hostname or port."
    )


def _bad_name(target: Target, _: Exception) -> SSHTimingError:
    return ConfigError(
        f"{target}: the user name, or the password, has a character that SSH does not allow; correct it."
    )


_Translation = tuple[tuple[type[Exception], ...], Callable[[Target, Any], SSHTimingError]]
# The first match counts, so what is narrower comes first: a time-out and a failed lookup are OSErrors too.
_TRANSLATIONS: list[_Translation] = [
    ((asyncssh.KeyImportError, asyncssh.KeyEncryptionError), _bad_key),
    ((asyncssh.ConfigParseError,), _bad_config),
    ((SASLPrepError,), _bad_name),
    ((asyncssh.ChannelOpenError,), _busy),
    ((asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError), _dropped),
    ((asyncssh.DisconnectError,), _unusable),
    ((socket.gaierror,), _unresolved),
    ((TimeoutError, asyncio.TimeoutError), _timed_out),
    ((OSError,), _unreachable),
]
