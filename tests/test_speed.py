"""The speed benchmark: its arithmetic, and that its measures run; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require_sshd

from benchmarks.speed.rows import Row, Spread, table

ROOT = Path(__file__).parents[1]


def test_a_spread_has_median_and_tails() -> None:
    """Of a hundred and one values the median is the middle one, and 5 % lie beyond each end."""
    found = Spread.of(float(value) for value in range(101))
    assert (found.median, found.low, found.high, found.count) == (50.0, 5.0, 95.0, 101)


@pytest.mark.parametrize(
    ("row", "good"),
    [
        (Row("m", "s", Spread.single(1)), None),
        (Row("m", "s", Spread.single(1), ratio=2.0, goal=2), True),
        (Row("m", "s", Spread.single(1), ratio=2.1, goal=2), False),
        (Row("m", "s", Spread.single(1), ratio=499, goal=500, at_least=True), False),
        (Row("m", "B", Spread.single(65), goal=64), False),
    ],
)
def test_a_goal_is_of_the_ratio_where_there_is_one(row: Row, good: bool | None) -> None:
    """A goal bounds the ratio, or the figure itself; a row without a goal is neither good nor bad."""
    assert row.good is good


def test_the_table_says_what_was_measured() -> None:
    """A row has its spread, what it is held against, ratio, goal and verdict."""
    ours = Spread(0.004, 0.003, 0.006, 9)
    text = table([Row("warm", "s", ours, "the floor", Spread.single(0.001), 4.0, 2)])
    assert [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")] == [
        "warm",
        "4 ms (3 ms … 6 ms)",
        "the floor: 1 ms",
        "4",
        "≤ 2",
        "missed",
    ]


def test_measures_run(tmp_path: Path) -> None:
    """A measure in a process of its own brings its rows into the table and the file."""
    require_sshd()
    command = [sys.executable, "-m", "benchmarks.speed", "--quick", "--only", "profile"]
    ran = subprocess.run(
        [*command, "--json", tmp_path / "speed.json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(tmp_path), "PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "… phase exit" in ran.stdout
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["machine"]["cores"] >= 1
    assert {row["measure"] for row in found["rows"]} >= {"run(), 10 ms apart", "CPU a task, workers"}
