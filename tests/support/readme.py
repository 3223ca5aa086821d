"""The README and the pages below docs/; what they show of verbs that go to a machine, made comparable."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# By name, in a fixed order: the README has the first example of each kind.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
ALL = "\n".join(PAGES.values())
_DIFFERS = (
    (r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b[0-9a-f]{8}(?:[0-9a-f]{24})?\b", "HEX"),
    (r"\d[\d.]*(?:e-\d+)? ?(?:µs|ms|s|min|h|d)\b", "TIME"),
    (r"\bport \d+", "port N"),
    (r"─+", "─"),
)


def shown(command: str) -> str:
    """Return what a page shows below a `$` line that begins so."""
    match = re.search(rf"^\$ {re.escape(command)}.*\n((?:(?!\$ |```).*\n)*)", ALL, re.MULTILINE)
    assert match, command
    return match[1]


def typed(command: str) -> list[str]:
    """Return the words of a page's `$` line that begins so."""
    match = re.search(rf"^\$ ({re.escape(command)}.*)$", ALL, re.MULTILINE)
    assert match, command
    return match[1].split()


def shape(text: str) -> str:
    """Return a text without what differs from run to run, and without how it is broken into lines."""
    for pattern, word in _DIFFERS:
        text = re.sub(pattern, word, text)
    return " ".join(text.split())
