"""The backlog: tasks that wait for a slot, fair between dispatches, and the slots themselves.

A slot is a numbered lock file per remote user, so all agents of that user share them; a task
with `max_parallel` m may hold only slots 0 to m-1. The agent takes the lock and hands its
descriptor to the supervisor, which holds it for as long as the task lives.
"""

import os
from collections import OrderedDict, deque
from typing import Any, Deque, Dict, Iterator, List, Optional

from . import places


class Backlog:
    """Waiting tasks: one queue a dispatch, served in turn."""

    def __init__(self) -> None:
        self._queues: "OrderedDict[str, Deque[Dict[str, Any]]]" = OrderedDict()
        self._keys: "set[str]" = set()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, head: "Dict[str, Any]") -> None:
        """Queue a task behind the others of its dispatch; twice is once."""
        if head["key"] not in self._keys:
            self._keys.add(head["key"])
            self._queues.setdefault(str(head.get("dispatch_id")), deque()).append(head)

    def remove(self, key: str) -> None:
        """Take a task out, wherever it stands."""
        self._keys.discard(key)
        for name, queue in list(self._queues.items()):
            kept = deque(head for head in queue if head["key"] != key)
            if kept:
                self._queues[name] = kept
            else:
                del self._queues[name]

    def fronts(self) -> "Iterator[Dict[str, Any]]":
        """Yield the first task of each dispatch, in the order of whose turn it is."""
        for queue in list(self._queues.values()):
            yield queue[0]

    def started(self, head: "Dict[str, Any]") -> None:
        """Take a front task out, and let the other dispatches come before its own."""
        name = str(head.get("dispatch_id"))
        queue = self._queues.pop(name)
        queue.popleft()
        self._keys.discard(head["key"])
        if queue:
            self._queues[name] = queue


class Slots:
    """The slots that our own supervisors hold; whether others hold one, only its lock tells."""

    def __init__(self, base: str, default: int) -> None:
        self._room = os.path.join(base, "slots")
        self._default = default
        self._ours: "Dict[int, str]" = {}

    def take(self, key: str, most: int) -> "Optional[List[int]]":
        """Return the descriptors of the locks that `key` now holds, or None if all are taken."""
        for number in range(most if most > 0 else self._default):
            if number in self._ours:
                continue
            try:
                handle = places.try_lock(os.path.join(self._room, str(number)))
            except OSError:  # no descriptor to be had just now
                return None
            if handle is not None:
                self._ours[number] = key
                return [handle]
        return None

    def free(self, key: str) -> None:
        """Note that the supervisor of `key` has let its slots go."""
        for number in [number for number, holder in self._ours.items() if holder == key]:
            del self._ours[number]
