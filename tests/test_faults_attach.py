"""Finding tasks again when more has changed than the link: nobody there, reboot, upgrade, another host."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import remote_environment, require_sshd
from support import direct, farside, faults
from support.farside import FarSide, new_key
from support.faults import noting, one_behind_another, runs, until
from support.proxy import Proxy
from support.there import alive, begun

import covalent_sshtiming
from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.remote import wire

PACKAGE = Path(covalent_sshtiming.__file__).parent


# ---- nobody connected


@pytest.mark.parametrize("count", [30, pytest.param(500, marks=pytest.mark.soak)])
def test_submitted_tasks_finish_with_nobody_connected(far: FarSide, place: Path, count: int) -> None:
    """Tasks that were accepted run to their end without a connection; whoever comes back is told of each."""
    keys = [new_key() for _ in range(count)]
    with far.line() as line:
        for number, key in enumerate(keys):
            line.submit(key, noting(place / f"a{number}"), number)
        for _ in keys:
            while line.receive().type != wire.ACCEPTED:
                pass
    farside.until(lambda: all((far.task(key) / "outcome").exists() for key in keys), "all to end")
    with far.line() as line:
        for number, key in enumerate(keys):
            line.attach(key)
            assert line.outcome().value == number
            line.acknowledge(key)
    assert [len(runs(place / f"a{number}")) for number in range(count)] == [1] * count
    assert not list(far.spool.glob("tasks/*"))


def test_a_time_limit_holds_with_nobody_connected(far: FarSide, place: Path) -> None:
    """The far side ends a task that is over its limit, also with near side and agent both gone."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(place / "ran", 60), time_limit=1.0)
        farside.until(lambda: runs(place / "ran"), "the function to run")
        far.kill_agent()
    farside.until((far.task(key) / "outcome").exists, "the limit to be reached")
    assert not faults.living(runs(place / "ran"))
    with far.line() as line:
        line.attach(key)
        told = line.outcome()
    assert told.status == "timeout"
    assert told.ended["error"] == {
        "class": "TimeLimitExceeded",
        "text": "ran longer than its time limit of 1 s",
    }


# ---- cancelled by a connection that is not the one that submitted


def test_a_running_task_is_cancelled_by_the_next_agent(far: FarSide, place: Path) -> None:
    """A cancel that reaches another agent than the one that started the task ends it all the same."""
    key = new_key()
    with far.line() as line:
        line.submit(key, noting(place / "ran", 60))
        (worker,) = farside.until(lambda: runs(place / "ran"), "the function to run")
        far.kill_agent()
    with far.line() as line:
        line.attach(key)
        line.cancel(key)
        assert line.outcome(key).status == "cancelled"
    assert not alive(worker)


def test_a_waiting_task_is_cancelled_by_the_next_agent(far: FarSide, place: Path) -> None:
    """A cancel of what a killed agent had queued holds: it never runs."""
    with far.line() as line:
        first, second = one_behind_another(far, line, place)
        far.kill_agent()
    with far.line() as line:
        line.attach(second)
        line.cancel(second)
        assert line.outcome(second).status == "cancelled"
        line.attach(first)
        assert line.outcome(first).value == "result"
    assert not runs(place / "second")


# ---- a link that is lost before the agent has said hello


@asynccontextmanager
async def unheard(
    machine: direct.Machine, proxy: Proxy, ran: Path, seconds: float = 1.5, **task: Any
) -> AsyncIterator[asyncio.Future[direct.Ran]]:
    """Let a task be read, accepted and started by an agent of which nothing is heard; then lose the link.

    The agent is stopped while the connection is made, so that this moment is long enough.
    """
    task["options"] = {"idle_timeout": 0.1, "connect_timeout": 5, **task.get("options", {})}
    await machine.run(noting(ran.with_name("warm")), options=task["options"])
    cold = machine.host
    await until(lambda: cold.idle)
    with faults.stopped(sorted(machine.agents())):
        running = asyncio.ensure_future(machine.run(noting(ran, seconds), **task))
        await until(lambda: " open " in repr(machine.host))
        proxy.down.swallow = True
        await asyncio.sleep(0.1)
    await until(lambda: runs(ran))
    proxy.refuse = True
    proxy.reset()
    await until(lambda: " closed " in repr(machine.host))
    yield running
    proxy.down.swallow = False
    proxy.refuse = False


async def test_a_task_that_was_read_without_a_word_is_found_again(
    linked: tuple[direct.Machine, Proxy], place: Path
) -> None:
    """A link that is lost between a submission and the agent's hello costs nothing: one run, its result."""
    machine, proxy = linked
    async with unheard(machine, proxy, place / "ran") as running:
        pass
    assert (await asyncio.wait_for(running, 20)).value == "result"
    assert len(runs(place / "ran")) == 1


async def test_a_task_that_was_read_without_a_word_is_not_said_to_be_unsent(
    linked: tuple[direct.Machine, Proxy], place: Path
) -> None:
    """Given up after such a loss, a task is lost: it may run there, and its error says so."""
    machine, proxy = linked
    quick = {"max_connection_attempts": 2, "retry_wait_time": 0.1, "run_local_on_ssh_fail": True}
    async with unheard(machine, proxy, place / "ran", options=quick) as running:
        ran = await asyncio.wait_for(running, 20)
    assert ran.error is not None
    assert type(ran.error.__cause__) is errors.ConnectionLostError
    assert "Gave up after 2 attempts" in str(ran.error)
    assert str(ran.error).endswith("The task was on its way, and may run there.")
    assert machine.records()[-1]["status"] == "lost"
    await until(lambda: not faults.living(runs(place / "ran")))


async def test_a_task_that_was_read_without_a_word_is_cancelled(
    linked: tuple[direct.Machine, Proxy], place: Path
) -> None:
    """A cancel after such a loss ends what runs there, as soon as the link is back."""
    machine, proxy = linked
    names: dict[str, Any] = {"dispatch_id": "unheard", "node_id": 1}
    options = {"max_connection_attempts": 50, "retry_wait_time": 0.3}
    async with unheard(machine, proxy, place / "ran", seconds=60, options=options, **names) as running:
        await machine.executor().cancel(names, None)
    ran = await asyncio.wait_for(running, 20)
    assert isinstance(ran.error, direct.TaskCancelledError)
    assert not faults.living(runs(place / "ran"))


# ---- a reboot, another machine


@pytest.fixture
async def linked(sshd: SSHServer, place: Path) -> AsyncIterator[tuple[direct.Machine, Proxy]]:
    """Return a machine behind a proxy."""
    async with faults.linked(sshd, place) as (machine, proxy):
        yield machine, proxy


async def test_a_reboot_is_named(linked: tuple[direct.Machine, Proxy], place: Path) -> None:
    """A task whose machine rebooted has died, says so, and is not run again."""
    machine, proxy = linked
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 60)))
    await until(lambda: runs(place / "ran") and faults.started(machine))
    proxy.refuse = True
    proxy.reset()
    (known,) = faults.started(machine)
    (path,) = begun(machine.spool)
    direct.end_agents(machine.spool)
    faults.kill(known["pid"], *runs(place / "ran"))
    path.write_text(json.dumps({**known, "boot": "that of the day before"}))
    proxy.refuse = False
    ran = await asyncio.wait_for(running, 20)
    assert ran.error is not None
    assert isinstance(ran.error.__cause__, errors.TaskDied)
    assert str(ran.error) == (
        "127.0.0.1: note was running when its machine rebooted. Its output up to then is in the node's "
        "streams; it is not run again by itself."
    )
    assert machine.records()[-1]["status"] == "killed"
    assert len(runs(place / "ran")) == 1
    await until(lambda: not list(machine.spool.glob("tasks/*")))


@pytest.fixture
def other(sshd: SSHServer, place: Path) -> Iterator[SSHServer]:
    """Return a second server, whose sessions see another machine id and another spool."""
    require_sshd()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not have a view of the file system of their own")
    (place / "machine-id").write_text("0123456789abcdef" * 2 + "\n")
    (place / "elsewhere").mkdir(mode=0o700)
    view = place / "view"
    view.write_text(
        f"mount --bind {place}/machine-id /etc/machine-id\n"
        f"mount --bind {place}/elsewhere {place}/spool\n"
        'eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    forced = {"ForceCommand": f"unshare -m sh {view}"}
    with (
        faults.no_agents_left(place / "elsewhere"),
        ssh_server(
            place / "other", kind="openssh", options=forced, environment=remote_environment()
        ) as server,
    ):
        public = sshd.key_file.with_suffix(".pub").read_bytes()
        (place / "other" / "authorized_keys").write_bytes(public)
        yield server


async def test_another_machine_behind_the_name_is_left_again(
    sshd: SSHServer, other: SSHServer, linked: tuple[direct.Machine, Proxy], place: Path
) -> None:
    """A machine that does not know the task is not the one that has it: the right one is waited for."""
    machine, proxy = linked
    known = place / f"known_hosts-{proxy.port}"
    known.write_text(known.read_text() + faults.known_through(proxy, other, place / "other").read_text())
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 1.0)))
    await until((place / "ran").exists)
    proxy.target = (other.host, other.port)
    proxy.reset()
    await until(lambda: machine.host.connections >= 3, what="it to leave the wrong machine")
    assert not running.done()
    assert direct.agents(place / "elsewhere"), "the other machine was never reached"
    proxy.target = (sshd.host, sshd.port)
    ran = await asyncio.wait_for(running, 30)
    assert ran.value == "result"
    assert len(runs(place / "ran")) == 1


async def test_another_machine_gets_no_task_that_was_read_without_a_word(
    sshd: SSHServer, other: SSHServer, linked: tuple[direct.Machine, Proxy], place: Path
) -> None:
    """A task that may have started on the first machine is never started on the second, hello or not."""
    machine, proxy = linked
    known = place / f"known_hosts-{proxy.port}"
    known.write_text(known.read_text() + faults.known_through(proxy, other, place / "other").read_text())
    async with unheard(machine, proxy, place / "ran", options={"max_connection_attempts": 50}) as running:
        proxy.target = (other.host, other.port)
    await until(lambda: direct.agents(place / "elsewhere"), what="the other machine's agent")
    await asyncio.sleep(1)
    proxy.target = (sshd.host, sshd.port)
    assert (await asyncio.wait_for(running, 20)).value == "result"
    assert len(runs(place / "ran")) == 1


# ---- a spool that somebody removes


@pytest.mark.parametrize("what", ["spool", "spool/tasks"])
async def test_a_spool_that_was_removed_is_made_anew(
    linked: tuple[direct.Machine, Proxy], place: Path, what: str
) -> None:
    """Removed under a warm agent, the spool costs its tasks and one reconnect: the next task runs."""
    machine, _ = linked
    running = asyncio.ensure_future(machine.run(noting(place / "ran", 1.0)))
    await until(lambda: runs(place / "ran"))
    (agent,) = machine.agents()
    shutil.rmtree(place / what)
    assert (await asyncio.wait_for(machine.run(noting(place / "next")), 20)).value == "result"
    assert machine.host.connections == 2
    assert not alive(agent)
    ran = await asyncio.wait_for(running, 20)
    assert isinstance(ran.error and ran.error.__cause__, errors.TaskDied)
    assert "its directory was removed" in str(ran.error)


# ---- an upgrade

NEWER = """
import json, sys
from pathlib import Path
from support.farside import FarSide

far = FarSide(Path(sys.argv[1]), client="f" * 32)
told = {}
with far.line(number=10**9) as line:
    for key in sys.argv[2:]:
        line.attach(key)
        told[key] = line.outcome(key).value
        line.acknowledge(key)
    print(json.dumps([told, sorted(path.name for path in far.spool.glob("agents/*.log"))]))
far.__exit__()
"""


def test_tasks_of_an_older_version_are_attached_to(far: FarSide, place: Path) -> None:
    """After an upgrade another agent answers, for what runs, waits and has ended under the old one."""
    ended, running, waiting = (new_key() for _ in range(3))
    upgraded = place / "upgraded" / "covalent_sshtiming"
    shutil.copytree(PACKAGE, upgraded)
    with (upgraded / "remote" / "facts.py").open("a") as file:
        file.write("\n# a newer version\n")
    with far.line() as line:
        line.submit(ended, noting(place / "ended"), "ended")
        line.outcome()
        line.submit(running, noting(place / "running", 2.0), "running", max_parallel=1)
        line.submit(waiting, noting(place / "waiting"), "waiting", max_parallel=1)
        far.started(running)
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{upgraded.parent}:{tests}"}
    newer = subprocess.run(
        [sys.executable, "-c", NEWER, str(far.directory), ended, running, waiting],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert newer.returncode == 0, newer.stderr
    told, logs = json.loads(newer.stdout)
    assert told == {ended: "ended", running: "running", waiting: "waiting"}
    assert len(logs) == 2, "the upgrade brought no agent of its own"
    assert [len(runs(place / name)) for name in ("ended", "running", "waiting")] == [1, 1, 1]
