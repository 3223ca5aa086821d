"""The foreman: the agent's tasks, from the queue to whoever waits for their end.

Owns what is not on disk of a task: its place in the backlog, the slots, the supervisors forked
ahead, which supervisor has it, and who is watching. What a task *is* stands in its directory, and
`tasks` reads it there; so everything here may be lost with the agent, and another goes on.
"""

import os
import selectors
import signal
import socket
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from . import (
    aside,
    backlog,
    courier,
    couriers,
    crew,
    ending,
    gauge,
    gpus,
    needs,
    places,
    platforms,
    slots,
    tasks,
    wire,
)
from .connection import Connection

LOSSES_MAX = 3
_ORDER = ("key", "time_limit", "linger", "queued", "memory_limit", "process_limit")


class Watch:
    """Who waits for a task's end: its connection, its task number, the output that it has already."""

    def __init__(
        self,
        connection: Connection,
        task: int,
        have: "Tuple[int, int]",
        follow: bool,
        files: "Optional[int]" = None,
    ) -> None:
        self.connection = connection
        self.task = task
        self.have = have
        self.follow = follow  # whether output is wanted as it comes
        self.files = files  # how many of its files are settled there; None where none are wanted

    def send_news(self, directory: str) -> bool:
        """Queue what was printed meanwhile, if the connection has room; False where there is nothing."""
        if not self.connection.has_room:
            return False
        news = list(tasks.news(directory, self.have))
        have = list(self.have)
        for number, offset, data in news:
            self.connection.send(wire.STREAM, self.task, {"fd": number + 1, "offset": offset}, data)
            have[number] = offset + len(data)
        self.have = (have[0], have[1])
        return bool(news)


class Foreman:
    """Starts what waits, watches what runs, and has the ends delivered."""

    def __init__(
        self,
        base: str,
        name: str,
        facts: "Dict[str, Any]",
        cpus: "Sequence[int]",
        crew_ahead: crew.Crew,
        selector: selectors.BaseSelector,
        deliver: "Callable[[Connection, Iterator[Any]], None]",
    ) -> None:
        self.base = base
        self._name = name
        self._python = ".".join(str(facts["python"]).split(".")[:2])
        self._crew = crew_ahead
        self._selector = selector
        self._deliver = deliver
        self._watchers: "Dict[str, List[Watch]]" = {}
        self._controls: "Dict[str, socket.socket]" = {}  # tasks that supervisors of ours have
        self._losses: "Dict[str, int]" = {}  # supervisors that ended before they began
        self._unmarked: "Set[str]" = set()  # to be cancelled as soon as the disk takes the mark
        self._backlog = backlog.Backlog()
        self._slots = slots.Slots(base, cpus, gpus.Finder(selector))
        self.couriers = couriers.Couriers(selector, lambda connection: deliver(connection, iter(())))

    def directory(self, key: str) -> str:
        """Return the directory of a task."""
        return os.path.join(self.base, "tasks", key)

    @property
    def busy(self) -> bool:
        """Whether a task of ours waits or runs."""
        return bool(self._controls or self._backlog)

    @property
    def waiting(self) -> bool:
        """Whether a task waits for a slot."""
        return bool(self._backlog)

    @property
    def must_look(self) -> bool:
        """Whether something may happen that nobody will tell us of."""
        return bool(self._backlog or self._unmarked) or any(
            key not in self._controls or any(watch.follow for watch in watches)
            for key, watches in self._watchers.items()
        )

    def take_stock(self) -> None:
        """Remove what is too old, and queue what an agent before us left waiting."""
        for _, directory in tasks.every(self.base):
            head = tasks.read_head(directory)
            if head and head.get("agent") == self._name and tasks.state(directory) == tasks.WAITING:
                self.enqueue(head)
        tasks.expire(self.base)

    def enqueue(self, head: "Dict[str, Any]") -> None:
        """Queue a task whose request is on disk."""
        if head["key"] not in self._controls:
            self._backlog.add(dict(head, queued=time.monotonic(), needs=needs.of(head)))

    def watch(self, key: str, watch: Watch) -> None:
        """Have the task's end delivered to a connection, unless that has gone meanwhile."""
        if not watch.connection.closed:
            self._watchers.setdefault(key, []).append(watch)

    def is_watched(self, key: str, by_other_than: Connection) -> bool:
        """Whether another connection waits for the task's end."""
        return any(watch.connection is not by_other_than for watch in self._watchers.get(key, ()))

    def unwatch(self, connection: Connection) -> None:
        """Forget what a connection was watching; the tasks go on."""
        for key in list(self._watchers):
            self._watchers[key] = [w for w in self._watchers[key] if w.connection is not connection]
            if not self._watchers[key]:
                del self._watchers[key]

    def find(self, key: str) -> str:
        """Return the state of a task; one that has died is closed, one that waits is queued again."""
        directory = self.directory(key)
        found = tasks.state(directory)
        if found == tasks.DIED:
            tasks.close_dead(directory)
            found = tasks.state(directory)  # still "died" where the disk has no room for an outcome
        if found == tasks.WAITING and key not in self._controls:
            self._requeue(directory)
        return found

    def _requeue(self, directory: str) -> None:
        """Queue a request that lies on disk, if this agent's Python and environment are what it needs."""
        head = tasks.read_head(directory)
        if head and head.get("python") == self._python and places.same_flavor(head.get("agent"), self._name):
            self.enqueue(head)

    def cancel(self, key: str) -> None:
        """Stop a task wherever it is; where the disk does not take the mark, as soon as it does."""
        directory = self.directory(key)
        self._unmarked.discard(key)
        try:
            places.create(os.path.join(directory, places.CANCEL))
        except FileNotFoundError:  # somebody has removed the directory
            return
        except OSError as error:
            sys.stderr.write("%s cannot be cancelled yet: %s\n" % (key, error))
            self._unmarked.add(key)
            return
        # Looked at after the mark: the supervisor looks for it before and after it marks the task as started.
        found = tasks.state(directory)
        if found in (tasks.WAITING, tasks.UNKNOWN) and key not in self._controls:
            self._backlog.remove(key)
            places.discard(os.path.join(directory, places.REQUEST))  # first: the outcome may need its room
            tasks.finish(directory, ending.outcome("cancelled"))
            self._ended(key)
        started = tasks.mark_of(directory)
        pid = started.get("pid")
        if found == tasks.RUNNING and isinstance(pid, int) and pid > 1:
            platforms.send_signal([pid], signal.SIGTERM)

    def start_waiting(self) -> None:
        """Start what slots and devices can be had for, in turn between the dispatches."""
        started = bool(self._backlog)
        while started:
            self._slots.begin_round()
            started = any(self._start(head) for head in self._backlog.fronts())

    def _start(self, head: "Dict[str, Any]") -> bool:
        """Start a task, or end one that never can be; False where it has to wait."""
        try:
            share = self._slots.take(head["key"], head["needs"])
        except needs.Never as never:
            self._give_up(head["key"], {"class": "RemoteEnvError", "text": str(never), "phase": "queue"})
            self._settle(head["key"])
            return True
        if share is None:
            return False
        control = self._hand_over(head, share)
        if control is None:
            self._slots.free(head["key"])
            return False
        self._backlog.started(head)
        self._controls[head["key"]] = control
        self._selector.register(control, selectors.EVENT_READ, lambda _: self._hear(head["key"]))
        return True

    def _hand_over(self, head: "Dict[str, Any]", share: slots.Share) -> "Optional[socket.socket]":
        """Give a task and all that it holds to a supervisor; None if no fork is to be had."""
        order = {name: head.get(name) for name in _ORDER}
        order.update(facts=tasks.facts(head), environment=share.environment)
        handles = list(share.handles)
        if share.cpus:
            order["cpus"] = share.cpus
        if share.gpus:
            order["gpus"] = ",".join(share.gpus)
            link = aside.start(lambda link: gauge.sample(link, share.gpus))
            if link is not None:
                handles.append(link.detach())
                order["gauged"] = True
        try:
            return self._crew.send(order, handles)
        finally:
            for handle in handles:
                os.close(handle)

    def _hear(self, key: str) -> None:
        """A word from a supervisor, or its end: either way the disk says what it means."""
        control = self._controls[key]
        try:
            word = control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        self._selector.unregister(control)
        del self._controls[key]
        self._slots.free(key)
        if word:
            self._crew.take_back(control)
        else:
            control.close()
            crew.reap()
        self._settle(key, lost=True)

    def _settle(self, key: str, lost: bool = False) -> None:
        """Act on the state of a task that no supervisor of ours has, or that one has just let go."""
        found = self.find(key)
        if found == tasks.WAITING and lost:
            found = self._note_loss(key)
        if found == tasks.UNKNOWN:  # somebody has removed its directory
            for watch in self._watchers.pop(key, []):
                self._deliver(watch.connection, iter([wire.encode(wire.UNKNOWN, watch.task)]))
        if found == tasks.ENDED:
            self._ended(key)

    def _note_loss(self, key: str) -> str:
        """Give up a task that one supervisor after the other did not even start."""
        self._losses[key] = self._losses.get(key, 0) + 1
        if self._losses[key] < LOSSES_MAX:
            return tasks.WAITING
        text = "could not be started there: no supervisor could mark it as started"
        self._give_up(key, {"class": "TransferError", "text": text})
        return tasks.state(self.directory(key))

    def _give_up(self, key: str, error: "Dict[str, Any]") -> None:
        """End a waiting task that cannot be started."""
        directory = self.directory(key)
        places.discard(os.path.join(directory, places.REQUEST))  # first: the outcome may need its room
        tasks.finish(directory, ending.outcome("failed", error))
        self._backlog.remove(key)

    def _ended(self, key: str) -> None:
        self._losses.pop(key, None)
        for watch in self._watchers.pop(key, []):
            self._deliver(watch.connection, self.delivery(key, watch))

    def delivery(self, key: str, watch: Watch) -> tasks.Delivery:
        """Return what tells one who waits for it all of an ended task."""
        directory, files = self.directory(key), None
        if watch.files is not None and courier.has_order(directory):
            files = self.couriers.frames(watch.connection, watch.task, directory, watch.files)
        return tasks.Delivery(directory, watch.task, watch.have, files)

    def look(self) -> None:
        """Look at the watched tasks: at their output, and at those that another agent's supervisors have."""
        for key in list(self._unmarked):
            self.cancel(key)
        for key in list(self._watchers):
            for watch in self._watchers[key]:
                if watch.follow and watch.send_news(self.directory(key)):
                    self._deliver(watch.connection, iter(()))  # which writes what is queued
            if key not in self._controls and key not in self._backlog:
                self._settle(key)
