"""Jobs: the tasks of this user as a person wants to see them, whoever sent them and whichever agent has them.

Owns the look at all task directories, and what is told of each. Reads only, but for closing those whose
supervisor was killed.
"""

import json
import os
import time
from typing import Any, Callable, Dict, Iterator, Optional

from . import places, platforms, tasks, wire

STATES = {
    tasks.WAITING: "queued",
    tasks.RUNNING: "running",
    tasks.ENDED: "finished",
    tasks.UNKNOWN: "uploading",
}
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def telling(base: str, task: int, is_watched: "Callable[[str], bool]") -> "Iterator[bytes]":
    """Yield the frames that answer a `list`: some tasks in each, the last one says that it is the last."""
    some: "list[bytes]" = []
    size = 0
    for key, directory in tasks.every(base):
        told = describe(key, directory)
        if told is None:
            continue
        told["watched"] = is_watched(key)
        text = json.dumps(told).encode()
        if size + len(text) + 2 > wire.MAX_BODY:
            yield _frame(task, some)
            some, size = [], 0
        some.append(text)
        size += len(text) + 2
    yield _frame(task, some, {"end": True})


def _frame(task: int, some: "list[bytes]", header: "Dict[str, Any]" = {}) -> bytes:  # noqa: B006 - never written to
    return wire.encode(wire.LIST, task, header, b"[" + b",".join(some) + b"]")


def describe(key: str, directory: str) -> "Optional[Dict[str, Any]]":
    """Return what there is to say of a task; None if its directory has just gone."""
    state = tasks.state(directory)
    if state == tasks.DIED:
        tasks.close_dead(directory)
        state = tasks.ENDED
    started = tasks.mark_of(directory)
    facts = started.get("facts")
    if not isinstance(facts, dict):  # it waits, or is of a version before they were kept
        facts = tasks.read_head(directory) or {}
    facts = tasks.facts(facts)
    if state == tasks.UNKNOWN and not os.path.isdir(directory):
        return None
    told = dict(facts, key=key, state=STATES[state], status=None, cpu_s=None)
    accepted = facts.get("accepted")
    told["age_s"] = max(0.0, time.time() - accepted) if isinstance(accepted, (int, float)) else None
    if state == tasks.RUNNING:
        told["cpu_s"] = used(started.get("pid"))
    elif state == tasks.ENDED:
        ended = places.read_json(os.path.join(directory, places.OUTCOME)) or {}
        status, record = ended.get("status"), ended.get("record")
        told["status"] = status[: tasks.FACT_CHARS] if isinstance(status, str) else None
        told["cpu_s"] = record.get("cpu_s") if isinstance(record, dict) else None
    return told


def used(supervisor: "Any") -> "Optional[float]":
    """CPU seconds of a running task's processes so far, with those that they have waited for.

    By each one's CPU clock, and /proc/<pid>/stat for its children, which counts in hundredths.
    """
    if not isinstance(supervisor, int) or not platforms.LINUX:
        return None
    total = 0.0
    for pid in platforms.descendants(supervisor):
        try:
            total += time.clock_gettime((~pid << 3) | 2)
        except OSError:  # it has just ended
            continue
        fields = platforms.stat_fields(pid)
        total += sum(int(field) for field in fields[13:15]) * _TICK
    return total
