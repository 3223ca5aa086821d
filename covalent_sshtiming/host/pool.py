"""The pool: one `Host` for each target and event loop of this process.

Module-level, because Covalent builds a new executor for every electron. Its state is `_hosts`,
changed in `host_for` and `close_all` only, each in one synchronous step.
"""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING

from covalent_sshtiming.host import process, streams
from covalent_sshtiming.host.host import Host
from covalent_sshtiming.host.target import OPENSSH, Target

if TYPE_CHECKING:
    from covalent_sshtiming.host.streams import Receiver, Streams, Told

_hosts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Target, Host]] = weakref.WeakKeyDictionary()


async def open_ssh(target: Target, command: str, receiver: Receiver, told: Told = streams.nobody) -> Streams:
    """Log in to a target, by asyncssh or by the system's `ssh`, and start `command` there.

    `told` hears which part of the login is done.
    """
    # Here and not above: `import covalent` loads our plugin, and need not pay for asyncssh.
    from covalent_sshtiming.host import causes, channel, dial, openssh

    if target.transport == OPENSSH:
        return await openssh.open_openssh(target, command, receiver, told)
    connection = await dial.dial(target, told)
    try:
        opening = channel.open_channel(connection, command, receiver)
        return await asyncio.wait_for(opening, target.connect_timeout)
    except asyncio.TimeoutError as error:
        connection.abort()
        raise causes.no_session(target) from error
    except BaseException as error:
        connection.abort()
        translated = causes.translate(target, error)
        if translated is None:
            raise
        raise translated from error


async def open_here(_: Target, command: str, receiver: Receiver) -> Streams:
    """Start `command` on this machine."""
    return await process.open_process(["sh", "-c", command], receiver)


def host_for(target: Target) -> Host:
    """Return the warm host of a target on the running loop, made on first use."""
    hosts = _hosts.setdefault(asyncio.get_running_loop(), {})
    if target not in hosts:
        for known in [known for known, host in hosts.items() if host.idle]:
            del hosts[known]
        hosts[target] = Host(target, partial(open_here if target.local else open_ssh, target))
    return hosts[target]


def hosts() -> list[Host]:
    """Return the hosts of the running loop."""
    return list(_hosts.get(asyncio.get_running_loop(), {}).values())


async def close_all() -> None:
    """Close every connection of the running loop; what runs on the machines goes on."""
    closing = _hosts.pop(asyncio.get_running_loop(), {})
    await asyncio.gather(*(host.close() for host in closing.values()))
