"""The public names of covalent-sshtiming, loaded when they are first used.

Importing the package reads no file and no environment, and imports neither asyncssh nor covalent:
`import covalent` loads the plugin module in its own middle, and the command line has to be quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from covalent_sshtiming.localtiming import TimingExecutor
    from covalent_sshtiming.results import load_result
    from covalent_sshtiming.sshtiming import TimingSSHExecutor
    from covalent_sshtiming.timing.timings import read_log

__version__ = "0.1.0"

__all__ = ["TimingExecutor", "TimingSSHExecutor", "__version__", "load_result", "read_log"]

_HOMES = {
    "TimingExecutor": "covalent_sshtiming.localtiming",
    "TimingSSHExecutor": "covalent_sshtiming.sshtiming",
    "load_result": "covalent_sshtiming.results",
    "read_log": "covalent_sshtiming.timing.timings",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
