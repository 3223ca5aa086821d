"""The pump: what a task prints, from a pipe into a file that cannot grow without end.

Owns one stream's file. The first `HEAD` bytes stay, the last `TAIL` are kept in a ring behind
them, what was between is dropped and counted. Offsets are stream offsets, so a reader that knows
the total can go on where it was. Reading never waits for EOF: a background process may hold the
pipe for ever.
"""

import os
from typing import Iterator, List, Tuple

from . import places

HEAD = 1 << 20
TAIL = 1 << 20
PIECE = 64 * 1024
GIVE_BACK = 64 * 1024


class Pump:
    """Moves bytes from a non-blocking pipe into one capped file; `total` counts all it has seen."""

    def __init__(self, source: int) -> None:
        self.source = source
        self.total = 0
        self._path = ""
        self._file = -1
        self._full = False
        os.set_blocking(source, False)

    def open(self, path: str) -> None:
        """Have what comes written to a new file at `path`.

        It is made when something comes: most tasks print nothing, and the more files ext4 has seen removed in
        the last minutes, the longer it takes to make one.
        """
        self._path = path

    def move(self) -> bool:
        """Move what is there, at most one piece; False once nothing more is to be had now."""
        try:
            data = os.read(self.source, PIECE)
        except BlockingIOError:
            return False
        if not data:
            return False
        for offset, piece in placed(self.total, data):
            self._write(piece, offset)
        self.total += len(data)
        return True

    def drain(self, limit: int = 256) -> None:
        """Move all that is in the pipe now, up to `limit` pieces: its writers may never stop."""
        while limit and self.move():
            limit -= 1

    def close(self) -> None:
        """Let pipe and file go; who still writes to the pipe is told so by SIGPIPE."""
        for handle in (self.source, self._file):
            if handle >= 0:
                os.close(handle)

    def _write(self, data: bytes, offset: int) -> None:
        if self._full:
            return
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            if os.pwrite(self._file, data, offset) == len(data):
                return
        except OSError:
            pass
        self._give_way()

    def _give_way(self) -> None:
        """Store no more on a full disk, and give some back: a result is worth more than output."""
        self._full = True
        if self._file < 0:
            return
        try:
            # Never more than the head: a ring that was not filled holds other bytes than its readers expect.
            os.ftruncate(self._file, min(HEAD, max(0, os.fstat(self._file).st_size - GIVE_BACK)))
        except OSError:
            pass


def placed(offset: int, data: bytes) -> "List[Tuple[int, bytes]]":
    """Split `data`, which begins at stream offset `offset`, by where each piece goes in the file."""
    pieces: "List[Tuple[int, bytes]]" = []
    while data:
        room = HEAD - offset if offset < HEAD else TAIL - (offset - HEAD) % TAIL
        at = offset if offset < HEAD else HEAD + (offset - HEAD) % TAIL
        pieces.append((at, data[:room]))
        offset, data = offset + len(data[:room]), data[room:]
    return pieces


def kept(total: int) -> "List[Tuple[int, int]]":
    """Return the stream ranges [start, end) that a file still holds of `total` bytes."""
    if total <= HEAD + TAIL:
        return [(0, total)] if total else []
    return [(0, HEAD), (total - TAIL, total)]


def read_stream(path: str, total: int, start: int) -> "Iterator[Tuple[int, bytes]]":
    """Yield (stream offset, bytes) of what is kept of a stream from offset `start` on."""
    if start >= total:
        return
    try:
        handle = places.open_file(path)
    except FileNotFoundError:
        return
    try:
        for first, end in kept(total):
            offset = max(first, start)
            while offset < end:
                room = HEAD - offset if offset < HEAD else TAIL - (offset - HEAD) % TAIL
                at = offset if offset < HEAD else HEAD + (offset - HEAD) % TAIL
                data = os.pread(handle, min(PIECE, end - offset, room), at)
                if not data:
                    return
                yield offset, data
                offset += len(data)
    finally:
        os.close(handle)
