"""The known_hosts files: what they say of one name, and how a new key gets into them.

Matches by name only and not by address, as OpenSSH does: a key that is known for an address would
otherwise be good for any name that a forged answer of the DNS leads there.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh


@dataclass(frozen=True)
class Known:
    """What is on record for one name.

    `keys` stand under the very name, with its port if that is not 22; `portless` under the host alone.
    Those are as good to trust, but another key there is no change: a second server may have its own.
    """

    keys: Sequence[asyncssh.SSHKey]
    portless: Sequence[asyncssh.SSHKey]
    authorities: Sequence[asyncssh.SSHKey]
    revoked: Sequence[asyncssh.SSHKey]

    @property
    def trusted(self) -> list[asyncssh.SSHKey]:
        """Return the keys that are good."""
        return [key for key in (*self.keys, *self.portless) if key not in self.revoked]


def look_up(files: Sequence[Path], name: str) -> Known:
    """Return what is on record for a name, "host" or "[host]:port"; reads the files.

    A line that makes no sense is passed over, as OpenSSH does.

    Raises:
        OSError: a file cannot be read.
    """
    lines = [line for file in files for line in file.read_text("utf-8", "replace").split("\n")]
    keys, authorities, revoked = _marked(lines, name)
    if not name.startswith("["):
        return Known(keys, [], authorities, revoked)
    portless, more_authorities, more_revoked = _marked(lines, name[1:].rpartition("]")[0])
    return Known(keys, portless, [*authorities, *more_authorities], [*revoked, *more_revoked])


def _marked(lines: Iterable[str], name: str) -> list[list[asyncssh.SSHKey]]:
    """Return the keys that are for a name: those without a mark, authorities, revoked ones."""
    found: dict[str, list[asyncssh.SSHKey]] = {"": [], "@cert-authority": [], "@revoked": []}
    for line in lines:
        with suppress(ValueError):  # of too few words, or no key
            mark, rest = line.split(None, 1) if line.lstrip().startswith("@") else ("", line)
            patterns, key = rest.split(None, 1)
            if mark in found and _is_for(patterns, name):
                found[mark].append(asyncssh.import_public_key(key))
    return list(found.values())


def _is_for(patterns: str, name: str) -> bool:
    """Tell whether a line's first field means a name, as OpenSSH takes it.

    asyncssh takes an empty pattern for everybody's and a network for a pattern, and minds capitals.
    """
    if patterns.startswith("|"):
        return _is_hash_of(patterns, name)
    every = patterns.lower().split(",")
    negated = [one.startswith("!") for one in every if _fits(one.removeprefix("!"), name.lower())]
    return bool(negated) and not any(negated)


def _fits(pattern: str, name: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == name
    expression = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
    return re.fullmatch(expression, name) is not None


def _is_hash_of(field: str, name: str) -> bool:
    with suppress(ValueError):
        _, version, salt, digest = field.split("|")
        return version == "1" and hmac.compare_digest(
            _digest(base64.b64decode(salt), name), base64.b64decode(digest)
        )
    return False


def record(path: Path, name: str, key: asyncssh.SSHKey, hashed: bool) -> Known:
    """Append a key under a name, unless one is there by now; return what is on record then.

    Several processes may do this at once: whoever comes second finds the first one's line.

    Raises:
        OSError: the file cannot be written, or is none.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with _locked(path) as file:
        known = look_up([path], name)
        if known.keys:
            return known
        end = os.lseek(file, 0, os.SEEK_END)
        torn = end > 0 and os.pread(file, 1, end - 1) != b"\n"
        line = f"{_hashed(name) if hashed else name} {_public(key)}\n".encode()
        _append(file, b"\n" + line if torn else line, end)
        return Known([key], known.portless, known.authorities, known.revoked)


def _append(file: int, data: bytes, end: int) -> None:
    """Write all of it, or leave the file as it was; after a short write the next says why."""
    try:
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        os.ftruncate(file, end)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file for appending and lock it; a file system without locks has to do without."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "it is no regular file, and would forget the key", str(path))
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _hashed(name: str) -> str:
    salt = os.urandom(20)
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, _digest(salt, name)))


def _digest(salt: bytes, name: str) -> bytes:
    return hmac.new(salt, name.encode(), "sha1").digest()


def _public(key: asyncssh.SSHKey) -> str:
    return b" ".join(key.export_public_key("openssh").split()[:2]).decode()
