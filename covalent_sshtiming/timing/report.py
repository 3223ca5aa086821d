"""Many records at once: which ones, in which groups, and what a group cost. Pure; knows no file or terminal.

A row is anything with the record's fields as attributes. Medians, spread and percentiles are of the tasks
that completed, because what was broken off is no measure of the function; totals are of all tasks, because
what was broken off has cost as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from covalent_sshtiming.timing import units
from covalent_sshtiming.timing.markup import html_table

FAILURES = frozenset({"failed", "killed", "timeout", "lost"})
STATUSES = ("completed", "failed", "cancelled", "killed", "timeout", "lost")
# What `Selection.matches` and `summarise` look at, besides the keys of the groups.
SELECTED_BY = ("dispatch_id", "node_id", "function", "host", "status", "kind", "submitted_at")
NEEDED = ("status", "kind", "cpu_s", "wall_s", "cores_available")
HEADS = ("count", "failed", "median", "spread", "p95", "total", "wall", "eff.", "share")
GROUPS = {"function": "function", "host": "host", "dispatch": "dispatch_id", "status": "status"}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which records are meant; what is None or empty excludes none.

    `function` and `host` may have `*` and `?`; `since` and `until` are times as records write them, and
    the second is the first moment that is not meant any more.
    """

    dispatch: str | None = None
    node: int | None = None
    function: str | None = None
    host: str | None = None
    status: frozenset[str] = frozenset()
    since: str | None = None
    until: str | None = None
    helpers: bool = False

    def matcher(self) -> Callable[[Any], bool]:
        """Return the test of one row; only what was asked for is looked at."""
        tests: list[Callable[[Any], bool]] = []
        dispatch, node, function, host, status = (
            self.dispatch,
            self.node,
            self.function,
            self.host,
            self.status,
        )
        since, until = self.since, self.until
        if not self.helpers:
            tests.append(lambda row: row.kind != "helper")
        if dispatch:
            tests.append(lambda row: (row.dispatch_id or "").startswith(dispatch))
        if node is not None:
            tests.append(lambda row: row.node_id == node)
        if function:
            tests.append(lambda row: fnmatchcase(row.function or "", function))
        if host:
            tests.append(lambda row: fnmatchcase(row.host or "", host))
        if status:
            tests.append(lambda row: row.status in status)
        if since:
            tests.append(lambda row: (row.submitted_at or "") >= since)
        if until:
            tests.append(lambda row: row.submitted_at is not None and row.submitted_at < until)
        if len(tests) == 1:  # the usual case, and 100,000 times as many calls
            return tests[0]
        return lambda row: all(test(row) for test in tests)

    def of(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Yield those rows that are meant."""
        return filter(self.matcher(), rows)


def efficiency(cpu_s: float | None, wall_s: float | None, cores: float | None) -> float | None:
    """Return which part of the cores that a task had it has used; None where something is not known."""
    if cpu_s is None or not wall_s or not cores:
        return None
    return cpu_s / (wall_s * cores)


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """Return a quantile of sorted values, by linear interpolation; None of none."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * part
    low = int(place)
    if low + 1 >= len(ordered):
        return ordered[-1]
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Group:
    """What the tasks of one group cost; seconds, None for what is not known of any of them.

    Attributes:
        keys: the value of each field that was grouped by.
        count: tasks.
        failed: those that failed, were killed, ran out of time or were lost; not the cancelled ones.
        cpu_s_total: CPU time of all tasks.
        cpu_s_median: of those that completed, as are the following ones.
        cpu_s_iqr: the spread: the upper quartile less the lower one.
        cpu_s_p95: 5 % took more.
        wall_s_total: of all tasks, side by side or not.
        wall_s_median: of those that completed.
        efficiency: CPU time / (wall time * cores), over all tasks of which the three are known.
        cpu_share: which part of the CPU time of all groups.
    """

    keys: dict[str, Any]
    count: int
    failed: int
    cpu_s_total: float | None
    cpu_s_median: float | None
    cpu_s_iqr: float | None
    cpu_s_p95: float | None
    wall_s_total: float | None
    wall_s_median: float | None
    efficiency: float | None
    cpu_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as one flat object, the keys first."""
        values = asdict(self)
        return {**values.pop("keys"), **values}


@dataclass
class _Tally:
    """A group while it is being added up."""

    count: int = 0
    failed: int = 0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu_unfinished: list[float] = field(default_factory=list)
    wall_unfinished: list[float] = field(default_factory=list)
    used: float = 0.0
    had: float = 0.0

    def add(self, row: Any) -> None:
        status, cpu_s, wall_s = row.status, row.cpu_s, row.wall_s
        self.count += 1
        self.failed += status in FAILURES
        whole = status == "completed" or status is None  # sentences do not say how a task has ended
        if cpu_s is not None:
            (self.cpu if whole else self.cpu_unfinished).append(cpu_s)
            if wall_s and row.cores_available:
                self.used += cpu_s
                self.had += wall_s * row.cores_available
        if wall_s is not None:
            (self.wall if whole else self.wall_unfinished).append(wall_s)

    def group(self, keys: dict[str, Any], all_cpu: float) -> Group:
        cpu, wall = sorted(self.cpu), sorted(self.wall)
        low, high = quantile(cpu, 0.25), quantile(cpu, 0.75)
        total = self.cpu_total
        return Group(
            keys=keys,
            count=self.count,
            failed=self.failed,
            cpu_s_total=total,
            cpu_s_median=quantile(cpu, 0.5),
            cpu_s_iqr=None if low is None or high is None else high - low,
            cpu_s_p95=quantile(cpu, 0.95),
            wall_s_total=_total(wall, self.wall_unfinished),
            wall_s_median=quantile(wall, 0.5),
            efficiency=self.used / self.had if self.had else None,
            cpu_share=total / all_cpu if total is not None and all_cpu else None,
        )

    @property
    def cpu_total(self) -> float | None:
        return _total(self.cpu, self.cpu_unfinished)


def _total(*parts: list[float]) -> float | None:
    """Return the exact sum, which is the same for every Python and every order of the tasks."""
    return math.fsum(chain(*parts)) if any(parts) else None


@dataclass(frozen=True)
class Summary:
    """Groups, the one with the most CPU time first."""

    by: tuple[str, ...]
    groups: list[Group]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the groups as flat objects."""
        return [group.to_dict() for group in self.groups]

    def to_html(self) -> str:
        """Return a table for a notebook."""
        return html_table([*self.by, *HEADS], [[*_keys(group), *cells(group)] for group in self.groups])

    _repr_html_ = to_html


def _keys(group: Group) -> list[str]:
    return [units.NOTHING if key is None else str(key) for key in group.keys.values()]


def cells(group: Group) -> list[str]:
    """Return a group's figures as text, in the order of `HEADS`."""
    return [
        str(group.count),
        str(group.failed),
        units.duration(group.cpu_s_median),
        units.duration(group.cpu_s_iqr),
        units.duration(group.cpu_s_p95),
        units.duration(group.cpu_s_total),
        units.duration(group.wall_s_total),
        units.share(group.efficiency),
        units.share(group.cpu_share),
    ]


def summarise(rows: Iterable[Any], by: Sequence[str]) -> Summary:
    """Add rows up in groups by the values of some fields; helpers count as any other row."""
    tallies: dict[tuple[Any, ...], _Tally] = {}
    for row in rows:
        keys = tuple([getattr(row, name) for name in by])
        tally = tallies.get(keys)
        if tally is None:
            tally = tallies[keys] = _Tally()
        tally.add(row)
    all_cpu = math.fsum(tally.cpu_total or 0.0 for tally in tallies.values())
    groups = [tally.group(dict(zip(by, keys, strict=True)), all_cpu) for keys, tally in tallies.items()]
    # Equal costs are told apart by name, so that the same log gives the same table.
    groups.sort(key=lambda group: (-(group.cpu_s_total or 0.0), [str(key) for key in group.keys.values()]))
    return Summary(tuple(by), groups)
