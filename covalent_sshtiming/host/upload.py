"""Upload: a task's request on its way out, whole if it is small, else frame by frame.

Owns the submission and the coroutine that sends a large body. Whether a task is to be submitted is
`host`'s to decide.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from covalent_sshtiming.errors import TransferError
from covalent_sshtiming.host import patience
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.task import Request, Task
from covalent_sshtiming.remote import wire

_YIELD_FRAMES = 2  # 0.6 ms between two turns of the event loop


def submit(session: Session, task: Task) -> None:
    """Send a task off, or begin to."""
    stop(task)
    task.sent, task.sent_by, task.submitted_on = True, task.sent_by or session, session
    task.request.left = True
    task.machine = task.machine or session.machine
    task.met = task.met or bool(session.hello)
    task.mark("sent")
    request = task.request
    head = {**request.head, **request.wishes, "key": request.key, "size": request.size}
    if request.size <= wire.MAX_BODY and request.more is None:
        body = b"".join(request.chunks())
        session.send(wire.SUBMIT, task.number, {**head, "sha256": hashlib.sha256(body).hexdigest()}, body)
        return
    session.send(wire.SUBMIT, task.number, head)
    task.uploader = asyncio.ensure_future(_upload(session, task))


def submit_later(session: Session, task: Task) -> None:
    """Send a task once more after a pause. Nothing of it is there, so until then it counts as not sent."""
    stop(task)
    task.sent, task.sent_by = False, None
    task.uploader = asyncio.ensure_future(_submit_later(session, task))


async def _submit_later(session: Session, task: Task) -> None:
    await asyncio.sleep(patience.pause(session.target, 1))
    task.uploader = None  # which is us
    submit(session, task)


async def _body(request: Request) -> AsyncIterator[bytes]:
    """Yield all of a body."""
    for chunk in request.chunks():
        yield chunk
    if request.more is not None:
        async for chunk in request.more():
            yield chunk


async def _upload(session: Session, task: Task) -> None:
    """Send a large body, no faster than the connection takes it, in turn with other tasks."""
    digest, frames = hashlib.sha256(), 0
    try:
        async for chunk in _body(task.request):
            digest.update(chunk)
            session.send(wire.DATA, task.number, None, chunk)
            frames += 1
            if frames % _YIELD_FRAMES == 0:
                await asyncio.sleep(0)
            await session.writable_now.wait()
            if not session.alive:
                return
        session.send(wire.END, task.number, {"sha256": digest.hexdigest()})
    except TransferError as error:  # of a file that is sent along; nothing of the task has begun
        for kind in (wire.CANCEL, wire.ACK):
            session.send(kind, task.number, {"key": task.request.key})
        task.fail(TransferError(f"{session.target}: {error}"))
    except Exception as error:  # noqa: BLE001 - the body's own iterator: nobody awaits this coroutine, the task does
        task.fail(error)


def stop(task: Task) -> None:
    """Send no more of a task's body."""
    if task.uploader is not None:
        task.uploader.cancel()
        task.uploader = None
