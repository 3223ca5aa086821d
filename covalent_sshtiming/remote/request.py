"""A task's request: where each part of it lies in the file that came from the near end.

Owns the order of the parts, and that a small request is read at once. What they are for is `worker`'s.
"""

import io
import json
import os
from typing import Any, BinaryIO, Callable, Dict

from . import places

SMALL = 64 * 1024  # bytes of a request that is read at once


class Request:
    """A request: the spec, and each pickled part at its offset."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._skip_head()
        self.spec: "Dict[str, Any]" = json.loads(self._file.read(self._number()).decode("utf-8"))
        self._at = self._file.tell()

    @classmethod
    def at(cls, path: str) -> "Request":
        """Open a request file; a small one is in memory then."""
        handle = places.open_file(path)
        beginning = os.read(handle, SMALL)
        if len(beginning) < SMALL:
            os.close(handle)
            return cls(io.BytesIO(beginning))
        os.lseek(handle, 0, os.SEEK_SET)
        return cls(os.fdopen(handle, "rb"))

    def _number(self) -> int:
        return int.from_bytes(self._file.read(4), "big")

    def _skip_head(self) -> None:
        self._file.seek(4 + self._number())

    def take(self, size: int) -> "Callable[[], Any]":
        """Return a function that unpickles the next `size` bytes."""
        at, self._at = self._at, self._at + size

        def load() -> Any:
            import cloudpickle

            self._file.seek(at)
            return cloudpickle.load(self._file)

        return load

    def keep(self, size: int) -> "Callable[[], Any]":
        """Return a function that unpickles the next `size` bytes, which are read into memory now."""
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += size

        def load() -> Any:
            import cloudpickle

            return cloudpickle.loads(data)

        return load

    def rest(self) -> BinaryIO:
        """Return the file at what comes behind all pickled parts."""
        spec = self.spec
        hooks_of = [hook["parts"] for hook in (*spec["before"], *spec["after"])]
        sizes = [spec["function_size"], *spec["args"], *(size for _, size in spec["kwargs"])]
        self._file.seek(self._at + sum(sizes) + sum(map(sum, hooks_of)))
        return self._file

    def close(self) -> None:
        """Let go of the file, which is already gone from the directory."""
        self._file.close()
