"""Facts about the machine and the interpreter that an agent's hello carries.

Sources: /etc/machine-id, /proc/sys/kernel/random/boot_id, /proc/cpuinfo, uname, the scheduler's
affinity mask, control groups. What a platform does not tell is None.
"""

import os
import platform
import pwd
import socket
import sys
import time
from typing import Any, Dict, List, Optional

from . import cgroup, places


def usable_cpus() -> "List[int]":
    """Return the CPUs that this process may use, by its affinity mask where there is one."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def cpu_model() -> "Optional[str]":
    """Return the CPU's name, from /proc/cpuinfo."""
    try:
        with open("/proc/cpuinfo", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def username() -> "Optional[str]":
    """Return the account's name, from the password database."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def hello(agent: str) -> "Dict[str, Any]":
    """Return what the agent says of itself when a connection opens."""
    machine, boot = places.machine()
    system = os.uname()
    return {
        "agent": agent,
        "pid": os.getpid(),
        "machine": machine,
        "boot": boot,
        "hostname": socket.gethostname(),
        "username": username(),
        "os": system.sysname,
        "kernel": system.release,
        "cpu_model": cpu_model(),
        "cores": len(usable_cpus()),
        "quota": cgroup.quota(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "time": time.time(),
    }
