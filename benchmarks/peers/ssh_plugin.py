"""covalent-ssh-plugin's `run()` of a trivial electron: one at a time, then at several concurrencies.

Run by the peers' interpreter with the file that says how to reach the server; prints JSON.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
import warnings
from pathlib import Path

import uvloop

warnings.simplefilter("ignore")
from covalent._workflow.transport import TransportableObject  # noqa: E402 - the warnings first
from covalent.executor.utils.wrappers import wrapper_fn  # noqa: E402 - the same
from covalent_ssh_plugin.ssh import SSHExecutor  # noqa: E402 - the same

STAGE = json.loads(Path(sys.argv[1]).read_text())
AT_ONCE = (2, 4) if STAGE["quick"] else (1, 2, 3, 4, 6, 8)
ROUNDS = 2 if STAGE["quick"] else 3
ONE_BY_ONE = 3 if STAGE["quick"] else 15


def _prepare() -> None:
    """It takes no port, so the ssh configuration has to say it."""
    ssh = Path.home() / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text(f"Host box\n HostName {STAGE['host']}\n Port {STAGE['port']}\n")
    (Path.home() / "cache").mkdir()


def _executor() -> SSHExecutor:
    return SSHExecutor(
        username=STAGE["user"],
        hostname="box",
        ssh_key_file=STAGE["key"],
        python_path=sys.executable,
        cache_dir=str(Path.home() / "cache"),
        remote_cache=str(Path(STAGE["directory"], "peer-cache")),
        poll_freq=1,
    )


async def _once(number: int) -> float:
    function = functools.partial(wrapper_fn, TransportableObject(lambda: 5), [], [])
    executor = _executor()
    metadata = {"dispatch_id": "d", "node_id": number, "results_dir": ""}
    start = time.perf_counter()
    result = await executor.run(function, [], {}, metadata)
    seconds = time.perf_counter() - start
    if result.get_deserialized() != 5:
        raise RuntimeError("a wrong result")
    return seconds


async def _rate(at_once: int, first: int) -> float:
    room = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with room:
            await _once(number)

    count = ROUNDS * at_once
    start = time.perf_counter()
    await asyncio.gather(*(one(first + number) for number in range(count)))
    return count / (time.perf_counter() - start)


async def _main() -> None:
    await _once(0)
    seconds = [await _once(number) for number in range(1, ONE_BY_ONE + 1)]
    rates = []
    for many in AT_ONCE:
        try:
            rates.append({"at_once": many, "rate": await _rate(many, 1000 * many)})
        except Exception as error:  # noqa: BLE001 - it does not stand so many, whatever it says
            print(f"{many} at once: {error!r}", file=sys.stderr)
    print(json.dumps({"seconds": seconds, "rates": rates}))


_prepare()
uvloop.run(_main())
