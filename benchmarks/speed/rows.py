"""A row of the table: a figure of ours, what it is held against, and whether the goal is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.tables import in_columns

_UNITS: dict[str, Callable[[float], str]] = {
    "s": lambda value: f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms",
    "tasks/s": lambda value: f"{value:.3g}/s",
    "B/s": lambda value: f"{value / 1e6:.0f} MB/s",
    "B": lambda value: f"{value / (1 << 20):.1f} MiB",
    "": lambda value: f"{value:.3g}",
}


@dataclass(frozen=True)
class Spread:
    """Some measurements of one figure: their median, and what lies between 5 % and 95 % of them."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Make one of measurements."""
        found = sorted(values)
        last = len(found) - 1
        return cls(statistics.median(found), found[round(0.05 * last)], found[round(0.95 * last)], len(found))

    @classmethod
    def single(cls, value: float) -> Spread:
        """Make one of a single measurement."""
        return cls(value, value, value, 1)

    def words(self, unit: str) -> str:
        """Say it in a fitting unit, with its spread if there is any."""
        spell = _UNITS[unit]
        if self.low == self.high:
            return spell(self.median)
        return f"{spell(self.median)} ({spell(self.low)} … {spell(self.high)})"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measure: what is measured.
        unit: a key of the units: s, tasks/s, B/s, B, or none.
        ours: our figure.
        against: what it is held against, in words; "" for nothing.
        other: the figure of that.
        ratio: what the goal speaks of; None where there is nothing to compare with.
        goal: the bound of the ratio, or of our figure where there is no ratio; None for no goal.
        at_least: whether the goal is a lower bound.
    """

    measure: str
    unit: str
    ours: Spread
    against: str = ""
    other: Spread | None = None
    ratio: float | None = None
    goal: float | None = None
    at_least: bool = False

    @property
    def good(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        value = self.ours.median if self.ratio is None else self.ratio
        return value >= self.goal if self.at_least else value <= self.goal

    def cells(self) -> list[str]:
        """Return what stands in the table."""
        other = f"{self.against}: {self.other.words(self.unit)}" if self.other else self.against
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        sign = "≥" if self.at_least else "≤"
        bound = _UNITS[self.unit] if self.ratio is None else _UNITS[""]
        goal = "" if self.goal is None else f"{sign} {bound(self.goal)}"
        verdict = {True: "met", False: "missed", None: ""}[self.good]
        return [self.measure, self.ours.words(self.unit), other, ratio, goal, verdict]


def times(ours: Spread, other: Spread) -> float:
    """Return how many times as much ours is."""
    return ours.median / other.median


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = ["measure", "ours", "against", "ratio", "goal", ""]
    return in_columns([head, ["---", "---", "---", "---:", "---:", "---"], *(row.cells() for row in rows)])
