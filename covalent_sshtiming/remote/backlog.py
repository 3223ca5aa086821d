"""The backlog: tasks that wait for what they need, fair between dispatches.

A dispatch has a queue for each kind of need, so that a task that waits for a GPU does not hold up those
of its dispatch that need none.
"""

from collections import OrderedDict, deque
from typing import Any, Deque, Dict, Iterator

from .needs import Needs


class Backlog:
    """Waiting tasks: the dispatches are served in turn, and so are the needs of each."""

    def __init__(self) -> None:
        self._queues: "OrderedDict[str, OrderedDict[Needs, Deque[Dict[str, Any]]]]" = OrderedDict()
        self._keys: "set[str]" = set()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, head: "Dict[str, Any]") -> None:
        """Queue a task behind those of its dispatch that need the same; twice is once."""
        if head["key"] not in self._keys:
            self._keys.add(head["key"])
            queues = self._queues.setdefault(_dispatch(head), OrderedDict())
            queues.setdefault(head["needs"], deque()).append(head)

    def remove(self, key: str) -> None:
        """Take a task out, wherever it stands."""
        self._keys.discard(key)
        for name, queues in list(self._queues.items()):
            for needs, queue in list(queues.items()):
                queues[needs] = deque(head for head in queue if head["key"] != key)
                if not queues[needs]:
                    del queues[needs]
            if not queues:
                del self._queues[name]

    def fronts(self) -> "Iterator[Dict[str, Any]]":
        """Yield the first task of each queue, in the order of whose turn it is."""
        for queues in list(self._queues.values()):
            for queue in list(queues.values()):
                yield queue[0]

    def started(self, head: "Dict[str, Any]") -> None:
        """Take a front task out, and let the other dispatches, and its own's other needs, come first."""
        queues = self._queues.pop(_dispatch(head))
        queue = queues.pop(head["needs"])
        queue.popleft()
        self._keys.discard(head["key"])
        if queue:
            queues[head["needs"]] = queue
        if queues:
            self._queues[_dispatch(head)] = queues


def _dispatch(head: "Dict[str, Any]") -> str:
    return str(head.get("dispatch_id"))
