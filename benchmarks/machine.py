"""The machine that a benchmark ran on, so that its figures can be read elsewhere and later."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from covalent_sshtiming import __version__
from covalent_sshtiming.remote import facts


def context() -> dict[str, Any]:
    """Return date, versions, CPU, kernel and load; nothing that names a machine or its user."""
    names = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plugin_version": __version__,
        "python_version": platform.python_version(),
        "os": names.get("PRETTY_NAME", platform.system()).strip('"'),
        "kernel": platform.release(),
        "cpu_model": facts.cpu_model(),
        "cores": len(facts.usable_cpus()),
        "is_virtual": " hypervisor" in _read("/proc/cpuinfo"),
        "load_1m": os.getloadavg()[0],
    }


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def in_words(found: dict[str, Any]) -> str:
    """Return a context as one line."""
    kind = "virtual" if found["is_virtual"] else "real"
    return (
        f"{found['date']}, {found['cpu_model']}, {found['cores']} {kind} cores, {found['os']}, "
        f"kernel {found['kernel']}, Python {found['python_version']}, load {found['load_1m']:.2f}"
    )
