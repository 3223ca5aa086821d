"""Host: one target's warm session, and every task that this process has there.

Owns the tasks from `run` to `acknowledge`, and the one coroutine that connects and reconnects
for all of them (`_keep`). State that several coroutines share is in `Host.__init__`; it changes in
synchronous steps: a frame, a loss, a submission. A task is sent once; after that it is only ever
attached to, unless the machine says that it has never heard of it and never accepted it. What a frame
means to the task that it names is `answers`' to say, how a request goes out `upload`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from covalent_sshtiming.errors import (
    ConnectError,
    ConnectionLostError,
    ProtocolError,
    ResultError,
    SSHTimingError,
)
from covalent_sshtiming.host import answers, patience, upload
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.streams import Receiver, Streams
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Files, Inquiry, Outcome, Request, Sink, Task, ended_here
from covalent_sshtiming.remote import wire

_log = logging.getLogger(__name__)
_FRUITFUL_SECONDS = 30.0  # a session that lived so long was none of those that end right away
_HASTY_SECONDS = 1.0  # after one that did not even live so long, the next one waits a little

Opener = Callable[[str, Receiver], Awaitable[Streams]]
_numbers = itertools.count(time.time_ns() // 1000)  # of connections: rises across restarts too


class Host:
    """One warm session with a target, opened on demand and after each loss."""

    def __init__(self, target: Target, opener: Opener) -> None:
        self.target = target
        self.connections = 0  # opened so far
        self._opener = opener
        self._client = os.urandom(16).hex()
        self._tasks: dict[int, Task] = {}  # until their outcome is here
        self._unacknowledged: dict[int, dict[str, Any]] = {}
        self._task_numbers = itertools.count(1)
        self._session: Session | None = None
        self._machine: dict[str, Any] = {}
        self._changed = asyncio.Event()  # a task came, a session went
        self._keeper: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._opened_at = 0.0
        self._fruitful = False  # whether this session has brought any task further
        self._violations = 0  # sessions in a row that ended because the machine broke the protocol
        self._closed = False

    def __repr__(self) -> str:
        state = "open" if self._session and self._session.alive else "closed"
        return f"<Host {self.target} {state} tasks={len(self._tasks)} connections={self.connections}>"

    @property
    def idle(self) -> bool:
        """Whether nothing is connected and nothing waits to be."""
        return self._session is None and not self._tasks

    # ---- what the executor asks for

    async def run(self, request: Request, sink: Sink) -> Outcome:
        """Run a task to its outcome; raises one of our errors.

        Cancelling this await, as the end of the loop does, cancels the task unless it is to be left.
        """
        task = Task(next(self._task_numbers), request, sink)
        self._tasks[task.number] = task
        try:
            self._wake(task)
            return await task.wait()
        except asyncio.CancelledError:
            task.future.add_done_callback(lambda future: self._abandoned(task, future))
            if not request.leave:
                self.cancel(request.key)
            raise
        finally:
            if task.future.done():
                self._forget(task)

    def _wake(self, task: Task) -> None:
        """Send a new task off, or see to it that there will be a connection to send it on."""
        if self._session is not None and self._session.alive:
            self._send(self._session, task)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.ensure_future(self._keep())
        self._changed.set()

    def _abandoned(self, task: Task, future: asyncio.Future[Outcome]) -> None:
        """Clear away a task that nobody waits for any more, once its end is known."""
        future.exception()
        self._forget(task)
        if task.sent and (task.cancelled or not task.request.leave):
            self.acknowledge(task.request.key)

    def acknowledge(self, key: str, keep: bool = False) -> None:
        """Tell the far side that result and record are safe; told again after a loss."""
        number = next(self._task_numbers)
        header: dict[str, Any] = {"key": key, "keep": True} if keep else {"key": key}
        self._unacknowledged[number] = header
        if self._session is not None and self._session.alive:
            self._session.send_later(wire.ACK, number, header)

    def cancel(self, key: str) -> None:
        """Ask for the end of a task; its `run` then returns an outcome that says so.

        A machine that is away hears of it when it is back, and nobody waits for that.
        """
        for task in self._tasks.values():
            if task.request.key == key:
                task.cancelled = True
                if not task.sent:
                    task.succeed(ended_here(task, self._machine))
                    continue
                asyncio.get_running_loop().call_later(self.target.farewell, self._let_go, task)
                if self._session is not None and self._session.alive:
                    self._end_there(self._session, task)

    def _let_go(self, task: Task) -> None:
        """Have the `run` of a cancelled task end, of whose end nothing was heard."""
        if not task.future.done() and task.let_go(patience.parting(self.target, self._machine, task)):
            task.future.add_done_callback(lambda future: self._abandoned(task, future))

    async def attach(self, key: str, sink: Sink, files: Files | None = None) -> Outcome:
        """Wait for the end of a task that some process has sent; raises one of our errors."""
        task = Task(next(self._task_numbers), Request(key, {}, 0, lambda: (), files=files), sink)
        task.sent = task.met = task.accepted = True
        return await self._see(task)

    async def jobs(self, keep: Callable[[object], Any]) -> list[Any]:
        """Ask which tasks of this user are there; `keep` makes of each, as a stranger tells it, what is kept.

        That is a JSON value of any kind; of one that is no task `keep` returns None.
        """
        inquiry = Inquiry(next(self._task_numbers), keep)
        await self._see(inquiry)
        return inquiry.found

    async def _see(self, task: Task) -> Outcome:
        """Have a task that this process never submits answered."""
        self._tasks[task.number] = task
        try:
            self._wake(task)
            return await asyncio.shield(task.future)
        finally:
            self._forget(task)

    async def acknowledged(self) -> None:
        """Wait until the far side has said of everything that it is forgotten, or five seconds."""
        for _ in range(250):
            if not self._unacknowledged:
                return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Close the connection; tasks of ours that still run there go on."""
        self._closed = True
        self._changed.set()
        if self._keeper is not None:
            await asyncio.gather(self._keeper, return_exceptions=True)
        for task in list(self._tasks.values()):
            task.fail(
                ConnectionLostError(
                    f"{self.target}: the connection was closed; the task may still run there."
                )
            )

    # ---- one task

    def _forget(self, task: Task) -> None:
        self._tasks.pop(task.number, None)
        upload.stop(task)
        self._changed.set()

    def _send(self, session: Session, task: Task) -> None:
        """Bring a task to a fresh or warm session: attach if it was ever sent, submit if not."""
        upload.stop(task)
        if isinstance(task, Inquiry):
            task.clear()
            session.send(wire.LIST, task.number)
            return
        if task.cancelled:
            self._end_there(session, task)
        if task.sent:
            have = {"stdout": task.outputs[0].end, "stderr": task.outputs[1].end}
            wish = {**task.request.wishes, "cancelled": task.cancelled}
            session.send(wire.ATTACH, task.number, {"key": task.request.key, **have, **wish})
            return
        upload.submit(session, task)

    def _end_there(self, session: Session, task: Task) -> None:
        """Have the machine end a task, and end it here if it answers and does not."""
        upload.stop(task)
        session.send(wire.CANCEL, task.number, {"key": task.request.key})
        loop, target = asyncio.get_running_loop(), self.target
        loop.call_later(target.ending, patience.give_up_on_end, target, session, task)

    # ---- frames

    def _on_frame(self, session: Session, frame: wire.Frame) -> bool:
        """Do what a frame says; tell whether it brought anything that was not here before."""
        if frame.type == wire.ACK:
            return self._unacknowledged.pop(frame.task, None) is not None
        self._machine = session.hello or self._machine  # it came before any other frame
        task = self._tasks.get(frame.task)
        handler = answers.HANDLERS.get(frame.type)
        if task is None or handler is None or task.future.done():
            return False  # ended here already, by an error of ours
        brought = True
        try:
            brought = handler(session, task, frame)
        except SSHTimingError as error:
            task.fail(error)
            if frame.type not in (wire.REFUSED, wire.UNKNOWN):
                self.cancel(task.request.key)
        except Exception as error:  # noqa: BLE001 - a stranger's frame ends the task that it names, no more
            said = printable(repr(error))
            task.fail(ResultError(f"{self.target}: a frame that it sent makes no sense ({said})."))
        if brought and frame.type != wire.UNKNOWN:
            self._fruitful, self._lost_at = True, None
        return brought

    # ---- connecting

    async def _keep(self) -> None:
        """Connect while there is anything to do, reconnect after each loss, let go when idle.

        A task may come while an idle session is being closed, so that only ends a round of the loop.
        """
        try:
            while not self._closed and (self._tasks or self._session is not None):
                if self._session is None:
                    await self._connect()
                    continue
                self._changed.clear()
                if not self._session.alive:
                    await self._after_loss()
                elif not await self._wait_for_change():
                    await self._drop_session()
        except Exception as error:  # noqa: BLE001 - a bug of ours must end tasks, not hang them
            _log.exception("connection.failed host=%s", self.target.label)
            for task in list(self._tasks.values()):
                task.fail(error)
        except asyncio.CancelledError:  # the loop ends, and perhaps this comes before each task's own end
            for task in list(self._tasks.values()):
                if not task.request.leave:
                    self.cancel(task.request.key)
            raise
        finally:
            await self._drop_session()

    async def _after_loss(self) -> None:
        """Clear away a lost session.

        One that brought nothing, or broke the protocol, counts as a failed attempt to connect.
        """
        lived = time.monotonic() - self._opened_at
        broken = self._session.error if self._session is not None else None
        if not isinstance(broken, ProtocolError):
            self._violations, broken = 0, None
        fruitful = broken is None and (self._fruitful or lived > _FRUITFUL_SECONDS)
        if fruitful:
            self._lost_at = time.monotonic()
        await self._drop_session()
        if broken is not None:
            self._give_up_on(broken, 1 if lived > _FRUITFUL_SECONDS else self._violations + 1)
        if not fruitful and self._tasks:
            await self._after_failure(
                broken or ConnectError(f"{self.target}: the connection ended right after its greeting.")
            )
        elif lived < _HASTY_SECONDS:
            await asyncio.sleep(patience.pause(self.target, 0))

    def _give_up_on(self, broken: ProtocolError, violations: int) -> None:
        """End what was sent to a machine that breaks the protocol on each connection anew."""
        self._violations = violations
        if violations < self.target.attempts:
            return
        for task in list(self._tasks.values()):
            if task.sent:
                row = f"{violations} connections in a row" if violations > 1 else "the connection"
                task.fail(ProtocolError(f"{broken} That ended {row}; the task may still run there."))

    async def _wait_for_change(self) -> bool:
        """Wait until something changed; False once the session has been idle for long enough."""
        limit = None if self._tasks else self.target.idle_timeout
        try:
            await asyncio.wait_for(self._changed.wait(), limit)
        except asyncio.TimeoutError:
            return bool(self._tasks)
        return True

    async def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            _log.info("connection.closed host=%s", self.target.label)
            await session.close()

    def _on_lost(self, session: Session) -> None:
        if session is self._session:
            self._lost_at = self._lost_at or time.monotonic()
            self._changed.set()
            for task in self._tasks.values():
                upload.stop(task)

    async def _connect(self) -> None:
        """Try once; on failure end the tasks that may not wait longer, and wait a little for the rest."""
        session = Session(self.target, self._on_frame, self._on_lost)
        try:
            _log.info("connect.started host=%s", self.target.label)
            await session.open(self._opener, self._client, next(_numbers))
            if any(task.sent for task in self._tasks.values()):
                await session.greeted()
        except SSHTimingError as error:
            _log.warning("connect.failed host=%s error=%s", self.target.label, error)
            await session.close()
            await self._after_failure(error)
            return
        except Exception as error:  # noqa: BLE001 - what no translation knows: final for a task that was not sent
            _log.exception("connect.failed host=%s", self.target.label)
            await session.close()
            unforeseen = ConnectError(f"{self.target}: connecting failed ({printable(repr(error))}).")
            unforeseen.retriable = False
            await self._after_failure(unforeseen)
            return
        await self._begin(session)

    async def _begin(self, session: Session) -> None:
        """Hand a fresh session its tasks, in one step; then wait for its hello, which may bring an error."""
        self.connections += 1
        self._session = session
        self._opened_at, self._fruitful = time.monotonic(), False
        for number, header in self._unacknowledged.items():
            session.send(wire.ACK, number, header)
        for task in list(self._tasks.values()):
            self._send(session, task)
        try:
            self._machine = await session.greeted()
            for task in self._tasks.values():
                task.met = task.met or task.sent
            _log.info("connect.complete host=%s", self.target.label)
        except SSHTimingError as error:
            _log.warning("connect.failed host=%s error=%s", self.target.label, error)
            self._session = None
            for task in self._tasks.values():
                if task.sent_by is session and not (task.accepted or error.retriable):
                    task.sent, task.sent_by = False, None  # nobody was there to read what we wrote
            await session.close()
            await self._after_failure(error)

    async def _after_failure(self, error: SSHTimingError) -> None:
        worst = 0
        for task in list(self._tasks.values()):
            task.failures += 1
            worst = max(worst, task.failures)
            patience.give_up_if_due(self.target, task, error, self._lost_at)
        for task in list(self._tasks.values()):
            if task.future.done():
                self._tasks.pop(task.number, None)
        if self._tasks and not self._closed:
            await asyncio.sleep(patience.pause(self.target, worst))
