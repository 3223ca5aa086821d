"""Trust: whether the host key that a machine presents is the one on record.

`strict` refuses a key that no known_hosts file has, a changed one and a revoked one, each with its own
error, the fingerprints and the command that puts it right. `accept-new` records the first of these.
`off` lets all but a revoked one pass, and warns each time.

`Client` is asyncssh's view of it: the key exchange asks it for its judgement, and what comes after
(keys, passwords) is handed out only when that judgement is settled, on disk too.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Sequence

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from covalent_sshtiming.errors import HostKeyChanged, HostKeyError, HostKeyRevoked, HostKeyUnknown
from covalent_sshtiming.host import knownhosts
from covalent_sshtiming.host.knownhosts import Known
from covalent_sshtiming.host.sshconfig import Way
from covalent_sshtiming.host.streams import Told, nobody
from covalent_sshtiming.host.target import Target

ACCEPT_NEW = "accept-new"
OFF = "off"
_SHOWN = 4  # fingerprints in one sentence

# Of a machine with several keys, ssh shows and records the first of these; asyncssh would ask for RSA
# before them.
_LIKED = (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp521")

_log = logging.getLogger(__name__)


class Judge:
    """One connection's judgement of its host key; `verdict` says why a key was refused."""

    def __init__(self, target: Target, way: Way, known: Known) -> None:
        self.verdict: HostKeyError | None = None
        self._target = target
        self._way = way
        self._known = known
        self._new: asyncssh.SSHKey | None = None

    @property
    def algorithms(self) -> Sequence[str]:
        """The host key algorithms to ask for: those of known keys first, but not only those.

        A machine that now has none of them has changed, and has to be told from one with another
        protocol. A key that is on record and revoked is asked for too, before those that are not.
        Certificates are asked for where an authority is known and counts, and only there.
        """
        recorded = [*self._known.trusted, *self._known.keys]
        known = [*(name for key in recorded for name in key.sig_algorithms), *_LIKED]
        certified = self._known.authorities and self._target.host_key_policy != OFF
        names = get_default_certificate_algs() if certified else []
        return [name.decode() for name in dict.fromkeys([*names, *known, *get_default_public_key_algs()])]

    def known_hosts(self, host: str, addr: str, port: int | None) -> tuple[list[asyncssh.SSHKey], ...]:  # noqa: ARG002 - asyncssh's signature
        """Answer asyncssh's look-up: trusted keys, authorities, revoked keys.

        It refuses a revoked key without telling which; so it is told of them only where it has to know
        more than `judge` can see, which is the key inside a certificate.
        """
        known = self._known
        if self._target.host_key_policy == OFF:
            return [], [], []  # each key comes before `judge`, so that each one is warned of
        authorities = [key for key in known.authorities if key not in known.revoked]
        return known.trusted, authorities, list(known.revoked) if authorities else []

    def judge(self, key: asyncssh.SSHKey) -> bool:
        """Say whether a key that is not a trusted one may pass, and in `verdict` why not."""
        policy = self._target.host_key_policy
        if key in self._known.revoked:
            self.verdict = self._revoked([key])
        elif policy == OFF:
            self._warn(key)
        elif self._known.keys:
            self.verdict = self._changed(key, self._known.keys)
        elif policy == ACCEPT_NEW:
            self._new = key
        else:
            self.verdict = self._unknown(key)
        return self.verdict is None

    def judge_authority(self, key: asyncssh.SSHKey) -> bool:
        """Refuse a certificate whose authority is not a trusted one."""
        if key in self._known.revoked:
            self.verdict = self._revoked([key], "the signer of its host certificate")
            return False
        known = _fingerprints(self._known.authorities)
        self.verdict = HostKeyUnknown(
            f"{self._target}: its host certificate is signed by {key.get_fingerprint()}, and the authorities "
            f"that known_hosts trusts for {self._way.name} are {known}. If that signer is yours, add a line "
            f"`@cert-authority {self._way.name} …` with its public key."
        )
        return False

    def refused(self, reason: str) -> HostKeyError:
        """Word what asyncssh alone has found out: a revoked key or an invalid term in a certificate."""
        if "revoked" in reason:
            return self._revoked(self._known.revoked)
        return HostKeyUnknown(
            f"{self._target}: its host certificate is not valid ({reason}). Have it signed anew for the name "
            f"{self._way.name}, or record its plain key: run `{self._ssh()}` once."
        )

    async def settle(self) -> None:
        """Record a new key, before anything is handed to that machine.

        Raises:
            HostKeyChanged: somebody has recorded another one meanwhile.
            HostKeyUnknown: it cannot be recorded, so that the next one would be as new.
        """
        key, self._new = self._new, None
        if key is None:
            return
        way = self._way
        try:
            known = await asyncio.to_thread(knownhosts.record, way.recording, way.name, key, way.hash_names)
        except OSError as error:
            raise HostKeyUnknown(
                f"{self._target}: its host key {key.get_fingerprint()} is new and cannot be recorded in "
                f"{way.recording} ({error.strerror or error}). Make that file writable, or set "
                "known_hosts_file to another one."
            ) from error
        if key not in known.keys:
            raise self._changed(key, known.keys)
        _log.warning("%s: new host key %s recorded in %s", self._target, key.get_fingerprint(), way.recording)

    def _revoked(self, keys: Sequence[asyncssh.SSHKey], what: str = "its host key") -> HostKeyRevoked:
        """Word a revoked key, or that it is one of several."""
        return HostKeyRevoked(
            f"{self._target}: {what} {_fingerprints(keys, ' or ')} is marked @revoked in known_hosts. "
            "Do not connect; ask whoever runs that machine for its new key."
        )

    def _warn(self, key: asyncssh.SSHKey) -> None:
        on_record = _fingerprints(self._known.keys)
        _log.warning(
            'host_key_policy = "off": %s is not checked; it presents %s%s. Anybody may be in between.',
            self._target,
            key.get_fingerprint(),
            f", known_hosts has {on_record}" if on_record and key not in self._known.keys else "",
        )

    def _changed(self, key: asyncssh.SSHKey, known: Sequence[asyncssh.SSHKey]) -> HostKeyChanged:
        return HostKeyChanged(
            f"{self._target}: its host key has changed: it presents {key.get_fingerprint()}, known_hosts has "
            f"{_fingerprints(known)}. Somebody may be in between. If the change is meant, run "
            f"`ssh-keygen -R '{self._way.name}'{self._file_flag(' -f ')}` and connect once with "
            f"`{self._ssh()}` to check the new key."
        )

    def _unknown(self, key: asyncssh.SSHKey) -> HostKeyUnknown:
        return HostKeyUnknown(
            f"{self._target}: no known_hosts file has its host key {key.get_fingerprint()}. Compare that "
            f"fingerprint with the machine's own and record it: run `{self._ssh()}` once, or set "
            'host_key_policy to "accept-new".'
        )

    def _ssh(self) -> str:
        """Return the ssh command that records a key where we look for it."""
        port = f" -p {self._target.port}" if self._target.port not in (None, 22) else ""
        user = f" -l {self._target.username}" if self._target.username else ""
        jump = f" -J {self._target.proxy_jump}" if self._target.proxy_jump else ""
        return f"ssh{port}{user}{jump}{self._file_flag(' -o UserKnownHostsFile=')} {self._target.hostname}"

    def _file_flag(self, flag: str) -> str:
        file = self._target.known_hosts_file
        return f"{flag}{shlex.quote(file)}" if file else ""


class Client(asyncssh.SSHClient):
    """What asyncssh asks in the course of one login."""

    def __init__(
        self,
        judge: Judge,
        pairs: Sequence[asyncssh.SSHKeyPair],
        password: str | None = None,
        told: Told = nobody,
    ) -> None:
        self.failure: HostKeyError | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._judge = judge
        self._pairs = list(pairs)
        self._password = password
        self._told = told

    @property
    def heard_nothing(self) -> bool:
        """Whether the connection came about, and not even the server's version was said on it."""
        return self._connection is not None and not self._connection.get_extra_info("server_version")

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Tell that somebody answers."""
        self._connection = conn
        self._told("connect")

    def begin_auth(self, username: str) -> None:  # noqa: ARG002 - asyncssh's signature
        """Tell that the key exchange is over, and the host key with it."""
        self._told("host key")

    def auth_completed(self) -> None:
        """Tell that the server lets us in."""
        self._told("login")

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002 - asyncssh's signature
        """Have a key judged that is not a trusted one."""
        return self._judge.judge(key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002 - asyncssh's signature
        """Have a certificate's authority judged that is not a trusted one."""
        return self._judge.judge_authority(key)

    async def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        """Hand out one key after the other."""
        return self._pairs.pop(0) if await self._settled() and self._pairs else None

    async def password_auth_requested(self) -> str | None:
        """Hand out the password, once."""
        password, self._password = self._password, None
        return password if await self._settled() else None

    async def _settled(self) -> bool:
        try:
            await self._judge.settle()
        except HostKeyError as error:
            self.failure = error
        return self.failure is None


def _fingerprints(keys: Sequence[asyncssh.SSHKey], separator: str = ", ") -> str:
    shown = sorted({key.get_fingerprint() for key in keys})
    return separator.join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
