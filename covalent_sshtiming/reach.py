"""Reach: what a task's settings mean on its way: the target, which is the pool's key, and the request."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from covalent_sshtiming import forms, resources, settings
from covalent_sshtiming.electron import Call
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.host.task import Request
from covalent_sshtiming.options import Settings
from covalent_sshtiming.sending import Local, pieces


def arguments_of(machine: str) -> dict[str, Any]:
    """Return the executor's arguments that [user@]machine[:port] stands for; raises ConfigError."""
    try:
        name, user, port = forms.machine(machine)
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    given = {"hostname": name, "username": user, "port": port}
    return {option: value for option, value in given.items() if value}


def target_of(found: Settings, python: str, *, local: bool) -> Target:
    """Return where a task with these settings goes.

    Args:
        found: the settings, checked.
        python: the minor version that pickled the electron; "" where any will do.
        local: whether it runs on this machine, without SSH.
    """
    return Target(
        label=found.host_label,
        hostname=found.hostname,
        python=python,
        local=local,
        port=found.port,
        username=found.username,
        key_file=found.ssh_key_file,
        passphrase_env=found.ssh_key_passphrase_env,
        passphrase_file=found.ssh_key_passphrase_file,
        certificate_file=found.ssh_certificate_file,
        identity_agent=found.identity_agent,
        password_env=found.password_env,
        password_file=found.password_file,
        proxy_jump=found.proxy_jump,
        host_key_policy=found.host_key_policy,
        known_hosts_file=found.known_hosts_file,
        transport=found.transport,
        python_path=found.python_path or (_own_python(found, python) if local else ""),
        conda_env=found.conda_env,
        setup=tuple(found.setup_commands),
        cache=found.remote_cache,
        spool=found.remote_spool,
        connect_timeout=found.connect_timeout,
        attempts=found.max_connection_attempts,
        retry_wait=found.retry_wait_time,
        reconnect_timeout=found.reconnect_timeout,
        idle_timeout=found.idle_timeout,
    )


def _own_python(found: Settings, minor: str) -> str:
    """Return this process's interpreter if it is of that minor version; "" leaves it to a search.

    Who makes an environment means its Python and not ours.
    """
    made = found.conda_env or found.setup_commands
    return sys.executable if minor == "{}.{}".format(*sys.version_info) and not made else ""


def request_of(
    found: Settings, call: Call, task: tuple[str, int], key: str, sent: Sequence[Local] = ()
) -> Request:
    """Put a call and its settings into the form in which they travel.

    Args:
        found: the settings, checked.
        call: what is to be called there.
        task: the ids of its dispatch and its node.
        key: the task's key there, 32 hexadecimal digits.
        sent: files to send along.

    Raises:
        ConfigError: env_from names a variable that is not there.
    """
    env = settings.passed_on(found, os.environ)
    needs = resources.needs(found, call.kind)
    spec: dict[str, Any] = {
        "dispatch_id": task[0],
        "node_id": task[1],
        "workdir": found.remote_workdir,
        "unique": found.create_unique_workdir,
        "env": env,
        "isolation": resources.isolation(found.isolation, [*env, *needs.get("slot_env", ())]),
        "max_result_bytes": found.max_result_bytes,
    }
    head = {
        "dispatch_id": task[0],
        "node_id": task[1],
        "function": call.name[:200],
        "kind": call.kind,
        "submitted": time.time(),
        "python": call.python,
        "max_parallel": found.max_parallel,
        "time_limit": found.time_limit,
        "linger": found.linger,
        "memory_limit": found.memory_limit,
        "process_limit": found.process_limit,
        **needs,
    }
    if sent:
        spec["send"] = [local.described() for local in sent]
    if found.fetch:
        spec["fetch"] = [found.fetch, found.fetch_max_bytes, found.fetch_max_files]
    size, chunks = call.body(spec)
    size += sum(local.size for local in sent)
    return Request(key, head, size, chunks, more=(lambda: pieces(sent)) if sent else None)
