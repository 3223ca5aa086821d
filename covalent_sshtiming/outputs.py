"""Outputs: what a task prints, in local files, while it runs.

Owns `log_stdout` and `log_stderr`: their names, their order of writing, and what is said where one
of them cannot be written. Writing happens in a thread, one batch after the other; whoever has
something to write only leaves it here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def place(name: str, results_dir: str, dispatch_id: str, node_id: int) -> Path | None:
    """Return the file that a setting names for one task; None where it names none.

    `{dispatch_id}` and `{node_id}` in the name keep the tasks of a fan-out apart. A relative name
    lies in the dispatch's directory below `results_dir`.
    """
    if not name:
        return None
    name = name.replace("{dispatch_id}", dispatch_id).replace("{node_id}", str(node_id))
    return Path(results_dir, dispatch_id).expanduser() / Path(name).expanduser()


class Outputs:
    """The files of one task, by descriptor: 1 is stdout, 2 is stderr."""

    def __init__(self, paths: Mapping[int, Path | None]) -> None:
        self._paths = {number: path for number, path in paths.items() if path is not None}
        self._waiting: list[tuple[int, bytes]] = []
        self._writer: asyncio.Task[None] | None = None
        self._failures: dict[int, OSError] = {}

    def __bool__(self) -> bool:
        """Whether there is any file to write to."""
        return bool(self._paths)

    def put(self, number: int, data: bytes) -> None:
        """Leave something to be appended to one of the files; without such a file it is dropped."""
        if number not in self._paths or not data:
            return
        self._waiting.append((number, data))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write_all())

    async def finish(self) -> str:
        """Wait until all is written; return a sentence for each file that could not be, or ""."""
        while self._writer is not None and not self._writer.done():
            with suppress(asyncio.CancelledError):  # of who waits here: all is written first
                await asyncio.shield(self._writer)
        return "".join(
            f"warning: {self._paths[number]} cannot be written: {error.strerror}\n"
            for number, error in sorted(self._failures.items())
        )

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._append, batch)

    def _append(self, batch: list[tuple[int, bytes]]) -> None:
        for number, path in self._paths.items():
            data = b"".join(piece for which, piece in batch if which == number)
            if data and number not in self._failures:
                try:
                    _append_to(path, data)
                except OSError as error:
                    self._failures[number] = error


def _append_to(path: Path, data: bytes) -> None:
    with suppress(FileExistsError):  # opening the file explains better what stands in its way
        path.parent.mkdir(parents=True)
    # Not to wait for ever for somebody to read from a named pipe.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
    try:
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)
