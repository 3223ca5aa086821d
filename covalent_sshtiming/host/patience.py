"""Patience: how long a task waits for a connection, and the error that it ends with when that is over.

Owns the difference between a task that was never sent, which follows the error of the last attempt,
and one that was, which waits out `reconnect_timeout`; the pause between two attempts; and the end of a
cancelled task that its machine does not end. When to attempt is `host`'s to decide.
"""

from __future__ import annotations

import random
import time

from covalent_sshtiming.errors import ConnectionLostError, HostKeyChanged, SSHTimingError
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Task, ended_here

_BACKOFF_MAX = 30.0


def give_up_if_due(target: Target, task: Task, error: SSHTimingError, lost_at: float | None) -> None:
    """Fail a task whose waiting is over after this error; else leave it as it is.

    `lost_at` is the monotonic time since when the target is away, None where that is not known.
    """
    if task.sent:
        away = time.monotonic() - (lost_at or task.at["begun"])
        if isinstance(error, HostKeyChanged):
            task.fail(error)
        elif away > target.reconnect_timeout:
            task.fail(
                ConnectionLostError(
                    f"{target}: the connection was lost and did not come back within "
                    f"{target.reconnect_timeout:g} s (last: {error}). The task may still run there."
                )
            )
    elif not error.retriable or task.failures >= target.attempts:
        if task.failures > 1:
            waited = time.monotonic() - task.at["begun"]
            error = type(error)(f"{error} Gave up after {task.failures} attempts in {waited:.0f} s.")
        task.fail(error)


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
