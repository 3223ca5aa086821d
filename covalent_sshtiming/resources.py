"""Resources: what a task takes of its machine, as settings say it: CPUs, devices, an interpreter of its own.

Owns the checks that look at several of those settings at once, and which of them travel. What is to be had
there only the machine knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from covalent_sshtiming.errors import ConfigError

GPUS = "CUDA_VISIBLE_DEVICES"
# What a task may have to hold there; most hold nothing but a slot.
_NEEDS = ("cpus_per_task", "cpu_affinity", "slots_dir", "gpus_per_task", "gpus", "slot_env")
_LISTED_MAX = 16 * 1024  # characters, as a task's head has them
# What a process, its libraries or its interpreter reads only when it starts.
_AT_START = re.compile(r"(LD_|DYLD_|PYTHON|LC_|MALLOC_).*|LANG|LANGUAGE|GLIBC_TUNABLES|TZ")


def needs(found: object, kind: str) -> dict[str, Any]:
    """Return of a task's settings those that say what it has to hold.

    One of kind `helper`, which Covalent adds to put a list together, holds no more than a slot.
    """
    names = ("slots_dir",) if kind == "helper" else _NEEDS
    return {name: value for name in names if (value := getattr(found, name))}


def isolation(wanted: str, variables: Iterable[str]) -> str:
    """Return how a task that has these variables is isolated: what a fork ignores makes it `spawn`."""
    return "spawn" if any(map(_AT_START.fullmatch, variables)) else wanted


def check_values(values: object) -> None:
    """Check what one variable of `slot_env` may be; raises ValueError with what to write instead.

    One value may name several devices that belong together.
    """
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(one, str) for one in values):
        raise ValueError('write a list of texts, as in ["0", "1"]')


def check(values: Mapping[str, Any]) -> None:
    """Refuse devices of which two settings speak, or that can never be enough; raises ConfigError."""
    number, listed, devices = values["gpus_per_task"], set(values["gpus"] or ()), set(values["slot_env"])
    if number and GPUS in devices:
        raise ConfigError(f"slot_env.{GPUS} and gpus_per_task are both set; remove one of them.")
    if listed and number > len(listed):
        raise ConfigError(
            f"gpus_per_task is {number}, and gpus lists {len(listed)}; ask for fewer, or list more."
        )
    for name in sorted((devices | ({GPUS} if number else set())) & {*values["env"], *values["env_from"]}):
        giver = "slot_env" if name in devices else "gpus_per_task"
        raise ConfigError(
            f"env sets {name}, of which {giver} gives each task a value of its own; take it out of env and "
            "env_from."
        )
    if len(json.dumps([values["gpus"], values["slot_env"]])) > _LISTED_MAX:
        raise ConfigError(f"gpus and slot_env have over {_LISTED_MAX} characters; list fewer devices.")
