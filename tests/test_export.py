"""What `export` writes: every record in CSV and Parquet, tasks in lanes in a Chrome trace."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import timings
from support.verbs import Ran, environment, run_verb

from covalent_sshtiming.timing import separated
from covalent_sshtiming.timing.record import FIELDS, TimingRecord


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a log of 2,000 tasks."""
    home = tmp_path_factory.mktemp("home")
    timings.write(home / "log.jsonl", timings.records())
    return home


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(st.characters(exclude_categories=["C", "Z"])),
            st.sampled_from(['a,"null",b', "null", ",null,", "\\", '"', "=1+1"]),
        ),
        min_size=2,
    )
)
def test_a_row_of_csv_is_read_back(values: list[object]) -> None:
    """Whatever a record may hold, a reader of CSV finds in its cell; nothing is an empty cell."""
    (cells,) = csv.reader(io.StringIO(separated.row(values).decode()))
    assert len(cells) == len(values)
    for cell, value in zip(cells, values, strict=True):
        if isinstance(value, (str, type(None))):
            assert cell == (value or "")
        else:
            assert json.loads(cell) == value


def test_csv_has_every_field_of_every_record(home: Path) -> None:
    """CSV on stdout has all records with all fields, unrounded, and nothing where nothing is known."""
    ran = run_verb("export", "--helpers", "log.jsonl", home=home)
    assert (ran.err, ran.code) == ("", 0)
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    made = timings.records()
    assert len(rows) == len(made)
    assert list(rows[0]) == list(FIELDS)
    for row, record in zip(rows, made, strict=True):
        assert row["function"] == record.function
        assert (float(row["cpu_s"]) if row["cpu_s"] else None) == record.cpu_s
        assert row["cpu_complete"] == {None: "", True: "true", False: "false"}[record.cpu_complete]
        assert row["cpu_cgroup_s"] == ""


def test_parquet_has_the_schema_and_every_record(home: Path) -> None:
    """Parquet has the explicit types, also for what is always null, and the filters of `log`."""
    import pyarrow.parquet as pq

    ran = run_verb("export", "-o", "out.parquet", "--host", "build01", "log.jsonl", home=home)
    mine = [one for one in timings.records() if one.host == "build01" and one.kind == "electron"]
    assert (ran.out, ran.err, ran.code) == ("", f"out.parquet: {len(mine)} tasks.\n", 0)
    table = pq.read_table(home / "out.parquet")
    assert table.column_names == list(FIELDS)
    assert str(table.schema.field("memory_peak_bytes").type) == "int64"
    assert str(table.schema.field("started_at").type) == "timestamp[us, tz=UTC]"
    assert table.column("record_id").to_pylist() == [one.record_id for one in mine]
    assert table.column("wall_s").to_pylist() == [one.wall_s for one in mine]


def test_parquet_without_pyarrow_names_the_extra(home: Path, tmp_path: Path) -> None:
    """Without pyarrow nothing is written, and the command that installs it is said."""
    (tmp_path / "pyarrow.py").write_text("raise ModuleNotFoundError('no pyarrow', name='pyarrow')")
    ran = run_verb("export", "-o", "none.parquet", "log.jsonl", home=home, PYTHONPATH=str(tmp_path))
    assert (ran.out, ran.code) == ("", 1)
    assert "pyarrow is needed for this: python -m pip install 'covalent-sshtiming[parquet]'." in ran.err
    assert not list(home.glob("*none*"))


def test_trace_has_tasks_in_lanes_and_phases_within_them(home: Path) -> None:
    """No two tasks of a lane overlap, each task is where its machine is, and phases lie in tasks."""
    run_verb("export", "-o", "trace.json", "log.jsonl", home=home)
    events = json.loads((home / "trace.json").read_text())["traceEvents"]
    machines = {event["args"]["name"]: event["pid"] for event in events if event["ph"] == "M"}
    made = {one.record_id: one for one in timings.records() if one.kind == "electron"}
    known = {name for name, one in made.items() if one.phase_call_wall_s is not None}
    tasks = {event["args"]["record_id"]: event for event in events if event.get("cat") == "task"}
    assert set(tasks) == known
    lanes = defaultdict(list)
    for name, event in tasks.items():
        assert event["pid"] == machines[made[name].host or ""]
        lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for ends in lanes.values():
        ends.sort()
        assert all(one[1] <= two[0] + 1 for one, two in itertools.pairwise(ends))
    spans = {place: sorted(ends) for place, ends in lanes.items()}
    for event in events:
        if event.get("cat") == "phase":
            inside = spans[event["pid"], event["tid"]]
            assert any(a - 1 <= event["ts"] and event["ts"] + event["dur"] <= b + 1 for a, b in inside)
    calls = [event["dur"] for event in events if event["name"] == "call"]
    assert sum(calls) == pytest.approx(
        1e6 * sum(made[name].phase_call_wall_s or 0 for name in known), rel=1e-6
    )


def test_a_file_is_whole_or_as_it_was(home: Path, tmp_path: Path) -> None:
    """An export that fails leaves the old file and nothing else."""
    target = tmp_path / "out.csv"
    target.write_text("old")
    (tmp_path / "dir.jsonl").mkdir()
    ran = run_verb("export", "-o", str(target), "dir.jsonl", home=tmp_path)
    assert ran.code == 1
    assert "dir.jsonl cannot be read: Is a directory." in ran.err
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.jsonl", "out.csv"]
    ran = run_verb("export", "-o", "no/where.csv", str(home / "log.jsonl"), home=tmp_path)
    assert ran.code == 1
    assert "no/where.csv cannot be written: No such file or directory." in ran.err


@pytest.mark.parametrize("verb", [("export", "--format", "csv"), ("report",)], ids=lambda verb: verb[0])
def test_what_is_there_and_no_file_stays(home: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """A named pipe is written to and not replaced, a link is followed, and - is stdout."""
    log = str(home / "log.jsonl")
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to("target")
    with ThreadPoolExecutor() as threads:
        came = threads.submit(pipe.read_bytes)
        ran = run_verb(*verb, "-o", "pipe", log, home=tmp_path)
        assert (ran.out, ran.err, ran.code) == ("", "pipe: 1900 tasks.\n", 0)
        text = came.result(10).decode()
    assert pipe.is_fifo()
    assert run_verb(*verb, "-o", "link", log, home=tmp_path).code == 0
    assert link.is_symlink()
    assert target.read_text() == text
    assert run_verb(*verb, "-o", "-", log, home=tmp_path) == Ran(text, "", 0)
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("verb", ["log", "stats --json", "show 74b88fbe", "export", "report -o -"])
def test_a_stdout_without_room_is_said(home: Path, verb: str) -> None:
    """A full disk behind stdout is exit 1 and a sentence."""
    command = [sys.executable, "-m", "covalent_sshtiming", *verb.split(), "log.jsonl"]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            command, env=environment(home), cwd=home, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (ran.stderr, ran.returncode) == (
        b"Error: the output cannot be written: No space left on device.\n",
        1,
    )


def test_the_form_is_asked_for(home: Path) -> None:
    """A name that does not say the form is refused with what would."""
    ran = run_verb("export", "-o", "out.xlsx", "log.jsonl", home=home)
    assert ran.code == 2
    assert "'out.xlsx' does not say the form: end it in .csv, .parquet or .json" in " ".join(ran.err.split())


def test_a_reader_that_goes_away_is_no_traceback(home: Path) -> None:
    """`export | head -1` ends quietly."""
    command = f"{sys.executable} -m covalent_sshtiming export log.jsonl | head -n 1"
    shell = {**os.environ, "HOME": str(home)}
    ran = subprocess.run(
        ["sh", "-c", command], cwd=home, env=shell, capture_output=True, text=True, check=False
    )
    assert ran.stdout.startswith('"record_id",')
    assert ran.stderr == ""


def test_a_log_of_nothing_but_holes(tmp_path: Path) -> None:
    """Records without any figure make a CSV row, a Parquet row, and no event."""
    timings.write(tmp_path / "log.jsonl", [TimingRecord(kind="electron")])
    assert run_verb("export", "log.jsonl", home=tmp_path).out.count("\n") == 2
    assert run_verb("export", "-o", "a.parquet", "log.jsonl", home=tmp_path).code == 0
    ran = run_verb("export", "--format", "trace", "log.jsonl", home=tmp_path)
    assert json.loads(ran.out)["traceEvents"] == []
