"""Stopping: whether the Covalent server that we are in is about to end, and what is finished all the same.

Covalent cancels every dispatch when its server stops, by the same call as a user who cancels one.
Which of the two it is only the web server knows: uvicorn's `Server` notes that it was told to end.
It runs as a task of this very event loop, and there it is looked for.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


def server_is_stopping() -> bool:
    """Tell whether the web server on the running loop was told to end; False where there is none."""
    for task in asyncio.all_tasks():
        coroutine = task.get_coro()
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and getattr(coroutine, "__qualname__", "") == "Server.serve":
            return bool(getattr(frame.f_locals.get("self"), "should_exit", False))
    return False


async def finished(work: asyncio.Future[_T]) -> _T:
    """Wait for what takes moments; who waits may be cancelled meanwhile, and goes on all the same."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(work)
    return work.result()
