"""Staging: a task's files on their way into its working directory, before anything of the task runs there.

Owns the order: what was sent is put there, each file whole or not at all, over what had its name, and with
its time; then what is there is remembered, so that in the end it is known what the task has left.
"""

import os
import signal
from typing import Any, BinaryIO, Dict, List

from . import below, leavings, names, places

PIECE = 1 << 20


def prepare(spec: "Dict[str, Any]", sent: BinaryIO, directory: str) -> None:
    """Do both for the task in `directory`; `sent` are the files' bytes, one after the other.

    Raises places.Unready.
    """
    here = os.getcwd()
    if spec.get("send"):
        _put_all(spec["send"], sent, here)
    wanted = spec.get("fetch")
    if wanted:
        try:
            leavings.remember(directory, leavings.Order(here, *wanted))
        except OSError as error:
            raise places.Unready("what is in %s could not be noted: %s" % (here, _text(error))) from error


class _Ending:
    """Whether this process was told to end: it does so between two pieces, and leaves no file half."""

    def __enter__(self) -> "_Ending":
        self._number = 0
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, _: object) -> None:
        self._number = number

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def heed(self) -> None:
        """End, if that is what was told."""
        if self._number:
            raise SystemExit(128 + self._number)


def _put_all(files: "List[Any]", sent: BinaryIO, here: str) -> None:
    with _Ending() as ending:
        for name, size, mtime_ns, executable in files:
            part = _Part(sent, size, ending)
            try:
                _put(here, str(name), part, mtime_ns, 0o777 if executable else 0o666)
            except OSError as error:
                text = "%r could not be put into %s: %s" % (name, here, _text(error))
                raise places.Unready(text) from error
    ending.heed()


def _text(error: OSError) -> str:
    where = " (%s)" % os.fsdecode(error.filename) if error.filename else ""
    return (error.strerror or str(error)) + where


class _Part:
    """The next `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int, ending: _Ending) -> None:
        self._file = file
        self._left = size
        self._ending = ending

    def read(self) -> bytes:
        self._ending.heed()
        data = self._file.read(min(PIECE, self._left))
        self._left -= len(data)
        return data


def _put(here: str, name: str, part: _Part, mtime_ns: int, mode: int) -> None:
    wrong = names.fault(name)
    if wrong:
        raise OSError(wrong)
    root = below.top(here)
    try:
        file = below.NewFile(root, name, mode)
    finally:
        os.close(root)
    try:
        for data in iter(part.read, b""):
            file.write(data)
    except BaseException:
        file.abandon()
        raise
    file.finish(mtime_ns)
