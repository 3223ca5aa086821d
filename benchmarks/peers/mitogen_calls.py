"""mitogen: a trivial function in one process there, or with `fork` in a new fork of it for each call.

Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import mitogen.fork
import mitogen.master


def five() -> int:
    """Return 5."""
    return 5


def measure(told: str, *, fork: bool) -> None:
    """Call `five` again and again, and print the seconds."""
    stage = json.loads(Path(told).read_text())
    broker = mitogen.master.Broker()
    router = mitogen.master.Router(broker)
    try:
        context = router.ssh(
            hostname=stage["host"],
            port=stage["port"],
            username=stage["user"],
            identity_file=stage["key"],
            check_host_keys="ignore",
            python_path=[sys.executable],
        )
        context.call(five)
        seconds = []
        for _ in range(60 if fork else 230):
            start = time.perf_counter()
            child = router.fork(via=context) if fork else context
            if child.call(five) != 5:
                raise RuntimeError("a wrong result")
            if fork:
                child.shutdown(wait=True)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds[10:]}))
    finally:
        broker.shutdown()


if __name__ == "__main__":
    measure(sys.argv[1], fork="fork" in sys.argv[2:])
