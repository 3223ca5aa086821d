"""Our own Python's minor version, and the other Pythons of this machine."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"

# Read once: tests change HOME.
_PYENV_ROOTS = [
    Path(root) / "versions" for root in (os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")) if root
]


@functools.cache
def find_interpreter(minor: str) -> Path | None:
    """Return a working interpreter of this version, such as "3.8", or None."""
    return next((path for path in _candidates(minor) if _is_version(path, minor)), None)


def require_interpreter(minor: str) -> Path:
    """Return an interpreter of this version, or skip the test."""
    found = find_interpreter(minor)
    if found is None:
        pytest.skip(f"no Python {minor} on this machine")  # a contributor need not have them all
    return found


def _candidates(minor: str) -> Iterator[Path]:
    """First pyenv's, because its shims on PATH answer for the versions that are switched on only."""
    for root in _PYENV_ROOTS:
        versions = sorted(
            root.glob(f"{minor}.*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]
        )
        yield from (version / "bin" / f"python{minor}" for version in reversed(versions))
    on_path = shutil.which(f"python{minor}")
    if on_path:
        yield Path(on_path)


def _is_version(path: Path, minor: str) -> bool:
    code = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
    try:
        ran = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return False
    return ran.stdout == minor
