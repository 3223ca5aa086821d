"""Surroundings: what the kernel says of this process and its machine besides CPU time.

Sources, one each: /proc/self/io (bytes and characters moved), /proc/self/status (VmHWM, the
signals that are ignored), /proc/self/schedstat (time runnable but not running, of the main
thread), /proc/pressure/cpu, /proc/stat (time stolen by a hypervisor), getloadavg. Each read is a
few microseconds, and lies outside the measured interval. What a platform does not have is None.
"""

import os
import signal
from typing import Any, Dict, Optional

_IO = {
    "rchar": "read_chars",
    "wchar": "write_chars",
    "read_bytes": "read_bytes",
    "write_bytes": "write_bytes",
}
_STEAL_FIELD = 8  # of the first line of /proc/stat, behind its name


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def reset_peak() -> None:
    """Begin VmHWM anew, so that neither what was forked nor what was unpickled counts."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


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


def peak_bytes() -> "Optional[int]":
    """Return the largest resident size since `reset_peak`, by VmHWM."""
    return _status_number("VmHWM", 10, 1024)


def ignores_children() -> bool:
    """Whether the kernel throws away, with SIGCHLD, what this process's children have used."""
    ignored = _status_number("SigIgn", 16, 1)
    if ignored is None:
        return signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    return bool(ignored >> (signal.SIGCHLD - 1) & 1)


def _status_number(name: str, base: int, unit: int) -> "Optional[int]":
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1], base) * unit
    return None


def load() -> "Optional[float]":
    """Return the one-minute load average."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def threads() -> "Optional[int]":
    """Return how many threads this process has besides the main one."""
    try:
        return len(os.listdir("/proc/self/task")) - 1
    except OSError:
        return None
