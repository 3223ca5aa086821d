"""Settings that are refused, and a covalent.conf of three machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import toml

from covalent_sshtiming import options
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.settings import resolve

HOST_TABLE = "[executors.sshtiming.hosts.build01] in covalent.conf"


def refusal(arguments: Mapping[str, Any], section: Mapping[str, Any] | None = None) -> str:
    """Return the sentence with which these settings are refused."""
    with pytest.raises(ConfigError) as caught:
        resolve(arguments, section or {})
    return str(caught.value)


def covalent_conf(text: str) -> dict[str, Any]:
    """Return the plugin's section as Covalent holds it: our defaults below the user's own lines."""
    section: dict[str, Any] = toml.loads(text)["executors"]["sshtiming"]
    return {**options.plugin_defaults(), **section}


THREE_MACHINES = """
[executors.sshtiming]
username = "ada"

[executors.sshtiming.hosts.laptop]
hostname = "192.0.2.7"
max_parallel = 2

[executors.sshtiming.hosts."big.example.org"]
port = 2222
username = "root"
do_cleanup = false

[executors.sshtiming.hosts.cluster]
hostname = "login.example.org"
remote_spool = "/scratch/spool"
env = {OMP_NUM_THREADS = "4"}
"""
