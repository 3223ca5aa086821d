"""dask.distributed: a trivial function by `submit` to an SSHCluster's one worker process. Prints JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

from dask.distributed import Client, SSHCluster

STAGE = json.loads(Path(sys.argv[1]).read_text())


def main() -> None:
    """Measure."""
    login = {
        "port": STAGE["port"],
        "username": STAGE["user"],
        "client_keys": [STAGE["key"]],
        "known_hosts": None,
    }
    logging.disable(logging.WARNING)
    with (
        SSHCluster(
            [STAGE["host"], STAGE["host"]],
            connect_options=login,
            remote_python=sys.executable,
            worker_options={"nthreads": 2},
            scheduler_options={"dashboard": False},
        ) as cluster,
        Client(cluster) as client,
    ):
        seconds = []
        for number in range(230):
            start = time.perf_counter()
            if client.submit(lambda _: 5, number, pure=False).result() != 5:
                raise RuntimeError("a wrong result")
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[30:]}))


if __name__ == "__main__":
    main()
