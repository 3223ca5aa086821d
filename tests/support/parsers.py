"""Every place where a stranger's bytes are read on the near side, each as a function of bytes.

Each raises AssertionError, or what it should not, where a promise is broken: only the stated error, no more
held than the bound, nothing in the end that a log or a terminal could not take. `test_parsers` feeds them by
properties, `fuzz` by coverage.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covalent_sshtiming import errors, fetched, fetching, outcomes
from covalent_sshtiming.electron import ResultBuilder
from covalent_sshtiming.host import bootstrap, environment, refusals
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Outcome, Output
from covalent_sshtiming.remote import wire
from covalent_sshtiming.timing.record import SCHEMA, TimingRecord
from support import direct

NONCE = "0123456789abcdef01234567"
MARK = b"\0SSHTIMING/1 " + NONCE.encode() + b" "
WHOLE_FRAME = wire.HEAD_SIZE + wire.MAX_HEADER + wire.MAX_BODY
CAP = 4096  # bytes of a result
FILES_CAP = 5000  # bytes of files
FILES_MOST = 3
_TARGETS = [
    Target("far", "far", "3.11"),
    Target("far", "far", "3.11", python_path="python3"),
    Target("far", "far", "3.11", conda_env="science", setup=("one", "conda activate two")),
]
HEADER = json.dumps(
    {"py_version": "3.11.0", "cloudpickle_version": "3", "attrs": {"doc": None, "name": "f"}}
).encode()


def _pieces(data: bytes) -> list[bytes]:
    """Cut data at a place that its first byte says, so that the cut is the fuzzer's to choose."""
    if not data:
        return []
    cut, data = data[0], data[1:]
    return [data] if cut == 0 else [data[start : start + cut] for start in range(0, len(data), cut)]


def decoder(data: bytes) -> None:
    """Frames: only ProtocolError, one frame held at most, whole and finite numbers, the same frames again."""
    reader = wire.Decoder()
    frames: list[wire.Frame] = []
    try:
        for piece in _pieces(data):
            frames += reader.feed(piece)
            assert reader.pending < WHOLE_FRAME
    except wire.ProtocolError:
        assert reader.pending == 0
    for frame in frames:
        assert frame.type in wire.NAMES
        assert len(frame.body) <= wire.MAX_BODY
        _check_json(frame.header)
        text = json.dumps(frame.header, separators=(",", ":"))
        if len(text) <= wire.MAX_HEADER:  # escapes may have made it longer than it came
            assert list(wire.Decoder().feed(wire.encode(*frame))) == [frame]


def preamble(data: bytes) -> None:
    """Noise and announcement: only ProtocolError, a bounded part of it held, an object in the end."""
    reader = bootstrap.Preamble(NONCE)
    try:
        for piece in _pieces(data.replace(b"{M}", MARK)):
            found = reader.feed(piece)
            assert len(reader.noise) <= bootstrap.NOISE_MAX
            if found is not None:
                _check_json(found[0])
                return
    except errors.ProtocolError:
        pass
    assert bootstrap.printable(reader.noise).isprintable()


def result(data: bytes) -> None:
    """A result: only TaskError, never more than the cap, in the end what Covalent can write down."""
    builder = ResultBuilder(CAP)
    sizes, _, rest = data.partition(b"\n")
    try:
        parts = wire.json_object(sizes, "sizes").get("parts")
    except wire.ProtocolError:
        parts = None
    rest = rest.replace(b"{H}", HEADER)
    try:
        builder.begin(parts)
        for piece in _pieces(rest):
            builder.add(piece)
        made = builder.finish()
    except errors.TaskError:
        return
    assert type(made) is direct.TransportableObject
    assert isinstance(parts, list)
    assert sum(parts) == len(rest) - 1
    assert max(parts[1:]) <= CAP
    again = direct.TransportableObject.deserialize(made.serialize())
    assert again.to_dict() == made.to_dict()


def outcome(data: bytes) -> None:
    """An outcome, with the hello as its machine: an error or none, a record that a log can take."""
    first, _, second = data.partition(b"\n")
    try:
        machine, ended = wire.json_object(first, "hello"), wire.json_object(second, "outcome")
    except wire.ProtocolError:
        return
    told = Outcome(ended, b"", b"", machine, {})
    error = outcomes.error_of(told, "far", "function")
    if error is not None:
        _check_text(str(error))
        _check_text(getattr(error, "traceback", ""))
    record = TimingRecord.from_mapping(outcomes.record_of(told, error))
    line = record.to_json()
    assert line.isascii()
    assert line.isprintable()
    assert TimingRecord.from_json(line) == record
    assert record.status in ("completed", "failed", "cancelled", "killed", "timeout", "lost")


def complaints(data: bytes) -> None:
    """A refusal's facts, and stderr with marks: bounded, and a sentence of ours for any of it."""
    first, _, rest = data.partition(b"\n")
    said = environment.Said()
    for piece in _pieces(rest.replace(b"{S}", environment.MARK)):
        said.hear(piece)
        assert len(said.text) <= environment.SAID_MAX
    try:
        facts = wire.json_object(first, "facts")
    except wire.ProtocolError:
        facts = {}
    for target in _TARGETS:
        errors = [refusals.ended(target, status, said, b"") for status in (None, 1, 127)]
        for error in (
            *errors,
            refusals.slow(target, said, b""),
            refusals.refused(target, said, {"refused": 1, **facts}),
        ):
            assert str(error).isprintable()
            assert len(str(error)) < 2000


def output(data: bytes) -> None:
    """A task's output by stream offset: bounded, and never any of it twice."""
    stream, end = Output(), 0
    while len(data) > 9:
        offset, size, data = int.from_bytes(data[:8], "big") >> 2, data[8], data[9:]
        news = stream.add(offset, data[:size])
        assert stream.end >= end
        end = stream.end
        assert len(news) <= size + 60
        data = data[size:]


def files(data: bytes) -> None:
    """Files: only ProtocolError; what is made lies below its directory, was asked for, is within the caps."""
    with tempfile.TemporaryDirectory(prefix="files-") as name:
        base = Path(name) / "base"
        kept = asyncio.run(_kept(base, data))
        made = (
            {path.relative_to(base) for path in base.rglob("*") if not path.is_dir()}
            if base.exists()
            else set()
        )
        assert made == {Path("in", one) for one in kept.files}
        assert {path.name for path in Path(name).iterdir()} <= {"base"}
    assert sum(kept.files.values()) <= FILES_CAP
    assert len(kept.files) <= FILES_MOST
    assert all(one.endswith(".h5") for one in kept.files)
    _check_text(kept.warnings("far", completed=True))
    assert json.loads(str(kept.record()["fetched_names"])) == list(kept.files)


async def _kept(base: Path, data: bytes) -> fetched.Brought:
    """Take frames, each a line with its header and one with its body; "+" stands for a new connection."""
    taking = fetching.Fetching(fetched.Wanted(base, "in", ["*.h5", "d/*.h5"], FILES_CAP, FILES_MOST))
    taking.begin(lambda _: None)
    lines = data.split(b"\n")
    for header, body in zip(lines[::2], [*lines[1::2], b""], strict=False):
        if header == b"+":
            taking.begin(lambda _: None)
            continue
        try:
            taking.take(wire.json_object(header, "header"), body)
        except (wire.ProtocolError, errors.ProtocolError):
            break
    return await taking.finish()


def _check_text(text: str) -> None:
    assert len(text) < 25_000
    assert all(c.isprintable() or c in "\n\t" for c in text)


def _check_json(value: Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            _check_json(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner)
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, int):
        assert abs(value) < 10**wire.MAX_DIGITS


PARSERS: dict[str, Callable[[bytes], None]] = {
    parser.__name__: parser for parser in (decoder, preamble, result, outcome, output, complaints, files)
}


def _file_lines(*parts: dict[str, Any] | bytes) -> bytes:
    """Return frames of files as lines: headers and bodies, in turn."""
    return b"\n".join(part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts)


def seeds(name: str, golden: list[dict[str, Any]]) -> list[bytes]:
    """Return inputs that a fuzzer begins with: sound ones, which it then breaks."""
    if name == "decoder":
        return [b"\0" + bytes.fromhex(one["bytes"]) for one in golden]
    sizes = json.dumps({"parts": [len(HEADER), 2, 3]}).encode()
    ended = {
        "status": "failed",
        "error": {
            "class": "RemoteEnvError",
            "text": "t",
            "traceback": "b",
            "module": "numpy",
            "phase": "call",
        },
        "record": {"schema": SCHEMA, "cpu_s": 1.5, "started": 1.7e9, "finished": 1.7e9, "rss_peak_bytes": 5},
        "exit_code": 0,
        "exit_signal": None,
        "stdout": 1,
        "stderr": 2,
    }
    hello = {
        "hostname": "h",
        "machine": "m",
        "cores": 2,
        "executable": "/usr/bin/python3",
        "python": "3.11.7",
    }
    refused = {
        "refused": "python_version",
        "python": "3.9.2",
        "executable": "/usr/bin/python3",
        "conda": False,
        "found": {"python": "/opt/python3.11", "uv": "/usr/bin/uv", "pyenv": "/p"},
    }
    texts = [json.dumps(one).encode() for one in (hello, ended)]
    lost = json.dumps(refused).encode() + b"\n\x07"
    return {
        "preamble": [b"\0noise{M}" + b'{"archive":"have"}\n' + b"rest", b"\x01{M}{}\n"],
        "result": [sizes + b"\n\0{H}okabc", sizes + b"\n\x07{H}okabc"],
        "outcome": [b"\n".join(texts), texts[0] + b'\n{"status":"completed","error":null}'],
        "files": [
            _file_lines({"name": "a.h5", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}, b"abc"),
            _file_lines(
                {"name": "d/b.h5", "size": 2}, b"a", {"sha256": hashlib.sha256(b"ab").hexdigest()}, b"b"
            ),
            _file_lines({"name": "c.h5", "size": 9, "left": "bytes"}, b"", {"end": True, "more": 2}, b""),
            _file_lines({"name": "x.h5", "size": 4}, b"half")
            + b"\n+\n\n"
            + _file_lines({"left": "gone"}, b""),
        ],
        "complaints": [lost + b"motd{S}0\nno{S}1\nsuch", lost + b"{S}conda\n/c: no{S}conda-by /c\nx"],
        "output": [bytes(8) + b"\x03abc" + bytes(7) + b"\x03\x02de"],
    }[name]
