"""Rotation: a log's files get the time at the end of their names, and the next record begins new ones.

Each file is renamed while its lock is held, so no writer is in mid-line; a writer that waits for the lock
finds that the name has another file, and opens that (`log._held`).
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path

from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.timing.files import expanded, records_path, shards
from covalent_sshtiming.timing.log import LOCK_WAIT_S, locked

_LEVEL = 3  # a tenth of the size in a sixth of the time of level 9, which takes off a quarter more


def rotated(
    log: str | os.PathLike[str], *, compress: bool = False, lock_wait_s: float = LOCK_WAIT_S
) -> list[Path]:
    """Rename what there is of a log, and return the new paths.

    Args:
        log: either of the log's names.
        compress: pack the renamed files with gzip.
        lock_wait_s: longest wait for another's lock, in seconds.

    Raises:
        ConfigError: if a file cannot be locked; what was renamed before that stays so.
        OSError: if a file cannot be renamed or compressed.
    """
    records = records_path(log)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    names = dict.fromkeys((expanded(log), records))
    moved = [new for path in names if (new := _renamed(path, stamp, lock_wait_s))]
    if compress:
        moved = [_packed(path) for path in moved]
    # Who writes to a shard takes no lock, so a last line may still be on its way into it: not to be packed.
    return moved + [new for path in shards(records) if (new := _renamed(path, stamp, lock_wait_s))]


def _renamed(path: Path, stamp: str, lock_wait_s: float) -> Path | None:
    """Rename a file that has something in it, and return its new path."""
    path = path.resolve()  # what a link points to is moved, and the link goes on to the new one
    if not path.is_file():
        return None
    with locked(path, lock_wait_s) as held:
        if not held:
            raise ConfigError(
                f"The timing log {str(path)!r} was not rotated, because no lock on it could be had in "
                f"{lock_wait_s:g} s. Try again; where its file system has no locks, stop its writers and "
                "rename it by hand."
            )
        if not path.stat().st_size:
            return None
        new = _free(path.with_name(f"{path.name}.{stamp}"))
        path.rename(new)
    return new


def _free(path: Path) -> Path:
    """Return a name that nothing has; whoever rotates holds the lock."""
    number, free = 1, path
    while free.exists() or free.with_name(f"{free.name}.gz").exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _packed(path: Path) -> Path:
    """Compress a file; the original goes when the packed one is whole and on disk."""
    packed = path.with_name(f"{path.name}.gz")
    part = path.with_name(f"{path.name}.gz.part")
    try:
        handle = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
        )  # whoever opens it now reads all later
        with os.fdopen(handle, "wb") as raw, path.open("rb") as source:
            os.fchmod(raw.fileno(), path.stat().st_mode & 0o777)
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_LEVEL) as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
            raw.flush()
            os.fsync(raw.fileno())
        part.rename(packed)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno or errno.EIO, error.strerror, str(path)) from error
    path.unlink()
    return packed
