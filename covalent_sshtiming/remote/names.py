"""Names of files below a directory, and the patterns that choose among them; both ends import this one file.

Owns which name may become a path: relative, with `/` between its parts, none of them empty, `.` or `..`, no
NUL, of bounded length and depth. A name is text; bytes that are not UTF-8 are in it as Python's
`surrogateescape` has them. And the patterns, as a shell has them: `*`, `?` and `[...]` within a part, `**`
for any directories; none of them takes a leading dot that is not written. Both sides of what was asked for
are held against them: what is sent, and what is taken.
"""

import fnmatch
import os
import re
from typing import Any, Callable, FrozenSet, Iterable, List, Tuple

PART_BYTES = 255
NAME_BYTES = 3000  # so that it has room below a directory of 1000
PARTS_MAX = 64
ANY_DEPTH = "**"
_SIGNS = re.compile(r"[*?\[]")

Positions = FrozenSet[Tuple[int, int]]  # (which pattern, how many of its parts are matched)


def fault(name: Any) -> str:
    """Return what keeps `name` from being a path below a directory, "" if nothing does."""
    if not isinstance(name, str) or not name:
        return "no name"
    try:
        size = len(stored(name))
    except UnicodeEncodeError:
        return "no text"
    parts = name.split("/")
    if size > NAME_BYTES or len(parts) > PARTS_MAX:
        return "too long"
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        return "no path below a directory"
    if any(len(stored(part)) > PART_BYTES for part in parts):
        return "too long"
    return ""


def of(found: str) -> str:
    """Return the name of what Python calls `found`, which depends on the locale it runs in."""
    return os.fsencode(found).decode("utf-8", "surrogateescape")


def stored(name: str) -> bytes:
    """Return a name as it is on a disk, whatever the locale."""
    return name.encode("utf-8", "surrogateescape")


def is_pattern(text: str) -> bool:
    """Whether there is any of a pattern's signs in it."""
    return bool(_SIGNS.search(text))


class Patterns:
    """Patterns to walk down with: each name in a directory leads from some positions in them to others."""

    def __init__(self, patterns: "Iterable[str]") -> None:
        self.texts = list(patterns)
        self._parts = [_parts(text) for text in self.texts]
        self.start = self._opened((number, 0) for number in range(len(self._parts)))

    def step(self, positions: Positions, name: str) -> Positions:
        """Return where a name in a directory leads; nowhere if no pattern goes on with it."""
        found = []
        for number, at in positions:
            if at == len(self._parts[number]):
                continue
            word, matches = self._parts[number][at]
            if matches(name):
                found.append((number, at if word == ANY_DEPTH else at + 1))
        return self._opened(found)

    def _opened(self, positions: "Iterable[Tuple[int, int]]") -> Positions:
        """Add where one is without a further name: `**` also stands for no directory at all."""
        found = set(positions)
        for number, at in tuple(found):
            parts = self._parts[number]
            while at < len(parts) and parts[at][0] == ANY_DEPTH:
                at += 1  # noqa: PLW2901 - it goes on from there
                found.add((number, at))
        return frozenset(found)

    def matched(self, positions: Positions) -> "FrozenSet[int]":
        """Return the numbers of the patterns that are matched to their end."""
        return frozenset(number for number, at in positions if at == len(self._parts[number]))

    def goes_on(self, positions: Positions) -> bool:
        """Whether any pattern leads further down from here."""
        return any(at < len(self._parts[number]) for number, at in positions)

    def spelt_out(self, positions: Positions) -> bool:
        """Whether the last part of a pattern that is matched to its end has no sign in it."""
        return any(
            at == len(self._parts[number]) and not is_pattern(self._parts[number][-1][0])
            for number, at in positions
        )

    def fitting(self, name: str) -> "FrozenSet[int]":
        """Return the numbers of the patterns that a whole name fits."""
        positions = self.start
        for part in name.split("/"):
            positions = self.step(positions, part)
        return self.matched(positions)


def _parts(text: str) -> "List[Tuple[str, Callable[[str], Any]]]":
    words = text.split("/")
    if words[-1] == ANY_DEPTH:
        words.append("*")
    return [(word, _matcher(word)) for word in words]


def _matcher(word: str) -> "Callable[[str], Any]":
    if not is_pattern(word):
        return word.__eq__
    match = re.compile(fnmatch.translate(word)).match
    if word.startswith("."):
        return match
    return lambda name: not name.startswith(".") and match(name)
