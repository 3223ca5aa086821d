"""A slow link: carries connections on, each byte so much later.

    LISTEN=0.0.0.0:2222 python3 slow.py HOST PORT SECONDS

Stands beside the proxy of the tests, and needs only the standard library.
"""

from __future__ import annotations

import asyncio
import os
import sys

from proxy import Proxy


async def carry(host: str, port: int, latency: float) -> None:
    """Carry connections until somebody ends this process."""
    proxy = Proxy(host, port)
    proxy.host, _, listen = os.environ.get("LISTEN", "0.0.0.0:2222").rpartition(":")
    proxy.port = int(listen)
    proxy.up.latency = proxy.down.latency = latency
    async with proxy:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(carry(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
