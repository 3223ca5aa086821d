"""Words: what is said of a step that went well, of what the machine told: bounded, and on one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from covalent_sshtiming import settings
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.sshconfig import Way
from covalent_sshtiming.host.target import OPENSSH, Target
from covalent_sshtiming.options import Settings
from covalent_sshtiming.remote import needs
from covalent_sshtiming.timing import units
from covalent_sshtiming.timing.record import TimingRecord

LITTLE_ROOM = 64 << 20  # bytes, below which it is worth a word
_SHOWN = 4  # addresses
_SIZE_MAX = 1 << 62
_HOST_KEYS = {
    "strict": "on record",
    "accept-new": 'on record, perhaps since now (host_key_policy = "accept-new")',
    "off": 'NOT CHECKED (host_key_policy = "off")',
}


def of_settings(found: Settings) -> str:
    """Say where they come from, and what the machine's name stands for."""
    path = settings.config_path()
    place = str(path) if path.exists() else f"there is no {path}"
    address = "" if found.hostname == found.host_label else f"; {found.host_label} is {found.hostname}"
    return place + address + (", by the system's ssh" if found.transport == OPENSSH else "")


def of_way(way: Way, addresses: list[str]) -> str:
    """Say which login it is, and where it leads."""
    other = "by jump host" if way.jumps else "by a ProxyCommand"
    through = ", ".join(addresses[:_SHOWN]) or other
    return f"{way.username}@{way.hostname} port {way.port}: {through}"


def of_jumps(way: Way) -> str:
    """Name the machines that are passed, the nearest first."""
    return ", ".join(jump.hostname for jump in way.jumps) or "none"


def of_login(part: str, target: Target) -> str:
    """Say what there is to say of a part of the login."""
    if part == "credentials" and target.transport != OPENSSH:
        return target.key_file or "keys and agent as ssh would find them"
    return _HOST_KEYS[target.host_key_policy] if part == "host key" else ""


def of_shell(noise: bytes) -> str:
    """Say what a login shell printed before our program began."""
    if not noise:
        return "prints nothing of its own"
    words = printable(noise, 80)
    said = f" ({words})" if words else ""
    return f"prints {units.size(len(noise))} of its own, which is passed over{said}"


def of_environment(target: Target, tool: str) -> str:
    """Say what is done before Python starts; `tool` is the program that activates a conda environment."""
    number = len(target.setup)
    parts = [f"{number} set-up command{'s' * (number > 1)}"] if number else []
    if target.conda_env:
        parts.append(f"conda_env {target.conda_env}, by {printable(tool, 200) or 'an unknown program'}")
    return ", ".join(parts) or "the login shell's own"


def of_python(target: Target) -> str:
    """Say which one is meant."""
    if target.python_path:
        return f"python_path {target.python_path}"
    if target.conda_env:
        return f"of conda_env {target.conda_env}"
    return "on the PATH after setup_commands" if target.setup else "on the login shell's PATH"


def of_version(target: Target) -> str:
    """Say that it is the one that is needed."""
    return f"{target.python}, as here"


def of_disks(told: Mapping[str, Any]) -> str:
    """Say how much room there is, where things are kept."""
    parts = []
    for name in ("cache", "spool", "workdir"):
        free = told.get(f"{name}_free")
        room = "not known how much"
        if isinstance(free, int) and 0 <= free < _SIZE_MAX:
            room = ("only " if free < LITTLE_ROOM else "") + units.size(free)
        parts.append(f"{name} {printable(str(told.get(name)), 200)}: {room} free")
    return "; ".join(parts)


def of_modules(told: Mapping[str, Any], machine: Mapping[str, Any], record: TimingRecord) -> str:
    """Say which interpreter it is, and what it has."""
    version = printable(record.python_version or "of unknown version", 40)
    place = printable(str(machine.get("executable")), 200)
    pip = "pip is there" if told.get("pip") is True else "no pip, which DepsPip needs"
    carried = f"cloudpickle {printable(str(told.get('cloudpickle')), 20)} came along"
    return f"Python {version} ({place}); {carried}; {pip}"


def of_clock(record: TimingRecord) -> str:
    """Say how far it is from ours, and how sure that is."""
    offset, error = record.clock_offset_s, record.clock_offset_err_s
    if offset is None:
        return "it does not tell its time"
    where = "ahead of" if offset >= 0 else "behind"
    return f"{units.duration(abs(offset))} {where} ours, give or take {units.duration(error)}"


def of_cores(record: TimingRecord, found: Settings) -> str:
    """Say how many there are for tasks, and how many tasks with these settings run at once."""
    cores = record.cores_available
    model = f" ({printable(record.cpu_model, 60)})" if record.cpu_model else ""
    quota = f", a group's quota is {record.cpu_quota_cores:g}" if record.cpu_quota_cores else ""
    asked = needs.of({"max_parallel": found.max_parallel, "cpus_per_task": found.cpus_per_task})
    most = asked.slots(cores or 0) // max(1, asked.cpus)
    return f"{cores or 'not known'}{model}{quota}; at most {most or 'as many'} tasks at once"


def of_work(record: TimingRecord) -> str:
    """Say what it cost."""
    return f"{units.duration(record.cpu_s)} of CPU in {units.duration(record.wall_s)} there"
