"""`compare`: its interval is that of a literal bootstrap, changes are found, chance is no change."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import timings
from support.verbs import Ran, run_verb

from covalent_sshtiming.timing import change
from covalent_sshtiming.timing.record import TimingRecord

GOLDEN = Path(__file__).parent / "golden" / "verbs"


def times(median: float, count: int, seed: int) -> list[float]:
    """Return sorted costs around a median."""
    dice = random.Random(seed)
    return sorted(median * dice.lognormvariate(0, 0.3) for _ in range(count))


@pytest.mark.parametrize("part", [0.5, 0.95])
@pytest.mark.parametrize("counts", [(6, 9), (30, 41), (200, 500)])
def test_the_interval_is_the_bootstraps(part: float, counts: tuple[int, int]) -> None:
    """Drawing order statistics gives the interval that resampling all values gives."""
    a, b = times(1.0, counts[0], 1), times(1.1, counts[1], 2)
    numbers = np.random.default_rng(3)
    draws = [np.quantile(numbers.choice(values, (20_000, len(values))), part, axis=1) for values in (a, b)]
    literal = np.quantile(draws[1] / draws[0] - 1, [0.025, 0.975])
    ours = change.interval(a, b, part, 20_000, seed="s")
    assert ours is not None
    width = literal[1] - literal[0]
    assert ours == pytest.approx(tuple(literal), abs=0.06 * width)


def test_the_interval_covers_the_truth() -> None:
    """Of intervals for samples of one distribution about 95 in 100 have no change in them."""
    covered = 0
    for seed in range(300):
        found = change.interval(times(1.0, 40, seed), times(1.0, 40, 1000 + seed), 0.5, 400, seed="s")
        assert found is not None
        covered += found[0] <= 0 <= found[1]
    assert 0.91 * 300 <= covered <= 300


@pytest.mark.parametrize(("part", "count"), [(0.5, 6), (0.05, 20), (0.9, 10), (0.95, 20), (0.99, 100)])
def test_a_quantile_far_out_wants_more_tasks(part: float, count: int) -> None:
    """With too few tasks for its quantile no interval is given; with just enough it covers the truth."""
    assert change.enough(part) == count
    few = {"f": times(1.0, count - 1, 1)}
    assert [one.verdict for one in change.changes(few, few, [part])] == ["too few"]
    covered = 0
    for seed in range(150):
        a, b = times(1.0, count, seed), times(1.0, count, seed + 5000)
        found = change.interval(a, b, part, 300, seed="s")
        assert found is not None
        covered += found[0] <= 0 <= found[1]
    assert covered >= 0.87 * 150


def test_changes_are_told_from_chance() -> None:
    """Half as much again is `more`, the other way `less`, the same is neither, five tasks are too few."""
    a = {"slower": times(1.0, 60, 1), "faster": times(1.5, 60, 2), "same": times(1.0, 60, 3)}
    b = {"slower": times(1.5, 60, 4), "faster": times(1.0, 60, 5), "same": times(1.0, 60, 6)}
    a |= {"rare": [1.0] * 5, "gone": [1.0]}
    b |= {"rare": [9.0] * 50, "new": [1.0], "nothing": [0.0] * 9}
    a |= {"nothing": [0.0] * 9}
    found = {one.function: one for one in change.changes(a, b, [0.5])}
    assert {name: one.verdict for name, one in found.items()} == {
        "slower": "more",
        "faster": "less",
        "same": "no difference",
        "rare": "too few",
        "gone": "only in A",
        "new": "only in B",
        "nothing": "too few",
    }
    assert found["slower"].exceeds(change.Limit(0.5, 0.05))
    assert not found["slower"].exceeds(change.Limit(0.5, 5.0))
    assert not found["rare"].exceeds(change.Limit(0.5, 0.05))
    assert found["rare"].change == pytest.approx(8.0)
    assert (found["nothing"].change, found["nothing"].low) == (None, None)


def test_figures_are_repeatable_and_each_functions_own() -> None:
    """The same values give the same interval, whichever other functions there are."""
    a, b = {"f": times(1.0, 30, 1)}, {"f": times(1.2, 30, 2)}
    (alone,) = change.changes(a, b, [0.5])
    among = change.changes(a | {"g": [1.0] * 9}, b | {"g": [2.0] * 9}, [0.5])
    assert alone in among
    assert [alone] == change.changes(a, b, [0.5])


@pytest.mark.parametrize(("text", "part", "growth"), [("p50:5%", 0.5, 0.05), ("p99.9:120", 0.999, 1.2)])
def test_limits_are_read(text: str, part: float, growth: float) -> None:
    """A limit is a quantile and a growth in per cent."""
    found = change.limit(text)
    assert (found.part, found.growth) == pytest.approx((part, growth))


@pytest.mark.parametrize("text", ["p50", "50:5%", "p0:5%", "p100:5%", "p50:-5%", "median:5%", ""])
def test_wrong_limits_are_refused(text: str, tmp_path: Path) -> None:
    """Anything else is exit 2, with what to write."""
    ran = run_verb("compare", "a", "b", "--fail", text, home=tmp_path)
    assert (ran.out, ran.code) == ("", 2)
    assert "is no limit: write a quantile and a growth, such as p50:5%." in " ".join(ran.err.split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a log, and one in which relax takes half as much again."""
    home = tmp_path_factory.mktemp("home")
    timings.write(home / "before.jsonl", timings.records())
    after = [
        replace(one, cpu_s=one.cpu_s * 1.5) if one.function == "relax" and one.cpu_s else one
        for one in timings.records(seed=8)
    ]
    timings.write(home / "after.jsonl", after)
    return home


def test_golden_comparison(home: Path) -> None:
    """Two logs compared print what they have always printed, and a grown median is exit 1."""
    ran = run_verb("compare", "before.jsonl", "after.jsonl", "--fail", "p50:5%", home=home)
    text = "\n".join(line.rstrip() for line in ran.out.splitlines()) + "\n"

    if os.environ.get("SSHTIMING_GOLDEN") == "1":
        (GOLDEN / "compare.txt").write_text(text, encoding="utf-8")
    assert text == (GOLDEN / "compare.txt").read_text(encoding="utf-8")
    assert (ran.err, ran.code) == ("relax: p50 has grown by more than 5%.\n", 1)


def test_what_has_not_grown_that_much_passes(home: Path) -> None:
    """A limit that is kept, and no limit at all, are exit 0."""
    assert run_verb("compare", "before.jsonl", "after.jsonl", "--fail", "p50:90%", home=home).code == 0
    assert run_verb("compare", "before.jsonl", "after.jsonl", home=home).code == 0
    assert run_verb("compare", "after.jsonl", "before.jsonl", "--fail", "p50:5%", home=home).code == 0


def test_too_few_tasks_are_said_and_pass(tmp_path: Path) -> None:
    """A function with too few tasks to judge does not fail a limit, and stderr names it."""
    for name, cost in (("a.jsonl", 1.0), ("b.jsonl", 9.0)):
        made = [TimingRecord(function="f", kind="electron", status="completed", cpu_s=cost)] * 3
        timings.write(tmp_path / name, made)
    ran = run_verb("compare", "a.jsonl", "b.jsonl", "--fail", "p50:5%", "--json", home=tmp_path)
    assert (ran.err, ran.code) == ("Too few tasks to judge: f.\n", 0)
    assert json.loads(ran.out)[0]["change"] == pytest.approx(8.0)


def test_periods_and_dispatches_are_compared(home: Path) -> None:
    """A side may be a period or the beginning of a dispatch's id, in the log of --log."""
    made = [one for one in timings.records() if one.kind == "electron" and one.status == "completed"]
    early = [one for one in made if (one.submitted_at or "") < "2026-11-20T16"]
    ran = run_verb(
        "compare", "..2026-11-20T16:00", "2026-11-20T16:00..", "--log", "before.jsonl", "--json", home=home
    )
    found = {one["function"]: one for one in json.loads(ran.out)}
    assert sum(one["count_a"] for one in found.values()) == len(early)
    assert sum(one["count_b"] for one in found.values()) == len(made) - len(early)
    first, second = dict.fromkeys(one.dispatch_id or "" for one in made[:1] + made[-1:])
    ran = run_verb("compare", first[:8], second, "--log", "before.jsonl", "--csv", home=home)
    assert ran.code == 0
    assert ran.out.startswith('"function","quantile","count_a"')


@pytest.mark.parametrize(
    ("a", "code", "words"),
    [
        ("zzz", 1, "'zzz' is no log, and no task in before.jsonl is of such a dispatch or period."),
        ("2025-01-01..2025-02-01", 1, "no task of '2025-01-01..2025-02-01' to compare in before.jsonl."),
        ("then..now", 2, "'then' is no time: write an age such as 30m"),
    ],
)
def test_what_is_nothing_is_said(home: Path, a: str, code: int, words: str) -> None:
    """A side that means nothing ends with what was looked for and where."""
    ran = run_verb("compare", a, "after.jsonl", "--log", "before.jsonl", home=home)
    assert (ran.out, ran.code) == ("", code)
    assert words in " ".join(ran.err.split())


def test_a_beginning_of_several_dispatches_is_refused(home: Path) -> None:
    """What fits more than one dispatch is no side to compare."""
    firsts = [name[0] for name in {one.dispatch_id or "?" for one in timings.records()}]
    several = next(one for one in firsts if firsts.count(one) > 1)
    ran = run_verb("compare", several, "after.jsonl", "--log", "before.jsonl", home=home)
    assert (ran.out, ran.code) == ("", 1)
    assert f"dispatches in before.jsonl begin with '{several}'. Give more of the id." in ran.err


def test_without_any_log(tmp_path: Path) -> None:
    """A name that is no file, where there is no log either, is said to be neither."""
    ran = run_verb("compare", "a", "b", home=tmp_path)
    assert ran == Ran("", ran.err, 1)
    assert "'a' is no file, and there is no timing log: there is no " in ran.err
