"""The command line as a user has it: its own process, its two streams, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Ran(NamedTuple):
    """What a command has said, and how it has ended."""

    out: str
    err: str
    code: int


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the variables of a user whose configuration and data are below `home`."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    mark = {name: value for name, value in os.environ.items() if name.startswith("SSHTIMING")}
    return {**kept, **mark, "HOME": str(home), "PYTHONUTF8": "1", **more}


def run_verb(*arguments: str, home: Path, cwd: Path | None = None, **more: Any) -> Ran:
    """Run `covalent-sshtiming` with these arguments; further keywords are environment variables."""
    command = [sys.executable, "-m", "covalent_sshtiming", *arguments]
    ran = subprocess.run(
        command,
        env=environment(home, **more),
        cwd=cwd or home,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    return Ran(ran.stdout, ran.stderr, ran.returncode)
