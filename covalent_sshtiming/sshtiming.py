"""The Covalent plugin `sshtiming`: TimingSSHExecutor, electrons on a machine that SSH reaches.

Owns the class and its parameters; what it does is in `plugin`.
"""

from __future__ import annotations

import os
from typing import Any

import covalent_sshtiming.early  # noqa: F401 - before the rest

# isort: split
from covalent_sshtiming.options import SSH, Plugin, plugin_defaults
from covalent_sshtiming.plugin import TimingBase

EXECUTOR_PLUGIN_NAME = SSH.class_name
_EXECUTOR_PLUGIN_DEFAULTS = plugin_defaults(SSH)


class TimingSSHExecutor(TimingBase):
    """Run electrons on a machine that SSH reaches, and log the CPU time of each.

    Args:
        hostname: name, address or ssh config alias of the machine; else that of covalent.conf.
        timing_filepath: the local log; a relative path is relative to the caller's directory.
        **options: any setting of the table in docs/settings.md; None, "" and 0 mean "not set", and are
            looked up in the server's covalent.conf when the task runs.

    Raises:
        ConfigError: an option that does not exist, with the nearest that does.
    """

    def __init__(
        self, *, hostname: str = "", timing_filepath: str | os.PathLike[str] = "", **options: Any
    ) -> None:
        super().__init__(SSH, {"hostname": hostname, "timing_filepath": timing_filepath, **options})

    def _plugin(self) -> Plugin:
        return SSH
