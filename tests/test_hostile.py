"""A hostile machine behind a good login: whatever it sends ends in a typed error, and harms nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import direct, faults
from support.hostile.far import MISBEHAVIOURS
from support.hostile.server import as_user, hostile_server
from support.unpickling import nothing_unpickled

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.visit import job_of

BOUND_S = 12.0  # of any misbehaviour, with the settings below; most take a tenth of it
BOUND_BYTES = 48 << 20  # of memory, for a machine that sends without end
OPTIONS: dict[str, Any] = {
    "connect_timeout": 1.5,
    "max_connection_attempts": 2,
    "retry_wait_time": 0.1,
    "reconnect_timeout": 1.5,
    "max_result_bytes": 1 << 20,
    "python_path": "",
    "fetch": ["*.h5", "*/*.h5"],
    "fetch_max_bytes": 1 << 20,
    "fetch_max_files": 100,
}
TWICE = "Is something else answering there? That ended 2 connections in a row; the task may still run there."
ENDS: dict[str, tuple[type[errors.SSHTimingError], str]] = {
    "endless_noise": (
        errors.ProtocolError,
        "its login shell printed over 65536 bytes before our",
    ),
    "endless_complaint": (errors.ProtocolError, f"it floods us with what nobody asked for. {TWICE}"),
    "wrong_nonce": (errors.ConnectError, " (it printed: SSHTIMING/1 000000"),
    "announcement_without_end": (errors.ProtocolError, "its announcement has no end"),
    "announcement_is_a_pickle": (errors.ProtocolError, "its announcement is not JSON"),
    "says_nothing": (errors.ConnectError, "; does a start-up file wait for input?"),
    "opens_no_session": (errors.ConnectError, "its SSH server opened no session within "),
    "drips_before": (errors.ConnectError, " (it printed: ....."),
    "asks_again_for_the_archive": (errors.ConnectionLostError, "The task was on its way, and may run"),
    "lies_about_python": (errors.RemoteEnvError, "which cannot safely load it"),
    "garbage_instead_of_frames": (errors.ProtocolError, "frame version "),
    "version_lie": (errors.ProtocolError, "frame version 2, not 1. Is something else answering there?"),
    "lying_length": (errors.ProtocolError, f"frame body of 4294967295 bytes, over 65536. {TWICE}"),
    "not_a_number": (errors.ProtocolError, f"frame header is not JSON. {TWICE}"),
    "endless_number": (errors.ProtocolError, f"frame header is not JSON. {TWICE}"),
    "deep_json": (errors.ProtocolError, f"frame header is not JSON. {TWICE}"),
    "closes_in_mid_frame": (errors.ConnectionLostError, "did not come back within 1.5 s"),
    "hello_twice": (errors.ProtocolError, f"it said hello twice. {TWICE}"),
    "floods_stdout": (errors.ProtocolError, f"it floods us with what nobody asked for. {TWICE}"),
    "floods_with_pings": (errors.ProtocolError, f"it floods us with what nobody asked for. {TWICE}"),
    "floods_unknown_tasks": (errors.ProtocolError, f"it floods us with what nobody asked for. {TWICE}"),
    "floods_after_its_end": (errors.TaskFailed, "raised first"),
    "never_heard_of_it": (errors.TaskDied, "it says that it has never heard of it"),
    "breaks_each_connection": (errors.ProtocolError, f"frame version 255, not 1. {TWICE}"),
    "over_cap_result": (errors.ResultTooLarge, "over max_result_bytes = 1048576"),
    "longer_than_announced": (errors.ResultError, "the result is longer than was announced"),
    "result_again_and_again": (errors.ResultError, "it announced the result twice"),
    "senseless_sizes": (errors.ResultError, "announced with sizes that make no sense"),
    "outcome_before_accepted": (errors.ResultError, "the result is shorter than was announced"),
    "pickled_outcome": (errors.TaskDied, "the outcome that it sent cannot be read (outcome is not JSON)"),
    "pickled_header": (errors.ResultError, "the result's header cannot be read"),
    "file_goes_up": (
        errors.ProtocolError,
        "it sends a file named '../../owned.h5', which is no path below a directory. Is something else",
    ),
    "file_is_absolute": (errors.ProtocolError, "owned.h5', which is no path below a directory. Is something"),
    "file_not_asked_for": (
        errors.ProtocolError,
        "it sends a file named '.bashrc', which is not asked for. Is",
    ),
    "file_with_a_nasty_name": (errors.TaskFailed, "raised all told"),
    "file_with_another_checksum": (errors.TaskFailed, "raised all sent"),
    "file_with_no_checksum": (errors.TaskFailed, "raised all sent"),
    "file_shorter_than_announced": (errors.ProtocolError, "'short.h5' is shorter than it announced"),
    "file_longer_than_announced": (errors.ProtocolError, "'long.h5' is longer than it announced"),
    "file_without_end": (errors.ProtocolError, "it sends more files than may come"),
    "files_without_end": (errors.ProtocolError, "it sends more files than may come"),
    "files_left_without_end": (errors.ProtocolError, "it tells of more files than there can be"),
    "bytes_of_no_file": (errors.ProtocolError, "it sends bytes of no file"),
    "file_in_a_file": (errors.ProtocolError, "it announces a file where none can come"),
    "steers_terminals": (errors.TaskFailed, "raised ]0;owned[31mred\nback 31m"),
    "refuses_with_a_novel": (errors.TransferError, "(errno unknown, 10000000000000000000 bytes free of"),
    "names_like_paths": (errors.TaskDied, "/etc/passwd. Its output up to then is in the node's streams"),
    "enormous_hello": (errors.TaskFailed, "raised here"),
}


@contextmanager
def _bounded(seconds: float = BOUND_S, more: int = 0) -> Iterator[None]:
    """Fail where this process takes longer, or much more memory, than a hostile machine may cost it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, begun = _peak(), time.monotonic()
    yield
    assert time.monotonic() - begun < seconds
    assert _peak() - before < BOUND_BYTES + more


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Return a directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="evil-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def canary(place: Path) -> Path:
    """Return the file that every hostile pickle makes where it is unpickled."""
    return place / "canary"


@pytest.fixture(scope="module")
def hostile(place: Path, canary: Path, nothing_left_running: None) -> Iterator[SSHServer]:
    """Return the hostile server."""
    with hostile_server(place / "ssh", canary) as server:
        yield server


async def suffer(
    machine: direct.Machine, server: SSHServer, misbehaviour: str, **options: Any
) -> tuple[direct.Ran, dict[str, Any]]:
    """Send a task to a server that misbehaves; return what came of it, and its record."""
    log = machine.log.with_name(f"{misbehaviour}.jsonl")
    reaching = {**as_user(server, misbehaviour).settings(), "timing_filepath": log, **OPTIONS, **options}
    ran = await machine.run(lambda: 1, dispatch_id="ours", node_id=7, options=reaching)
    return ran, json.loads(log.read_text().splitlines()[-1])


def cause(ran: direct.Ran) -> BaseException | None:
    """Return our error behind the one that Covalent is told."""
    return ran.error and (ran.error.__cause__ if isinstance(ran.error, direct.TaskEnded) else ran.error)


def check(misbehaviour: str, ran: direct.Ran, record: dict[str, Any], within: str = "1.5 s") -> None:
    """Hold an end against the table, and its texts against what may reach a terminal."""
    kind, text = ENDS[misbehaviour]
    text = text.replace("1.5 s", within)
    error = cause(ran)
    assert type(error) is kind, repr(error)
    assert text in str(error)
    assert str(error).startswith("127.0.0.1: ")
    assert len(str(error)) < 6000
    assert all(c.isprintable() or c in "\n\t" for c in str(error) + ran.stderr)
    assert (record["record_id"], record["dispatch_id"], record["node_id"]) == (record["record_id"], "ours", 7)
    assert len(record["record_id"]) == 32
    assert (record["host"], record["function"]) == ("127.0.0.1", "<lambda>")
    assert (record["status"], record["error_type"]) == (
        "lost" if kind is errors.ConnectionLostError else "failed",
        kind.__name__,
    )
    assert len(str(record)) < 40_000


def test_the_table_names_every_misbehaviour() -> None:
    """No misbehaviour of the server is left out here; those without an entry have a test of their own."""
    assert {*MISBEHAVIOURS, "opens_no_session"} - set(ENDS) == {
        "drips",
        "pickled_result",
        "endless_list",
        "list_of_nothing",
        "deaf_to_a_cancel",
    }


@pytest.mark.parametrize("misbehaviour", ENDS)
async def test_a_misbehaviour_ends_in_a_typed_error(
    hostile: SSHServer, place: Path, canary: Path, misbehaviour: str
) -> None:
    """Each ends in its error, in bounded time and memory; it runs nothing and leaves a sound record."""
    for left in place.rglob("node_7"):  # of those before
        shutil.rmtree(left)
    async with direct.machine(hostile, place / misbehaviour) as machine:
        with _bounded(), nothing_unpickled():
            ran, record = await asyncio.wait_for(suffer(machine, hostile, misbehaviour), BOUND_S)
    check(misbehaviour, ran, record)
    assert not canary.exists()
    kept = {path for path in place.rglob("*.h5") if misbehaviour != "files_without_end"}
    assert not kept  # that one sends files as they should be, only too many
    assert not list(place.rglob("*.part"))


async def test_a_wrong_checksum_is_named(hostile: SSHServer, place: Path) -> None:
    """A file that is not what its SHA-256 says is not kept; a sentence names it, the task's end stands."""
    async with direct.machine(hostile, place / "checksum") as machine:
        ran, record = await suffer(machine, hostile, "file_with_another_checksum")
    kept = machine.log.parent / "ours" / "node_7"
    assert ran.stderr.startswith(
        f"warning: '{kept}/wrong.h5' was not kept here: its SHA-256 is not the one announced. It is still in "
        "the task's working directory.\n"
    )
    assert not list(kept.iterdir())
    assert (record["fetched_files"], record["fetched_left"]) == (0, 1)


async def test_a_malicious_pickle_is_not_opened(hostile: SSHServer, place: Path, canary: Path) -> None:
    """A result that acts when it is unpickled is a result like any other, and acts on nobody here."""
    async with direct.machine(hostile, place / "pickle") as machine:
        with _bounded(), nothing_unpickled():
            ran, record = await suffer(machine, hostile, "pickled_result")
    assert (ran.error, record["status"]) == (None, "completed")
    assert ran.result.object_string == "text"
    assert not canary.exists()
    os.environ["SSHTIMING_CANARY"] = str(canary)
    ran.result.get_deserialized().close()  # whoever asks for it gets what it is: the pickle was a real one
    assert canary.exists()
    canary.unlink()


async def test_a_drip_is_no_sign_of_life(hostile: SSHServer, place: Path) -> None:
    """A machine that accepts a task, and then sends a byte now and then, counts as away, and is given up."""
    async with direct.machine(as_user(hostile, "drips"), place / "drips", **OPTIONS) as machine:
        with _bounded():
            async with faults.host(machine, reconnect_timeout=1.5, retry_wait=0.1, python_path="") as host:
                with pytest.raises(errors.ConnectionLostError, match=r"did not come back within 1\.5 s"):
                    await asyncio.wait_for(faults.run_on(host, lambda: 1), BOUND_S)


async def test_a_machine_cannot_keep_a_cancelled_task(hostile: SSHServer, place: Path) -> None:
    """A task that its machine does not end is cancelled here all the same, with a warning."""
    server = as_user(hostile, "deaf_to_a_cancel")
    async with direct.machine(server, place / "deaf", **OPTIONS) as machine:
        running = asyncio.ensure_future(machine.run(lambda: 1, dispatch_id="deaf", node_id=1))
        await faults.until(lambda: direct.pool.hosts() and machine.host.connections)
        machine.host.target = replace(machine.host.target, ending=0.3)
        with _bounded():
            await machine.executor().cancel({"dispatch_id": "deaf", "node_id": 1}, None)
            ran = await asyncio.wait_for(running, BOUND_S)
    assert type(ran.error) is direct.TaskCancelledError
    assert "warning: 127.0.0.1: the machine has not ended the cancelled task within 0.3 s" in ran.stderr
    assert "It may still run there; `covalent-sshtiming jobs 127.0.0.1` lists what does." in ran.stderr


@pytest.mark.parametrize(
    ("misbehaviour", "said"),
    [("endless_list", "not a list of tasks"), ("list_of_nothing", "it floods us with what nobody asked for")],
)
async def test_a_list_without_end_is_refused(
    hostile: SSHServer, place: Path, misbehaviour: str, said: str
) -> None:
    """Who asks such a machine for its tasks has an error, and not a list that fills the memory."""
    async with direct.machine(as_user(hostile, misbehaviour), place / misbehaviour, **OPTIONS) as machine:
        with _bounded(more=64 << 20):
            async with faults.host(machine, python_path="", ping=15, silence=40, attempts=1) as host:
                with pytest.raises(errors.SSHTimingError, match=said):
                    await asyncio.wait_for(host.jobs(job_of), BOUND_S)


# On two cores, with forty others beside it, each gets its turn late.
PATIENT = {"connect_timeout": 6, "reconnect_timeout": 6}


async def test_all_of_them_at_once_harm_no_other_machine(
    hostile: SSHServer, sshd: SSHServer, place: Path, canary: Path
) -> None:
    """With all misbehaviours at once in one process, the tasks of a good machine end as ever."""
    async with direct.machine(sshd, place / "good") as good:
        assert (await good.run(lambda: "warm")).value == "warm"
        warm = good.host
        begun = time.monotonic()
        with nothing_unpickled():
            suffering = asyncio.gather(*(suffer(good, hostile, name, **PATIENT) for name in ENDS))
            running: list[direct.Ran] = []
            slowest = 0.0
            while not suffering.done():
                at = time.monotonic()
                running.append(await good.run(lambda number: number * 2, len(running)))
                slowest = max(slowest, time.monotonic() - at)
        print(f"{len(running)} good tasks in {time.monotonic() - begun:.1f} s, the slowest {slowest:.2f} s")
        assert [ran.value for ran in running] == [2 * number for number in range(len(running))]
        assert warm.connections == 1
    for name, (ran, record) in zip(ENDS, await suffering, strict=True):
        check(name, ran, record, within="6 s")
    assert not canary.exists()
