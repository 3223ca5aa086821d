"""The SSH server that lets anybody in by key, and then misbehaves as the user name says."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh

from covalent_sshtiming.demo import sshserver
from covalent_sshtiming.demo.processes import free_port, guarded, wait_until
from covalent_sshtiming.demo.sshserver import LOOPBACK, SSHServer
from covalent_sshtiming.remote import wire
from support.hostile.far import CANARY, MISBEHAVIOURS, Far


class _Gate(asyncssh.SSHServer):
    """Opens sessions for all misbehaviours but one."""

    def __init__(self) -> None:
        self._user = ""

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def session_requested(self) -> Any:
        if self._user == "opens_no_session":
            return asyncio.get_running_loop().create_future()
        return asyncssh.SSHServerProcess(_serve, None, 3, False)


async def _serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    work = MISBEHAVIOURS[str(process.get_extra_info("username"))]
    with suppress(OSError, EOFError, asyncssh.Error, wire.ProtocolError):
        await work(Far(process))
    process.close()


async def _listen(directory: Path, port: int) -> None:
    listener = await asyncssh.listen(
        LOOPBACK,
        port,
        server_factory=_Gate,
        server_host_keys=[directory / "host_key"],
        authorized_client_keys=str(directory / "authorized_keys"),
        encoding=None,
    )
    await listener.wait_closed()


@contextmanager
def hostile_server(directory: Path, canary: Path) -> Iterator[SSHServer]:
    """Run the hostile server; what its pickles would make is the file `canary`."""
    directory.mkdir()
    sshserver._write_keys(directory)
    port = free_port(LOOPBACK)
    paths = os.pathsep.join(map(str, [Path(__file__).parents[3], Path(__file__).parents[2]]))
    environment = {**os.environ, "PYTHONPATH": paths, CANARY: str(canary)}
    command: list[str | Path] = [sys.executable, "-m", "support.hostile.server", directory, str(port)]
    with guarded(command, log=directory / "server.log", env=environment, cwd=directory) as process:
        wait_until(lambda: sshserver._greets(port), process, what="The hostile server", timeout=20)
        yield SSHServer(
            kind="embedded",
            host=LOOPBACK,
            port=port,
            username="nobody",
            key_file=directory / "user_key",
            known_hosts_file=sshserver._write_known_hosts(directory, port),
            remote_home=directory,
            process=process,
        )


def as_user(server: SSHServer, misbehaviour: str) -> SSHServer:
    """Return a server that misbehaves in one way."""
    return replace(server, username=misbehaviour)


if __name__ == "__main__":
    asyncio.run(_listen(Path(sys.argv[1]), int(sys.argv[2])))
