"""Reading a log from Python: the quick way equals the slow one, groups, and what notebooks and tables get."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import timings

import covalent_sshtiming
from covalent_sshtiming.timing import files, report, units
from covalent_sshtiming.timing.reading import decoder, reader_of, record_of
from covalent_sshtiming.timing.record import FIELDS, SCHEMA, TimingRecord

WHOLE = decoder(frozenset(FIELDS))

_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\x1b[31m", "\x7f", "\u202e", "\ud800", "ü", "x" * 5000, 3.0, 10**400, [], {"a": [1]}]),
)


def slowly(line: bytes) -> TimingRecord | None:
    """Return what the record itself makes of a line."""
    try:
        return TimingRecord.from_json(line.decode())
    except ValueError:
        return None


@given(
    st.dictionaries(st.sampled_from([*FIELDS, "schema", "gpu_s"]), _VALUES, max_size=12),
    st.sampled_from([SCHEMA, SCHEMA, SCHEMA, f"{SCHEMA}.4", "sshtiming.task/2", None]),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_quick_and_slow_reading_agree(values: dict[str, Any], schema: str | None, ascii_only: bool) -> None:
    """Whatever a line holds, decoding it quickly gives the record that `from_json` gives, or neither does."""
    text = json.dumps({"schema": schema, **values}, ensure_ascii=ascii_only)
    line = text.encode("utf-8", "surrogatepass") + b"\n"
    row = WHOLE(line)
    assert (None if row is None else record_of(row)) == slowly(line)


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 2000))
@settings(max_examples=300, deadline=None)
def test_damaged_lines_agree(junk: bytes, start: int, length: int) -> None:
    """A record with a hole in it, or with anything in that hole, is read alike by both ways."""
    line = timings.records(1)[0].to_json().encode()
    damaged = (line[:start] + junk + line[start + length :]).replace(b"\n", b" ") + b"\n"
    row = WHOLE(damaged)
    # What skips a field that nobody knows does not look into it, so the quick way may read a little more.
    slow = slowly(damaged)
    assert slow is None or (row is not None and record_of(row) == slow)


def test_some_fields_are_those_of_the_whole() -> None:
    """A row of a few fields has the values that the record has, and nothing else."""
    line = timings.records(1)[0].to_json().encode() + b"\n"
    row, whole = decoder(frozenset({"function", "cpu_s"}))(line), slowly(line)
    assert row is not None
    assert whole is not None
    assert (row.function, row.cpu_s) == (whole.function, whole.cpu_s)
    assert not hasattr(row, "wall_s")


def test_line_without_end_is_not_kept_in_memory(tmp_path: Path) -> None:
    """A file of hundreds of megabytes without a newline is one bad line, and costs no memory."""
    path = tmp_path / "log.jsonl"
    with path.open("wb") as file:
        file.write(timings.records(1)[0].to_json().encode() + b"\n")
        file.truncate(300 * 2**20)
        file.seek(0, 2)
        file.write(b"\n")
    tracemalloc.start()
    read = covalent_sshtiming.read_log(path)
    found = (len(read), read.bad_lines)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == (1, 1)
    assert peak < 10 * 2**20


def test_following_keeps_no_line_without_end_in_memory(tmp_path: Path) -> None:
    """`log -f` goes past what is no line, however long, to the record behind it."""
    record = timings.records(1)[0].to_json().encode() + b"\n"
    with (tmp_path / "log.jsonl").open("wb") as file:
        file.truncate(100 * 2**20)
        file.seek(0, 2)
        file.write(b"\n" + record)
    tail = files.Tail([tmp_path / "log.jsonl"])
    tracemalloc.start()
    *_, last = tail.new()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last == record
    assert peak < 10 * 2**20
    assert list(tail.new()) == []


def test_files_of_a_glob_leave_out_sentences_whose_records_are_there(tmp_path: Path) -> None:
    """A glob that fits both files of a log means its records once."""
    for name in ("a.log", "a.log.jsonl", "b.log", "c.log.jsonl.gz"):
        (tmp_path / name).touch()
    found = [path.name for path in files.files_of(tmp_path / "*log*")]
    assert found == ["a.log.jsonl", "b.log", "c.log.jsonl.gz"]


def test_quantiles_are_numpys() -> None:
    """Median and percentiles are those of linear interpolation, for any number of values."""
    dice = random.Random(3)
    for count in (1, 2, 3, 4, 7, 100):
        values = sorted(dice.expovariate(1) for _ in range(count))
        for part in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0):
            assert report.quantile(values, part) == pytest.approx(np.quantile(values, part))
    assert report.quantile([], 0.5) is None


def test_failed_tasks_count_in_totals_and_not_in_medians() -> None:
    """What was broken off has cost its CPU time, and says nothing of what the function takes."""
    rows = [
        TimingRecord(function="f", status=status, cpu_s=cpu, wall_s=1.0, cores_available=4)
        for status, cpu in (("completed", 2.0), ("completed", 4.0), ("killed", 100.0), ("cancelled", 10.0))
    ]
    (group,) = report.summarise([*rows, TimingRecord(function="f", status="lost")], ["function"]).groups
    assert (group.count, group.failed) == (5, 2)
    assert (group.cpu_s_median, group.cpu_s_total) == (3.0, 116.0)
    assert group.efficiency == pytest.approx(116 / 16)


def test_nothing_known_is_none_and_not_zero() -> None:
    """A group of which no figure is known has no figures."""
    (group,) = report.summarise([TimingRecord(function="f")], ["function"]).groups
    assert (group.cpu_s_total, group.cpu_s_median, group.wall_s_total) == (None, None, None)
    assert (group.efficiency, group.cpu_share) == (None, None)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, lambda one: one.kind == "electron"),
        ({"helpers": True}, lambda one: one.kind in ("electron", "helper")),
        ({"node": 3}, lambda one: one.node_id == 3),
        (
            {"dispatch": "f0da37ba-fe"},
            lambda one: one.dispatch_id[:11] == "f0da37ba-fe" and one.node_id % 20 < 19,
        ),
        ({"host": "build*", "function": "relax"}, lambda one: one.function == "relax" and one.host[0] == "b"),
        ({"status": frozenset({"failed"}), "helpers": True}, lambda one: one.status == "failed"),
        (
            {"since": "2026-11-20T12:00", "until": "2026-11-20T14:00", "helpers": True},
            lambda one: one.submitted_at[:13] in ("2026-11-20T12", "2026-11-20T13"),
        ),
    ],
)
def test_selection(wanted: dict[str, Any], fits: Callable[[Any], bool]) -> None:
    """Each condition leaves what fits it, and all of them hold together."""
    found = list(report.Selection(**wanted).of(timings.records()))
    assert found == [one for one in timings.records() if fits(one)] != []


NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2h", "2026-11-24T10:00:00.000000Z"),
        ("30m", "2026-11-24T11:30:00.000000Z"),
        ("1.5d", "2026-11-23T00:00:00.000000Z"),
        ("2026-11-20", "2026-11-20T00:00:00.000000Z"),
        ("2026-11-20T08:30", "2026-11-20T08:30:00.000000Z"),
        ("2026-11-20T08:30:00+02:00", "2026-11-20T06:30:00.000000Z"),
        ("2026-11-20T08:30:00Z", "2026-11-20T08:30:00.000000Z"),
    ],
)
def test_times_that_people_write(text: str, meant: str) -> None:
    """Ages count from now, times without an offset are UTC."""
    assert units.instant(text, NOW) == meant


@pytest.mark.parametrize("text", ["", "soon", "2x", "h", "-2h", "1e999d", "20-11-2026"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Anything else is refused, with what to write."""
    with pytest.raises(ValueError, match="is no time: write an age such as 30m, 2h or 7d"):
        units.instant(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0 s"),
        (1.8e-5, "18 µs"),
        (0.0123, "12.3 ms"),
        (1.5, "1.50 s"),
        (119.0, "119.00 s"),
        (150.0, "2.5 min"),
        (9000.0, "2.5 h"),
        (200000.0, "2.3 d"),
    ],
)
def test_durations_in_words(seconds: float | None, text: str) -> None:
    """A duration has the unit in which it is a small number."""
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**31, "2.0 GiB")]
)
def test_sizes_in_words(count: int | None, text: str) -> None:
    """A size has a binary unit."""
    assert units.size(count) == text


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of 2,000 tasks."""
    return timings.write(tmp_path_factory.mktemp("log") / "timing.jsonl", timings.records())


def test_read_log_gives_typed_records(log: Path) -> None:
    """Iterating gives the records, as often as one likes."""
    read = covalent_sshtiming.read_log(log)
    assert list(read) == list(read) == read.records == timings.records()
    assert (len(read), read.bad_lines) == (2000, 0)


def test_read_log_of_nothing_is_an_error_at_once(tmp_path: Path) -> None:
    """A log that is not there is an error when it is opened, not when it is first read."""
    with pytest.raises(FileNotFoundError):
        covalent_sshtiming.read_log(tmp_path / "no.jsonl")


def test_records_and_summaries_render_in_notebooks() -> None:
    """A record and a summary are HTML tables, in which a function's name is text."""
    record = TimingRecord(function="<script>alert(1)</script>", cpu_s=1.5, status="completed")
    for html in (record._repr_html_(), report.summarise([record], ["function"])._repr_html_()):
        assert html.startswith("<table>")
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "<script" not in html
    assert "wall_s" not in record._repr_html_()


def test_a_summary_is_by_fields(log: Path) -> None:
    """One field may be named alone; what is no field is an error that says so."""
    found = covalent_sshtiming.read_log(log)
    assert found.summary("host").to_dicts() == found.summary(["host"]).to_dicts()
    with pytest.raises(ValueError, match=r"'colour' is no field of a record; one is record_id, dispatch_id"):
        found.summary(["host", "colour"])


def test_a_log_renders_in_notebooks(log: Path) -> None:
    """A log is its summary by function."""
    assert "<td>anneal</td>" in covalent_sshtiming.read_log(log)._repr_html_()


def test_pandas_gets_every_field(log: Path) -> None:
    """A data frame has a row for each record and a column for each field."""
    frame = covalent_sshtiming.read_log(log).to_pandas()
    assert frame.shape == (2000, len(FIELDS) + 1)
    assert frame["cpu_s"].sum() == pytest.approx(sum(one.cpu_s or 0 for one in timings.records()))


def test_arrow_has_the_explicit_schema(log: Path) -> None:
    """Arrow gets the record's own types, also for a column that is always null, by its C interface too."""
    import pyarrow as pa

    read = covalent_sshtiming.read_log(log)
    table = pa.table(read)
    assert table.num_rows == 2000
    kinds = {field.name: str(field.type) for field in table.schema}
    assert list(kinds) == list(FIELDS)
    assert kinds["cpu_cgroup_s"] == "double"
    assert kinds["memory_peak_bytes"] == "int64"
    assert kinds["cpu_complete"] == "bool"
    assert kinds["submitted_at"] == "timestamp[us, tz=UTC]"
    assert table.column("cpu_s").to_pylist() == [one.cpu_s for one in timings.records()]
    first = table.column("submitted_at")[0].as_py().isoformat(timespec="microseconds")
    assert first.replace("+00:00", "Z") == timings.records()[0].submitted_at


def test_times_that_are_none_are_null_in_arrow(tmp_path: Path) -> None:
    """One senseless time of day costs itself, and no other."""
    made = [TimingRecord(started_at=text) for text in ("soon", "2026-11-24T08:34:24.5Z", None, "2026-11-24")]
    table = covalent_sshtiming.read_log(timings.write(tmp_path / "log.jsonl", made)).to_arrow()
    got = [value and value.isoformat() for value in table.column("started_at").to_pylist()]
    assert got == [None, "2026-11-24T08:34:24.500000+00:00", None, "2026-11-24T00:00:00+00:00"]


def test_without_pyarrow_the_extra_is_named(log: Path) -> None:
    """Where pyarrow is missing, the error is the command that installs it."""
    code = (
        "import sys; sys.modules['pyarrow'] = None; import covalent_sshtiming; "
        "covalent_sshtiming.read_log(sys.argv[1]).to_arrow()"
    )
    ran = subprocess.run([sys.executable, "-c", code, log], capture_output=True, text=True, check=False)
    assert "python -m pip install 'covalent-sshtiming[parquet]'" in ran.stderr


def test_ids_are_found_by_their_beginning(log: Path) -> None:
    """An id's beginning finds every record that has it, and one id is one record."""
    record = timings.records()[5]
    assert reader_of(log, log).find((record.record_id or "")[:12]) == [record]
    assert reader_of(log).find("ü") == []
