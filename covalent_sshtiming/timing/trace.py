"""A log as a Chrome trace, which Perfetto opens: a process for each machine, its tasks in lanes.

Events are "complete" ones (`ph` X) in whole microseconds since the epoch by the Covalent server's clock: a
task's own, and within it its phases. A task whose time or phases are not known has no event. Events are
msgspec's structs, because 100,000 tasks are more than a million of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec

from covalent_sshtiming.timing.record import FIELDS
from covalent_sshtiming.timing.units import seconds_of

_WALLS = tuple(name for name in FIELDS if name.startswith("phase_") and name.endswith("_wall_s"))
PHASES = tuple(name[len("phase_") : -len("_wall_s")] for name in _WALLS)
_ARGUMENTS = ("record_id", "dispatch_id", "node_id", "status", "cpu_s", "wall_s", "rss_peak_bytes")
_walls_of = attrgetter(*_WALLS)
_arguments_of = attrgetter(*_ARGUMENTS)
_encode = msgspec.json.Encoder().encode
NEEDED = (*_ARGUMENTS, "function", "host", "submitted_at", *_WALLS)


class _Phase(msgspec.Struct, gc=False):
    """An event of the trace: microseconds `ts` to `ts + dur` in lane `tid` of machine `pid`."""

    name: str
    pid: int
    tid: int
    ts: int
    dur: int
    cat: str = "phase"
    ph: str = "X"


class _Task(msgspec.Struct, gc=False):
    """The event around a task's phases, and what else is told of it."""

    name: str
    pid: int
    tid: int
    ts: int
    dur: int
    args: dict[str, Any]
    cat: str = "task"
    ph: str = "X"


def trace(rows: Iterable[Any]) -> Iterator[tuple[bytes, int]]:
    """Yield the trace, one JSON object, piece by piece: text, and how many tasks are in it."""
    yield b'{"displayTimeUnit":"ms","traceEvents":[\n', 0
    timed = [(begin, number, row) for number, row in enumerate(rows) if (begin := _begin(row)) is not None]
    timed.sort(key=lambda one: one[:2])
    machines: dict[str | None, tuple[int, Lanes]] = {}
    before = b""
    for begin, _, row in timed:
        events: list[Any] = []
        if row.host not in machines:
            machines[row.host] = (len(machines) + 1, Lanes())
            events.append(_machine(len(machines), row.host))
        events += _events(row, begin, *machines[row.host])
        yield before + _encode(events)[1:-1], 1
        before = b",\n"
    yield b"\n]}\n", 0


def _begin(row: Any) -> float | None:
    return seconds_of(row.submitted_at) if any(_walls_of(row)) else None


def _machine(number: int, name: str | None) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name or "?"}}


def _events(row: Any, begin: float, machine: int, lanes: Lanes) -> list[_Task | _Phase]:
    """Return a task's events, its own first."""
    begin_us = int(begin * 1e6)
    # Ends are rounded, and lengths are differences of those, so that phases stay within their task.
    ends = [int(begin * 1e6 + so_far * 1e6) for so_far in accumulate(_known(row))]
    lane = lanes.take(begin_us, ends[-1])
    told = dict(zip(_ARGUMENTS, _arguments_of(row), strict=True))
    own = _Task(row.function or "?", machine, lane, begin_us, ends[-1] - begin_us, told)
    events: list[_Task | _Phase] = [own]
    at = begin_us
    for phase, end in zip(PHASES, ends, strict=True):
        if end > at:
            events.append(_Phase(phase, machine, lane, at, end - at))
            at = end
    return events


def _known(row: Any) -> list[float]:
    return [wall if wall and wall > 0 else 0.0 for wall in _walls_of(row)]


class Lanes:
    """Which lanes of a machine are free, so that tasks of one lane do not overlap."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._busy: list[tuple[int, int]] = []
        self._count = 0

    def take(self, begin: int, end: int) -> int:
        """Return the lowest lane that is free from `begin` on; tasks come in the order of `begin`."""
        while self._busy and self._busy[0][0] <= begin:
            heapq.heappush(self._free, heapq.heappop(self._busy)[1])
        if not self._free:
            self._count += 1
            heapq.heappush(self._free, self._count)
        lane = heapq.heappop(self._free)
        heapq.heappush(self._busy, (end, lane))
        return lane
