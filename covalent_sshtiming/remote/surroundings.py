"""Surroundings: what the kernel says of this process and its machine besides CPU time.

Sources, one each: /proc/self/io (bytes and characters moved), /proc/self/status (VmHWM,
RssAnon, the signals that are ignored), /proc/self/schedstat (time runnable but not running, of the main
thread), /proc/pressure/cpu, /proc/stat (time stolen by a hypervisor), getloadavg. Each read is a
few microseconds, and lies outside the measured interval. What a platform does not have is None.
"""

import os
import signal
import time
from typing import Any, Dict, Optional, Tuple

from . import platforms

_IO = {
    "rchar": "read_chars",
    "wchar": "write_chars",
    "read_bytes": "read_bytes",
    "write_bytes": "write_bytes",
}
_STEAL_FIELD = 8  # of the first line of /proc/stat, behind its name


def _read(path: str) -> str:
    return platforms.read_small(path).decode("ascii", "replace")


def reset_peak() -> None:
    """Begin VmHWM anew, at what this process has now, so that what was let go before does not count."""
    try:
        handle = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(handle, b"5")
    finally:
        os.close(handle)


def look() -> "Dict[str, Optional[float]]":
    """Return the counters as they stand; only the difference of two looks means anything."""
    found: "Dict[str, Optional[float]]" = dict.fromkeys(_IO.values())
    for line in _read("/proc/self/io").splitlines():
        name, _, value = line.partition(":")
        if name in _IO:
            found[_IO[name]] = int(value)
    found["run_delay_s"] = _field(_read("/proc/self/schedstat"), 1, 1e-9)
    found["psi_cpu_some_s"] = _pressure(_read("/proc/pressure/cpu"))
    found["steal_s"] = _field(_read("/proc/stat"), _STEAL_FIELD, 1.0 / os.sysconf("SC_CLK_TCK"))
    return found


def _field(text: str, index: int, unit: float) -> "Optional[float]":
    words = text.split("\n", 1)[0].split()
    return int(words[index]) * unit if len(words) > index else None


def _pressure(text: str) -> "Optional[float]":
    for line in text.splitlines():
        if line.startswith("some"):
            return int(line.rpartition("total=")[2]) * 1e-6
    return None


def difference(before: "Dict[str, Any]", after: "Dict[str, Any]") -> "Dict[str, Any]":
    """Return how much each counter has grown; None where either look had none."""
    grown: "Dict[str, Any]" = {}
    for name, first in before.items():
        last = after.get(name)
        grown[name] = None if first is None or last is None else round(last - first, 9)
    return grown


def status() -> "Tuple[Optional[int], bool]":
    """Return (peak bytes since `reset_peak`, whether the kernel forgets what children have used).

    The second is so where SIGCHLD is ignored.
    """
    text = _read("/proc/self/status")
    peak, ignored = _number(text, "VmHWM:", 10), _number(text, "SigIgn:", 16)
    if ignored is None:
        return None, signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    return None if peak is None else peak * 1024, bool(ignored >> (signal.SIGCHLD - 1) & 1)


def anonymous() -> int:
    """Return the bytes of memory of this process that no file holds (RssAnon); 0 where that is unknown."""
    return (_number(_read("/proc/self/status"), "RssAnon:", 10) or 0) * 1024


def _number(text: str, name: str, base: int) -> "Optional[int]":
    at = text.find(name)
    return int(text[at + len(name) :].split(None, 1)[0], base) if at >= 0 else None


def load() -> "Optional[float]":
    """Return the one-minute load average."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def threads() -> "Optional[int]":
    """Return how many threads this process has besides the main one.

    A thread that was joined leaves the kernel's list a moment later, so a first count above 0 is
    taken again after a millisecond.
    """
    try:
        if len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.001)
        return len(os.listdir("/proc/self/task")) - 1
    except OSError:
        return None
