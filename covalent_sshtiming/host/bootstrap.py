"""Bootstrap: what travels to a machine that has nothing of ours, and the command that starts it.

Owns the archive (the files of `remote/` and cloudpickle's own source, read once a process and
then frozen: an upgrade under a running dispatcher changes nothing), the exec command that carries
the doorman, and the reading of what comes back before the first frame.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import shlex
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from covalent_sshtiming.errors import ProtocolError
from covalent_sshtiming.host import environment
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.remote import wire

FAR_PACKAGE = "covalent_sshtiming_remote"
NOISE_MAX = 64 * 1024  # bytes of a login shell's chatter before the announcement
LINE_MAX = 8 * 1024  # bytes of the announcement

# No quote inside, so that it stands in single quotes in any shell.
_START = (
    "import sys;sys.path[:]=[p for p in sys.path if p];import zlib,base64;"
    "exec(zlib.decompress(base64.b64decode(sys.argv[1])),dict(__name__=sys.argv[3]))"
)
_EXPLICIT = 'case $4 in "~/"*) p=$HOME/${4#"~/"};; *) p=$4;; esac; exec "$p" -c "$1" "$2" "$3" doorman'
_SEARCH = (
    "for p in $4 python3; do command -v $p >/dev/null 2>&1 && "
    '{ $p -c "$1" "$2" "$3" doorman; r=$?; case $r in 126|127) ;; *) exit $r;; esac; }; '
    "done; exit 127"
)
# What set-up commands put in front comes first: a module's python3 before the system's python3.X.
_SEARCH_IN_ORDER = (
    'set -f; IFS=:; for d in $PATH; do for p in "$d/$4" "$d/python3"; do [ -f "$p" ] && [ -x "$p" ] && '
    '{ "$p" -c "$1" "$2" "$3" doorman; r=$?; case $r in 126|127) ;; *) exit $r;; esac; }; '
    "done; done; exit 127"
)
_OF_CONDA = 'exec "$CONDA_PREFIX/bin/python" -c "$1" "$2" "$3" doorman'


@dataclass(frozen=True)
class Archive:
    """The archive: its compressed bytes, and the SHA-256 that names it."""

    data: bytes
    digest: str


@functools.cache
def archive() -> Archive:
    """Return the archive, made from the files on the first call; blocks on that one."""
    sources: dict[str, str] = {}
    remote = Path(__file__).parent.parent / "remote"
    pickler = Path(str(cloudpickle.__file__)).parent
    for package, directory in ((FAR_PACKAGE, remote), ("cloudpickle", pickler)):
        for path in sorted(directory.glob("*.py")):
            sources[f"{package}/{path.name}"] = path.read_bytes().decode("utf-8")
    data = zlib.compress(json.dumps(sources, sort_keys=True).encode(), 9)
    return Archive(data, hashlib.sha256(data).hexdigest())


def _own_minor() -> str:
    """Return our own minor version: where any will do, it most likely has an agent already."""
    return "{}.{}".format(*sys.version_info)


@functools.cache
def _doorman() -> str:
    source = (Path(__file__).parent.parent / "remote" / "doorman.py").read_bytes()
    return base64.b64encode(zlib.compress(source, 9)).decode()


def command(target: Target, nonce: str) -> str:
    """Return the exec command: one line that any login shell passes on to sh and Python."""
    facts = {
        "nonce": nonce,
        "python": target.python,
        "archive": archive().digest,
        "size": len(archive().data),
        "cache": target.cache,
        "spool": target.spool,
        "flavor": target.flavor,
    }
    params = base64.b64encode(json.dumps(facts).encode()).decode()
    wanted = target.python_path or f"python{target.python or _own_minor()}"
    words = ["exec", "sh", "-c", _launcher(target), "sh", _START, _doorman(), params, wanted]
    return environment.prepared(target, " ".join(shlex.quote(word) for word in words))


def _launcher(target: Target) -> str:
    """Return what starts the Python that is meant: the one named, else the environment's, else one found."""
    if target.python_path:
        return _EXPLICIT
    if target.conda_env:
        return _OF_CONDA
    return _SEARCH_IN_ORDER if target.setup else _SEARCH


class Preamble:
    """What arrives before the first frame: a shell's noise, then the doorman's announcement."""

    def __init__(self, nonce: str) -> None:
        self._mark = b"\0SSHTIMING/1 " + nonce.encode() + b" "
        self._held = bytearray()
        self._start = -1  # of the mark

    @property
    def noise(self) -> bytes:
        """What came before the announcement; what will, where there is none yet."""
        return bytes(self._held if self._start < 0 else self._held[: self._start])[:NOISE_MAX]

    def feed(self, data: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Return (the announcement, the bytes behind it) once it is there; raises ProtocolError."""
        looked_at = max(0, len(self._held) - len(self._mark))
        self._held += data
        if self._start < 0:
            self._start = self._held.find(self._mark, looked_at)
        start = self._start
        least = start if start >= 0 else len(self._held) - len(self._mark) + 1  # noise for sure
        if least > NOISE_MAX:
            del self._held[NOISE_MAX:]
            raise ProtocolError(f"its login shell printed over {NOISE_MAX} bytes before our program spoke")
        if start < 0:
            return None
        end = self._held.find(b"\n", start, start + LINE_MAX)
        if end < 0:
            if len(self._held) - start > LINE_MAX:
                raise ProtocolError("its announcement has no end")
            return None
        return _parse(bytes(self._held[start + len(self._mark) : end])), bytes(self._held[end + 1 :])


def _parse(text: bytes) -> dict[str, Any]:
    try:
        return wire.json_object(text, "its announcement")
    except wire.ProtocolError as error:
        raise ProtocolError(str(error)) from error


def printable(data: bytes | str, limit: int = 400) -> str:
    """Return remote text for an error: the end of it, one line, without control characters."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else "…" + text[-limit:]
