"""A log as one HTML file, which needs no network and no other file.

The charts are drawn by some 600 lines of our own JavaScript in `page/`, as SVG. A chart library would put one
to five megabytes of its own, and its licence, into each report, for four kinds of chart. Tasks are put into
the page as data, by columns, and never as markup: names are a stranger's. The page's own policy allows no
request, and no script or style but ours, by their hashes.
"""

from __future__ import annotations

import hashlib
import html
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from operator import attrgetter
from typing import Any

import msgspec

from covalent_sshtiming.timing.trace import PHASES
from covalent_sshtiming.timing.units import moment, seconds_of

_NAMES = ("function", "host", "status", "dispatch_id")
_FIGURES = ("cpu_s", "wall_s", "cores_available", "rss_peak_bytes", "node_id")
_WALLS = tuple(f"phase_{phase}_wall_s" for phase in PHASES)
NEEDED = (*_NAMES, *_FIGURES, *_WALLS, "record_id", "submitted_at")
_SCRIPTS = ("model.js", "draw.js", "timeline.js", "charts.js", "table.js", "main.js")


class Page:
    """A report while tasks are being added to it."""

    def __init__(self) -> None:
        self.count = 0
        self._codes: dict[str, dict[str | None, int]] = {name: {} for name in _NAMES}
        self._rows: list[tuple[Any, ...]] = []

    def add(self, rows: Iterable[Any]) -> None:
        """Add tasks, in any order."""
        names, figures = attrgetter(*_NAMES), attrgetter(*_FIGURES)
        walls, others = attrgetter(*_WALLS), attrgetter("record_id", "submitted_at")
        codes = list(self._codes.values())
        for row in rows:
            coded = [code.setdefault(name, len(code)) for code, name in zip(codes, names(row), strict=True)]
            known = [None if wall is None else round(wall, 6) for wall in walls(row)]
            identity, submitted = others(row)
            self._rows.append((*coded, *figures(row), *known, identity, seconds_of(submitted)))
        self.count = len(self._rows)

    def pieces(self, title: str, sources: Sequence[str]) -> Iterator[bytes]:
        """Yield the page, piece by piece.

        Args:
            title: its heading.
            sources: the names of the files that the tasks come from.
        """
        place = files("covalent_sshtiming.timing") / "page"
        read = {
            name: (place / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *_SCRIPTS)
        }
        # One scope of our own, in which a name of the page's is no global.
        script = "(() => {\n'use strict';\n" + "".join(read[name] for name in _SCRIPTS) + "})();\n"
        policy = (
            f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(read['page.css'])}; "
            "base-uri 'none'; form-action 'none'"
        )
        values = {
            "policy": policy,
            "title": html.escape(title),
            "style": read["page.css"],
            "script": script,
        }
        head, tail = read["page.html"].split("{{data}}")
        yield _filled(head, values)
        yield self._data(sources)
        yield _filled(tail, values)

    def _data(self, sources: Sequence[str]) -> bytes:
        """Return all tasks as JSON that may stand in a script element."""
        names = (*_NAMES, *_FIGURES, *PHASES, "record_id", "begin")
        columns: dict[str, Sequence[Any]] = dict.fromkeys(names, ())
        if self._rows:
            columns = dict(zip(names, zip(*self._rows, strict=True), strict=True))
        times = [time for time in columns["begin"] if time is not None]
        first = min(times, default=0.0)
        columns["begin"] = tuple(
            [None if time is None else round(time - first, 6) for time in columns["begin"]]
        )
        told = {
            "about": _about(self.count, times, sources),
            "begin": first,
            "phases": PHASES,
            "names": {name: list(codes) for name, codes in self._codes.items()},
            "columns": columns,
        }
        text = msgspec.json.encode(told)
        for sign in (b"<", b">", b"&"):
            text = text.replace(sign, b"\\u00%02x" % sign[0])
        return text


def _about(count: int, times: Sequence[float], sources: Sequence[str]) -> str:
    from datetime import datetime, timezone

    where, tasks = ", ".join(sources), "1 task" if count == 1 else f"{count} tasks"
    if not times:
        return f"{tasks} in {where}"
    ends = (datetime.fromtimestamp(time, timezone.utc).isoformat() for time in (min(times), max(times)))
    first, last = (moment(text) for text in ends)
    return f"{tasks}, submitted from {first} to {last} UTC, in {where}"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _filled(text: str, values: dict[str, str]) -> bytes:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text).encode()
