"""How a task ended, as a user has it; and the shortest task, which shows that the next one still runs."""

from __future__ import annotations

import sys

import cloudpickle

from covalent_sshtiming.plugin import TaskEnded
from support import direct
from support.there import There

Machine = direct.Machine[There]

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def failed(ran: direct.Ran) -> str:
    """Return the sentence of a task that had started: our error's text, which is in stderr as well."""
    assert isinstance(ran.error, TaskEnded), repr(ran.error)
    assert str(ran.error) in ran.stderr
    return str(ran.error)


def cause(ran: direct.Ran) -> BaseException | None:
    """Return our own error behind what Covalent is given."""
    assert ran.error is not None
    return ran.error.__cause__


def seven() -> int:
    """Return seven."""
    return 7


async def still_works(machine: Machine) -> None:
    """The same connection still takes a task and brings its result."""
    before = machine.host.connections
    assert (await machine.run(seven)).value == 7
    assert machine.host.connections == before
