"""Answers: what each frame from an agent means to the task that it names.

Each takes the session that the frame came on, the task and the frame; it tells whether the frame brought
anything that was not here before, and raises one of our errors, which ends the task. All of it is a
stranger's word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from covalent_sshtiming.errors import (
    ConnectError,
    ProtocolError,
    ResultError,
    TaskDied,
    TaskError,
    TransferError,
)
from covalent_sshtiming.host import upload
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.task import Inquiry, Outcome, Task, ended_here
from covalent_sshtiming.remote import wire

_log = logging.getLogger(__name__)
_OFFSET_MAX = 1 << 62
_AGO_MAX = 1.0  # seconds that an agent may keep an answer back


def accepted(_: Session, task: Task, frame: wire.Frame) -> bool:
    """Note that the request is safe on the far disk."""
    brought, task.accepted = not task.accepted, True
    ago = frame.header.get("ago")
    task.mark("accepted", ago if isinstance(ago, float) and 0 <= ago < _AGO_MAX else 0.0)
    return brought


def unknown(session: Session, task: Task, _: wire.Frame) -> bool:
    """Submit again what was never accepted; what was accepted and is unknown now has died.

    Another machine behind the same name knows nothing, and says nothing about the task.
    """
    if task.machine and session.machine and task.machine != session.machine:
        other = printable(str(session.hello.get("hostname")), 80)
        session.fail(ConnectError(f"{session.target}: another machine answers ({other})."))
        return False
    if not task.accepted:
        if task.submitted_on is session:
            raise TaskDied(
                f"{session.target}: the task was sent there, and it says that it has never heard of it. It "
                "may run all the same; dispatch it anew."
            )
        upload.submit(session, task)
        return True
    raise TaskDied(
        f"{session.target}: the task was accepted there and is now unknown: its directory was removed, or "
        "another machine answers under this name. It is not run again by itself; dispatch it anew."
    )


def refused(session: Session, task: Task, frame: wire.Frame) -> bool:
    """Try once more after a while, since nothing of it has started; then word why it cannot be stored."""
    if task.cancelled:
        task.succeed(ended_here(task, session.hello))
        return True
    error = _not_stored(session, task, frame.header)
    if task.refused:
        raise error
    _log.warning("submit.refused host=%s error=%s", session.target.label, error)
    task.refused = True
    upload.submit_later(session, task)
    return True


def _not_stored(session: Session, task: Task, facts: dict[str, Any]) -> TransferError:
    text, path = printable(str(facts.get("text"))), printable(str(facts.get("path")))
    number, free = facts.get("errno"), facts.get("free")
    room = f", {free} bytes free of {task.request.size} needed" if isinstance(free, int) else ""
    number = number if isinstance(number, int) else "unknown"
    return TransferError(
        f"{session.target}: the task could not be stored in {path}: {text} (errno {number}{room}). "
        "Make room there, or set remote_spool to another place."
    )


def stream(_: Session, task: Task, frame: wire.Frame) -> bool:
    """Take a piece of output."""
    live = task.request.live
    if live is None:  # else it may come long before the end
        task.mark("told")
    number, offset = frame.header.get("fd"), frame.header.get("offset")
    if type(number) is int and number in (1, 2) and type(offset) is int and 0 <= offset < _OFFSET_MAX:
        news = task.outputs[number - 1].add(offset, frame.body)
        if live is not None and news:
            live(number, news)
        return bool(news)
    return False


def result(session: Session, task: Task, frame: wire.Frame) -> bool:
    """Make ready for a result, once on each connection."""
    task.mark("told")
    if task.result_on is session:
        raise ResultError(f"{session.target}: it announced the result twice.")
    task.result_on = session
    task.sink.begin(frame.header.get("parts"))
    return True


def data(session: Session, task: Task, frame: wire.Frame) -> bool:
    """Take a piece of the result."""
    try:
        task.sink.add(frame.body)
    except TaskError as error:
        raise type(error)(f"{session.target}: {error}") from error
    return bool(frame.body)


def file(session: Session, task: Task, frame: wire.Frame) -> bool:
    """Take of the files that the task has left."""
    files = task.request.files
    if files is None:
        return False
    task.mark("told")
    task.mark("files")
    if task.files_on is not session:
        task.files_on = session
        files.begin(lambda taken: session.send(wire.FILE, task.number, {"taken": taken}))
    try:
        brought = files.take(frame.header, frame.body)
    except ProtocolError as error:
        text = printable(str(error))
        raise ProtocolError(f"{session.target}: {text}. Is something else answering there?") from error
    if "end" in frame.header:
        task.mark("fetched")
    return brought


def outcome(session: Session, task: Task, frame: wire.Frame) -> bool:
    """End the task with what became of it."""
    task.mark("told")
    task.mark("ended")
    try:
        ended = wire.json_object(frame.body, "outcome")
    except wire.ProtocolError as error:
        raise TaskDied(
            f"{session.target}: the outcome that it sent cannot be read ({error}); see its spool."
        ) from error
    stdout, stderr = (bytes(output.data) for output in task.outputs)
    machine = dict(session.hello)
    task.succeed(Outcome(ended, stdout, stderr, machine, task.waits(), session.clock.offset))
    return True


def listing(session: Session, task: Task, frame: wire.Frame) -> bool:
    """Take some of the tasks that were asked for."""
    if not isinstance(task, Inquiry):
        return False
    before = len(task.found)
    task.add(frame.body)
    if frame.header.get("end"):
        task.succeed(ended_here(task, session.hello))
    return len(task.found) > before or task.future.done()


HANDLERS: dict[int, Callable[[Session, Task, wire.Frame], bool]] = {
    wire.ACCEPTED: accepted,
    wire.UNKNOWN: unknown,
    wire.REFUSED: refused,
    wire.STREAM: stream,
    wire.RESULT: result,
    wire.DATA: data,
    wire.OUTCOME: outcome,
    wire.LIST: listing,
    wire.FILE: file,
}
