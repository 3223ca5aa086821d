"""TimingExecutor: the same harness without SSH; and tasks that run here because SSH failed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from support import direct
from support.clients import dispatch_script
from support.faults import linked_at, until
from support.login import Listener
from support.named import Server
from support.there import There, begun

from covalent_sshtiming import errors
from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.host import process
from covalent_sshtiming.timing.timings import read_log


@pytest.mark.smoke
async def test_a_function_runs_in_a_process_of_its_own(place: Path) -> None:
    """The function runs here, not in the caller's process, is measured, and has its streams."""

    def function(x: int) -> tuple[int, int]:
        import os

        print("said")
        return os.getpid(), x + 1

    async with direct.here(place) as machine:
        ran = await machine.run(function, 1)
        pid, value = ran.value
        assert value == 2
        assert pid != os.getpid()
        assert ran.stdout == "said\n"
        (record,) = machine.records()
    assert (record["host"], record["ran_locally"], record["status"]) == ("localhost", True, "completed")
    assert record["cpu_s"] < 0.1
    assert record["clock_offset_err_s"] < 1
    assert abs(record["clock_offset_s"]) <= record["clock_offset_err_s"] + 0.001


async def test_one_warm_agent_serves_all_and_goes_away(place: Path) -> None:
    """Many tasks share one agent and one stream; a failure is the task's, and nothing is left."""

    def fail() -> None:
        raise ValueError("no")

    async with direct.here(place) as machine:
        many = await asyncio.gather(*(machine.run(lambda n: n, n) for n in range(20)))
        assert [ran.value for ran in many] == list(range(20))
        ran = await machine.run(fail)
        assert "localhost: fail raised ValueError: no." in ran.stderr
        assert machine.host.connections == 1
        assert len(machine.agents()) == 1
        await until(lambda: not list((machine.spool / "tasks").iterdir()))


async def test_a_cancelled_task_ends(place: Path) -> None:
    """Cancel on a fresh instance ends a local task's process, as it does a remote one's."""
    async with direct.here(place) as machine:
        task = asyncio.ensure_future(machine.run(lambda: __import__("time").sleep(60), node_id=4242))
        await until(lambda: bool(begun(machine.spool)))
        await machine.executor().cancel({"dispatch_id": "dispatch", "node_id": 4242}, None)
        ran = await asyncio.wait_for(task, 10)
        assert type(ran.error).__name__ == "TaskCancelledError"
        assert machine.records()[0]["status"] == "cancelled"


async def test_a_killed_agent_costs_nothing(place: Path) -> None:
    """The way to a local agent can be lost too: another one is started, and brings the outcome."""

    def function(path: str) -> str:
        import time

        with open(path, "a") as file:
            file.write("x")
        time.sleep(1)
        return "done"

    async with direct.here(place) as machine:
        task = asyncio.ensure_future(machine.run(function, str(place / "mark")))
        await until((place / "mark").exists)
        (agent,) = machine.agents()
        os.kill(agent, signal.SIGKILL)
        assert (await task).value == "done"
    assert (place / "mark").read_text() == "x"


async def test_a_python_that_is_none_is_named(place: Path) -> None:
    """A python_path that does not exist is an error that names it, not a hang."""
    async with direct.here(place, python_path="/nowhere/python") as machine:
        ran = await machine.run(lambda: 1)
    assert isinstance(ran.error, errors.RemoteEnvError)
    assert "localhost: python_path '/nowhere/python' cannot be run there" in str(ran.error)


async def test_the_agents_environment_is_the_callers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task sees the environment of the process that runs the executor; another one is another agent."""
    async with direct.here(place) as machine:
        monkeypatch.setenv("FOR_THE_TASK", "one")
        assert (await machine.run(lambda: __import__("os").environ["FOR_THE_TASK"])).value == "one"
        await direct.pool.close_all()
        monkeypatch.setenv("FOR_THE_TASK", "two")
        assert (await machine.run(lambda: __import__("os").environ["FOR_THE_TASK"])).value == "two"


def configure(dispatcher: Dispatcher, spool: Path, **options: object) -> None:
    """Set up the local executor of a server so that nothing of it stays."""
    section = {"remote_spool": str(spool), "idle_timeout": 0.5, **options}
    dispatcher.configure({"executors": {"localtiming": section, "sshtiming": {"idle_timeout": 0.5}}})


def no_agents(spool: Path) -> None:
    """Wait until the agents of a spool have gone, which happens by itself."""
    deadline = time.monotonic() + 15
    while direct.agents(spool):
        assert time.monotonic() < deadline, "the agent has not gone"
        time.sleep(0.05)


def test_by_name_and_by_path_through_a_dispatcher(
    dispatcher: Dispatcher, tmp_path: Path, place: Path
) -> None:
    """The how-to's own line, and executor="localtiming", run on a real Covalent server."""
    log = tmp_path / "named.log"
    configure(dispatcher, place, timing_filepath=str(log))
    script = f"""
import json
import covalent as ct
from covalent_sshtiming import TimingExecutor

@ct.electron(executor=TimingExecutor({str(tmp_path / "given.log")!r}))
def given(x):
    return x + 1

@ct.electron(executor="localtiming")
def named(x):
    return x * 10

@ct.lattice
def workflow(x):
    return named(given(x))

result = ct.get_result(ct.dispatch(workflow)(3), wait=True)
nodes = [result.get_node_result(node) for node in range(2)]
print(json.dumps([str(result.status), result.result, [(node["error"], node["stderr"]) for node in nodes]]))
"""
    assert dispatch_script(dispatcher, script) == ["COMPLETED", 40, [[None, None]] * 2]
    assert [record.function for record in read_log(tmp_path / "given.log").records] == ["given"]
    assert [record.function for record in read_log(log).records] == ["named"]
    no_agents(place)


# ---------------------------------------------------------------- run_local_on_ssh_fail


def unreachable() -> dict[str, object]:
    """Return settings for a port where nobody listens."""
    return {"port": 1, "run_local_on_ssh_fail": True, "retry_connect": False}


def test_a_machine_that_cannot_be_reached_is_replaced_by_this_one(
    dispatcher: Dispatcher, tmp_path: Path, place: Path
) -> None:
    """With run_local_on_ssh_fail a task runs here, in a process of its own, and the record says so."""
    configure(dispatcher, place)
    log = tmp_path / "cpu.log"
    options = {"hostname": "127.0.0.1", "timing_filepath": str(log), **unreachable()}
    script = f"""
import json
import covalent as ct
from covalent_sshtiming import TimingSSHExecutor

@ct.electron(executor=TimingSSHExecutor(**{options!r}))
def parent():
    import os
    return os.getppid()

@ct.lattice
def workflow():
    return parent()

result = ct.get_result(ct.dispatch(workflow)(), wait=True)
print(json.dumps([str(result.status), result.result, result.get_node_result(0)["stderr"]]))
"""
    status, supervisor, stderr = dispatch_script(dispatcher, script)
    assert status == "COMPLETED"
    assert supervisor != dispatcher.pid
    assert stderr.startswith("warning: 127.0.0.1: port 1 cannot be reached")
    assert stderr.endswith("So this task ran on the dispatcher's machine.\n")
    (record,) = read_log(log).records
    assert (record.host, record.ran_locally, record.status) == ("127.0.0.1", True, "completed")
    no_agents(place)


async def test_without_the_setting_the_error_stands(any_sshd: Server, place: Path, far_place: There) -> None:
    """By default a task runs nowhere else than where it was sent."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        ran = await machine.run(lambda: 1, options={**unreachable(), "run_local_on_ssh_fail": False})
        assert isinstance(ran.error, errors.ConnectError)
        assert [record["status"] for record in machine.records()] == ["failed"]


async def test_an_untrusted_host_key_is_no_reason_to_run_here(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """Somebody in between is reported, not covered up by a task that runs elsewhere."""
    (place / "empty").write_text("")
    options = {"known_hosts_file": str(place / "empty"), "run_local_on_ssh_fail": True}
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        ran = await machine.run(lambda: 1, options=options)
        assert isinstance(ran.error, errors.HostKeyUnknown)


async def test_a_task_that_was_sent_is_never_run_here(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """Once anything of a task has left, it is waited for, and ends in an error, not in a second run."""

    def function(path: str) -> None:
        import time

        with open(path, "a") as file:
            file.write("x")
        time.sleep(3)

    async with linked_at(any_sshd, place, far_place) as (machine, proxy):
        options = {
            "run_local_on_ssh_fail": True,
            "reconnect_timeout": 0.5,
            "retry_wait_time": 0.2,
        }
        task = asyncio.ensure_future(machine.run(function, str(far_place / "mark"), options=options))
        await until((far_place / "mark").exists)
        proxy.refuse = True
        proxy.reset()
        ran = await asyncio.wait_for(task, 20)
        assert "did not come back within 0.5 s" in str(ran.error)
        assert (far_place / "mark").read_text() == "x"


async def test_a_childs_streams_and_its_end() -> None:
    """Process streams carry bytes both ways, keep stderr apart, and tell the status once."""
    heard = Listener()
    streams = await process.open_process(["sh", "-c", "cat; echo no >&2; exit 3"], heard)
    streams.write(b"to and fro")
    await streams.close()
    assert await heard.status == 3
    assert (heard.output, heard.errors) == (b"to and fro", b"no\n")


async def test_a_child_that_does_not_end_is_killed() -> None:
    """Closing without politeness ends the child, which counts as a lost way and not as a status."""
    heard = Listener()
    streams = await process.open_process(["sleep", "60"], heard)
    await streams.close(politely=False)
    assert await asyncio.wait_for(heard.status, 5) is None
