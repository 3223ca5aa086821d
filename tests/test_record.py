"""The record: what it writes, what it accepts, and what it says in one sentence."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from covalent_sshtiming.timing.record import MAX_TEXT, SCHEMA, TimingRecord

GOLDEN = Path(__file__).parent / "golden"


def line_with(**values: Any) -> str:
    """A line as some other writer may have left it."""
    return json.dumps({"schema": SCHEMA, **values})


def golden(name: str) -> str:
    """Return a line that was written once and is never changed."""
    return (GOLDEN / name).read_text()


def test_golden_record_still_reads() -> None:
    """A line in which each field of the first release has a value keeps every one of its keys and values."""
    line = golden("record-1.jsonl")
    kept = json.loads(TimingRecord.from_json(line).to_json())
    assert json.loads(line).items() <= kept.items()
    assert None not in json.loads(line).values()


def test_golden_run_still_reads() -> None:
    """The line of a real run of the first release comes out as it went in, in the same order of keys."""
    line = golden("record-1-run.jsonl")
    kept = json.loads(TimingRecord.from_json(line).to_json())
    assert json.loads(line).items() <= kept.items()
    assert [key for key in kept if key in json.loads(line)] == list(json.loads(line))


def test_golden_line_of_a_newer_release_reads() -> None:
    """A line with fields that this release does not know is read without them."""
    assert TimingRecord.from_json(golden("record-1-newer.jsonl")) == TimingRecord.from_json(
        golden("record-1-run.jsonl")
    )
    assert "gpu_s" in json.loads(golden("record-1-newer.jsonl"))


def test_golden_line_of_an_older_release_reads() -> None:
    """A line that lacks fields which came later is read, with None for each of them."""
    line = golden("record-1-older.jsonl")
    record = TimingRecord.from_json(line).to_dict()
    lacking = record.keys() - json.loads(line).keys()
    assert {"memory_peak_bytes", "steal_s", "ran_locally"} <= lacking
    assert {record[name] for name in lacking} == {None}
    assert json.loads(line).items() <= record.items()


def test_every_key_is_on_every_line() -> None:
    """A record of which nothing is known has all the keys of a full one, in the order of the fields."""
    empty = json.loads(TimingRecord().to_json())
    assert list(empty) == [f.name for f in fields(TimingRecord)]
    assert empty.pop("schema") == "sshtiming.task/1"
    assert set(empty.values()) == {None}


def test_record_survives_json() -> None:
    """What is written is read back as an equal record, digits included."""
    record = TimingRecord(node_id=0, cpu_s=0.1 + 0.2, cpu_complete=False, function="größe", wall_s=1e-7)
    assert TimingRecord.from_json(record.to_json()) == record


def test_line_is_one_line_of_ascii_json() -> None:
    """Nothing in a record can break its line, and nothing in the line is padding."""
    line = TimingRecord(function="a\nb\u2028c", hostname="ü").to_json()
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert ": " not in line
    assert ", " not in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400])
def test_number_that_json_cannot_hold_becomes_null(value: float) -> None:
    """A figure that is not finite is written as not available."""
    assert json.loads(TimingRecord(cpu_s=value).to_json())["cpu_s"] is None


def test_text_of_a_stranger_is_stripped_and_capped() -> None:
    """Escape sequences, line breaks, surrogates and megabytes do not get into a record or out of one."""
    hostile = "\x1b[31mred\x07\r\n\x00\x9b\u202e\ud800" + "x" * 10_000
    read = TimingRecord.from_json(line_with(hostname=hostile)).hostname
    written = json.loads(TimingRecord(hostname=hostile).to_json())["hostname"]
    assert read == written
    assert read is not None
    assert read.startswith("[31mredxxx")
    assert len(read) <= MAX_TEXT


def test_unknown_field_is_ignored() -> None:
    """A field that a later version added does not keep this one from reading the record."""
    record = TimingRecord.from_json(line_with(cpu_s=1.5, gpu_s=3))
    assert record == TimingRecord(cpu_s=1.5)
    assert "gpu_s" not in record.to_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_s", "1.5"),
        ("cpu_s", True),
        ("cpu_s", [1]),
        ("node_id", "3"),
        ("node_id", 1.5),
        ("node_id", True),
        ("read_bytes", 2**64),
        ("read_bytes", float("nan")),
        ("cpu_complete", 1),
        ("hostname", 7),
        ("hostname", {"a": 1}),
    ],
)
def test_value_of_a_wrong_type_becomes_none(name: str, value: object) -> None:
    """One senseless value costs its own field and no other."""
    record = TimingRecord.from_mapping({name: value, "function": "f"})
    assert record == TimingRecord(function="f")


@pytest.mark.parametrize(
    ("name", "value", "kept"), [("cpu_s", 2, "2.0"), ("node_id", 3.0, "3"), ("rss_peak_bytes", 0, "0")]
)
def test_number_takes_the_type_of_its_field(name: str, value: float, kept: str) -> None:
    """Whole seconds stay floats and counts stay integers, whichever way JSON spelt them."""
    assert repr(getattr(TimingRecord.from_mapping({name: value}), name)) == kept


def test_mapping_without_a_schema_is_taken_for_ours() -> None:
    """Figures that were never in a log need no schema; a line in one does."""
    assert TimingRecord.from_mapping({"cpu_s": 1.0}).schema == SCHEMA
    with pytest.raises(ValueError, match="This record's schema is None"):
        TimingRecord.from_json('{"cpu_s": 1.0}')


def test_minor_version_of_the_schema_is_read() -> None:
    """A later minor version is read, and becomes a record of this one."""
    record = TimingRecord.from_json(line_with(schema="sshtiming.task/1.7", cpu_s=1.0))
    assert record == TimingRecord(cpu_s=1.0)


@pytest.mark.parametrize("form", ["line", "mapping"])
@pytest.mark.parametrize("schema", ["sshtiming.task/2", "sshtiming.task/10", "other/1", 1])
def test_other_schema_is_refused(schema: object, form: str) -> None:
    """A record whose fields may mean something else is not read as if they did not."""
    line = line_with(schema=schema)
    with pytest.raises(ValueError, match="schema is") as caught:
        TimingRecord.from_json(line) if form == "line" else TimingRecord.from_mapping(json.loads(line))
    assert str(caught.value) == (
        f"This record's schema is {schema!r}, but this covalent-sshtiming reads 'sshtiming.task/1'; "
        "read it with the version that wrote it."
    )


@pytest.mark.parametrize("line", ["", "nonsense", '{"schema":', "[]", "3", "null", "[" * 200_000])
def test_line_that_is_no_record_is_a_value_error(line: str) -> None:
    """Whatever a line holds, it is a record or a ValueError."""
    with pytest.raises(ValueError, match=r"line|Expecting"):
        TimingRecord.from_json(line)


def test_sentence_is_that_of_the_how_to() -> None:
    """The sentence names node, dispatch and CPU time with every digit."""
    record = TimingRecord(node_id=2, dispatch_id="d-1", cpu_s=0.1 + 0.2)
    assert record.sentence() == "Node 2 in dispatch d-1 took 0.30000000000000004s of CPU time."


def test_record_without_cpu_time_has_no_sentence() -> None:
    """No CPU time is no sentence, while zero CPU time is one."""
    record = TimingRecord(node_id=2, dispatch_id="d-1")
    assert record.sentence() == ""
    assert replace(record, cpu_s=float("nan")).sentence() == ""
    assert replace(record, cpu_s=0.0).sentence() == "Node 2 in dispatch d-1 took 0.0s of CPU time."
