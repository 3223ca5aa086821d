"""What a user sees: real workflows, through a real Covalent server, on a real OpenSSH server.

Clients are few and workflows many: a client costs seconds, a node a fifth of one. Each script of
`support.workflows` is one client; the tests look at what it brought home.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from conftest import executor_settings
from support.clients import dispatch_script
from support.farside import until
from support.faults import through
from support.named import Server
from support.proxy import Proxy, threaded_proxy
from support.there import There, alive, kill
from support.workflows import CANCEL, FAILURES, HOW_TO, VALUES

from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.processes import free_port
from covalent_sshtiming.demo.sshserver import SSHServer


@pytest.fixture(scope="module")
def fan(any_sshd: Server) -> Iterator[Proxy]:
    """Return a link to the machine that counts connections."""
    with threaded_proxy(any_sshd.host, any_sshd.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def machines(
    dispatcher: Dispatcher,
    any_sshd: Server,
    sshd: SSHServer,
    fan: Proxy,
    short_tmp: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Dispatcher]:
    """Return the dispatcher with a table for each machine that the scripts name, nearly all the same one."""
    stranger = tmp_path_factory.mktemp("keys") / "stranger"
    stranger.touch(mode=0o600)
    stranger.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    here = {"hostname": any_sshd.host}
    twice = {"max_connection_attempts": 2, "retry_wait_time": 0.1}
    hosts = {
        "build01": here,
        "fan": through(fan, any_sshd, stranger.parent),
        # Our own Python has numpy.
        "numpy": {**executor_settings(sshd, short_tmp / "numpy"), "python_path": sys.executable},
        "left": {**here, "remote_workdir": "left hand"},
        "right": {**here, "remote_workdir": "right-hand"},
        "nobody": {"hostname": "127.0.0.1", "port": free_port(), **twice},
        "locked": {**here, "ssh_key_file": str(stranger)},
        "unresolved.invalid": {"max_connection_attempts": 1},
    }
    dispatcher.configure({"executors": {"sshtiming": {"hosts": hosts}}})
    yield dispatcher
    for name in ("left hand", "right-hand"):
        if (any_sshd.remote_home / name).exists():
            (any_sshd.remote_home / name).rmdir()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the timing log of all but the how-to's workflow."""
    return tmp_path_factory.mktemp("logs") / "timing.log"


@pytest.fixture(scope="module")
def values(machines: Dispatcher, fan: Proxy, log: Path) -> dict[str, Any]:
    """Return what the workflows that go well brought home."""
    before = fan.connections
    told = dispatch_script(machines, VALUES, str(log.parent), str(log))
    return {**told, "opened": fan.connections - before}


@pytest.fixture(scope="module")
def failures(machines: Dispatcher, log: Path) -> dict[str, dict[str, str]]:
    """Return how the workflows that fail ended, by the function's or the machine's name."""
    return dict(dispatch_script(machines, FAILURES, str(log)))


def records(log: Path, dispatch_id: str = "") -> list[dict[str, Any]]:
    """Return the records of a log, of one dispatch only if asked."""
    found = [json.loads(line) for line in log.with_name(log.name + ".jsonl").read_text().splitlines()]
    return [record for record in found if dispatch_id in ("", record["dispatch_id"])]


def sentences(log: Path, dispatch_id: str) -> list[str]:
    """Return the sentences of one dispatch."""
    return [line for line in log.read_text().splitlines() if dispatch_id in line]


# ---- what goes well


def test_the_how_to_works_verbatim(machines: Dispatcher, tmp_path: Path) -> None:
    """The README's workflow computes e, and its log and record are there as soon as the result is."""
    dispatch_id, status, result, lines = dispatch_script(machines, HOW_TO, cwd=tmp_path)
    assert status == "COMPLETED"
    assert math.isclose(result, math.e, abs_tol=1e-5)
    text = (tmp_path / "cpu_timing.log").read_text()
    sentence = rf"Node 0 in dispatch {re.escape(dispatch_id)} took (\d+(?:\.\d+)?(?:e-\d+)?)s of CPU time\.\n"
    told = re.fullmatch(sentence, text)
    assert told, text
    (record,) = map(json.loads, lines)
    assert record["cpu_s"] == float(told[1])
    assert 0 < record["cpu_s"] < 0.1
    expected = {
        "dispatch_id": dispatch_id,
        "node_id": 0,
        "function": "e_ser",
        "kind": "electron",
        "status": "completed",
        "host": "build01",
        "ran_locally": False,
        "error_type": None,
    }
    assert {name: record[name] for name in expected} == expected


def test_a_fan_out_of_twenty_comes_back_in_order(values: dict[str, Any]) -> None:
    """Twenty electrons at once all return their own result."""
    assert values["squares"] == [x * x for x in range(20)]


def test_a_fan_out_opens_one_connection(values: dict[str, Any]) -> None:
    """Twenty electrons to a machine that was not connected share a single SSH connection."""
    assert values["opened"] == 1


def test_each_task_of_a_fan_out_has_a_record(values: dict[str, Any], log: Path) -> None:
    """Twenty electrons leave twenty records and twenty sentences, one for each node."""
    electrons = [one for one in records(log, values["fan_id"]) if one["kind"] == "electron"]
    assert {one["function"] for one in electrons} == {"square"}
    assert len({one["node_id"] for one in electrons}) == 20
    assert len(electrons) == len(sentences(log, values["fan_id"])) == 20


def test_the_executor_is_found_by_name(values: dict[str, Any], machines: Dispatcher) -> None:
    """`executor="sshtiming"` takes everything from covalent.conf, and logs in the server's data directory."""
    assert values["by_name"] == 2
    default = machines.home / ".local/share/covalent-sshtiming/timing.log"
    assert "by_name" in {one["function"] for one in records(default, values["kinds_id"])}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", None),
        ("matrix", ["numpy", [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]),
        ("blob", 50 * 1024**2),
        ("closure", 7),
        ("table", {"sum": 3, "of": [1, 2]}),
    ],
)
def test_results_of_every_kind_come_home(values: dict[str, Any], kind: str, expected: Any) -> None:
    """None, an array, 50 MiB of bytes, a closure and a dict arrive as the function returned them."""
    assert values[kind] == expected


def test_large_values_arrive_whole_in_both_directions(values: dict[str, Any]) -> None:
    """50 MiB have one and the same hash on the machine that takes them and at home."""
    there, here = values["digests"]
    assert there == here


def test_the_machine_needs_python_and_nothing_else(values: dict[str, Any]) -> None:
    """Electrons run in an interpreter that has no covalent, and cloudpickle only because we bring it."""
    assert "covalent" not in values["packages"]


def test_files_go_along_and_come_home(values: dict[str, Any], log: Path) -> None:
    """Two nodes of a dispatch are sent a file of the client's, and each one's own comes to its own place."""
    assert values["grown"] == [9, 9]
    found = [one for one in records(log, values["kinds_id"]) if one["function"] == "grows"]
    places = {one["node_id"]: Path(one["fetched_to"]) for one in found}
    assert all(place.parts[-2:] == (values["kinds_id"], f"node_{node}") for node, place in places.items())
    left = {path.name: path.read_text() for place in places.values() for path in place.glob("*.out")}
    assert left == {"a.out": "seed of a", "b.out": "seed of b"}


def test_covalents_own_nodes_are_marked_and_have_no_sentence(values: dict[str, Any], log: Path) -> None:
    """Nodes that Covalent adds by itself are helpers in the records and have no sentence."""
    found = records(log, values["kinds_id"])
    helpers = {one["function"] for one in found if one["kind"] == "helper"}
    electrons = {one["function"] for one in found if one["kind"] == "electron"}
    assert any("list" in name or "dict" in name for name in helpers), helpers
    assert electrons >= {"nothing", "array", "adder", "table", "whereabouts", "elsewhere"}
    assert not any("_auto" in name or ":" in name for name in electrons)
    numbers = {one["node_id"] for one in found if one["kind"] == "electron"}
    told = {int(line.split()[1]) for line in sentences(log, values["kinds_id"])}
    assert told == numbers


def test_each_machine_has_its_own_table(values: dict[str, Any], any_sshd: Server, log: Path) -> None:
    """Two hostnames in one workflow take their settings from two tables of one covalent.conf."""
    assert values["left"] == str(any_sshd.remote_home / "left hand")
    assert values["right"] == str(any_sshd.remote_home / "right-hand")
    hosts = {one["function"]: one["host"] for one in records(log, values["kinds_id"])}
    assert (hosts["whereabouts"], hosts["elsewhere"]) == ("left", "right")


# ---- what fails


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        ("raises", "ValueError: no such flavour"),
        ("prints_and_raises", "KeyError: 'spoon'"),
        ("exits", "SystemExit: 3"),
        ("vanishes", "exited 0 without a result"),
    ],
)
def test_a_task_that_fails_says_where_and_why(
    failures: dict[str, dict[str, str]], function: str, cause: str
) -> None:
    """A function that raises, exits or vanishes ends FAILED with machine, function and cause in the error."""
    end = failures[function]
    assert (end["node"], end["status"]) == ("FAILED", "FAILED")
    assert f"build01: {function} " in end["stderr"]
    assert cause in end["stderr"]
    assert f"0: {function}" in end["whole"]  # all that Covalent itself says there


def test_output_before_a_failure_is_kept(failures: dict[str, dict[str, str]]) -> None:
    """What a task printed before it raised is in the node's stdout and stderr."""
    end = failures["prints_and_raises"]
    assert end["stdout"] == "to standard output\n"
    assert end["stderr"].startswith("to standard error\n")
    assert failures["exits"]["stdout"] == "before the exit\n"


def test_the_remote_traceback_is_in_stderr(failures: dict[str, dict[str, str]]) -> None:
    """The node's stderr has the traceback of the user's frames, and none of the harness's."""
    told = failures["raises"]["stderr"]
    assert "Traceback (most recent call last)" in told
    assert "in raises" in told
    assert "worker.py" not in told


def test_failed_tasks_have_records(failures: dict[str, dict[str, str]], log: Path) -> None:
    """A task that failed has a record with how it ended; one that never started has its error's name."""
    found = {
        name: [(one["status"], one["error_type"], one["exit_code"]) for one in records(log, end["id"])]
        for name, end in failures.items()
    }
    assert found == {
        "raises": [("failed", "TaskFailed", 0)],
        "prints_and_raises": [("failed", "TaskFailed", 0)],
        "exits": [("failed", "TaskFailed", 0)],
        "vanishes": [("failed", "TaskDied", 0)],
        "nobody": [("failed", "ConnectError", None)],
        "locked": [("failed", "AuthError", None)],
        "unresolved.invalid": [("failed", "ConnectError", None)],
    }


def test_cpu_time_of_a_task_that_raised_is_known(failures: dict[str, dict[str, str]], log: Path) -> None:
    """The CPU time of a function that raised is in its record."""
    (record,) = records(log, failures["raises"]["id"])
    assert record["cpu_s"] is not None
    assert 0 < record["cpu_s"] < 1


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("nobody", ["refused", "Gave up after 2 attempts"]),
        ("locked", ["ssh_key_file"]),
        ("unresolved.invalid", ["hostname"]),
    ],
)
def test_a_machine_out_of_reach_fails_the_node_with_a_sentence(
    failures: dict[str, dict[str, str]], host: str, words: list[str]
) -> None:
    """A wrong host or a refused key ends the node FAILED with host, cause and what to do, not a traceback."""
    end = failures[host]
    assert (end["node"], end["status"]) == ("FAILED", "FAILED")
    assert host in end["error"]
    for word in words:
        assert word.lower() in end["error"].lower()
    assert "Traceback" not in end["error"]
    assert end["error"].rstrip().endswith(".")


# ---- cancelling


@contextmanager
def ended_anyway(marker: There) -> Iterator[None]:
    """End the processes whose ids are in a file, should the test not have done so."""
    try:
        yield
    finally:
        for pid in marker.read_text().split() if marker.exists() else []:
            kill(int(pid), marker)


def test_cancelling_ends_what_runs_and_what_waits(
    machines: Dispatcher, log: Path, tmp_path: Path, far_place: There
) -> None:
    """A cancelled dispatch ends its running task with its children, and what waited never runs."""
    marker, go = far_place / "running", tmp_path / "go"
    with ended_anyway(marker), ThreadPoolExecutor(1) as clients:
        client = clients.submit(dispatch_script, machines, CANCEL, str(log), str(marker), str(go))
        until(marker.exists, "the task to run")
        go.touch()
        ends = client.result()
        for end in ends.values():
            assert end["status"] == "CANCELLED"
            # What waits for another's result has never been anything to Covalent.
            states = [(name, status) for name, status in end["nodes"] if name in ("sleeps", "follows")]
            assert sorted(states) == [
                ("follows", "NEW_OBJECT"),
                ("sleeps", "CANCELLED"),
                ("sleeps", "CANCELLED"),
            ]
        pids = [int(pid) for pid in marker.read_text().split()]
        assert len(pids) == 2
        assert not any(alive(pid, marker) for pid in pids)
        assert [path.name for path in far_place.iterdir()] == ["running"]


def test_cancelled_tasks_have_records(machines: Dispatcher, log: Path) -> None:
    """Whatever had come to the machine and was cancelled has a record that says so."""
    found = [one for one in records(log) if one["function"] == "sleeps"]
    assert {one["status"] for one in found} == {"cancelled"}
    assert len(found) >= 2
