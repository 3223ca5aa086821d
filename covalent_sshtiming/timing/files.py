"""Which files make up a log, and the lines in them; names and bytes only, nothing of what a line says.

A log is asked for by either of its names (`timing.log`, `timing.log.jsonl`) or by a glob. Its shards belong
to it; what was rotated away does not, and is found by a glob: `timing.log.jsonl*`.
"""

from __future__ import annotations

import errno
import glob
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from covalent_sshtiming.errors import ConfigError

_RECORD_SUFFIXES = {".jsonl", ".ndjson"}
_ROTATED = re.compile(r"(.+)\.(\d{8}T\d{6}Z(?:-\d+)?)(?:\.gz)?")  # what `rotation` makes of a name
_GZIP = b"\x1f\x8b"
# A record has 8 KiB at the very most by its own rules; a file without newlines is not read into memory.
MAX_LINE = 1024 * 1024
_BUFFER = 256 * 1024


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with its `~` replaced.

    Raises:
        ConfigError: if it names the home directory of nobody here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"The timing log {os.fspath(path)!r} is in the home directory of a user that this machine "
            "does not know. Write the path out in full."
        ) from error


def records_path(path: str | os.PathLike[str]) -> Path:
    """Return the file of records that belongs to a log of this name."""
    log = expanded(path)
    return log if log.suffix.lower() in _RECORD_SUFFIXES else log.parent / f"{log.name}.jsonl"


def shard_path(records: Path) -> Path:
    """Return this process's own file beside a file of records, for when that one cannot be locked."""
    return records.with_name(f"{records.name}.{os.uname().nodename}.{os.getpid()}{records.suffix}")


def shards(records: Path) -> list[Path]:
    """Return the shards that are there beside a file of records."""
    return sorted(records.parent.glob(f"{glob.escape(records.name)}.*.[0-9]*{records.suffix}"))


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a name or glob stands for, in the order to read them.

    Raises:
        FileNotFoundError: if there is none. It names the file that was looked for.
    """
    log = expanded(path)
    if not log.exists() and glob.has_magic(str(log)):
        found = [Path(name) for name in sorted(glob.glob(str(log)))]  # noqa: PTH207 - Path.glob takes no ~ or root
        # By either name once, or the sentences of a log would count its records twice.
        files = dict.fromkeys(file for one in found if one.is_file() for file in files_of(one))
        return list(files) or _missing(log)
    records = records_path(log)
    beside = [records] * records.exists() + shards(records) or _rotated_records(log)
    if beside:
        return beside
    return [log] if log.exists() else _missing(records)


def _rotated_records(path: Path) -> list[Path]:
    """Return the records that were rotated away together with a file of sentences, packed or not."""
    match = _ROTATED.fullmatch(path.name)
    if match is None:
        return []
    records = f"{records_path(path.with_name(match[1])).name}.{match[2]}"
    return [one for name in (records, f"{records}.gz") if (one := path.with_name(name)).exists()][:1]


def _missing(path: Path) -> list[Path]:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def lines(files: Iterable[Path]) -> Iterator[bytes]:
    """Yield every finished line that is not blank; of one that is too long, nothing but its beginning.

    Files may be compressed by gzip, whatever their names. What follows the last newline is still being
    written, or was cut off, and is left alone; so is what follows the damage in a damaged gzip file.
    """
    for path in files:
        with path.open("rb", buffering=_BUFFER) as file:
            start = file.read(2)
            file.seek(0)
            if start == _GZIP:
                yield from _unpacked(file)
            else:
                yield from _finished(file)


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    try:
        yield from _finished(gzip.GzipFile(fileobj=file))
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield b"damaged gzip\n"  # one bad line, so that it is counted


def _finished(file: BufferedIOBase | BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE):
        if line.endswith(b"\n"):
            if not line.isspace():
                yield line
        elif len(line) == MAX_LINE:
            yield line[:80]
            while (line := file.readline(MAX_LINE)) and not line.endswith(b"\n"):
                pass


class Tail:
    """What comes to some logs, as long as one asks; each finished line once, also across a rotation."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self._paths = list(paths)
        self._read: dict[tuple[int, int], int] = {}  # by device and inode: how much of a file is known

    def new(self) -> Iterator[bytes]:
        """Yield the lines that have come since the last time; at first, all of them."""
        for path in self._paths:
            try:
                files = files_of(path)
            except FileNotFoundError:  # not yet, or no more
                continue
            for file in files:
                try:
                    yield from self._new_in(file)
                except FileNotFoundError:  # rotated away in this moment
                    continue

    def _new_in(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            known = self._read.get(identity, 0)
            place = known if known <= status.st_size else 0  # a shorter file was begun anew
            file.seek(place)
            while line := file.readline(MAX_LINE):
                whole = line.endswith(b"\n")
                if not whole and len(line) < MAX_LINE:
                    break
                place += len(line)
                self._read[identity] = place
                if whole and not line.isspace():
                    yield line
