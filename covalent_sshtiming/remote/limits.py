"""Limits on what one task may use, where the kernel has them; on Linux only.

Owns the ways: the task's control group, which counts all its processes together, and resource limits and
affinity of the worker, which each of its processes inherits. They are set on the waiting worker, before it is
let go. Owns also what the worker takes back after the call, to be able to tell how that went.
"""

import os
import resource
from typing import Any, Dict, List, Optional

from . import cgroup, platforms

OWN_DESCRIPTORS = 64


def impose(order: "Dict[str, Any]", worker: int, group: "Optional[cgroup.Group]") -> None:
    """Limit a waiting worker and its group as `memory_limit` (bytes), `process_limit` and `cpus` ask for."""
    memory, processes = order.get("memory_limit"), order.get("process_limit")
    if order.get("cpus"):
        _pin(worker, order["cpus"])
    if isinstance(memory, int) and memory > 0:
        counted = group is not None and group.limit("memory.max", memory)
        # A driver of GPUs takes address space for all the memory that there is, and uses next to none of it.
        if not (counted and order.get("gpus")):
            _limit(worker, resource.RLIMIT_AS, memory)
    if isinstance(processes, int) and processes > 0 and not (group and group.limit("pids.max", processes)):
        # This one counts all processes and threads of the user, so those of others are added.
        _limit(worker, resource.RLIMIT_NPROC, _threads_of_user() + processes)


def regain() -> None:
    """Raise what a function has used up or lowered, as far as the hard limits go: descriptors, file sizes."""
    _raise(resource.RLIMIT_NOFILE, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024) + OWN_DESCRIPTORS)
    _raise(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)


def _raise(what: int, wanted: int) -> None:
    soft, hard = resource.getrlimit(what)
    if soft in (hard, resource.RLIM_INFINITY):
        return
    if hard != resource.RLIM_INFINITY:
        wanted = hard if wanted == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(what, (wanted, hard))
    except (OSError, ValueError):
        pass


def _limit(pid: int, what: int, most: int) -> None:
    if not platforms.LINUX:
        return
    try:
        _, hard = resource.prlimit(pid, what)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(pid, what, (least, least))
    except (OSError, ValueError):
        pass


def _pin(pid: int, cpus: "List[int]") -> None:
    try:
        os.sched_setaffinity(pid, cpus)
    except OSError:  # taken from us meanwhile
        pass


def _threads_of_user() -> int:
    """Return how many threads this user has, in processes that we may see."""
    count, me = 0, os.getuid()
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat("/proc/" + name).st_uid == me:
                count += len(os.listdir("/proc/%s/task" % name))
        except OSError:  # it has ended
            pass
    return count
