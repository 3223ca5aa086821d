"""The command line as a user has it: its own process, its two streams, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import toml


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


def configure(home: Path, configuration: dict[str, Any]) -> None:
    """Write the covalent.conf of a user whose HOME this is."""
    conf = home / ".config" / "covalent" / "covalent.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(toml.dumps(configuration))


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


def told(*arguments: str, home: Path) -> str:
    """Run a verb that has to succeed and to say nothing on stderr; return its stdout."""
    ran = run_verb(*arguments, home=home)
    assert (ran.err, ran.code) == ("", 0)
    return ran.out
