"""Results that were fetched by hand: a file each, and the way to read one.

Owns the directory of these files and their form: a line of JSON, then the bytes that came from the
machine, which nobody has unpickled yet. `load_result` does, because its caller has asked for that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from covalent_sshtiming.errors import ConfigError, ResultError, ResultTooLarge

FORMAT = "sshtiming.result/1"
_SUFFIX = ".result"
_LINE_MAX = 64 * 1024
_HEADER_MAX = 1 << 20  # bytes of the result's own header


def directory() -> Path:
    """Return where fetched results are kept: in the user's data directory."""
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        data = Path.home() / ".local" / "share"
    return data / "covalent-sshtiming" / "results"


class ResultFile:
    """A result on its way into a file; the file appears under its name when it is whole.

    Args:
        key: the task's key, which names the file.
        cap: bytes that the pickle may have.
    """

    def __init__(self, key: str, cap: int) -> None:
        self.path = directory() / f"{key}{_SUFFIX}"
        self.size: int | None = None  # bytes of the pickle
        self._cap = cap
        self._temporary = self.path.with_suffix(f".{os.urandom(4).hex()}.tmp")  # two may fetch at once
        self._file: BinaryIO | None = None
        self._left = 0

    def begin(self, parts: object) -> None:
        """Start from nothing; raises ResultError for sizes that make no sense, and ResultTooLarge."""
        if not (
            isinstance(parts, list)
            and len(parts) == 3
            and all(type(size) is int and size >= 0 for size in parts)
        ):
            raise ResultError("the result was announced with sizes that make no sense.")
        if parts[0] > _HEADER_MAX or max(parts[1:]) > self._cap:
            raise ResultTooLarge(
                f"the result has {parts[2]} bytes pickled, over max_result_bytes = {self._cap}: raise it."
            )
        self.close()
        with self._writing():
            self._temporary.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            self._file = os.fdopen(handle, "wb")
            self._left, self.size = sum(parts), parts[2]
            self._file.write(json.dumps({"format": FORMAT, "parts": parts}).encode() + b"\n")

    def add(self, data: bytes) -> None:
        """Take the next bytes; raises ResultError for more than was announced."""
        self._left -= len(data)
        if self._file is None or self._left < 0:
            raise ResultError("the result is longer than was announced.")
        with self._writing():
            self._file.write(data)

    def finish(self) -> Path:
        """Put the file under its name; raises ResultError if it is not whole."""
        if self._file is None or self._left:
            raise ResultError("the result is shorter than was announced.")
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.replace(self.path)
        self.close()
        return self.path

    def close(self) -> None:
        """Let go of a file that was begun and not finished."""
        if self._file is not None:
            with suppress(OSError):  # what is buffered finds no room either
                self._file.close()
            self._file = None
            self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say that it is this machine's disk that failed."""
        try:
            yield
        except OSError as error:
            raise ResultError(
                f"the result cannot be written here, to {self.path} ({error.strerror}); "
                "it stays where it is: make room, or set XDG_DATA_HOME, and fetch it again."
            ) from error


def load_result(key_or_path: str | os.PathLike[str]) -> Any:
    """Unpickle a result that `covalent-sshtiming jobs HOST --fetch` has written, and return it.

    Unpickling runs code of the remote machine's choosing, as you, on this machine. Everything else in
    this package avoids that; do it only for a machine that you would run a program of.

    Args:
        key_or_path: a task's key, or the beginning of one that no other fetched result has; or a path.

    Raises:
        ConfigError: if there is no such file, more than one, or it is none of ours.
        Exception: whatever unpickling raises, as where a module is missing here.
    """
    import cloudpickle

    path = _found(os.fspath(key_or_path))
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline(_LINE_MAX))
            if head.get("format") != FORMAT:
                raise ValueError("another format")
            start = file.tell() + sum(head["parts"][:2])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no result that was fetched ({error}).") from error
    with path.open("rb") as file:
        file.seek(start)
        return cloudpickle.load(file)


def _found(name: str) -> Path:
    if os.sep in name or name.endswith(_SUFFIX):
        if not Path(name).is_file():
            raise ConfigError(
                f"there is no file {name}; `covalent-sshtiming jobs HOST --fetch KEY` writes one."
            )
        return Path(name)
    fitting = sorted(directory().glob(f"{name}*{_SUFFIX}")) if name.isalnum() else []
    if len(fitting) != 1:
        many = f"{len(fitting)} results" if fitting else "no result"
        raise ConfigError(f"{directory()} has {many} whose key begins with {name!r}.")
    return fitting[0]
