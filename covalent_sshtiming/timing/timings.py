"""A log as a Python object: `covalent_sshtiming.read_log`, for scripts and notebooks."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from covalent_sshtiming.timing.reading import Reader, reader_of
from covalent_sshtiming.timing.record import FIELDS, TimingRecord

if TYPE_CHECKING:
    from covalent_sshtiming.timing.report import Summary


class Timings:
    """The records of a log, in the order of writing.

    Iterating reads the files anew, one record at a time; `records` reads them once and keeps them.
    Has the Arrow protocol, so that `polars.DataFrame(timings)` or `pyarrow.table(timings)` works; it needs
    pyarrow, which `covalent-sshtiming[parquet]` brings.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __iter__(self) -> Iterator[TimingRecord]:
        return Reader(self._reader.files).records()

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def records(self) -> list[TimingRecord]:
        """All records; 2 KB of memory for each."""
        return list(self._reader.records())

    @property
    def bad_lines(self) -> int:
        """How many lines are no record: foreign, or torn."""
        _ = self.records
        return self._reader.bad_lines

    def summary(self, by: str | Sequence[str] = ("function",)) -> Summary:
        """Return count, failures and costs for each group, as the verb `stats` shows them.

        Args:
            by: the field or fields to group by, such as function, host, dispatch_id and status.

        Raises:
            ValueError: for what is no field of a record.
        """
        from covalent_sshtiming.timing.report import NEEDED, summarise

        names = (by,) if isinstance(by, str) else tuple(by)
        for name in names:
            if name not in FIELDS:
                raise ValueError(f"{name!r:.80} is no field of a record; one is {', '.join(FIELDS[:6])}, ...")
        return summarise(self._reader.rows({*NEEDED, *names}), names)

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table with the record's own types.

        Raises:
            ModuleNotFoundError: without pyarrow; it names the extra that brings it.
        """
        from covalent_sshtiming.timing.columns import table

        return table(self._reader)

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame, a row for each record; times of day stay text.

        Raises:
            ModuleNotFoundError: without pandas.
        """
        import pandas as pd

        return pd.DataFrame([record.to_dict() for record in self])

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the records over by Arrow's C stream interface."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return self.summary().to_html()


def read_log(path: str | os.PathLike[str]) -> Timings:
    """Read a timing log.

    Args:
        path: either of the log's names, or a glob; files may be compressed by gzip. A log's shards belong
            to it. What follows the last newline is still being written, or was cut off, and is left alone.

    Raises:
        FileNotFoundError: if nothing was ever logged there. It names the file that was looked for.
    """
    return Timings(reader_of(path))
