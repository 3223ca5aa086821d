"""Patience: how long a task waits for a connection, and the error that it ends with when that is over.

Owns the difference between a task that was sent to an agent, which waits out `reconnect_timeout`, and one
that was not, or on a connection that ended before its agent spoke: that one ends with the error of the last
attempt, which says so where it may run all the same. And the pause between two attempts. When to
attempt is `host`'s to decide.
"""

from __future__ import annotations

import random
import time

from covalent_sshtiming.errors import ConnectionLostError, HostKeyChanged, SSHTimingError, TransferError
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Task

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


def pause(target: Target, failures: int) -> float:
    """Return the seconds until the next attempt: more after each failure, up to a limit, with jitter."""
    limit = min(target.retry_wait, _BACKOFF_MAX)
    return min(limit, 0.5 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
