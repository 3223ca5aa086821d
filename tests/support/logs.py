"""Records for a log, which of them a log holds, and processes that write to it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from covalent_sshtiming.timing.record import MAX_TEXT, TimingRecord
from covalent_sshtiming.timing.timings import read_log

TEXT_FIELDS = [f.name for f in fields(TimingRecord) if f.type == "str | None" and f.name != "record_id"][:15]


def record_of(record_id: str, **values: Any) -> TimingRecord:
    """An electron's record with a sentence to it."""
    known = {"kind": "electron", "dispatch_id": "d", "node_id": 1, "cpu_s": 0.5, **values}
    return TimingRecord(record_id=record_id, **known)


def ids(path: Path) -> list[str | None]:
    """Which records a log holds."""
    return [record.record_id for record in read_log(path).records]


def padded(record_id: str, size: int) -> TimingRecord:
    """A record with about this many bytes of text in it."""
    sizes = (min(MAX_TEXT, max(0, size - i * MAX_TEXT)) for i in range(len(TEXT_FIELDS)))
    texts: dict[str, Any] = {name: "x" * n for name, n in zip(TEXT_FIELDS, sizes, strict=True)}
    return TimingRecord(record_id=record_id, **texts)


def run_all(processes: list[Any]) -> None:
    """Start processes, and see each of them end well."""
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)
