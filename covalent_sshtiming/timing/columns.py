"""The record's explicit schema, as Arrow has it, and a log in that form.

Explicit because readers guess: one takes a column for empty that is null in its first hundred rows, another
drops a field that it first sees later. Needs pyarrow, which is an extra.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any

from covalent_sshtiming.timing.reading import Reader
from covalent_sshtiming.timing.record import FIELDS, SCHEMA, TimingRecord

_ROWS_AT_ONCE = 10_000
_TYPES = {
    f.name: f.type.removesuffix(" | None") for f in fields(TimingRecord) if f.init and isinstance(f.type, str)
}


def arrow() -> Any:
    """Return the pyarrow module.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pyarrow is needed for this: python -m pip install 'covalent-sshtiming[parquet]'.",
            name="pyarrow",
        ) from error
    return pa


def schema() -> Any:
    """Return the record as a pyarrow.Schema: times as UTC timestamps, whole numbers of 64 bits."""
    pa = arrow()
    kinds = {"str": pa.string(), "float": pa.float64(), "int": pa.int64(), "bool": pa.bool_()}
    moment = pa.timestamp("us", tz="UTC")
    columns = [(name, moment if name.endswith("_at") else kinds[_TYPES[name]]) for name in FIELDS]
    return pa.schema(columns, metadata={"schema": SCHEMA})


def batches(rows: Iterable[Any]) -> Iterator[Any]:
    """Yield rows of all fields as pyarrow.RecordBatch, some thousand at a time."""
    pa = arrow()
    types = schema()
    values = attrgetter(*FIELDS)
    rows = iter(rows)
    while some := [values(row) for row in itertools.islice(rows, _ROWS_AT_ONCE)]:
        columns = zip(*some, strict=True)
        arrays = [_array(pa, column, kind) for column, kind in zip(columns, types.types, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=types)


def _array(pa: Any, values: tuple[Any, ...], kind: Any) -> Any:
    if not pa.types.is_timestamp(kind):
        return pa.array(values, kind)
    try:
        return pa.array(values, pa.string()).cast(kind)
    except pa.ArrowInvalid:  # some are no time: a stranger's, or another writer's
        from covalent_sshtiming.timing.units import seconds_of

        micros = [None if (one := seconds_of(value)) is None else round(one * 1e6) for value in values]
        return pa.array(micros, pa.int64()).cast(kind)


def table(log: Reader) -> Any:
    """Return a log as a pyarrow.Table."""
    return arrow().Table.from_batches(batches(log.rows(FIELDS)), schema=schema())
