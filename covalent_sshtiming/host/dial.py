"""Dial: one SSH connection to a target, through its jump hosts, or one of our errors that says why not.

Owns the order of a login: configuration, host keys on record, what to log in with, jump hosts (each of
them a login of its own, with its own host key), then the handshake. Retrying is `host`'s business.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import asyncssh

from covalent_sshtiming.errors import ConfigError, SSHTimingError
from covalent_sshtiming.host import causes, keys, knownhosts, proxycommand, sshconfig, trust
from covalent_sshtiming.host.channel import CARRIER
from covalent_sshtiming.host.proxycommand import ProxyCommand
from covalent_sshtiming.host.sshconfig import Way
from covalent_sshtiming.host.streams import Told, nobody
from covalent_sshtiming.host.target import Target

KEEPALIVE_SECONDS = 15
KEEPALIVE_COUNT = 3
LOGIN_SECONDS = 30
JUMPS_MAX = 8
CIPHER = "aes128-gcm@openssh.com"  # offered first: several times faster than asyncssh's own first choice


async def dial(target: Target, told: Told = nobody) -> asyncssh.SSHClientConnection:
    """Connect and authenticate; raises ConnectError, AuthError, HostKeyError or ConfigError.

    `told` hears of the target's own login, and nothing of its jump hosts'.
    """
    return await _dial(target, None, 0, told)


async def look_up(target: Target) -> tuple[Way, list[str]]:
    """Return the way to a target, and its addresses; none where another machine or program looks it up.

    Raises:
        ConfigError: the ssh configuration cannot be read.
        ConnectError: the name does not resolve.
    """
    way = await asyncio.to_thread(sshconfig.resolve, target)
    if way.jumps or way.proxy_command:
        return way, []
    asking = asyncio.get_running_loop().getaddrinfo(way.hostname, way.port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.wait_for(asking, target.connect_timeout)
    except OSError as error:
        raise causes.translate(target, error) or error from error
    except asyncio.TimeoutError as error:
        raise causes.no_answer_to_name(target) from error
    return way, list(dict.fromkeys(str(row[4][0]) for row in found))


async def _dial(
    target: Target, via: asyncssh.SSHClientConnection | None, jumps: int, told: Told = nobody
) -> asyncssh.SSHClientConnection:
    if jumps > JUMPS_MAX:
        raise ConfigError(
            f"{target}: over {JUMPS_MAX} jump hosts; does ProxyJump in ~/.ssh/config, or proxy_jump, lead in "
            "a circle? End it with `ProxyJump none` for one of them."
        )
    way = await asyncio.to_thread(sshconfig.resolve, target)
    nearer = None
    try:
        if via is None:
            for jump in way.jumps:
                nearer = target.by_way_of(jump.hostname, jump.port, jump.username)
                via = await _dial(nearer, via, jumps + 1)
        told("jump hosts")
        return await _Login(target, way, via, nearer, told).through()
    except BaseException:
        if via is not None:
            via.abort()
        raise


class _Login:
    """The login to one machine, over `via` where there is one, which `nearer` names."""

    def __init__(
        self,
        target: Target,
        way: Way,
        via: asyncssh.SSHClientConnection | None,
        nearer: Target | None,
        told: Told,
    ) -> None:
        self._target = target
        self._way = way
        self._via = via
        self._nearer = nearer
        self._told = told
        self._proxy: ProxyCommand | None = None

    async def through(self) -> asyncssh.SSHClientConnection:
        """Log in."""
        target, way = self._target, self._way
        known = await asyncio.to_thread(self._known)
        judge = trust.Judge(target, way, known)
        ring = await keys.gather(target, way)
        client = trust.Client(judge, ring.pairs, ring.password, self._told)
        self._told("credentials")
        try:
            connection = await self._connect(judge, client)
        except Exception as error:  # worded here, or raised again as it is
            reason = judge.verdict or client.failure or await self._reason(judge, client, ring, error)
            if reason is None:
                raise
            raise reason from error
        finally:
            ring.close()
        try:
            await judge.settle()  # for a server that let us in without asking for anything
        except BaseException:
            connection.abort()
            raise
        return connection

    def _known(self) -> knownhosts.Known:
        try:
            return knownhosts.look_up(self._way.known_hosts, self._way.name)
        except OSError as error:
            raise ConfigError(
                f"{self._target}: {error.filename} cannot be read ({error.strerror}); correct its "
                "permissions, or set known_hosts_file to another one."
            ) from error

    async def _connect(self, judge: trust.Judge, client: trust.Client) -> asyncssh.SSHClientConnection:
        way, via = self._way, self._via
        options = self._options(judge)
        if way.proxy_command and via is None:
            self._proxy = await proxycommand.start(way.proxy_command)
            options["sock"] = self._proxy.sock
        try:
            connection = await asyncssh.connect(
                self._target.hostname, tunnel=via, client_factory=lambda: client, **options
            )
        except BaseException:
            if self._proxy is not None:
                await self._proxy.wait_closed()
            raise
        connection.set_tunnel(via or self._proxy)  # it goes when the connection goes
        connection.set_extra_info(**{CARRIER: via or self._proxy})
        return connection

    def _options(self, judge: trust.Judge) -> dict[str, Any]:
        """Return asyncssh's arguments; what is not among them it takes from the ssh configuration."""
        way, target = self._way, self._target
        base = asyncssh.SSHClientConnectionOptions(config=None, host=target.hostname, client_keys=None)
        base.config = way.config
        options = {
            "options": base,
            "config": (),  # which means: the one in `options`
            "port": way.port,
            "username": way.username,
            "known_hosts": judge.known_hosts,
            "client_keys": None,  # the client hands them out itself, when the host key is settled
            "client_certs": None,
            "agent_path": None,
            "proxy_command": None,
            "connect_timeout": target.connect_timeout,
            "login_timeout": LOGIN_SECONDS,
            "keepalive_interval": KEEPALIVE_SECONDS,
            "keepalive_count_max": KEEPALIVE_COUNT,
            "request_pty": False,
            "x11_forwarding": False,
            "agent_forwarding": False,
        }
        if way.config.get("Ciphers") is None:
            options["encryption_algs"] = f"^{CIPHER}"
        if not way.config.get("Compression"):
            options["compression_algs"] = ["none"]  # a packet would unpack to a thousand times its size
        if way.config.get("HostKeyAlgorithms") is None:
            options["server_host_key_algs"] = judge.algorithms
        return options

    async def _reason(
        self, judge: trust.Judge, client: trust.Client, ring: keys.Ring, error: Exception
    ) -> SSHTimingError | None:
        """Return our error for one of asyncssh's; None for one that is nobody's but ours."""
        if isinstance(error, SSHTimingError):
            return error
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return judge.refused(str(error))
        if isinstance(error, asyncssh.PermissionDenied) or causes.TOO_MANY in str(error):
            return causes.refused_login(self._target, self._way.username, ring, error)
        if isinstance(error, asyncssh.ChannelOpenError) and self._nearer is not None:
            return causes.no_way_on(self._nearer, self._target, error)
        if self._proxy is not None and isinstance(error, (asyncssh.ConnectionLost, OSError)):
            return causes.proxy_failed(self._target, self._proxy.said)
        if isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError)) and client.heard_nothing:
            return causes.no_room_at_the_door(self._target, error)
        return causes.translate(self._target, error)
