"""What to log in with: keys from files and from a key agent, certificates, a password; and the secrets.

The order is OpenSSH's: keys that the agent and the configuration both have, then the agent's others
(unless IdentitiesOnly), then files. A secret is read where its setting points to, at every login, kept
for no longer than that, and never part of a text.
"""

from __future__ import annotations

import asyncio
import copy
import os
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from covalent_sshtiming.errors import AuthError, ConfigError
from covalent_sshtiming.host.sshconfig import Way
from covalent_sshtiming.host.target import Target

AGENT_SECONDS = 10.0
SECRET_MAX = 64 * 1024


@dataclass
class Ring:
    """What can be offered for one login, in order; `close` lets go of the agent.

    `notes` say what could not be offered, and why: they belong into the text of a refused login.
    """

    pairs: list[asyncssh.SSHKeyPair] = field(default_factory=list)
    password: str | None = field(default=None, repr=False)
    notes: list[str] = field(default_factory=list)
    agent: asyncssh.SSHAgentClient | None = None

    def close(self) -> None:
        """Let go of the key agent."""
        if self.agent is not None:
            self.agent.close()


async def gather(target: Target, way: Way) -> Ring:
    """Collect what to log in with.

    Raises:
        AuthError: what a setting names cannot be used.
        ConfigError: a secret is not where its setting says.
    """
    ring = Ring()
    try:
        files = await asyncio.to_thread(_read_files, target, way, ring)
        if files.incomplete and way.agent:
            held = await _held(target, way, ring)
        else:
            held = []
        ring.pairs = _ordered(files, held, way.identities_only)
        offered = {pair.key_public_data for pair in ring.pairs}
        if target.key_file and not ring.pairs:
            also = "".join(f" Besides, {note}." for note in ring.notes)
            raise AuthError(f"{target}: {_unusable(target, files.problems)}{also}")
        ring.notes += [note for path, note in files.problems.items() if files.public.get(path) not in offered]
    except BaseException:
        ring.close()
        raise
    return ring


@dataclass
class _Files:
    """What the key files gave: pairs that are ready, public halves that the agent may complete."""

    ready: dict[bytes, asyncssh.SSHKeyPair] = field(default_factory=dict)
    public: dict[Path, bytes] = field(default_factory=dict)
    certificates: list[asyncssh.SSHCertificate] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)
    incomplete: bool = True


def _read_files(target: Target, way: Way, ring: Ring) -> _Files:
    """Read keys, certificates and secrets; blocks."""
    found = _Files()
    ring.password = secret(target, "password", target.password_env, target.password_file)
    passphrase = secret(target, "ssh_key_passphrase", target.passphrase_env, target.passphrase_file)
    for path in way.identities:
        wanted = target.key_file is not None and path == Path(target.key_file)
        _read_key(target, path, passphrase, found, wanted)
        found.certificates += _certificates(Path(f"{path}-cert.pub"))
    for path in way.certificates:
        certificates = _certificates(path)
        if not certificates and target.certificate_file:
            raise AuthError(
                f"{target}: the certificate {path} cannot be read, or is none; correct ssh_certificate_file."
            )
        found.certificates += certificates
    # A key file that was asked for and is ready needs no agent: the server counts tries.
    found.incomplete = not (target.key_file and found.ready)
    return found


def _read_key(target: Target, path: Path, passphrase: str | None, found: _Files, wanted: bool) -> None:
    """Read one key file; a problem of one that nobody asked for by a setting is only noted."""
    try:
        check_private(target, path)
        data = path.read_bytes()
    except AuthError as error:
        if wanted:
            raise
        if path.exists():
            found.problems[path] = str(error).removeprefix(f"{target}: ").rstrip(".")
        return
    except OSError:
        return
    public = _public_half(path)
    if public is not None:
        found.public[path] = public
    try:
        key = asyncssh.import_private_key(data, passphrase)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        found.problems[path] = _problem(path, data, passphrase, error)
        return
    (pair, *_) = asyncssh.load_keypairs([key])
    found.ready[key.public_data] = pair


def check_private(target: Target, path: Path) -> None:
    """Refuse a key file that is missing, or one that others can read and is not public; raises AuthError."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise AuthError(
                f"{target}: the key file {path} is no regular file; correct ssh_key_file, or IdentityFile in "
                "your ssh configuration."
            )
        if stat.S_IMODE(mode) & 0o077 and not _is_public(path.read_bytes()):
            fix = f"run `chmod 600 {shlex.quote(str(path))}`"
            raise AuthError(f"{target}: others can read the key file {path}; {fix}.")
    except OSError as error:
        raise AuthError(
            f"{target}: the key file {path} cannot be read ({error.strerror}); correct ssh_key_file."
        ) from error


def _is_public(data: bytes) -> bool:
    """Tell a public key, or a certificate; a private key may have its public half in it."""
    first = data.lstrip().partition(b"\n")[0]
    known = first.startswith((b"ssh-", b"ecdsa-", b"sk-")) or b"PUBLIC KEY" in first
    return known and b"PRIVATE KEY" not in data


def _public_half(path: Path) -> bytes | None:
    """Return a key's public data, from the file beside it or from its own unencrypted part."""
    for name in (Path(f"{path}.pub"), path):
        try:
            return asyncssh.read_public_key(name).public_data
        except (OSError, asyncssh.KeyImportError):
            continue
    return None


def _problem(path: Path, data: bytes, passphrase: str | None, error: Exception) -> str:
    """Say why a key file cannot be used by itself, without a word of asyncssh's about the passphrase."""
    if b"PRIVATE KEY" not in data:
        return f"{path} is a public key, or no key at all"
    if isinstance(error, asyncssh.KeyEncryptionError) and passphrase is not None:
        return f"the passphrase does not open the key {path}"
    if passphrase is None and ("assphrase" in str(error) or isinstance(error, asyncssh.KeyEncryptionError)):
        return f"the key {path} is encrypted"
    return f"the key {path} is damaged, or of a kind that is not supported"


def _unusable(target: Target, problems: dict[Path, str]) -> str:
    """Say what to do about the key file that was asked for."""
    path = Path(target.key_file or "")
    problem = problems.get(path, f"the key {path} cannot be used")
    if "public key" in problem:
        private = path.with_suffix("") if path.suffix == ".pub" else None
        name = f", {private}" if private and private.exists() else ""
        return f"{problem}, and no key agent has its private half. Set ssh_key_file to the private key{name}."
    if problem.endswith("is encrypted"):
        return (
            f"{problem}, and no key agent has it. Run `ssh-add {shlex.quote(str(path))}` for an agent "
            "that the server reaches (identity_agent), or name where its passphrase is: "
            "ssh_key_passphrase_env or ssh_key_passphrase_file in covalent.conf."
        )
    if problem.startswith("the passphrase"):
        return f"{problem}; correct what ssh_key_passphrase_env or ssh_key_passphrase_file leads to."
    return f"{problem}; set ssh_key_file to another one."


def _certificates(path: Path) -> list[asyncssh.SSHCertificate]:
    try:
        return list(asyncssh.load_certificates(str(path)))
    except (OSError, ValueError):
        return []


async def _held(target: Target, way: Way, ring: Ring) -> Sequence[asyncssh.SSHKeyPair]:
    """Ask the key agent for its keys; one that does not answer is an error only if it was asked for."""
    ring.agent = asyncssh.SSHAgentClient(way.agent)
    try:
        return await asyncio.wait_for(ring.agent.get_keys(), AGENT_SECONDS)
    except (ValueError, asyncio.TimeoutError) as error:
        cause = str(error) or f"no answer within {AGENT_SECONDS:g} s"
        problem = f"the key agent at {way.agent} ({way.agent_source}) cannot be reached ({cause})"
    if target.identity_agent:
        raise AuthError(f"{target}: {problem}; start it, or correct identity_agent.")
    ring.notes.append(f"{problem}: its socket is gone or locked, so start it again or set identity_agent")
    return []


def _ordered(
    files: _Files, held: Sequence[asyncssh.SSHKeyPair], identities_only: bool
) -> list[asyncssh.SSHKeyPair]:
    """Put the keys into the order of offering, each after its certificates."""
    certified = {certificate.public_data for certificate in files.certificates}
    by_key = {pair.public_data: pair for pair in held}
    first = [by_key[public] for public in files.public.values() if public in by_key]
    others = [pair for pair in held if pair not in first]
    if identities_only:
        others = [pair for pair in others if pair.public_data in certified]
    own = [pair for public, pair in files.ready.items() if public not in by_key]
    ordered: list[asyncssh.SSHKeyPair] = []
    for pair in (*first, *others, *own):
        ordered += _with_certificates(pair, files.certificates)
    return ordered


def _with_certificates(
    pair: asyncssh.SSHKeyPair, certificates: Sequence[asyncssh.SSHCertificate]
) -> list[asyncssh.SSHKeyPair]:
    public = pair.key_public_data
    certified = []
    for certificate in certificates:
        if certificate.key.public_data == public and not pair.has_cert:
            twin = copy.copy(pair)
            twin.set_certificate(certificate)
            certified.append(twin)
    return [*certified, pair]


def secret(target: Target, kind: str, variable: str | None, file: str | None) -> str | None:
    """Read the secret that `<kind>_env` or `<kind>_file` leads to; None where neither is set.

    Raises:
        ConfigError: it is not there, is empty, or others can read it. The text has no word of it, and
            not the variable's name either, which might be the secret itself, misplaced.
    """
    if variable:
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"{target}: the environment variable that {kind}_env names is empty, or is not set where the "
                "Covalent server was started; set it there and restart the server."
            )
        return value
    return _secret_file(target, f"{kind}_file", file) if file else None


def _secret_file(target: Target, setting: str, file: str) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigError(
                    f"{target}: {setting} leads to {file}, which is no regular file; correct it."
                )
            if stat.S_IMODE(facts.st_mode) & 0o077 or facts.st_uid not in (os.getuid(), 0):
                raise ConfigError(
                    f"{target}: others can read or own {file}, where {setting} leads to; run "
                    f"`chmod 600 {shlex.quote(file)}` as its owner, who has to be the server's user."
                )
            text = opened.read(SECRET_MAX).decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{target}: {file}, where {setting} leads to, cannot be read ({error.strerror}); correct "
            f"{setting}."
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{target}: {file}, where {setting} leads to, is not UTF-8 text.") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"{target}: {file}, where {setting} leads to, is empty.")
    return text
