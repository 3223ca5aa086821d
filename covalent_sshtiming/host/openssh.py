"""The system's `ssh` as a way to an agent: for two factors, Kerberos, or a ControlMaster that is open.

Owns the command line, on which every value is a word of its own, and the reading of ssh's stderr: with
`-v` it tells when the login is through, and which host key it was shown. Its own lines are taken out;
what is left is the far program's stderr. It can ask nobody: no terminal, BatchMode, no askpass.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
from pathlib import Path

from covalent_sshtiming.errors import (
    AuthError,
    ConfigError,
    ConnectError,
    HostKeyChanged,
    HostKeyError,
    HostKeyRevoked,
    HostKeyUnknown,
    ServerBusy,
    SSHTimingError,
)
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.keys import check_private
from covalent_sshtiming.host.process import ProcessStreams, open_process
from covalent_sshtiming.host.streams import Receiver, Told, nobody
from covalent_sshtiming.host.target import Target

LOGIN_SECONDS = 30.0
SAID_MAX = 64 * 1024
CHATTER_MIN = 10  # bytes after which a line is known for ssh's own
FAILED = 255  # ssh's own status, for whatever went wrong with the connection
_CHECKS = {"strict": "yes", "accept-new": "accept-new", "off": "no"}
_THROUGH = re.compile(r"^(Authenticated to |debug1: mux_client_request_session: master session id)")
_CHATTER = re.compile(
    r"^(debug\d: |Killed by signal |OpenSSH_|Authenticated |Transferred: |Bytes per second: )"
)
_BLAMED = re.compile(r"host key is known for (\S+) and|ost key for (\S+) has changed")
_BEHIND = "UNKNOWN port 65535"  # how ssh names a machine that it has not reached through another one
_HOST_KEY = re.compile(r"^debug1: Server host key: \S+ (SHA256:\S+)")
_EXCHANGED = re.compile(r"^debug1: SSH2_MSG_NEWKEYS received")

_log = logging.getLogger(__name__)


def command_line(target: Target, command: str) -> list[str]:
    """Return the words that start `command` on a target.

    Raises:
        AuthError: the key file is missing, or others can read it.
        ConfigError: there is no `ssh`, or a path has a sign that ssh would take for its own.
    """
    program = shutil.which("ssh")
    if program is None:
        raise ConfigError(
            f'{target}: transport = "openssh" needs the program `ssh` on the PATH of the Covalent server; '
            'install it, or set transport to "asyncssh".'
        )
    options = {
        "BatchMode": "yes",
        "ClearAllForwardings": "yes",
        "ConnectTimeout": str(max(1, round(target.connect_timeout))),
        "ControlMaster": "no",  # an open one is used, but ours would outlive us
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "ServerAliveCountMax": "3",
        "ServerAliveInterval": "15",
        "StrictHostKeyChecking": _CHECKS[target.host_key_policy],
        **_paths(target),
    }
    if target.port:
        options["Port"] = str(target.port)
    if target.username:
        options["User"] = target.username
    if target.proxy_jump:
        options["ProxyJump"] = target.proxy_jump
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return [program, "-T", "-v", *words, "--", target.hostname, command]


def _paths(target: Target) -> dict[str, str]:
    options = {}
    if target.key_file:
        check_private(target, Path(target.key_file))
        options["IdentityFile"] = _quoted(target, "ssh_key_file", target.key_file)
        options["IdentitiesOnly"] = "yes"
    if target.certificate_file:
        options["CertificateFile"] = _quoted(target, "ssh_certificate_file", target.certificate_file)
    if target.identity_agent:
        options["IdentityAgent"] = _quoted(target, "identity_agent", target.identity_agent)
    if target.known_hosts_file:
        options["UserKnownHostsFile"] = _quoted(target, "known_hosts_file", target.known_hosts_file)
        options["GlobalKnownHostsFile"] = os.devnull
    return options


def _quoted(target: Target, setting: str, path: str) -> str:
    """Return a path as a value of ssh's, which would expand tokens, variables and quotes in it."""
    if re.search(r"[\"'\\$]", path):
        raise ConfigError(
            f'{target}: {setting} {path!r} has a quote, $ or backslash, which transport = "openssh" cannot '
            "pass on; move the file."
        )
    return '"' + path.replace("%", "%%") + '"'


class _Login:
    """A receiver between ssh and a session: it knows when the login is through, and what ssh said."""

    def __init__(self, target: Target, receiver: Receiver, told: Told) -> None:
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.said = ""
        self.shown = ""
        self._target = target
        self._receiver = receiver
        self._told = told
        self._line = b""

    def received(self, data: bytes) -> None:
        """Pass on stdout; who speaks is logged in."""
        self._settle(True)
        self._receiver.received(data)

    def complained(self, data: bytes) -> None:
        """Sort stderr line by line into ssh's chatter and the far program's words."""
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-SAID_MAX:]  # nobody ends such a line but to fill our memory
        for line in lines:
            self._sort(line)
        if (
            self.ended.done()
            and len(self._line) >= CHATTER_MIN
            and not _CHATTER.match(self._line.decode("latin-1"))
        ):
            self._receiver.complained(self._line)  # a prompt, say, which waits on its line
            self._line = b""

    def _sort(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if not self.ended.done():
            shown = _HOST_KEY.match(text)
            if shown:
                self.shown = shown[1]
                self._told("connect")
            if _EXCHANGED.match(text):
                self._told("host key")
            if _THROUGH.match(text):
                self._settle(True)
                return
        if _CHATTER.match(text):
            return
        if not self.ended.done():
            self.said = f"{self.said}\n{text}"[-SAID_MAX:]
        else:
            self._receiver.complained(line + b"\n")

    def writable(self, free: bool) -> None:
        """Pass on the pipe's readiness."""
        self._receiver.writable(free)

    def lost(self, status: int | None) -> None:
        """Pass on the end, unless it is the login that failed; 255 is a lost connection."""
        if self._line:
            self._sort(self._line)
        if not self.ended.done():
            self._settle(False)
            return
        self._receiver.lost(None if status == FAILED else status)

    def _settle(self, through: bool) -> None:
        if not self.ended.done():
            self.ended.set_result(through)
            if through:
                self._told("login")


async def open_openssh(
    target: Target, command: str, receiver: Receiver, told: Told = nobody
) -> ProcessStreams:
    """Start `command` on a target by the system's ssh, and wait until the login is through.

    Raises:
        ConnectError, AuthError, HostKeyError, ConfigError: in ssh's own words, with ours around them.
    """
    argv = await asyncio.to_thread(command_line, target, command)
    told("credentials")
    login = _Login(target, receiver, told)
    streams = await open_process(argv, login, {**os.environ, "SSH_ASKPASS_REQUIRE": "never"})
    limit = target.connect_timeout + LOGIN_SECONDS
    try:
        through = await asyncio.wait_for(asyncio.shield(login.ended), limit)
    except asyncio.TimeoutError as error:
        await streams.close(politely=False)
        raise ConnectError(
            f"{target}: ssh was not logged in within {limit:g} s{_words(login.said)}; try "
            f"`{_by_hand(target)}`."
        ) from error
    except BaseException:
        await streams.close(politely=False)
        raise
    if not through:
        await streams.close(politely=False)
        raise failure(target, login.said, login.shown)
    if target.host_key_policy == "off":
        shown = login.shown or "no key to us, over an open ControlMaster"
        _log.warning(
            'host_key_policy = "off": %s is not checked; it presents %s. Anybody may be in between.',
            target,
            shown,
        )
    return streams


def failure(target: Target, said: str, shown: str) -> SSHTimingError:
    """Return the error that ssh's stderr tells of; `shown` is the host key's fingerprint, if any came."""
    kind, advice, retriable = next(row[1:] for row in _MEANINGS if re.search(row[0], said))
    jump = _jump(target, said)
    where = f"{target}: jump host {jump}" if jump else f"{target}"
    key = f"; it presents {shown}" if shown and not jump and issubclass(kind, HostKeyError) else ""
    by_hand, remove = _by_hand(target), _remove(target)
    if jump:
        found = re.fullmatch(r"(.*@)?\[?(.*?)\]?(?::(\d+))?", jump.rpartition(",")[2])
        user, host, port = found.groups() if found else ("", jump, None)
        by_hand = f"ssh{f' -p {port}' if port else ''} {user or ''}{host}"
        remove = f"ssh-keygen -R '{_recorded(host, int(port or 22))}'"
    error = kind(f"{where}: ssh failed{_words(said)}{key}. {advice.format(ssh=by_hand, remove=remove)}")
    error.retriable = retriable
    return error


def _jump(target: Target, said: str) -> str:
    """Return the jump host that ssh's words are about; all of them where it does not say which."""
    blamed = _BLAMED.search(said)
    name = next(filter(None, blamed.groups()), "") if blamed else ""
    if not target.proxy_jump or name == _recorded(target.hostname, target.port):
        return ""
    return name or (target.proxy_jump if _BEHIND in said else "")


def _words(said: str) -> str:
    said = re.sub(r"@{5,}|@ {3,}|IT IS POSSIBLE THAT[^\n]*", " ", said)
    return f" ({printable(said, 900)})" if said.strip() else ""


def _recorded(hostname: str, port: int | None) -> str:
    """Return the name under which known_hosts has a machine."""
    return hostname if port in (None, 22) else f"[{hostname}]:{port}"


def _by_hand(target: Target) -> str:
    """Return what a user may type to see for themselves."""
    port = f" -p {target.port}" if target.port not in (None, 22) else ""
    user = f" -l {target.username}" if target.username else ""
    known = (
        f" -o UserKnownHostsFile={shlex.quote(target.known_hosts_file)}" if target.known_hosts_file else ""
    )
    return f"ssh{port}{user}{known} {target.hostname}"


def _remove(target: Target) -> str:
    file = f" -f {shlex.quote(target.known_hosts_file)}" if target.known_hosts_file else ""
    return f"ssh-keygen -R '{_recorded(target.hostname, target.port)}'{file}"


_REMOVE = (
    "Somebody may be in between. If the change is meant, run `{remove}` and connect once with `{ssh}` to "
    "check the new key."
)
_RECORD = (
    "Compare its fingerprint with the machine's own and record it: run `{ssh}` once, or set host_key_policy "
    'to "accept-new".'
)
_CREDENTIALS = (
    "Log in once with `{ssh}` and leave a ControlMaster open, get a Kerberos ticket, or set username and "
    "ssh_key_file; ssh can ask nobody here."
)
_LOOK = "Is the machine up, and sshd? If so, correct hostname or port, and try `{ssh}`."
# What ssh says, from the first pattern that is found: our class, what to do next, whether to try again.
_MEANINGS: list[tuple[str, type[SSHTimingError], str, bool]] = [
    (
        r"REVOKED HOST KEY|marked as revoked|was revoked",
        HostKeyRevoked,
        "Do not connect; ask for its new key.",
        False,
    ),
    (r"HOST IDENTIFICATION HAS CHANGED|ost key for .* has changed", HostKeyChanged, _REMOVE, False),
    (
        r"host key is known for|Host key verification failed|authenticity of host",
        HostKeyUnknown,
        _RECORD,
        False,
    ),
    (r"Permission denied|Too many authentication failures", AuthError, _CREDENTIALS, False),
    (r"Bad configuration|Bad owner or permissions|terminating, ", ConfigError, "Correct that file.", False),
    (r"Temporary failure in name resolution", ConnectError, "Is the network up?", True),
    (r"Could not resolve hostname", ConnectError, "Correct hostname, or name it in ~/.ssh/config.", False),
    (r"Session open refused|session request failed", ServerBusy, "Raise MaxSessions there.", True),
    (r"", ConnectError, _LOOK, True),
]
