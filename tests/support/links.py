"""A link that a test breaks: the settings that lead through it, and waiting for what it causes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from covalent_sshtiming.demo.sshserver import SSHServer
from support.proxy import Proxy


def through(proxy: Proxy, server: SSHServer, place: Path) -> dict[str, object]:
    """Return the settings that reach a server through a proxy, whose port known_hosts has to name."""
    known = place / "known_hosts"
    key = server.known_hosts_file.read_text().split(" ", 1)[1]
    known.write_text(f"[{proxy.host}]:{proxy.port} {key}")
    return {"port": proxy.port, "known_hosts_file": str(known), "retry_wait_time": 1}


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)
