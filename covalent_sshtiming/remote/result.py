"""A result on its way to the disk: Covalent's header, the string and the pickle.

Owns the cap, the file that is there under its name only when it is whole, and the word on a result that
cannot be pickled.
"""

import io
import json
import os
import platform
from typing import Any, BinaryIO, Callable, Dict

from . import causes, culprit, places

SHORT_STRING = 64 * 1024  # a bytes result longer than this is not spelt out; see _string_of


class TooLarge(Exception):
    """The pickled result passed the cap."""


class _Capped:
    """A file that refuses to grow past a cap; for the pickler, which only writes."""

    def __init__(self, file: BinaryIO, cap: int) -> None:
        self._file = file
        self._left = cap

    def write(self, data: bytes) -> int:
        """Write `data`, or raise TooLarge."""
        self._left -= memoryview(data).nbytes  # large buffers come as pickle.PickleBuffer's view
        if self._left < 0:
            raise TooLarge
        return self._file.write(data)


def dump(value: Any, path: str, cap: int, stay: "Callable[[], None]") -> "Dict[str, Any]":
    """Write header, string and pickle of the result to `path`, or nowhere without one; return its report.

    `stay` ends this process where a pickler of the user's has let a fork return.
    """
    import cloudpickle

    header = json.dumps(_header_of(value, cloudpickle.__version__)).encode("utf-8")
    string = _string_of(value).encode("utf-8", "backslashreplace")
    temporary = path and path + ".tmp"
    try:
        with _new_file(temporary) as file:
            file.write(header)
            file.write(string)
            cloudpickle.Pickler(_Capped(file, cap)).dump(value)
            stay()
            size = file.tell()
        if path:
            os.rename(temporary, path)
    except Exception as error:  # noqa: BLE001 - a pickler may raise anything
        stay()
        places.discard(temporary)  # half a result is of no use, and the outcome may need its room
        return {"status": "failed", "error": _error_of(error, value, path, cap)}
    parts = [len(header), len(string), size - len(header) - len(string)]
    return {"status": "completed", "result": parts}


def _new_file(path: str) -> BinaryIO:
    """Return a file that is there for this user only, because the umask may give all away by now.

    Without a path it is in memory.
    """
    if not path:
        return io.BytesIO()
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _error_of(error: BaseException, value: Any, path: str, cap: int) -> "Dict[str, Any]":
    if isinstance(error, TooLarge):
        return causes.cause("ResultTooLarge", "the pickled result is larger than %d bytes" % cap, None)
    if isinstance(error, (OSError, MemoryError)):
        return causes.cause(
            "TransferError", "the result could not be written to %s: %s" % (path, causes.text_of(error)), None
        )
    way, part = culprit.find(value)
    because = ", because result%s is a %s" % (way, type(part).__name__) if way else ""
    text = "a %s cannot be pickled%s: %s" % (type(value).__name__, because, causes.text_of(error))
    return causes.cause("ResultError", text, error)


def _header_of(value: Any, cloudpickle_version: str) -> "Dict[str, Any]":
    """Describe the value as Covalent's TransportableObject does."""
    attributes = {"doc": getattr(value, "__doc__", ""), "name": getattr(value, "__name__", "")}
    return {
        "py_version": platform.python_version(),
        "cloudpickle_version": cloudpickle_version,
        "attrs": {key: v if isinstance(v, str) or v is None else "" for key, v in attributes.items()},
    }


def _string_of(value: Any) -> str:
    """Return `str(value)`, which Covalent shows and, for sublattices, reads.

    Only exact bytes are shortened, which are never read back: spelt out they are up to four
    times the result itself.
    """
    if type(value) in (bytes, bytearray) and len(value) > SHORT_STRING:
        return "%s of %d bytes, beginning %r" % (type(value).__name__, len(value), bytes(value[:64]))
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        return "<%s that cannot be shown>" % type(value).__name__
