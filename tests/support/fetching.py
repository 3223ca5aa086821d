"""What the tests of fetched files share: functions that leave files, and a look at where they come."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from support import direct


def writes(files: dict[str, bytes], then: str = "") -> Callable[[], str]:
    """Return a function that writes files below its working directory, and then runs a line of code."""

    def function() -> str:
        import os

        for name, content in files.items():
            path = os.fsencode(name)
            os.makedirs(os.path.dirname(path) or b".", exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        exec(then)  # noqa: S102 - the test's own line
        return "done"

    return function


def below(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory by their names, with what is in them."""
    return {
        os.fsdecode(os.path.relpath(path, directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def home(machine: direct.Machine, node: int) -> Path:
    """Return where a node's files go by default."""
    return machine.log.parent / "dispatch" / f"node_{node}"


def writes_much(size: int) -> Callable[[], str]:
    """Return a function that leaves a file with holes of this size."""

    def function() -> str:
        with open("a.h5", "wb") as file:
            file.truncate(size)
        return "done"

    return function
