"""Fetched: which of a task's files are to come, and what has come of it.

Owns the words and the figures of it: the record's fields, and a line in the task's stderr for all that did
not go as asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAID_MAX = 20  # sentences of one kind
_NAMES_CHARS = 4096  # of the names in a record
WHY = {
    "link": "it is a link, and none is followed",
    "directory": "it is a directory; add /** to fetch what is in it",
    "special": "it is no regular file",
    "name": "its name is too long",
    "unreadable": "it cannot be read",
    "bytes": "with it they would be over fetch_max_bytes = {max_bytes}",
    "files": "there are more than fetch_max_files = {max_files}",
    "changed": "it was changed after the task's end",
    "gone": "it was removed after the task's end",
}


@dataclass(frozen=True)
class Wanted:
    """What is to come, and where to.

    Attributes:
        base: the directory that everything goes below; made where there is none.
        inner: directories below it that come first in each name, "" for none; no link there is followed.
        patterns: what a name has to fit; None for any.
        max_bytes: of all together.
        max_files: how many.
        mode: of the base where it is made, without what the umask takes off.
        dispatch: a directory in which Covalent has files of its own; none of them is replaced.
    """

    base: Path
    inner: str
    patterns: Sequence[str] | None
    max_bytes: int
    max_files: int
    mode: int = 0o777
    dispatch: Path | None = None

    @property
    def directory(self) -> Path:
        """Where the files go."""
        return self.base / self.inner


@dataclass
class Brought:
    """What has come of it: names and sizes of the files that are here, and what else there is to say."""

    directory: Path
    files: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)  # a sentence for each that is told of
    more_left: int = 0  # that are not told of
    failed: list[str] = field(default_factory=list)
    broken: bool = False
    unmatched: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the record's fields."""
        return {
            "fetched_files": len(self.files),
            "fetched_bytes": sum(self.files.values()),
            "fetched_left": len(self.left) + self.more_left + len(self.failed),
            "fetched_to": str(self.directory),
            "fetched_names": self._names(),
        }

    def _names(self) -> str:
        """Return the names as a JSON list, as many as a record has room for."""
        told, size = [], 2
        for name in self.files:
            size += len(json.dumps(name)) + 2
            if size > _NAMES_CHARS:
                break
            told.append(name)
        return json.dumps(told)

    def warnings(self, host: str, *, completed: bool) -> str:
        """Return a line for everything that did not go as asked; a failed task need not have left all."""
        lines = _some(f"{host}: {text}" for text in self.left)
        if self.more_left:
            lines.append(f"{host}: {self.more_left} more stay there.")
        lines += _some(iter(self.failed))
        if self.broken:
            lines.append(f"{host}: not all files came: reading them there broke off. They stay there.")
        if completed and not self.broken:
            lines += [f"{host}: nothing that the task left fits fetch = {text!r}." for text in self.unmatched]
        return "".join(f"warning: {line}\n" for line in lines)


def _some(lines: Iterator[str]) -> list[str]:
    every = list(lines)
    rest = len(every) - _SAID_MAX
    return every[:_SAID_MAX] + ([f"and {rest} more like these."] if rest > 0 else [])
