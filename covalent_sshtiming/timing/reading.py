"""Reading a log: each line as a record, or only those of its fields that somebody wants.

A hundred thousand records are 200 MB of JSON. The standard library takes 1.7 s to parse them and the
record's own checks 2.5 s more, so lines are decoded by msgspec into the wanted fields alone, in 0.2 s. What
msgspec refuses goes the slow way by `TimingRecord.from_json`, and what both accept is equal.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import msgspec

from covalent_sshtiming.timing.files import files_of, lines
from covalent_sshtiming.timing.record import (
    FIELDS,
    MAX_REAL,
    MAX_TEXT,
    SCHEMA,
    SCHEMA_NAME,
    OtherSchema,
    TimingRecord,
    printable,
)

_MAX_INT = 2**63 - 1
_TYPES: dict[str, Any] = {
    "str": str | None,
    "float": Annotated[float, msgspec.Meta(ge=-MAX_REAL, le=MAX_REAL)] | None,
    "int": Annotated[int, msgspec.Meta(ge=-_MAX_INT, le=_MAX_INT)] | None,
    "bool": bool | None,
}
_SENTENCE = re.compile(rb"Node (-?\d{1,18}|None) in dispatch (\S+) took ([0-9.e+-]{1,40})s of CPU time\.\s*")

# A record, or a part of one: an attribute for each field that was asked for.
Row = Any


class Reader:
    """The records of some files, as often as one likes.

    Attributes:
        files: what is read, in this order.
        bad_lines: how many lines of the last pass were no record that can be read.
        others: how many of these were records of another schema, by its name.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.bad_lines = 0
        self.others: Counter[str] = Counter()

    def rows(self, names: Iterable[str]) -> Iterator[Row]:
        """Yield of each record the fields of these names, as attributes."""
        for _, row in self._pairs(names):
            yield row

    def _pairs(self, names: Iterable[str]) -> Iterator[tuple[bytes, Row]]:
        """Yield each line that is a record, and what of it was asked for; count the others."""
        decode = decoder(frozenset(names))
        self.bad_lines = 0
        self.others.clear()
        for line in lines(self.files):
            row = decode(line)
            if row is not None:
                yield line, row
                continue
            self.bad_lines += 1
            other = _other_schema(line)
            if other is not None:
                self.others[other] += 1

    def find(self, prefix: str) -> list[TimingRecord]:
        """Return the records whose id begins so; of several with one id, the last."""
        whole = decoder(frozenset(FIELDS))
        found: dict[str, TimingRecord] = {}
        for line, row in self._pairs({"record_id"}):
            if row.record_id is not None and row.record_id.startswith(prefix):
                found[row.record_id] = record_of(whole(line))
        return list(found.values())

    def records(self) -> Iterator[TimingRecord]:
        """Yield each record whole."""
        for row in self.rows(FIELDS):
            yield record_of(row)


def reader_of(*paths: str | os.PathLike[str]) -> Reader:
    """Return the reader of a log, given either of its names or a glob; or of several.

    Raises:
        FileNotFoundError: if nothing is there. It names the file that was looked for.
    """
    return Reader(list(dict.fromkeys(file for path in paths for file in files_of(path))))


def record_of(row: Row) -> TimingRecord:
    """Return a row of all fields as a record."""
    return TimingRecord(**{name: getattr(row, name) for name in FIELDS})


@functools.cache
def decoder(names: frozenset[str]) -> Callable[[bytes], Row | None]:
    """Return the function from a line to a row of these fields, or to None for a line that is no record."""
    wanted = [(f.name, _TYPES[f.type.removesuffix(" | None")], None) for f in _fields() if f.name in names]
    texts = [name for name, kind, _ in wanted if kind == _TYPES["str"]]
    row_type = msgspec.defstruct("Row", [("schema", str), *wanted], gc=False)
    fast: Callable[[bytes], Row] = msgspec.json.Decoder(row_type).decode
    # Refused by the fast way: invalid in fields that nobody asked for, an integer spelt 3.0, one value of a
    # wrong type. The slow way tells these apart, and is the one that defines what a record is.
    refused = (msgspec.MsgspecError, RecursionError, UnicodeError)

    def slow(line: bytes) -> Row | None:
        try:
            record = TimingRecord.from_json(line.decode())
        except ValueError:
            record_or_none = _said(line)
            if record_or_none is None:
                return None
            record = record_or_none
        return row_type(schema=SCHEMA, **{name: getattr(record, name) for name, _, _ in wanted})

    def decode(line: bytes) -> Row | None:
        if not line.isascii():
            return slow(line)
        try:
            row = fast(line)
        except refused:
            return slow(line)
        if row.schema != SCHEMA:
            return slow(line)
        if b"\\" in line or b"\x7f" in line or len(line) > MAX_TEXT:
            for name in texts:
                setattr(row, name, printable(getattr(row, name)))
        return row

    return decode


def _other_schema(line: bytes) -> str | None:
    """Return the schema of a line that is a record of ours, by another version."""
    if SCHEMA_NAME.encode() not in line:
        return None
    try:
        TimingRecord.from_json(line.decode("utf-8", "replace"))
    except OtherSchema as error:
        return error.schema
    except ValueError:
        pass
    return None


def _fields() -> list[Any]:
    return [f for f in fields(TimingRecord) if f.init]


def _said(line: bytes) -> TimingRecord | None:
    """Return what a line of sentences says, as far as that goes."""
    match = _SENTENCE.fullmatch(line)
    if match is None:
        return None
    node, dispatch, cpu = (part.decode("utf-8", "replace") for part in match.groups())
    try:
        values = {"dispatch_id": dispatch, "node_id": None if node == "None" else int(node)}
        return TimingRecord.from_mapping({**values, "cpu_s": float(cpu), "kind": "electron"})
    except ValueError:
        return None
