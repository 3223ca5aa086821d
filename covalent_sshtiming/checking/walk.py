"""Walk: the steps of a check in their order, each reported once, and which of them has failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from covalent_sshtiming import outcomes
from covalent_sshtiming.errors import SSHTimingError

STEPS = (
    "settings",
    "resolve",
    "jump hosts",
    "credentials",
    "connect",
    "host key",
    "login",
    "shell",
    "environment",
    "python",
    "version",
    "disk",
    "modules",
    "clock",
    "cores",
    "round trip",
    "trial task",
)


@dataclass(frozen=True)
class Step:
    """One step of a check.

    Attributes:
        step: its name, one of `STEPS`.
        ok: whether it went well; None for one that was not tried.
        seconds: how long it took, by this machine's monotonic clock; None where that is not known.
        detail: what was found; of a failed one the error's sentence, with what to do.
        error: the name of the error's class, of a failed one.
    """

    step: str
    ok: bool | None
    seconds: float | None = None
    detail: str = ""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as a flat object."""
        return asdict(self)


class Walk:
    """The steps in their order, as they get done; each is reported once."""

    def __init__(self, report: Callable[[Step], None]) -> None:
        self._report = report
        self._left = list(STEPS)
        self._since = time.monotonic()

    def is_done(self, step: str) -> bool:
        """Tell whether a step has been reported."""
        return step not in self._left

    def done(self, step: str, detail: str = "", seconds: float | None = None) -> None:
        """Report a step, after those before it that nobody has spoken of; a second time is nothing."""
        if self.is_done(step):
            return
        self.skip_to(step)
        took, self._since = time.monotonic() - self._since, time.monotonic()
        self._report(Step(self._left.pop(0), True, took if seconds is None else seconds, detail))

    def skip_to(self, step: str) -> None:
        """Report the steps before one as done, without a time of their own."""
        while not self.is_done(step) and self._left[0] != step:
            self._report(Step(self._left.pop(0), True))

    def fail(self, error: SSHTimingError) -> None:
        """Report the first step that is left as failed, and the others as not tried."""
        took = time.monotonic() - self._since
        detail = outcomes.clean(str(error)).replace("\n", " ").replace("\t", " ")
        self._report(Step(self._left.pop(0), False, took, detail, type(error).__name__))
        while self._left:
            self._report(Step(self._left.pop(0), None))
