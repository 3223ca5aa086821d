"""Whether a function costs more than it did: how a quantile differs between two sets of tasks, how surely.

The interval is that of the percentile bootstrap. Resampling n values and taking their quantile is the same as
drawing the order statistics of n uniform numbers (a beta distribution) and looking those places up, so
a draw costs the same for ten values as for ten thousand. Draws are seeded: the same logs, the same figures.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from covalent_sshtiming.timing.report import quantile

# Of fewer than 6 values the 95 % interval for a median is wider than all of them: they say nothing.
_ENOUGH = 6
_CONFIDENCE = 0.95
_MOST_DRAWS, _FEWEST_DRAWS, _DRAWS_IN_ALL = 2000, 200, 200_000


@dataclass(frozen=True)
class Limit:
    """How much a quantile may grow: `part` is 0.5 for p50, `growth` 0.05 for 5 %."""

    part: float
    growth: float

    @property
    def name(self) -> str:
        """Return the quantile's name, such as p50."""
        return quantile_name(self.part)


def limit(text: str) -> Limit:
    """Return what `p50:5%` means.

    Raises:
        ValueError: for anything else, with what to write instead.
    """
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?):\+?(\d+(?:\.\d+)?)%?", text.strip())
    if match is None or not 0 < float(match[1]) < 100:
        raise ValueError(f"{text!r} is no limit: write a quantile and a growth, such as p50:5%")
    return Limit(float(match[1]) / 100, float(match[2]) / 100)


def quantile_name(part: float) -> str:
    """Return p50 for 0.5."""
    return f"p{100 * part:g}"


def enough(part: float) -> int:
    """Return how many values a quantile's interval needs, on each side.

    Where one value is expected beyond the quantile the interval holds what it says (92 to 95 of a hundred, as
    tried). With fewer the largest value stands for the quantile, whose interval then is too narrow: of six
    values that of p95 missed in one case of six.
    """
    return max(_ENOUGH, math.ceil(round(1 / min(part, 1 - part), 6)))


@dataclass(frozen=True)
class Change:
    """How one quantile of one function differs between two sets of tasks, A and B.

    Attributes:
        function: its name.
        quantile: p50 for the median.
        count_a: how many tasks of A completed and have the figure.
        count_b: how many of B.
        value_a: the quantile in A; None without a task.
        value_b: the quantile in B.
        change: B by A, less one: 0.05 is 5 % more. None where A is nothing, or 0.
        low: where the 95 % interval of the change begins; None where there are too few tasks.
        high: where it ends.
        verdict: `more` or `less` where the interval leaves 0 out, else `no difference`; or `too few`,
            `only in A`, `only in B`.
    """

    function: str | None
    quantile: str
    count_a: int
    count_b: int
    value_a: float | None
    value_b: float | None
    change: float | None
    low: float | None
    high: float | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as a flat object."""
        return asdict(self)

    def exceeds(self, allowed: Limit) -> bool:
        """Say whether it has surely grown, and by more than allowed."""
        return self.verdict == "more" and self.change is not None and self.change > allowed.growth


def costs(rows: Iterable[Any], figure: str) -> dict[str | None, list[float]]:
    """Return the figure of each function's completed tasks, sorted."""
    found: dict[str | None, list[float]] = defaultdict(list)
    for row in rows:
        value = getattr(row, figure)
        if value is not None and (row.status == "completed" or row.status is None):
            found[row.function].append(value)
    return {name: sorted(values) for name, values in found.items()}


def changes(
    a: Mapping[Any, Sequence[float]], b: Mapping[Any, Sequence[float]], parts: Sequence[float]
) -> list[Change]:
    """Return the change of each function and quantile; what costs most in all comes first."""
    names = sorted({*a, *b}, key=lambda name: (-sum(a.get(name, ())) - sum(b.get(name, ())), str(name)))
    draws = max(_FEWEST_DRAWS, min(_MOST_DRAWS, _DRAWS_IN_ALL // max(1, len(names) * len(parts))))
    return [_change(name, part, a.get(name, ()), b.get(name, ()), draws) for name in names for part in parts]


def _change(name: str | None, part: float, a: Sequence[float], b: Sequence[float], draws: int) -> Change:
    was, now = quantile(a, part), quantile(b, part)
    change = now / was - 1 if was and now is not None else None
    few = min(len(a), len(b)) < enough(part)
    ends = None if few else interval(a, b, part, draws, seed=f"{name}:{part}")
    if not a or not b:
        verdict = "only in B" if not a else "only in A"
    elif ends is None:
        verdict = "too few"
    else:
        verdict = "more" if ends[0] > 0 else "less" if ends[1] < 0 else "no difference"
    low, high = ends or (None, None)
    return Change(name, quantile_name(part), len(a), len(b), was, now, change, low, high, verdict)


def interval(
    a: Sequence[float], b: Sequence[float], part: float, draws: int, *, seed: str
) -> tuple[float, float] | None:
    """Return the 95 % interval of a quantile's relative change from A to B; both are sorted.

    None where A's quantile may be 0, so that there is no relative change.
    """
    dice = random.Random(seed)  # noqa: S311 - a simulation, and it has to be repeatable
    pairs = [(_resampled(a, part, dice), _resampled(b, part, dice)) for _ in range(draws)]
    if any(was <= 0 for was, _ in pairs):
        return None
    ratios = sorted(now / was - 1 for was, now in pairs)
    tail = (1 - _CONFIDENCE) / 2
    low, high = quantile(ratios, tail), quantile(ratios, 1 - tail)
    return None if low is None or high is None else (low, high)


def _resampled(ordered: Sequence[float], part: float, dice: random.Random) -> float:
    """Return the quantile of as many values drawn from these, with replacement."""
    count = len(ordered)
    place = (count - 1) * part
    below = int(place)
    first = dice.betavariate(below + 1, count - below)  # the order statistic number below + 1 of count
    value = ordered[min(count - 1, int(count * first))]
    rest = count - below - 1
    if place == below or not rest:
        return value
    # The next order statistic is the least of the remaining ones, which are uniform above this one.
    second = first + (1 - first) * (1 - dice.random() ** (1 / rest))
    return value + (ordered[min(count - 1, int(count * second))] - value) * (place - below)
