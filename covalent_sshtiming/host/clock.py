"""Clock: how far the machine's clock is ahead of ours, and how sure of that we are.

Owns the samples of one session. Each is a question and its answer: the far clock was read at some
moment in between, so the middle is right to within half the round trip. The quickest of the last
few counts.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

_SAMPLES = 8
_LIMIT = 1e11  # seconds; a time beyond it is no clock's


@dataclass(frozen=True)
class Offset:
    """Seconds to add to our clock to have the far one, and by how many seconds that may be wrong."""

    seconds: float
    error: float


class Clock:
    """The far clock against ours, from the answers of one session, which come in order."""

    def __init__(self) -> None:
        self.answers = 0  # so far, those left out among them
        self._asked: deque[float] = deque()
        self._samples: deque[Offset] = deque(maxlen=_SAMPLES)

    def ask(self) -> None:
        """Note that a question leaves now."""
        self._asked.append(time.monotonic())

    def answer(self, far: object) -> None:
        """Take the far clock's reading, in seconds since 1970; what is none is left out."""
        if not self._asked:
            return
        self.answers += 1
        trip = time.monotonic() - self._asked.popleft()
        if isinstance(far, bool) or not isinstance(far, (int, float)) or not abs(far) < _LIMIT:
            return
        middle = time.time() - trip / 2
        self._samples.append(Offset(round(far - middle, 9), round(trip / 2, 9)))

    @property
    def offset(self) -> Offset | None:
        """The best of the last samples; None before the first."""
        return min(self._samples, key=lambda sample: sample.error, default=None)
