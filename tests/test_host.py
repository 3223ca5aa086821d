"""The near end: connecting, reconnecting, cancelling, and letting go, over a real sshd."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import cloudpickle
import pytest
from support import direct
from support.direct import TaskCancelledError
from support.faults import linked_at, noting, runs, until
from support.login import name_of, port_flag
from support.named import Server
from support.there import There

from covalent_sshtiming import errors
from covalent_sshtiming.host import pool

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def length(data: bytes) -> int:
    """Return how long it is."""
    return len(data)


# ---- a link that breaks


@pytest.mark.smoke
async def test_a_task_survives_a_broken_link(any_sshd: Server, place: Path, far_place: There) -> None:
    """A link that breaks during the run costs a reconnect: result and output come, and it ran once."""
    async with linked_at(any_sshd, place, far_place) as (machine, proxy):
        running = asyncio.ensure_future(machine.run(noting(far_place / "ran", 1.0)))
        await until((far_place / "ran").exists)
        proxy.reset()
        ran = await running
        connections = machine.host.connections
    assert (ran.value, ran.stdout) == ("result", "done\n")
    assert connections == 2
    assert len(runs(far_place / "ran")) == 1


async def test_one_reconnect_serves_all_tasks(any_sshd: Server, place: Path, far_place: There) -> None:
    """Twenty tasks on a link that breaks come back over one new connection, each having run once."""
    async with linked_at(any_sshd, place, far_place, max_parallel=20) as (machine, proxy):
        tasks = [asyncio.ensure_future(machine.run(noting(far_place / str(i), 1.0))) for i in range(20)]
        await until((far_place / "19").exists)
        proxy.reset()
        values = [(await task).value for task in tasks]
        connections = machine.host.connections
    assert values == ["result"] * 20
    assert connections == 2
    assert [len(runs(far_place / str(i))) for i in range(20)] == [1] * 20


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_transfer_that_is_cut_is_done_again(
    any_sshd: Server, place: Path, far_place: There, direction: str
) -> None:
    """A link cut in the middle of four MiB, either way, ends in the right result."""
    data = bytes(range(256)) * (4 << 12)
    async with linked_at(any_sshd, place, far_place) as (machine, proxy):
        assert (await machine.run(length, b"warm")).value == 4
        cut = proxy.up if direction == "up" else proxy.down
        cut.cut_after = cut.count + (2 << 20)
        if direction == "up":
            ran = await machine.run(length, data)
            assert ran.value == len(data)
        else:
            ran = await machine.run(bytes, data)
            assert ran.value == data
        assert machine.host.connections == 2


@pytest.mark.parametrize("after", [0, 1000, 3000, 5000, 6000])
async def test_a_link_that_breaks_at_login_is_tried_again(
    any_sshd: Server, place: Path, far_place: There, after: int
) -> None:
    """A connection that breaks before the machine has said hello is opened anew, and the task runs."""
    async with linked_at(any_sshd, place, far_place) as (machine, proxy):
        proxy.up.cut_after = after
        assert (await machine.run(length, b"four")).value == 4
        assert proxy.connections == 2


async def test_a_task_whose_machine_stays_away_is_lost(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """After reconnect_timeout a submitted task fails with a sentence that names it and the last cause."""
    async with linked_at(any_sshd, place, far_place, reconnect_timeout=2) as (machine, proxy):
        running = asyncio.ensure_future(machine.run(noting(far_place / "ran", 3.0)))
        await until((far_place / "ran").exists)
        proxy.refuse = True
        proxy.reset()
        ran = await running
        record = machine.records()[-1]
    assert isinstance(ran.error, Exception)
    assert "the connection was lost and did not come back within 2 s" in str(ran.error)
    assert (record["status"], record["error_type"]) == ("lost", "ConnectionLostError")


# ---- a machine that cannot be reached, or trusted


async def refused(machine: direct.Machine[There], kind: type[Exception], *texts: str) -> None:
    """Check that a run ends with this class and these texts, and is on record."""
    ran = await machine.run(length, b"x")
    assert type(ran.error) is kind, repr(ran.error)
    for text in texts:
        assert text in str(ran.error)
    assert (machine.records()[-1]["status"], machine.records()[-1]["error_type"]) == ("failed", kind.__name__)


async def test_a_port_where_nobody_listens(any_sshd: Server, place: Path, far_place: There) -> None:
    """A refused connection is tried again so often as the setting says, then told with host and port."""
    async with direct.machine_at(
        any_sshd, place, far_place, port=1, max_connection_attempts=2, retry_wait_time=0.1
    ) as machine:
        await refused(
            machine,
            errors.ConnectError,
            f"{machine.name}: port 1 cannot be reached",
            "is the machine up, and sshd? If so, correct hostname or port.",
            "Gave up after 2 attempts",
        )


async def test_a_connection_that_is_dropped_at_login(any_sshd: Server, place: Path, far_place: There) -> None:
    """A connection that ends during the login says where to look for the reason."""
    async with linked_at(any_sshd, place, far_place, max_connection_attempts=1) as (machine, proxy):
        proxy.up.cut_after = 1000
        await refused(
            machine,
            errors.ConnectError,
            f"{machine.name}: the connection was dropped at login (",
            "the SSH server's log there says why. Is this machine's address banned",
        )


async def test_a_python_that_is_none(any_sshd: Server, place: Path, far_place: There) -> None:
    """A program that is no Python is told by the name of the setting that names it."""
    async with direct.machine_at(any_sshd, place, far_place, python_path="/bin/true") as machine:
        await refused(
            machine,
            errors.RemoteEnvError,
            "our program ended with status 0 before it could serve",
            "is python_path '/bin/true' a Python?",
        )


async def test_a_name_that_does_not_resolve(any_sshd: Server, place: Path, far_place: There) -> None:
    """A name that does not exist says so and names the setting to correct."""
    async with direct.machine_at(
        any_sshd, place, far_place, hostname="no-such-host.invalid", max_connection_attempts=1
    ) as machine:
        await refused(machine, errors.ConnectError, "no-such-host.invalid: the name does not resolve")


async def test_a_key_that_the_server_does_not_know(any_sshd: Server, place: Path, far_place: There) -> None:
    """A refused login names the user, the key and what to do, and is not tried again."""
    key = place / "other_key"
    asyncssh_key(key)
    async with direct.machine_at(any_sshd, place, far_place, ssh_key_file=str(key)) as machine:
        await refused(
            machine,
            errors.AuthError,
            f"the login as {any_sshd.username} with the key {key} was refused",
            "authorized_keys",
        )


async def test_a_key_that_others_can_read(any_sshd: Server, place: Path, far_place: There) -> None:
    """A private key that others can read is refused before anything is sent."""
    key = place / "open_key"
    key.write_bytes(any_sshd.key_file.read_bytes())
    key.chmod(0o644)
    async with direct.machine_at(any_sshd, place, far_place, ssh_key_file=str(key)) as machine:
        await refused(machine, errors.AuthError, f"others can read the key file {key}", f"chmod 600 {key}")


async def test_a_key_that_is_not_there(any_sshd: Server, place: Path, far_place: There) -> None:
    """A key file that does not exist is named, with the setting to correct."""
    async with direct.machine_at(any_sshd, place, far_place, ssh_key_file=str(place / "none")) as machine:
        await refused(
            machine, errors.AuthError, f"the key file {place / 'none'} cannot be read", "ssh_key_file"
        )


async def test_a_host_key_that_is_unknown(any_sshd: Server, place: Path, far_place: There) -> None:
    """A machine that no known_hosts file knows is refused, with its fingerprint and the way to record it."""
    (place / "known_hosts").write_text("")
    async with direct.machine_at(
        any_sshd, place, far_place, known_hosts_file=str(place / "known_hosts")
    ) as machine:
        await refused(
            machine,
            errors.HostKeyUnknown,
            "no known_hosts file has its host key SHA256:",
            f"`ssh{port_flag(any_sshd)} -l {any_sshd.username} "
            f"-o UserKnownHostsFile={place / 'known_hosts'} {any_sshd.host}`",
        )


async def test_a_host_key_that_has_changed(any_sshd: Server, place: Path, far_place: There) -> None:
    """Another key than the one on record is refused, with both fingerprints and the command."""
    asyncssh_key(place / "other")
    public = (place / "other.pub").read_text()
    (place / "known_hosts").write_text(f"{name_of(any_sshd)} {public}")
    async with direct.machine_at(
        any_sshd, place, far_place, known_hosts_file=str(place / "known_hosts")
    ) as machine:
        await refused(
            machine,
            errors.HostKeyChanged,
            "its host key has changed: it presents SHA256:",
            "known_hosts has SHA256:",
            f"ssh-keygen -R '{name_of(any_sshd)}' -f {place / 'known_hosts'}`",
        )


async def test_a_host_key_that_was_revoked(any_sshd: Server, place: Path, far_place: There) -> None:
    """A key marked as revoked is refused, also where it is listed as known."""
    known = any_sshd.known_hosts_file.read_text()
    (place / "known_hosts").write_text(known + f"@revoked {known}")
    async with direct.machine_at(
        any_sshd, place, far_place, known_hosts_file=str(place / "known_hosts")
    ) as machine:
        await refused(machine, errors.HostKeyRevoked, "is marked @revoked in known_hosts")


def asyncssh_key(path: Path) -> None:
    """Write a fresh key pair."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(path))
    path.chmod(0o600)
    key.write_public_key(f"{path}.pub")


# ---- cancelling and letting go


async def test_a_cancelled_await_cancels_the_task(any_sshd: Server, place: Path, far_place: There) -> None:
    """A dispatcher that stops cancels `run`, which ends the task there and raises Covalent's own error."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        running = asyncio.ensure_future(machine.run(noting(far_place / "ran", 60)))
        await until((far_place / "ran").exists)
        running.cancel()
        ran = await running
        assert isinstance(ran.error, TaskCancelledError)
        assert machine.records()[-1]["status"] == "cancelled"
        await until(lambda: not list(machine.spool.glob("tasks/*")))


async def test_a_run_that_is_cancelled_at_any_moment_ends(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """Wherever `run` is when it is cancelled, it returns or raises TaskCancelledError, and leaves nothing."""
    async with direct.machine_at(any_sshd, place, far_place, log_stdout=str(place / "out")) as machine:

        async def cancelled(number: int) -> None:
            executor = machine.executor(timing_filepath=place / f"log{number % 4}")
            names = {"dispatch_id": "moments", "node_id": number, "results_dir": str(place)}
            running = asyncio.ensure_future(executor.run(*direct.call(lambda: print("said")), names))
            await asyncio.sleep(0)  # it has begun
            await asyncio.sleep(number * 0.0005)
            running.cancel()
            with suppress(TaskCancelledError):
                await running

        for number in range(80):
            await cancelled(number)
        await until(lambda: not list(machine.spool.glob("tasks/*")))


@pytest.mark.smoke
async def test_a_running_task_is_cancelled_by_another_instance(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """A cancel on a fresh executor, as Covalent makes one, ends the task within its grace."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        running = asyncio.ensure_future(
            machine.run(noting(far_place / "ran", 60), dispatch_id="c", node_id=3)
        )
        await until((far_place / "ran").exists)
        assert await machine.executor().cancel({"dispatch_id": "c", "node_id": 3}, None)
        ran = await running
        record = machine.records()[-1]
        assert isinstance(ran.error, TaskCancelledError)
        assert record["status"] == "cancelled"


async def test_a_task_cancelled_before_it_came_does_not_run(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """A cancel that overtakes its task is remembered: the task never reaches the machine."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        await machine.executor().cancel({"dispatch_id": "early", "node_id": 1}, None)
        ran = await machine.run(noting(far_place / "ran", 0), dispatch_id="early", node_id=1)
        assert isinstance(ran.error, TaskCancelledError)
    assert not (far_place / "ran").exists()


@pytest.mark.parametrize("broken", [False, True], ids=["on a good link", "on a link that breaks"])
async def test_a_cancel_in_the_download_ends_it(
    any_sshd: Server, place: Path, far_place: There, broken: bool
) -> None:
    """A task that is cancelled while its result is on the way is cancelled at once, and leaves nothing."""
    names: dict[str, Any] = {"dispatch_id": f"late{broken}", "node_id": 1}
    async with linked_at(any_sshd, place, far_place) as (machine, proxy):
        await machine.run(length, b"warm")
        proxy.down.bandwidth = 4e6
        before = proxy.down.count
        running = asyncio.ensure_future(machine.run(bytes, 200 << 20, **names))
        await until(lambda: proxy.down.count > before + 500_000)
        await machine.executor().cancel(names, None)
        if broken:
            proxy.reset()
        ran = await asyncio.wait_for(running, 10)
        assert isinstance(ran.error, TaskCancelledError)
        record = machine.records()[-1]
        assert (record["status"], record["result_bytes"] > 200 << 20) == ("cancelled", True)
        assert record["cpu_s"] is not None
        await until(lambda: not list(machine.spool.glob("tasks/*")))
        assert (await machine.run(length, b"four")).value == 4
        assert machine.host.connections == 1 + broken


async def test_an_idle_connection_is_closed(any_sshd: Server, place: Path, far_place: There) -> None:
    """A connection with nothing to do goes after idle_timeout, and the next task opens another."""
    async with direct.machine_at(any_sshd, place, far_place, idle_timeout=0.3) as machine:
        assert (await machine.run(length, b"one")).value == 3
        host = machine.host
        await until(lambda: host.idle)
        assert (await machine.run(length, b"four")).value == 4
        assert machine.host.connections + (0 if machine.host is host else 1) == 2


async def test_a_task_may_come_while_an_idle_connection_closes(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """Tasks that arrive about when the connection is given up are run, over it or over a new one."""
    async with direct.machine_at(any_sshd, place, far_place, idle_timeout=0.05) as machine:
        for i in range(12):
            ran = await asyncio.wait_for(machine.run(length, bytes(i)), 20)
            assert ran.value == i
            await asyncio.sleep(0.046 + 0.001 * i)


async def test_a_small_task_passes_a_large_one(any_sshd: Server, place: Path, far_place: There) -> None:
    """A trivial task that is submitted while 64 MiB go up has its result long before they are there."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        await machine.run(length, b"warm")
        large = asyncio.ensure_future(machine.run(length, bytes(64 << 20)))
        await asyncio.sleep(0.1)
        assert (await machine.run(length, b"four")).value == 4
        assert not large.done()
        assert (await large).value == 64 << 20


@pytest.mark.smoke
async def test_many_at_once_share_one_connection(any_sshd: Server, place: Path, far_place: There) -> None:
    """Two hundred tasks at once go over one connection, and leave no directory behind."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        rans = await asyncio.gather(*(machine.run(length, bytes(i)) for i in range(200)))
        assert [ran.value for ran in rans] == list(range(200))
        assert machine.host.connections == 1
        await until(lambda: not list(machine.spool.glob("tasks/*")))


async def test_hosts_of_one_target_are_shared(any_sshd: Server, place: Path, far_place: There) -> None:
    """Every executor instance with the same settings uses the same warm host."""
    async with direct.machine_at(any_sshd, place, far_place) as machine:
        for _ in range(3):
            await machine.run(length, b"x")
        assert len(pool.hosts()) == 1
        assert "open tasks=0 connections=1" in repr(machine.host)
