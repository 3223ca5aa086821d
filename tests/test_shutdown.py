"""A Covalent server that is stopped: its tasks end with it, or are let be."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import executor_settings
from support import direct
from support.clients import dispatch_script
from support.faults import through
from support.named import Server
from support.proxy import threaded_proxy
from support.there import There, begun

from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.dispatcher import dispatcher as private_dispatcher

# One task runs, one waits for its slot, and one is on its way: 30 MB through a slow link.
SCRIPT = """
    import json, sys
    import covalent as ct
    marks = sys.argv[1]

    @ct.electron(executor="sshtiming")
    def slow(name, seconds, data):
        import time
        open(marks + "/" + name, "a").write("x")
        time.sleep(seconds)
        open(marks + "/" + name + ".end", "a").write("x")

    @ct.lattice
    def workflow(name, seconds, size):
        slow(name, seconds, bytes(size))

    print(json.dumps([ct.dispatch(workflow)(*task) for task in json.loads(sys.argv[2])]))
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def stop(server: Dispatcher) -> float:
    """Stop a server as `covalent stop` does; return how many seconds that took."""
    begun = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    wait_for(lambda: server.process.poll() is not None, "the server's end")
    return time.monotonic() - begun


def held(spool: There, name: str) -> list[There]:
    """Return the files of a name in the spool's task directories."""
    return list(spool.glob(f"tasks/*/{name}"))


def stopped(
    server: Server, place: Path, far: There, tasks: str, settle: Callable[[], object], **options: Any
) -> float:
    """Start tasks through a dispatcher and a slow link; stop it once they are where they should be."""
    spool, marks = far / "spool", far / "marks"
    marks.mkdir()
    with threaded_proxy(server.host, server.port) as proxy:
        proxy.up.bandwidth = 4e6
        table = {
            **executor_settings(server, spool),
            **through(proxy, server, place),
            "max_parallel": 1,
            **options,
        }
        with private_dispatcher(place / "home", executors={"sshtiming": table}) as dispatcher:
            dispatch_script(dispatcher, SCRIPT, str(marks), tasks)
            wait_for(settle, "the tasks to come to the machine", 100)
            return stop(dispatcher)


def test_a_stopped_server_ends_its_tasks(any_sshd: Server, place: Path, far_place: There) -> None:
    """What runs, what is queued and what is on its way ends within seconds of a stop, and never runs on."""
    spool, marks = far_place / "spool", far_place / "marks"
    tasks = '[["running", 300, 1], ["queued", 300, 1], ["coming", 300, 30000000]]'
    seconds = stopped(
        any_sshd,
        place,
        far_place,
        tasks,
        lambda: begun(spool) and len(list(spool.glob("tasks/*"))) == 3,
    )
    print(f"stopped in {seconds:.1f} s")
    try:
        wait_for(lambda: not held(spool, "request*"), "the waiting tasks' end", 10)
        wait_for(lambda: len(held(spool, "outcome")) >= len(begun(spool)), "the running task's end", 10)
    finally:
        print("left there:", [sorted(path.name for path in task.iterdir()) for task in spool.glob("tasks/*")])
    time.sleep(3)
    assert len(list(marks.iterdir())) == 1  # whichever came first had begun; none came to its end
    assert not list(marks.glob("*.end"))
    direct.end_agents(spool)


def test_tasks_that_are_to_be_left_go_on(any_sshd: Server, place: Path, far_place: There) -> None:
    """With on_shutdown = "leave" running and queued tasks finish by themselves, and their outcomes stay."""
    spool, marks = far_place / "spool", far_place / "marks"
    tasks = '[["running", 4, 1], ["queued", 1, 1]]'
    stopped(
        any_sshd,
        place,
        far_place,
        tasks,
        lambda: begun(spool) and len(held(spool, "request")) == 1,
        on_shutdown="leave",
    )
    wait_for(lambda: len(held(spool, "outcome")) == 2, "both outcomes")
    assert sorted(path.name for path in marks.iterdir()) == ["queued", "queued.end", "running", "running.end"]
    assert {path.read_text() for path in marks.iterdir()} == {"x"}
    direct.end_agents(spool)
