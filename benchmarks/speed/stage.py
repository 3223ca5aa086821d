"""The stage: a private sshd, and the executor as the Covalent server would hold it, without a server.

The near end runs on uvloop, as Covalent's server does, peers that run in it too. What a task hands to
Covalent is not measured here but in `whole`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import direct
from support.proxy import Proxy, threaded_proxy

from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server

PYTHON = "{}.{}".format(*sys.version_info)


@dataclass(frozen=True)
class Stage:
    """A running SSH server, and where things go.

    Attributes:
        server: the server.
        directory: what a measure needs; its path is short.
        room: what all measures of this run share.
        quick: whether this is the quick form.
    """

    server: SSHServer
    directory: Path
    room: Path
    quick: bool

    def some(self, many: int, few: int) -> int:
        """Return how often something is done: `few` times in the quick form."""
        return few if self.quick else many

    @asynccontextmanager
    async def machine(self, name: str = "m", **options: Any) -> AsyncIterator[direct.Machine]:
        """Reach the server with a spool of one's own."""
        (self.directory / name).mkdir(exist_ok=True)
        async with direct.machine(self.server, self.directory / name, **options) as machine:
            yield machine

    @contextmanager
    def far_away(self, round_trip: float) -> Iterator[tuple[Proxy, dict[str, Any]]]:
        """Put the server at the end of a slow link; yields the link and the executor's settings for it."""
        with threaded_proxy(self.server.host, self.server.port) as proxy:
            proxy.up.latency = proxy.down.latency = round_trip / 2
            known = self.directory / f"known_hosts-{proxy.port}"
            key = self.server.known_hosts_file.read_text().split(maxsplit=1)[1]
            known.write_text(f"[{proxy.host}]:{proxy.port} {key}")
            yield proxy, {"port": proxy.port, "known_hosts_file": str(known)}

    def told(self) -> Path:
        """Return a file that tells a program of another environment how to reach the server."""
        path = self.directory / "stage.json"
        found = {
            "host": self.server.host,
            "port": self.server.port,
            "user": self.server.username,
            "key": str(self.server.key_file),
            "directory": str(self.directory),
            "quick": self.quick,
        }
        path.write_text(json.dumps(found))
        return path


@contextmanager
def stage(room: Path, *, quick: bool) -> Iterator[Stage]:
    """Set the stage."""
    with (
        tempfile.TemporaryDirectory(prefix="sst-", dir="/tmp", ignore_cleanup_errors=True) as name,
        ssh_server(Path(name) / "ssh", kind="openssh") as server,
    ):
        yield Stage(server, Path(name), room, quick)


class Runs:
    """Calls of `run()` as the dispatcher makes them: executor and call are made beforehand, and not timed."""

    def __init__(self, machine: direct.Machine, function: Any, *args: Any, dispatch: str = "d") -> None:
        self._machine = machine
        self._call = direct.call(function, *args)
        self._dispatch = dispatch
        self._count = 0

    async def once(self) -> tuple[float, Any]:
        """Run one task; return its seconds and its transported result."""
        executor = self._machine.executor()
        self._count += 1
        metadata = {"dispatch_id": self._dispatch, "node_id": self._count, "results_dir": "/nonexistent"}
        start = time.perf_counter()
        result = await executor.run(*self._call, metadata)
        return time.perf_counter() - start, result

    async def seconds(self) -> float:
        """Run one task; return its seconds."""
        return (await self.once())[0]


def trivial() -> Callable[[], int]:
    """Return the function that every comparison calls; one defined in a function travels by value."""
    return lambda: 5
