"""Outcomes: what the far side says of an ended task, as one of our errors and as a record's fields.

Everything here comes from a stranger: texts are capped and stripped, classes looked up in a list,
figures only ever passed on to `TimingRecord`, which checks each one's type.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from covalent_sshtiming import errors
from covalent_sshtiming.host.task import Outcome

_TEXT_MAX = 4096
_TRACEBACK_MAX = 20_000
_WORD_MAX = 80
_NO_WORDS = "for a reason that it did not tell"
_ENDS = ("completed", "failed", "cancelled", "killed", "timeout", "lost")  # what a record's status can be
_TASK_ERRORS: dict[str, type[errors.TaskError]] = {
    kind.__name__: kind
    for kind in (
        errors.TaskFailed,
        errors.TaskDied,
        errors.TimeLimitExceeded,
        errors.ResultTooLarge,
        errors.ResultError,
    )
}
_ADVICE = {
    "TaskFailed": "The remote traceback is in the node's stderr.",
    "TaskDied": "Its output up to then is in the node's streams; it is not run again by itself.",
    "TimeLimitExceeded": "Raise time_limit if it should run longer.",
    "ResultTooLarge": "Return a path or a part of it instead, or raise max_result_bytes.",
    "ResultError": "Return something that cloudpickle can pickle.",
}


class StartedEnvError(errors.TaskError, errors.RemoteEnvError):
    """A RemoteEnvError that showed only once the task was running, so its output is to be kept."""


class StartedTransferError(errors.TaskError, errors.TransferError):
    """A TransferError of a task that was running."""


def clean(value: object, limit: int = _TEXT_MAX) -> str:
    """Return remote text fit for a terminal: capped, without control characters; "" for what is none."""
    text = value[:limit] if isinstance(value, str) else ""  # a list may be too deep to be written out
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def error_of(outcome: Outcome, host: str, function: str) -> errors.SSHTimingError | None:
    """Word what ended a task on `host`; None for one that completed or was cancelled.

    All but one are a TaskError: what the machine has not got for a task keeps that from starting.
    """
    if outcome.ended.get("status") in ("completed", "cancelled"):
        return None
    told = outcome.ended.get("error")
    told = told if isinstance(told, Mapping) else {}
    kind, phase = clean(told.get("class"), _WORD_MAX), clean(told.get("phase"), _WORD_MAX)
    text, trace = clean(told.get("text")) or _NO_WORDS, clean(told.get("traceback"), _TRACEBACK_MAX)
    if kind == "RemoteEnvError" and phase == "queue":
        return errors.RemoteEnvError(f"{host}: {function} {text}.")
    if kind == "RemoteEnvError":
        return StartedEnvError(_missing(outcome, host, function, told, text), trace)
    if kind == "TransferError" and told.get("files"):
        return StartedTransferError(
            f"{host}: {function} could not begin: {text}. Make room there, or correct its permissions.", trace
        )
    if kind == "TransferError" and phase == "start":
        return StartedTransferError(
            f"{host}: {function} could not begin: {text}. Correct remote_workdir.", trace
        )
    if kind == "TransferError":
        return StartedTransferError(
            f"{host}: {function}: {text}. Make room there, or correct its permissions.", trace
        )
    hook = {"before": "a call_before hook of ", "after": "a call_after hook of "}.get(phase, "")
    if told.get("hook"):  # DepsPip and DepsBash name themselves, and leave no traceback
        return errors.TaskFailed(
            f"{host}: {function}: {text.rstrip('.')}. Correct it, or the machine.", trace
        )
    verb = {
        "TaskFailed": "raised ",
        "ResultError": "returned what cannot be brought back: ",
        "ResultTooLarge": "returned too much: ",
    }.get(kind, "")
    kind = kind if kind in _TASK_ERRORS else "TaskDied"
    return _TASK_ERRORS[kind](f"{host}: {hook}{function} {verb}{text.rstrip('.')}. {_ADVICE[kind]}", trace)


def _missing(outcome: Outcome, host: str, function: str, told: Mapping[str, Any], text: str) -> str:
    """Say how to bring a missing module to the machine."""
    module = clean(told.get("module"), 100)
    if not re.fullmatch(r"[\w.]+", module):  # what is typed by hand is not for a machine to word
        return f"{host}: {function}: {text}."
    python = shlex.quote(clean(outcome.machine.get("executable"), 300) or "python3")
    start = f"{host}: {function} needs the module {module!r}, which {python} there does not have"
    if module in ("covalent", "furl"):
        return (
            f"{start}. Building a sublattice and reconstructing a lattice run on the lattice's "
            "workflow_executor, which an executor given to the lattice becomes too: add "
            'workflow_executor="local" to it. A Shutil transfer needs Covalent there: '
            f"`{python} -m pip install covalent`."
        )
    return (
        f"{start}. If it is a package, run `{python} -m pip install {module}` there or use ct.DepsPip; if it "
        "is a module of your own, send it along with ct.DepsModule."
    )


def record_of_error(error: errors.SSHTimingError) -> dict[str, Any]:
    """Return a record's fields for a task that brought no outcome."""
    lost = isinstance(error, errors.ConnectionLostError)
    return {"status": "lost" if lost else "failed", "error_type": type(error).__name__}


def record_of(outcome: Outcome, error: errors.SSHTimingError | None) -> dict[str, Any]:
    """Return a record's fields from an outcome."""
    ended, machine = outcome.ended, outcome.machine
    told = ended.get("record")
    figures = dict(told) if isinstance(told, Mapping) else {}
    figures.pop("schema", None)  # which one a record has is ours to say
    names = ("hostname", "username", "os", "kernel", "cpu_model")
    return {
        **figures,
        **outcome.waits,
        **{name: machine.get(name) for name in names},
        "clock_offset_s": outcome.clock.seconds if outcome.clock else None,
        "clock_offset_err_s": outcome.clock.error if outcome.clock else None,
        "cores_available": machine.get("cores"),
        "cpu_quota_cores": machine.get("quota"),
        "python_version": machine.get("python"),
        "status": _status(ended.get("status"), error),
        "error_type": _name_of(error),
        "exit_code": ended.get("exit_code"),
        "exit_signal": ended.get("exit_signal"),
        "stdout_bytes": ended.get("stdout"),
        "stderr_bytes": ended.get("stderr"),
        "started_at": timestamp(figures.get("started")),
        "finished_at": timestamp(figures.get("finished")),
    }


def _status(told: object, error: errors.SSHTimingError | None) -> str:
    status = clean(told, _WORD_MAX)
    return status if status in _ENDS and not (status == "completed" and error is not None) else "failed"


def _name_of(error: errors.SSHTimingError | None) -> str | None:
    return (
        type(error).__name__.replace("Started", "Remote" if isinstance(error, StartedEnvError) else "")
        if error
        else None
    )


def timestamp(seconds: object) -> str | None:
    """Return a moment as ISO 8601 in UTC with microseconds; None for what is no moment."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@cache
def plugin_version() -> str | None:
    """Return this package's version, from its installed metadata, which takes a millisecond to read."""
    try:
        return version("covalent-sshtiming")
    except PackageNotFoundError:
        return None
