"""Sending: the files of this machine that a task is to have in its working directory.

Owns which files a setting's paths and patterns mean, the names that they get there, and their bytes on the
way: they travel behind the task's request, under its length and SHA-256. Everything touches the disk in a
thread.
"""

from __future__ import annotations

import asyncio
import glob
import os
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covalent_sshtiming.errors import ConfigError, TransferError
from covalent_sshtiming.remote import names

FILES_MAX = 10_000  # for one task
_AT_ONCE = 1 << 20  # bytes read in one turn of the thread
_PIECE = 64 * 1024  # bytes of one frame


@dataclass(frozen=True)
class Local:
    """A file as it was when it was found: its path here, its name there."""

    path: str
    name: str
    size: int
    mtime_ns: int
    executable: bool

    def described(self) -> list[Any]:
        """Return what the far side has to know of it."""
        return [self.name, self.size, self.mtime_ns, self.executable]


def find(paths: Sequence[str], max_bytes: int) -> list[Local]:
    """Return the files that absolute paths and patterns mean.

    A path's file gets its own name there; a pattern's the part of it from the pattern's first sign on.

    Raises:
        ConfigError: there is none for one of them, one cannot be read or is no regular file, two would have
            the same name there, or they are too many or together too large.
    """
    found: dict[str, Local] = {}
    for path in paths:
        for name, source in _meant(path):
            local = _looked_at(source, name)
            if found.setdefault(name, local).path != source:
                raise ConfigError(
                    f"send: {found[name].path} and {source} would both be {name} in the task's working "
                    "directory; rename one of them, or send them to different tasks."
                )
            if len(found) > FILES_MAX:
                raise ConfigError(f"send means more than {FILES_MAX} files; send an archive of them instead.")
    total = sum(local.size for local in found.values())
    if total > max_bytes:
        raise ConfigError(
            f"send means {len(found)} files of {total} bytes, over send_max_bytes = {max_bytes}: send less, "
            "or raise it."
        )
    return list(found.values())


def _meant(path: str) -> Iterator[tuple[str, str]]:
    """Yield (name there, path here) of all that one entry of the setting means; raises ConfigError."""
    if not names.is_pattern(path) or Path(path).exists():
        yield names.of(Path(path).name), path
        return
    parts = Path(path).parts
    fixed = next(at for at, part in enumerate(parts) if names.is_pattern(part))
    top, rest = Path(*parts[:fixed]), "/".join(parts[fixed:])
    some = False
    for name in glob.iglob(rest, root_dir=top, recursive=True):  # noqa: PTH207 - that one takes hidden files
        source = top / name
        if not source.is_dir():
            some = True
            yield names.of(name), str(source)
    if not some:
        raise ConfigError(
            f"send names {path}, and no file on the Covalent server's machine fits; correct the pattern, or "
            "make them before the task is dispatched."
        )


def _looked_at(path: str, name: str) -> Local:
    try:
        handle = _open(path)
    except OSError as error:
        raise ConfigError(
            f"send names {path}, which cannot be read on the Covalent server's machine ({error.strerror}); "
            "make it there before the task is dispatched, or correct the path."
        ) from error
    state = os.fstat(handle)
    os.close(handle)
    if not stat.S_ISREG(state.st_mode):
        whole = f"write {path.rstrip('/')}/** for all that is in it" if stat.S_ISDIR(state.st_mode) else ""
        raise ConfigError(f"send names {path}, which is no regular file; {whole or 'name another one'}.")
    wrong = names.fault(name)
    if wrong:
        raise ConfigError(f"send means {path!r:.300}, whose name cannot be used ({wrong}); rename it.")
    return Local(path, name, state.st_size, state.st_mtime_ns, bool(state.st_mode & stat.S_IXUSR))


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # not to wait for who might write to a named pipe


async def pieces(files: Sequence[Local]) -> AsyncIterator[bytes]:
    """Yield the bytes of all of them, one after the other, in pieces that fit into a frame.

    Raises:
        TransferError: one is not what it was when it was found.
    """
    for local in files:
        reading = _reading(local)
        while data := await asyncio.to_thread(next, reading, b""):
            for start in range(0, len(data), _PIECE):
                yield data[start : start + _PIECE]


def _reading(local: Local) -> Iterator[bytes]:
    left = local.size
    try:
        with os.fdopen(_open(local.path), "rb", buffering=0) as file:
            while left and (data := file.read(min(_AT_ONCE, left))):
                left -= len(data)
                yield data
            now = os.fstat(file.fileno())
    except OSError as error:
        raise TransferError(_changed(local, error.strerror or str(error))) from error
    if left or (now.st_size, now.st_mtime_ns) != (local.size, local.mtime_ns):
        raise TransferError(_changed(local, "its size or time is another one now"))


def _changed(local: Local, how: str) -> str:
    return (
        f"{local.path} changed while it was being sent ({how}), so the task was not started; dispatch it "
        "anew once nobody writes to that file."
    )
