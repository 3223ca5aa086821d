"""Faults before there is a session: no name, no way, a tarpit, a silent drop, a server without room."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import remote_environment, require_sshd
from support import direct, login
from support.faults import through, until
from support.proxy import Proxy

from covalent_sshtiming import errors, settings
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server

QUICK: dict[str, Any] = {"connect_timeout": 1, "max_connection_attempts": 2, "retry_wait_time": 0.1}


NEAR = """
import asyncio, json, sys
from pathlib import Path
from support import direct

async def main(place, *hostnames):
    log = Path(place, "log")
    settings = {"max_connection_attempts": 3, "retry_wait_time": 0.1, "timing_filepath": log}
    found = []
    for hostname in hostnames:
        ran = await direct.Machine({**settings, "hostname": hostname}, log, log).run(lambda: 1)
        found.append([type(ran.error).__name__, str(ran.error)])
    await direct.pool.close_all()
    return found

print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
"""


@pytest.mark.parametrize(
    ("lookup", "machines"),
    [
        ("dns", [("build01.example", "the name does not resolve just now; is the network up?", 3)]),
        (
            "files",
            [
                ("build01.example", "the name does not resolve; correct hostname, or give it an address", 1),
                ("10.1.2.3", "port 22 cannot be reached ([Errno 101] Network is unreachable)", 3),
            ],
        ),
    ],
)
def test_a_machine_that_is_not_to_be_found(
    place: Path, lookup: str, machines: list[tuple[str, str, int]]
) -> None:
    """Without a network what may be different later is tried again; a name that does not exist is not."""
    if subprocess.run(["unshare", "-mn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not have a network of their own")
    (place / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (place / "nsswitch.conf").write_text(f"hosts: {lookup}\n")
    view = (
        'for name in resolv nsswitch; do mount --bind $1/$name.conf /etc/$name.conf; done; shift; exec "$@"'
    )
    program = [sys.executable, "-c", NEAR, str(place), *(hostname for hostname, _, _ in machines)]
    near = subprocess.run(
        ["unshare", "-mn", "sh", "-c", view, "view", str(place), *program],
        env={**os.environ, "HOME": str(place), "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert near.returncode == 0, near.stderr
    for (kind, text), (hostname, words, attempts) in zip(json.loads(near.stdout), machines, strict=True):
        assert kind == "ConnectError"
        assert text.startswith(f"{hostname}: {words}")
        assert re.findall(r"Gave up after (\d) attempts in \d+ s\.$", text) == [str(attempts)] * (
            attempts > 1
        )


@asynccontextmanager
async def tarpit() -> AsyncIterator[int]:
    """Listen on a port that accepts connections and never says a word."""
    open_ones = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_ones:
            writer.close()


async def test_a_tarpit(sshd: SSHServer, place: Path) -> None:
    """A server that accepts and says nothing is left after connect_timeout, which the sentence has."""
    async with tarpit() as port, direct.machine(sshd, place, port=port, **QUICK) as machine:
        ran = await asyncio.wait_for(machine.run(lambda: 7), 10)
        assert type(ran.error) is errors.ConnectError
        assert "127.0.0.1: no SSH handshake within 1 s; is it up, and is port" in str(ran.error)
        assert "Gave up after 2 attempts" in str(ran.error)
        assert machine.records()[-1]["status"] == "failed"


@pytest.mark.parametrize("after", [10, 1500, 3000, 4000])
async def test_a_link_that_falls_silent_at_login(sshd: SSHServer, place: Path, after: int) -> None:
    """A login in whose middle everything is swallowed ends after connect_timeout too, and is tried again."""
    async with Proxy(sshd.host, sshd.port) as proxy:
        settings = {**through(proxy, sshd, place), **QUICK, "max_connection_attempts": 5}
        proxy.cut_with = "blackhole"
        proxy.up.cut_after = after
        async with direct.machine(sshd, place, **settings) as machine:
            running = asyncio.ensure_future(machine.run(lambda: 7))
            await until(lambda: proxy.connections == 2, 10)
            proxy.blackhole(False)
            assert (await asyncio.wait_for(running, 20)).value == 7


@asynccontextmanager
async def crowded_door(server: SSHServer) -> AsyncIterator[None]:
    """Hold a connection open that never logs in; whoever is still at the door may get the place first."""
    while True:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        if (await asyncio.wait_for(reader.readline(), 10)).startswith(b"SSH-"):
            break
        writer.close()
    try:
        yield
    finally:
        writer.close()


async def test_a_server_with_no_room_for_a_login(short_tmp: Path, place: Path) -> None:
    """At MaxStartups a task is ServerBusy in the end; where there is room again in time, it runs."""
    require_sshd()
    options = {"MaxStartups": "1", "LoginGraceTime": "600"}
    with ssh_server(
        place / "ssh", kind="openssh", options=options, environment=remote_environment()
    ) as server:
        async with direct.machine(server, place, **{**QUICK, "connect_timeout": 5}) as machine:
            async with crowded_door(server):
                ran = await asyncio.wait_for(machine.run(lambda: 7), 20)
                assert type(ran.error) is errors.ServerBusy, repr(ran.error)
                assert "127.0.0.1: its SSH server closed the connection before it said a word (" in str(
                    ran.error
                )
                assert "raise MaxStartups there, or lower the load." in str(ran.error)
                assert "Gave up after 2 attempts" in str(ran.error)
                running = asyncio.ensure_future(
                    machine.run(lambda: 8, options={"max_connection_attempts": 30, "retry_wait_time": 0.3})
                )
                await asyncio.sleep(0.5)
            assert (await asyncio.wait_for(running, 20)).value == 8


async def test_a_server_with_no_room_for_a_session(short_tmp: Path, place: Path) -> None:
    """At MaxSessions a task is ServerBusy, which names the option."""
    require_sshd()
    with ssh_server(
        place / "ssh", kind="openssh", options={"MaxSessions": 0}, environment=remote_environment()
    ) as server:
        async with direct.machine(server, place, **QUICK) as machine:
            ran = await asyncio.wait_for(machine.run(lambda: 7), 20)
            assert type(ran.error) is errors.ServerBusy
            assert "127.0.0.1: its SSH server has no room for another session" in str(ran.error)
            assert "raise MaxSessions or MaxStartups there, or lower the load." in str(ran.error)


async def test_a_link_that_is_lost_while_a_session_opens(sshd: SSHServer, place: Path) -> None:
    """Between login and session a lost link is told as one, not as a server without room."""
    async with Proxy(sshd.host, sshd.port) as proxy:
        section = {"hostname": sshd.host, **sshd.settings(), **through(proxy, sshd, place)}
        target = login.target_of(settings.resolve({}, section), "3.11")

        def cut(step: str) -> None:
            if step == "login":
                proxy.reset()

        with pytest.raises(errors.ConnectError, match=r"the connection was dropped at login \(") as caught:
            await direct.pool.open_ssh(target, "true", login.Listener(), cut)
        assert type(caught.value) is errors.ConnectError
