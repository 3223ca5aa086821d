"""Patience: how long a task waits for a connection, and the error that it ends with when that is over.

Owns the difference between a task that was sent to an agent, which waits out `reconnect_timeout`, and one
that was not, or on a connection that ended before its agent spoke: that one ends with the error of the last
attempt, which says so where it may run all the same. And the pause between two attempts, and the end of a
cancelled task that its machine does not end. When to attempt is `host`'s to decide.
"""

from __future__ import annotations

import random
import time
from typing import Any

from covalent_sshtiming.errors import ConnectionLostError, HostKeyChanged, SSHTimingError, TransferError
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Outcome, Task, ended_here

_BACKOFF_MAX = 30.0


def give_up_if_due(target: Target, task: Task, error: SSHTimingError, lost_at: float | None) -> None:
    """Fail a task whose waiting is over after this error; else leave it as it is.

    `lost_at` is the monotonic time since when the target is away, None where that is not known.
    """
    if task.sent and isinstance(error, HostKeyChanged):
        task.fail(error)
    elif task.sent and (task.met or task.cancelled):
        away = time.monotonic() - (lost_at or task.at["begun"])
        if away > target.reconnect_timeout:
            task.fail(
                ConnectionLostError(
                    f"{target}: the connection was lost and did not come back within "
                    f"{target.reconnect_timeout:g} s (last: {error}). The task may still run there."
                )
            )
    elif task.failures >= _most_attempts(target, task, error):
        if task.failures > 1 and not isinstance(error, TransferError):
            waited = time.monotonic() - task.at["begun"]
            error = type(error)(f"{error} Gave up after {task.failures} attempts in {waited:.0f} s.")
        if task.sent:
            error = ConnectionLostError(f"{error} The task was on its way, and may run there.")
        task.fail(error)


def _most_attempts(target: Target, task: Task, error: SSHTimingError) -> int:
    """Return how often a task may meet with such an error; a disk without room gets a second chance."""
    if isinstance(error, TransferError):
        return min(2, target.attempts)
    return target.attempts if error.retriable or task.sent else 1


def parting(target: Target, machine: dict[str, Any], task: Task) -> Outcome:
    """Return the outcome for the `run` of a cancelled task of whose end nothing was heard."""
    doubt = (
        f"{target}: nothing was heard of the cancelled task's end for {target.farewell:g} s; what runs there "
        "of it is ended as soon as the machine answers."
    )
    return ended_here(task, machine, doubt)


def give_up_on_end(target: Target, session: Session, task: Task) -> None:
    """End a cancelled task here that its machine has not ended; on a lost session, the next one asks anew."""
    doubt = (
        f"{target}: the machine has not ended the cancelled task within {target.ending:g} s. It may still "
        f"run there; `covalent-sshtiming jobs {target.label}` lists what does."
    )
    if session.alive:
        task.succeed(ended_here(task, session.hello, doubt))


def pause(target: Target, failures: int) -> float:
    """Return the seconds until the next attempt: more after each failure, up to a limit, with jitter."""
    limit = min(target.retry_wait, _BACKOFF_MAX)
    return min(limit, 0.5 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
