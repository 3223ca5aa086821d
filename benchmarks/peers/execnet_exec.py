"""execnet: a trivial function by `remote_exec`, in a thread of one process there. Prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import execnet

STAGE = json.loads(Path(sys.argv[1]).read_text())


def five(channel):  # type: ignore[no-untyped-def] # its source is sent, and may name nothing else
    """Answer."""
    channel.send(5)


def main() -> None:
    """Measure."""
    config = Path.home() / "ssh_config"
    lines = [
        "Host box",
        f"HostName {STAGE['host']}",
        f"Port {STAGE['port']}",
        f"User {STAGE['user']}",
        f"IdentityFile {STAGE['key']}",
        "StrictHostKeyChecking no",
        "UserKnownHostsFile /dev/null",
        "LogLevel ERROR",
    ]
    config.write_text("\n".join(lines) + "\n")
    gateway = execnet.makegateway(f"ssh=-F {config} box//python={sys.executable}")
    seconds = []
    for _ in range(230):
        start = time.perf_counter()
        channel = gateway.remote_exec(five)
        if channel.receive() != 5:
            raise RuntimeError("a wrong result")
        channel.waitclose()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[30:]}))
    gateway.exit()


main()
