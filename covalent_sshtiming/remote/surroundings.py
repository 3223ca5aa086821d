"""Surroundings: what the kernel says of this process and its machine besides CPU time.

Sources, one each: /proc/self/io (bytes and characters moved), /proc/self/status (VmHWM,
RssAnon, the signals that are ignored), /proc/self/schedstat (time runnable but not running, of the main
thread), /proc/pressure/cpu, /proc/stat (time stolen by a hypervisor), getloadavg. Each read is a
few microseconds, and lies outside the measured interval. What a platform does not have is None.
"""

import os
import signal
import time
from typing import Any, Dict, List, Optional, Tuple

from . import platforms

_IO = (
    (b"rchar:", "read_chars"),
    (b"wchar:", "write_chars"),
    (b"read_bytes:", "read_bytes"),
    (b"write_bytes:", "write_bytes"),
)
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_THREAD_TRIES = 8  # milliseconds at least
_STEAL_FIELD = 8  # of the first line of /proc/stat, behind its name


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
    words = platforms.read_small("/proc/self/io").split()
    moved = dict(zip(words[::2], words[1::2]))
    found: "Dict[str, Optional[float]]" = {
        field: int(moved[name]) if name in moved else None for name, field in _IO
    }
    found["run_delay_s"] = _field(platforms.read_small("/proc/self/schedstat"), 1, 1e-9)
    found["psi_cpu_some_s"] = _pressure(platforms.read_small("/proc/pressure/cpu"))
    found["steal_s"] = _field(platforms.read_small("/proc/stat"), _STEAL_FIELD, _TICK)
    return found


def _field(text: bytes, index: int, unit: float) -> "Optional[float]":
    words = text.split(None, index + 1)
    return int(words[index]) * unit if len(words) > index else None


def _pressure(text: bytes) -> "Optional[float]":
    """Return the seconds of its first line, `some`, since boot."""
    total = text.partition(b"\n")[0].rpartition(b"total=")[2]
    return int(total) * 1e-6 if total else None


def difference(before: "Dict[str, Any]", after: "Dict[str, Any]") -> "Dict[str, Any]":
    """Return how much each counter has grown; None where either look had none."""
    grown: "Dict[str, Any]" = {}
    for name, first in before.items():
        last = after.get(name)
        grown[name] = None if first is None or last is None else round(last - first, 9)
    return grown


def status() -> "Tuple[Optional[int], bool, Optional[int]]":
    """Return (peak bytes since `reset_peak`, whether SIGCHLD is ignored, threads besides the main one).

    Where it is ignored the kernel forgets what children have used.
    """
    text = platforms.read_small("/proc/self/status")
    peak, ignored = _number(text, b"VmHWM:", 10), _number(text, b"SigIgn:", 16)
    threads = _number(text, b"Threads:", 10)
    if peak is None or ignored is None or threads is None:
        return None, signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN, None
    others = _threads_that_stay() if threads > 1 else 0
    return peak * 1024, bool(ignored >> (signal.SIGCHLD - 1) & 1), others


def _threads_that_stay() -> int:
    """Count the threads besides the main one.

    A thread that was joined leaves the kernel's list only when it is next given a CPU, so as long as one
    is not asleep the count is taken again.
    """
    states: "List[bytes]" = []
    for _ in range(_THREAD_TRIES):
        time.sleep(0.001)
        threads = [name for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
        stats = [platforms.read_small("/proc/self/task/%s/stat" % name) for name in threads]
        states = [stat.rpartition(b")")[2].split(None, 1)[0] for stat in stats if stat]
        if all(state == b"S" for state in states):
            break
    return len(states)


def forgets_children(pid: int) -> bool:
    """Whether a process that has ended, and was not reaped yet, had SIGCHLD ignored."""
    ignored = _number(platforms.read_small("/proc/%d/status" % pid), b"SigIgn:", 16) or 0
    return bool(ignored >> (signal.SIGCHLD - 1) & 1)


def anonymous() -> int:
    """Return the bytes of memory of this process that no file holds (RssAnon); 0 where that is unknown."""
    return (_number(platforms.read_small("/proc/self/status"), b"RssAnon:", 10) or 0) * 1024


def _number(text: bytes, name: bytes, base: int) -> "Optional[int]":
    at = text.find(name)
    return int(text[at + len(name) :].split(None, 1)[0], base) if at >= 0 else None


def oom_kills() -> "Optional[int]":
    """Return how many processes this machine's kernel has killed because memory ran out (/proc/vmstat)."""
    return _number(platforms.read_small("/proc/vmstat", 65536), b"\noom_kill ", 10)


def load() -> "Optional[float]":
    """Return the one-minute load average."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
