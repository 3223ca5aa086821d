"""Reach: the target that a task's settings mean, which is the pool's key."""

from __future__ import annotations

import sys

from covalent_sshtiming.host.target import Target
from covalent_sshtiming.options import Settings


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
        python_path=found.python_path or (_own_python(python) if local else ""),
        cache=found.remote_cache,
        spool=found.remote_spool,
        connect_timeout=found.connect_timeout,
        attempts=found.max_connection_attempts,
        retry_wait=found.retry_wait_time,
        reconnect_timeout=found.reconnect_timeout,
        idle_timeout=found.idle_timeout,
    )


def _own_python(minor: str) -> str:
    """Return this process's interpreter if it is of that minor version; "" leaves it to a search."""
    return sys.executable if minor == "{}.{}".format(*sys.version_info) else ""
