"""The wire: the bytes of every frame, and a decoder that no stranger can confuse."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from covalent_sshtiming.remote import wire

GOLDEN = json.loads((Path(__file__).parent / "golden" / "frames.json").read_text())
HEAD = struct.Struct("!BBHII")  # spelt out again, so that a change of the real one shows
WHOLE_FRAME = HEAD.size + wire.MAX_HEADER + wire.MAX_BODY

quick = settings(database=None, deadline=None, max_examples=100)

whole = st.integers(-(2**63), 2**64 - 1)  # what the wire has room for
json_values = st.recursive(
    st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
frames = st.builds(
    wire.Frame,
    st.sampled_from(sorted(wire.NAMES)),
    st.integers(0, 2**32 - 1),
    st.dictionaries(st.text(), json_values, max_size=5),
    st.binary(max_size=300),
)
# Heads that mostly make sense, with headers and bodies that often do not; beside plain noise.
near_frames = st.builds(
    lambda version, kind, header, body, lie: (
        HEAD.pack(version, kind, len(header), 7, len(body) + lie) + header + body
    ),
    st.sampled_from([1, 1, 1, 1, 1, 0, 2]),
    st.sampled_from([*wire.NAMES, 0, 99]),
    st.sampled_from([b"", b"{}", b'{"a":[1]}', b"[]", b"\xff", b'{"a":NaN}', b"{" * 50])
    | st.binary(max_size=8),
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 1, wire.MAX_BODY, 2**31]),
)
streams = st.lists(near_frames | frames.map(lambda frame: wire.encode(*frame)) | st.binary(max_size=30)).map(
    b"".join
)


def head(version: int = wire.VERSION, kind: int = wire.PING, header: int = 0, body: int = 0) -> bytes:
    """Return the first bytes of a frame of task 7."""
    return HEAD.pack(version, kind, header, 7, body)


def with_header(text: bytes) -> bytes:
    """Return a ping whose header is this text."""
    return head(header=len(text)) + text


def slices(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut data at these places, in any order and any number."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(edges))


def decode(pieces: Iterable[bytes]) -> tuple[list[wire.Frame], str]:
    """Return the frames in a stream, and what the decoder said of the rest of it."""
    decoder, found = wire.Decoder(), []
    for piece in pieces:
        try:
            for frame in decoder.feed(piece):
                found.append(frame)  # noqa: PERF402 - what came before an error counts
        except wire.ProtocolError as error:
            return found, str(error)
        assert decoder.pending < WHOLE_FRAME
    return found, f"{decoder.pending} pending"


@pytest.mark.parametrize("golden", GOLDEN, ids=[golden["name"] for golden in GOLDEN])
def test_frame_has_its_golden_bytes(golden: dict[str, Any]) -> None:
    """A frame of every shape that either end sends has the same bytes for ever, in both directions."""
    parts = (golden["type"], golden["task"], golden["header"], bytes.fromhex(golden["body"]))
    assert wire.encode(*parts).hex() == golden["bytes"]
    assert decode([bytes.fromhex(golden["bytes"])]) == ([wire.Frame(*parts)], "0 pending")


def test_every_frame_type_is_golden() -> None:
    """No frame type is without golden bytes, and none has changed its number or name."""
    pinned = {golden["type"]: golden["name"].split()[0] for golden in GOLDEN}
    assert pinned == wire.NAMES


@quick
@given(st.lists(frames, max_size=5), st.lists(st.integers(min_value=0)))
def test_round_trip(sent: list[wire.Frame], cuts: list[int]) -> None:
    """Whatever is encoded comes out again, in order, however the stream is cut."""
    data = b"".join(wire.encode(*frame) for frame in sent)
    assert decode(slices(data, cuts)) == (sent, "0 pending")


@quick
@given(streams, st.lists(st.integers(min_value=0), max_size=20))
@example(with_header(b'{"size":NaN}'), [])
@example(with_header(b'{"size":-Infinity,"size":1e999}'), [3])
@example(with_header(b'{"n":' + b"9" * 60_000 + b"}"), [])
@example(with_header(b'{"\\ud800":"\\udfff"}'), [])
def test_any_bytes_give_frames_or_protocol_error(data: bytes, cuts: list[int]) -> None:
    """Any bytes give frames or ProtocolError, in bounded memory, and the same ones however they are cut."""
    whole, cut = decode([data]), decode(slices(data, cuts))
    assert repr(cut) == repr(whole)  # by text, because NaN is not equal to itself


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_memory_is_bounded_by_one_frame(size: int) -> None:
    """A client that sends frames of the greatest size never has more than one of them held back."""
    text = b'{"a":"' + b"x" * (wire.MAX_HEADER - 8) + b'"}'
    frame = head(header=len(text), body=wire.MAX_BODY) + text + bytes(wire.MAX_BODY)
    stream = (frame * 2)[:-1]
    decoder, seen, most = wire.Decoder(), 0, 0
    for start in range(0, len(stream), size):
        seen += len(list(decoder.feed(stream[start : start + size])))
        most = max(most, decoder.pending)
    assert (seen, decoder.pending) == (1, len(frame) - 1)
    assert most < WHOLE_FRAME


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (head(version=0), "frame version 0, not 1"),
        (head(version=2), "frame version 2, not 1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "frame version 83, not 1"),
        (head(kind=0), "frame of unknown type 0"),
        (head(kind=18), "frame of unknown type 18"),
        (head(kind=255), "frame of unknown type 255"),
        (head(body=wire.MAX_BODY + 1), "frame body of 65537 bytes, over 65536"),
        (head(header=0xFFFF, body=0xFFFFFFFF), "frame body of 4294967295 bytes, over 65536"),
    ],
)
def test_hostile_head_is_refused_at_once(data: bytes, text: str) -> None:
    """A head that announces what cannot be is refused before a byte of what it announces has come."""
    assert decode([data[: HEAD.size]]) == ([], text)


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b"NaN",
        b"{",
        b"{}{}",
        b"{}\0",
        b" ",
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":[-Infinity]}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 21 + b"}",
        b'{"a":-' + b"9" * 21 + b"}",
        b"\xff\xfe{\x00}\x00",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * wire.MAX_HEADER,
        b'{"a":' * 13_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hostile_header_is_refused(text: bytes) -> None:
    """A header that is no JSON object, or one nested so deeply that reading it ends the stack, is refused."""
    found, said = decode([wire.encode(wire.PING), with_header(text), wire.encode(wire.PING)])
    assert [frame.type for frame in found] == [wire.PING]
    assert said.startswith("frame header is not ")


def test_nothing_is_held_of_a_stream_that_is_not_ours() -> None:
    """A decoder that has refused a stream goes on refusing it, and does not collect what still comes."""
    decoder = wire.Decoder()
    for _ in range(50):
        with pytest.raises(wire.ProtocolError):
            list(decoder.feed(b"HTTP/1.1 400 Bad Request\r\n" * 400))
    assert decoder.pending < WHOLE_FRAME


def test_encode_refuses_what_the_decoder_would() -> None:
    """A header or a body over its bound is refused where it is made; the bounds themselves pass."""
    header = {"a": "x" * (wire.MAX_HEADER - len('{"a":""}'))}
    data = wire.encode(wire.DATA, 1, header, bytes(wire.MAX_BODY))
    assert decode([data]) == ([wire.Frame(wire.DATA, 1, header, bytes(wire.MAX_BODY))], "0 pending")
    with pytest.raises(ValueError, match="65536 bytes of header"):
        wire.encode(wire.DATA, 1, {"a": header["a"] + "x"})
    with pytest.raises(ValueError, match="65537 of body"):
        wire.encode(wire.DATA, 1, {}, bytes(wire.MAX_BODY + 1))
    for number in (-1, 2**32):
        with pytest.raises(ValueError, match="no task number"):
            wire.encode(wire.DATA, number)
    with pytest.raises(ValueError, match="JSON compliant"):
        wire.encode(wire.DATA, 1, {"a": float("nan")})
