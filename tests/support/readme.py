"""What the README shows of verbs that go to a machine, made comparable with what they print in a test."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
_DIFFERS = (
    (r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b[0-9a-f]{8}(?:[0-9a-f]{24})?\b", "HEX"),
    (r"\d[\d.]*(?:e-\d+)? ?(?:µs|ms|s|min|h|d)\b", "TIME"),
    (r"\bport \d+", "port N"),
    (r"─+", "─"),
)


def shown(command: str) -> str:
    """Return what the README shows below a `$` line that begins so."""
    match = re.search(rf"^\$ {re.escape(command)}.*\n((?:(?!\$ |```).*\n)*)", README, re.MULTILINE)
    assert match, command
    return match[1]


def typed(command: str) -> list[str]:
    """Return the words of the README's `$` line that begins so."""
    match = re.search(rf"^\$ ({re.escape(command)}.*)$", README, re.MULTILINE)
    assert match, command
    return match[1].split()


def shape(text: str) -> str:
    """Return a text without what differs from run to run, and without how it is broken into lines."""
    for pattern, word in _DIFFERS:
        text = re.sub(pattern, word, text)
    return " ".join(text.split())
