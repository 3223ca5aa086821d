"""A log in the forms of other programs: CSV and Parquet with every field, Chrome trace.

A file appears under its name only when it is whole; one that was there stays as it is until then.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING

from covalent_sshtiming.timing import separated
from covalent_sshtiming.timing.record import FIELDS
from covalent_sshtiming.timing.report import SELECTED_BY
from covalent_sshtiming.timing.trace import NEEDED, trace

if TYPE_CHECKING:
    from covalent_sshtiming.timing.reading import Reader
    from covalent_sshtiming.timing.report import Selection

_TOGETHER = 1000
Writer = Callable[["Reader", "Selection", IO[bytes]], int]


def to_csv(log: Reader, chosen: Selection, out: IO[bytes]) -> int:
    """Write CSV in UTF-8, every field of the record in a column; return how many tasks."""
    out.write(separated.row(FIELDS))
    values = attrgetter(*FIELDS)
    count, some = 0, []
    for row in chosen.of(log.rows(FIELDS)):
        some.append(separated.row(values(row)))
        count += 1
        if not count % _TOGETHER:
            out.write(b"".join(some))
            some.clear()
    out.write(b"".join(some))
    return count


def to_parquet(log: Reader, chosen: Selection, out: IO[bytes]) -> int:
    """Write Parquet with the explicit schema; return how many tasks.

    Raises:
        ModuleNotFoundError: without pyarrow; it names the extra that brings it.
    """
    from covalent_sshtiming.timing import columns

    columns.arrow()
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetWriter(out, columns.schema()) as writer:
        for batch in columns.batches(chosen.of(log.rows(FIELDS))):
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def to_trace(log: Reader, chosen: Selection, out: IO[bytes]) -> int:
    """Write a Chrome trace; return how many tasks are in it."""
    count = 0
    for text, tasks in trace(chosen.of(log.rows({*NEEDED, *SELECTED_BY}))):
        out.write(text)
        count += tasks
    return count


WRITERS: dict[str, Writer] = {"csv": to_csv, "parquet": to_parquet, "trace": to_trace}
SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".json": "trace"}


class Unwritable(OSError):
    """A file that cannot be made; it is the one that was asked for."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when the block has ended well, and else is gone.

    Of a link, what it leads to is written. What is there and is no file, such as a pipe, stays
    and is written to.

    Raises:
        Unwritable: if there can be no such file, or not the whole of it; for any OSError of the block's, too.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            with _put_in_place(path.resolve()) as file:
                yield file
    except OSError as error:
        raise Unwritable(error.errno, error.strerror, str(path)) from error


@contextmanager
def _put_in_place(path: Path) -> Iterator[IO[bytes]]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        umask = os.umask(0o077)
        os.umask(umask)
        part.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
