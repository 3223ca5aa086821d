"""The gauge: what the GPUs of a task did while it ran.

Owns both ends: the process that samples them, aside of agent and task, because the driver's library is large
and may hang; and what the supervisor asks it at the end. The source is NVML, where Python has its module
(nvidia-ml-py). It tells of a whole device, with whatever else runs on it.
"""

import importlib
import json
import math
import select
import socket
import time
from typing import Any, Dict, Iterable, List, NamedTuple

SAMPLE_SECONDS = 0.2  # NVML's own figure of utilisation is one of the last 1/6 to 1 s
SPANS_MAX = 512
ANSWER_SECONDS = 2.0
_ANSWER_MAX = 1 << 20


class Span(NamedTuple):
    """An interval of the monotonic clock: when it began, its length, the busy seconds in it, peak bytes."""

    began: float
    seconds: float
    busy: float
    peak: int


class _Devices:
    """A task's GPUs, as NVML sees them; raises NVML's errors."""

    def __init__(self, names: "Iterable[str]") -> None:
        # By name: it is not of the standard library, and need not be there.
        self._nvml: "Any" = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._handles = [self._handle(name) for name in names]

    def _handle(self, name: str) -> "Any":
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def busy(self) -> float:
        """Return which share of the time something ran on them lately, 0 to 1; NaN where that is not told."""
        try:
            rates = [self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in self._handles]
        except self._nvml.NVMLError:  # a part of a GPU (MIG) tells none
            return math.nan
        return float(sum(rates)) / len(rates) / 100.0

    def used(self) -> int:
        """Return the bytes of memory in use on all of them."""
        return sum(int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in self._handles)


def sample(link: socket.socket, names: "List[str]") -> None:
    """Sample until the other end has nothing more to say, then tell it; the body of a process."""
    try:
        devices = _Devices(names)
    except ImportError:
        return
    spans: "List[Span]" = []
    last, over = time.monotonic(), False
    peak = devices.used()
    link.sendall(b"\n")  # ready; without it nobody waits for us
    while not over:
        over = bool(select.select([link], [], [], SAMPLE_SECONDS)[0])
        now, before = time.monotonic(), peak
        peak = devices.used()
        spans.append(Span(last, now - last, devices.busy() * (now - last), max(before, peak)))
        spans = thin_out(spans) if len(spans) > SPANS_MAX else spans
        last = now
    try:
        link.sendall(json.dumps(spans).encode())
    except OSError:  # the supervisor was killed
        pass


def thin_out(spans: "List[Span]") -> "List[Span]":
    """Join each two neighbours; long tasks have longer spans."""
    joined = []
    for first in range(0, len(spans), 2):
        pair = spans[first : first + 2]
        began = pair[0].began
        seconds = pair[-1].began + pair[-1].seconds - began
        joined.append(Span(began, seconds, sum(one.busy for one in pair), max(one.peak for one in pair)))
    return joined


class Gauge:
    """The supervisor's end, a descriptor."""

    def __init__(self, handle: int) -> None:
        self._link = socket.socket(fileno=handle)
        self._link.setblocking(False)

    def figures(self, began: float, ended: float) -> "Dict[str, Any]":
        """Return the record's figures of the time between two moments; {} where nothing is known of it."""
        try:
            return between([Span(*span) for span in self._ask()], began, ended)
        except (OSError, ValueError, TypeError):
            return {}

    def _ask(self) -> "List[List[Any]]":
        if self._link.recv(1) != b"\n":  # it has ended; BlockingIOError: it is not ready yet
            return []
        self._link.shutdown(socket.SHUT_WR)
        told, deadline = b"", time.monotonic() + ANSWER_SECONDS
        while select.select([self._link], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = self._link.recv(65536)
            if not data:
                return list(json.loads(told.decode()))
            told += data
            if len(told) > _ANSWER_MAX:
                break
        return []

    def close(self) -> None:
        """Let the other end go."""
        self._link.close()


def between(spans: "List[Span]", began: float, ended: float) -> "Dict[str, Any]":
    """Return what was used from `began` to `ended`; a span that lies across an edge counts by its part."""
    seconds = busy = 0.0
    peaks = []
    for span in spans:
        inside = min(ended, span.began + span.seconds) - max(began, span.began)
        if inside > 0:
            seconds += inside
            busy += span.busy * inside / span.seconds
            peaks.append(span.peak)
    if not peaks:
        return {}
    return {
        "gpu_utilization": None if math.isnan(busy) else busy / seconds,
        "gpu_memory_peak_bytes": max(peaks),
        "gpu_device_wide": True,
    }
