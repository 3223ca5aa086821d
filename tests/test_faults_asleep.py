"""A near process that was asleep for a night, and wakes without its network, its names and its login."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from support import direct, faults
from support.faults import runs, stopped, until
from support.proxy import Proxy

from covalent_sshtiming.demo.sshserver import SSHServer

ROOT = Path(__file__).parent

NEAR = """
import asyncio, json, sys
from pathlib import Path
from support import direct, faults

async def main(order):
    executor = direct.Machine(order["settings"], Path(order["settings"]["remote_spool"]), Path(order["log"]))
    place = Path(order["place"])
    rans = await asyncio.gather(
        *(executor.run(faults.noting(place / f"n{i}", order["seconds"]), i) for i in range(order["tasks"]))
    )
    connections = sum(host.connections for host in direct.pool.hosts())
    await direct.pool.close_all()
    return {"values": [repr(ran.error) if ran.error else ran.value for ran in rans], "opened": connections}

print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""


async def sleeper(server: SSHServer, place: Path, asleep: float, after: float) -> dict[str, Any]:
    """Stop a near process whose tasks run, cut its link; wake it without network, name and login, in turn."""
    home, count = place / "near", 4
    (home / ".ssh").mkdir(parents=True)
    config, keys = home / ".ssh" / "config", place / "ssh" / "authorized_keys"
    resolves, lost = "Host build01\n  HostName 127.0.0.1\n", "Host build01\n  HostName build01.invalid\n"
    config.write_text(resolves)
    async with Proxy(server.host, server.port) as proxy:
        known = faults.known_through(proxy, server, place)
        known.write_text(known.read_text() + known.read_text().replace(proxy.host, "build01"))
        order = {
            "settings": {
                **server.settings(),
                **faults.through(proxy, server, place),
                "hostname": "build01",
                "known_hosts_file": str(known),
                "python_path": sys.executable,
                "remote_spool": str(place / "spool"),
                "timing_filepath": str(place / "timing.log"),
                "max_parallel": count,
                "idle_timeout": 5,
                "retry_wait_time": 0.3,
            },
            "log": str(place / "timing.log"),
            "place": str(place),
            "tasks": count,
            "seconds": 1.0,
        }
        environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
        near = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NEAR, json.dumps(order), env=environment, stdout=PIPE, stderr=PIPE
        )
        try:
            await until(lambda: all((place / f"n{i}").exists() for i in range(count)), 30)
            with stopped([near.pid]):
                proxy.reset()
                proxy.refuse = True
                await asyncio.sleep(asleep)
            await asyncio.sleep(after)  # awake, without the network
            config.write_text(lost)
            proxy.refuse = False
            await asyncio.sleep(after)  # the network is back, the name's server is not
            allowed = keys.read_bytes()
            keys.write_bytes(b"")
            config.write_text(resolves)
            await asyncio.sleep(after)  # the key agent is locked
            await until(lambda: "Failed publickey" in server.process.log.read_text(errors="replace"), 30)
            keys.write_bytes(allowed)
            told, said = await asyncio.wait_for(near.communicate(), 60)
        finally:
            with suppress(ProcessLookupError):
                near.kill()
            await near.wait()
            direct.end_agents(place / "spool")
    assert near.returncode == 0, said.decode()[-2000:]
    return {**json.loads(told), "runs": [len(runs(place / f"n{i}")) for i in range(count)]}


@pytest.mark.parametrize(
    ("asleep", "after"),
    [(1.5, 1.5), pytest.param(120, 5, marks=[pytest.mark.soak, pytest.mark.timeout(400)])],
)
async def test_a_dispatcher_that_slept_gets_all_results(
    server: SSHServer, place: Path, asleep: float, after: float
) -> None:
    """Asleep, its link cut, then without network, name and login for a while: all results still arrive."""
    seen = await sleeper(server, place, asleep, after)
    assert seen["values"] == [0, 1, 2, 3]
    assert seen["runs"] == [1, 1, 1, 1]
    assert seen["opened"] == 2
