"""Frames: the only language the two ends speak, and both ends import this one file.

A frame is a 12-byte head (version, type, JSON length, task number, body length), a small JSON
object and raw bytes. The task number is the client's short name for a task on this connection;
0 is the connection itself. The decoder is total: any bytes give frames or `ProtocolError`, and
it never holds more than one whole frame beyond what it was just fed. Numbers in JSON are finite,
and no whole one is longer than 64 bits can be.
"""

import json
import math
import struct
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

VERSION = 1
MAX_HEADER = 0xFFFF  # bytes of JSON in one frame
MAX_BODY = 64 * 1024  # bytes of body in one frame
MAX_TASK = 0xFFFFFFFF  # the greatest task number
MAX_DIGITS = 20  # of a whole number, its sign apart: as many as 64 bits need

PIECES = 256  # that a frame may be held in

FILE_WINDOW = 4 << 20  # of one task's files, under way and not taken yet
FILE_COST = 1024  # bytes that a frame of a file counts for, besides its body

HELLO = 1  # both: who is speaking
SUBMIT = 2  # client: claim a key; the body begins the request
DATA = 3  # both: more of the request, or of the result
END = 4  # client: the request is whole; its SHA-256
ACCEPTED = 5  # agent: the request is safe on disk
ATTACH = 6  # client: tell me of this key
UNKNOWN = 7  # agent: nothing is known of it
CANCEL = 8  # client: stop it
STREAM = 9  # agent: output of the task, by stream offset
RESULT = 10  # agent: a result follows, in parts of these sizes
OUTCOME = 11  # agent: the task has ended; JSON in the body
ACK = 12  # client: all is safe here; agent: forgotten
REFUSED = 13  # agent: the request could not be stored
PING = 14
PONG = 15
LIST = 16  # client: which tasks are there; agent: some of them, as JSON in the body
FILE = 17  # agent: a file that the task has left, or more of it; client: so much was taken

NAMES = {
    HELLO: "hello",
    SUBMIT: "submit",
    DATA: "data",
    END: "end",
    ACCEPTED: "accepted",
    ATTACH: "attach",
    UNKNOWN: "unknown",
    CANCEL: "cancel",
    STREAM: "stream",
    RESULT: "result",
    OUTCOME: "outcome",
    ACK: "ack",
    REFUSED: "refused",
    PING: "ping",
    PONG: "pong",
    LIST: "list",
    FILE: "file",
}

_HEAD = struct.Struct("!BBHII")
HEAD_SIZE = _HEAD.size


class ProtocolError(ValueError):
    """The bytes are not ours; nothing after them on this connection can be trusted."""


class Frame(NamedTuple):
    """One frame: its type, the task it concerns, its JSON object and its raw bytes."""

    type: int
    task: int
    header: Dict[str, Any]
    body: bytes


def encode(kind: int, task: int = 0, header: "Dict[str, Any]" = {}, body: bytes = b"") -> bytes:  # noqa: B006 - never written to
    """Return the bytes of one frame; raises ValueError where a bound is exceeded."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode() if header else b""
    if not 0 <= task <= MAX_TASK:
        raise ValueError("no task number: %d" % task)
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise ValueError("frame too large: %d bytes of header, %d of body" % (len(text), len(body)))
    return b"".join((_HEAD.pack(VERSION, kind, len(text), task, len(body)), text, body))


def file_cost(body: bytes) -> int:
    """Return what a frame of a file takes up of the window."""
    return FILE_COST + len(body)


class Decoder:
    """Turns a stream of bytes, fed in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._pieces: "List[bytes]" = []  # what is there of a frame that is not whole yet
        self._wanted = HEAD_SIZE  # bytes of it without which there is nothing new to be seen
        self._refused: "Optional[ProtocolError]" = None
        self.pending = 0  # bytes held back because their frame is not whole yet

    def feed(self, data: bytes) -> "Iterator[Frame]":
        """Add `data` and yield each frame that is whole; raises ProtocolError."""
        if self._refused is not None:
            raise self._refused
        self._pieces.append(data)
        self.pending += len(data)
        if self.pending < self._wanted:
            # Put together once, when it is whole: a buffer that grows by each piece costs ten times as much.
            if len(self._pieces) > PIECES:
                self._pieces = [b"".join(self._pieces)]
            return
        buffer, at = b"".join(self._pieces), 0
        self._wanted = HEAD_SIZE
        try:
            while True:
                end, body_at = _extent(buffer, at)
                if len(buffer) < end:
                    self._wanted = end - at
                    break
                _, kind, header_size, task, _ = _HEAD.unpack_from(buffer, at)
                header = _header(buffer[body_at - header_size : body_at])
                at, body = end, buffer[body_at:end]
                yield Frame(kind, task, header, body)
        except ProtocolError as error:
            self._refused = error
            at = len(buffer)  # nothing after it can be trusted, so none of it is kept
            raise
        finally:
            self._pieces = [buffer[at:]] if at < len(buffer) else []
            self.pending = len(buffer) - at


def _extent(buffer: bytes, at: int) -> "Tuple[int, int]":
    """Return where the frame at `at` ends and its body begins; or where its head would end."""
    if len(buffer) - at < HEAD_SIZE:
        return at + HEAD_SIZE, 0
    version, kind, header_size, _, body_size = _HEAD.unpack_from(buffer, at)
    _check_head(version, kind, body_size)
    body_at = at + HEAD_SIZE + header_size
    return body_at + body_size, body_at


def _check_head(version: int, kind: int, body_size: int) -> None:
    if version != VERSION:
        raise ProtocolError("frame version %d, not %d" % (version, VERSION))
    if kind not in NAMES:
        raise ProtocolError("frame of unknown type %d" % kind)
    if body_size > MAX_BODY:
        raise ProtocolError("frame body of %d bytes, over %d" % (body_size, MAX_BODY))


def _header(text: bytes) -> "Dict[str, Any]":
    return json_object(text, "frame header") if text else {}


def json_object(text: bytes, what: str) -> "Dict[str, Any]":
    """Return the JSON object that a stranger wrote; raises ProtocolError, which says what it was to be."""
    value = json_value(text, what)
    if not isinstance(value, dict):
        raise ProtocolError("%s is not a JSON object" % what)
    return value


def json_value(text: bytes, what: str) -> Any:
    """Return what a stranger wrote as JSON; raises ProtocolError, which says what it was to be."""
    try:
        return _JSON.decode(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("%s is not JSON" % what) from error


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


def _real(text: str) -> float:
    """Read a number with a point or exponent; JSON has no infinity, but 1e999 would be one."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number too large")
    return number


def _no_constant(name: str) -> float:
    raise ValueError("%s is not JSON" % name)


_JSON = json.JSONDecoder(parse_int=_whole, parse_float=_real, parse_constant=_no_constant)
