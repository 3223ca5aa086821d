"""Small file systems of a test's own: mounted, full, read-only, and away again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(disk: Path, size: str) -> Iterator[Path]:
    """Have a file system of this size for as long as the block lasts; skip where this user may mount none."""
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(disk)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")  # macOS has no tmpfs, and Linux mounts need it
    if ran.returncode != 0:
        # A disk that is full has to be one's own.
        pytest.skip(f"this user may not mount a tmpfs: {ran.stderr.strip()}")
    try:
        yield disk
    finally:
        _unmount(disk)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Make a directory read-only for whoever goes there by its path, by a mount over it."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)
        yield
    finally:
        _unmount(directory)


def remount(disk: Path, how: str) -> None:
    """Make a mounted file system read-only ("ro") or writable ("rw")."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def _unmount(disk: Path) -> None:
    """Take a mounted file system away, whoever still stands on it."""
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that there is."""
    path = disk / "somebody's"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path
