"""The Covalent plugin `localtiming`: TimingExecutor, the same harness without SSH.

It is the executor of Covalent's how-to, made right: the function runs in a process of its own on
the dispatcher's machine, under an agent that is a local process. Owns the class and its
parameters; what it does is in `plugin`.
"""

from __future__ import annotations

import os
from typing import Any

import covalent_sshtiming.early  # noqa: F401 - before the rest

# isort: split
from covalent_sshtiming.options import LOCAL, Plugin, plugin_defaults
from covalent_sshtiming.plugin import TimingBase

EXECUTOR_PLUGIN_NAME = LOCAL.class_name
_EXECUTOR_PLUGIN_DEFAULTS = plugin_defaults(LOCAL)


class TimingExecutor(TimingBase):
    """Run electrons on the dispatcher's machine, each in a process of its own, and log their CPU time.

    Args:
        timing_filepath: the log; a relative path is relative to the caller's directory.
        **options: any setting that docs/settings.md lists for this executor; None, "" and 0 mean
            "not set", and are looked up in the server's covalent.conf when the task runs.

    Raises:
        ConfigError: an option that does not exist, with the nearest that does.
    """

    def __init__(self, timing_filepath: str | os.PathLike[str] = "", **options: Any) -> None:
        super().__init__(LOCAL, {"timing_filepath": timing_filepath, **options})

    def _plugin(self) -> Plugin:
        return LOCAL
