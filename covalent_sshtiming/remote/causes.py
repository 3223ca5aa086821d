"""What ended a task, told in plain text and by a class that the near end knows.

Owns the choice of the class, and how long a text may be. Whoever raises chooses the exception.
"""

import os
import traceback
from typing import Any, Dict, Optional

from . import deps, limits, places

TRACEBACK_CHARS = 16000
TEXT_CHARS = 4000


class CannotSpawn(Exception):
    """No fresh interpreter is to be had for a task that wants one; the text says why."""


def describe(error: BaseException, phase: str) -> "Dict[str, Any]":
    """Describe what ended a task, in plain text and a class the near end knows."""
    if isinstance(error, (deps.PipUnusable, CannotSpawn)):
        return cause("RemoteEnvError", str(error), None)
    if isinstance(error, ModuleNotFoundError) and error.name:
        found = cause("RemoteEnvError", text_of(error), error)
        found["module"] = error.name.split(".")[0][:200]
        return found
    if isinstance(error, places.Unready):
        return dict(cause("TransferError", str(error), None), files=True)
    if phase == "start":
        return cause("TransferError", text_of(error), error)
    if isinstance(error, deps.HookFailed):
        return dict(cause("TaskFailed", str(error), None), hook=True)
    return cause("TaskFailed", text_of(error) + limits.remark(error), error)


def cause(kind: str, text: str, error: "Optional[BaseException]") -> "Dict[str, Any]":
    """Return a cause as it travels, with the traceback of an error that is the user's."""
    return {"class": kind, "text": text[:TEXT_CHARS], "traceback": _traceback(error) if error else ""}


def text_of(error: BaseException) -> str:
    """Return an exception's class, and its text if it has one."""
    name = type(error).__name__
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        return "%s (its text cannot be shown)" % name
    return "%s: %s" % (name, said) if said else name


def _traceback(error: BaseException) -> str:
    """Format the traceback without this package's own frames, head and tail if it is long."""
    own = os.path.dirname(os.path.abspath(__file__))
    tb = error.__traceback__
    while tb is not None and os.path.abspath(tb.tb_frame.f_code.co_filename).startswith(own):
        tb = tb.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, tb))
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        text = text_of(error)
    if len(text) > TRACEBACK_CHARS:
        text = text[: TRACEBACK_CHARS // 2] + "\n[...]\n" + text[-TRACEBACK_CHARS // 2 :]
    return text
