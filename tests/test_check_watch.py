"""What `check` hears of a connection's streams, and what it hands on of them."""

from __future__ import annotations

from typing import cast

import pytest
from support.interpreters import OWN

from covalent_sshtiming.checking.walk import STEPS, Step, Walk
from covalent_sshtiming.checking.watch import Watch
from covalent_sshtiming.host.environment import Said
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.target import Target


class Heard:
    """What a watch hands on, in place of a session."""

    nonce = "0123456789abcdef01234567"
    target = Target("far", "far", OWN)

    def __init__(self) -> None:
        self.data = b""
        self.said = Said()

    def received(self, data: bytes) -> None:
        """Keep stdout."""
        self.data += data

    def lost(self, status: int | None) -> None:
        """Keep the end."""
        self.data += b"<end %d>" % (status or 0)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_mark_is_found_however_it_is_cut(size: int) -> None:
    """Whatever pieces the stream comes in, the session hears all of it but the mark, and steps are told."""
    heard, steps = Heard(), list[Step]()
    watch = Watch(cast("Session", heard), Walk(steps.append))
    mark = watch.marked("").split()[1].rstrip(";").encode()
    noise = b"hello " + mark[:-1] + b" sshtiming-check-\n"
    stream = noise + mark + b'\n\0SSHTIMING/1 %s {"archive": "have"}\nframes' % heard.nonce.encode()
    for start in range(0, len(stream), size):
        watch.received(stream[start : start + size])
    watch.received(mark[:5])
    watch.lost(3)
    assert heard.data == stream.replace(mark + b"\n", b"") + mark[:5] + b"<end 3>"
    assert [one.step for one in steps] == list(STEPS[: STEPS.index("version") + 1])
    assert steps[STEPS.index("shell")].detail.startswith(f"prints {len(noise)} B of its own")


def test_what_is_held_back_is_not_lost() -> None:
    """A stream that ends within what might have been the mark is handed on whole."""
    heard = Heard()
    watch = Watch(cast("Session", heard), Walk(lambda _: None))
    watch.received(b"sshtiming-ch")
    assert heard.data == b""
    watch.lost(1)
    assert heard.data == b"sshtiming-ch<end 1>"
