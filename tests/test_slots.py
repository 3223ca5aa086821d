"""Slots: how many tasks a machine runs at once, whoever sends them, and how many CPUs each of them has."""

from __future__ import annotations

import asyncio
import functools
import glob
import itertools
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import LIMITED_USER, executor_settings
from support import direct, farside
from support.clients import dispatch_script
from support.farside import FarSide, Line, new_key

from covalent_sshtiming.demo.dispatcher import dispatcher
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.remote import backlog, crew, needs, rooms, supervisor

CORES = len(os.sched_getaffinity(0))
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Interval = tuple[float, float]


def nap(seconds: float) -> Interval:
    """Return begin and end of a nap."""
    import time

    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()


def most_at_once(spans: Iterable[Interval]) -> int:
    """Return how many of these overlap at most."""
    spans = list(spans)
    return max(sum(begun <= start < end for begun, end in spans) for start, _ in spans)


def submit(line: Line, count: int, seconds: float, dispatch: str, **head: Any) -> list[str]:
    """Submit so many naps of one dispatch and return their keys."""
    keys = [new_key() for _ in range(count)]
    for key in keys:
        line.submit(key, nap, seconds, dispatch_id=dispatch, **head)
    return keys


def spans_of(line: Line, keys: Sequence[str]) -> list[Interval]:
    """Return when these tasks ran."""
    return [told.value for told in line.outcomes(keys)]


# ---- two dispatchers


def test_two_clients_keep_to_max_parallel(short_place: Path) -> None:
    """Two clients' tasks are never more than max_parallel at once, nor after a link or the agent broke."""
    clients = (new_key(), new_key())
    with FarSide(short_place) as far:
        with far.line(clients[0], 1) as first, far.line(clients[1], 1) as second:
            lines = (first, second)
            keys = [submit(line, 5, 0.25, str(line.doorman.pid), max_parallel=2) for line in lines]
            far.started(keys[1][0])
            first.close()
            with far.line(clients[0], 2) as again:
                attach(again, keys[0])
                time.sleep(0.3)
            far.kill_agent()
        with far.line(clients[0], 3) as first, far.line(clients[1], 3) as second:
            for line, some in zip((first, second), keys, strict=True):
                attach(line, some)
            spans = [*spans_of(first, keys[0]), *spans_of(second, keys[1])]
    assert most_at_once(spans) == 2


def attach(line: Line, keys: Sequence[str]) -> None:
    """Ask for tasks that are there."""
    for key in keys:
        line.attach(key)


FAN_OUT = """
import json, sys, time
import covalent as ct

@ct.electron(executor="sshtiming")
def nap(number):
    import time
    begun = time.monotonic()
    time.sleep(1.0)
    return begun, time.monotonic()

@ct.lattice
def workflow(count):
    return [nap(number) for number in range(count)]

result = ct.get_result(ct.dispatch(workflow)(int(sys.argv[1])), wait=True)
print(json.dumps({"status": str(result.status), "spans": result.result}))
"""


@pytest.mark.soak
@pytest.mark.timeout(400)
async def test_two_covalent_servers_keep_to_max_parallel(
    sshd: SSHServer, short_place: Path, tmp_path: Path
) -> None:
    """Two Covalent servers with max_parallel = 2 never run more than two tasks at once, nor after a kill."""
    table = {**executor_settings(sshd, short_place / "spool"), "max_parallel": 2}
    with (
        dispatcher(tmp_path / "one", executors={"sshtiming": table}) as one,
        dispatcher(tmp_path / "two", executors={"sshtiming": table}) as two,
    ):
        told = asyncio.gather(
            *(asyncio.to_thread(dispatch_script, server, FAN_OUT, "10", timeout=300) for server in (one, two))
        )
        begun = functools.partial(glob.glob, str(short_place / "spool/tasks/*/started"))
        await asyncio.to_thread(farside.until, begun, "a task")
        await asyncio.sleep(2)
        for agent in direct.agents(short_place / "spool"):  # and with it both connections
            os.kill(agent, signal.SIGKILL)
        answers = await told
    direct.end_agents(short_place / "spool")
    spans = [tuple(span) for answer in answers for span in answer["spans"]]
    print(f"two Covalent servers, {len(spans)} tasks, an agent killed: {most_at_once(spans)} at once at most")
    assert [answer["status"] for answer in answers] == ["COMPLETED"] * 2
    assert (len(spans), most_at_once(spans)) == (20, 2)


# ---- several CPUs for a task


def test_a_wide_task_is_not_overtaken_for_ever(short_place: Path) -> None:
    """One that takes all CPUs runs alone, and comes soon although many of one CPU each were there before."""
    with FarSide(short_place) as far, far.line() as line:
        narrow = submit(line, CORES + 12, 0.1, "narrow")
        wide = submit(line, 2, 0.1, "wide", cpus_per_task=CORES)
        spans = spans_of(line, [*narrow, *wide])
    small, large = spans[:-2], spans[-2:]
    for begun, end in large:
        assert not [span for span in [*small, *large] if begun < span[0] < end or begun < span[1] < end]
    before = [span for span in small if span[0] < large[0][0]]
    assert len(before) <= 2 * CORES
    assert most_at_once(small) == CORES


def test_a_task_of_another_need_is_not_held_up(short_place: Path) -> None:
    """A task that waits for a device lets those of its dispatch that need none start."""
    with FarSide(short_place) as far, far.line() as line:
        holders = submit(line, 2, 0.5, "d", max_parallel=4, slot_env={"DEVICE": ["only"]})
        free = submit(line, 1, 0.0, "d", max_parallel=4)
        first, second, other = spans_of(line, [*holders, *free])
    assert first[1] <= second[0]
    assert other[1] < first[1]


def test_two_agents_with_wide_tasks_do_not_block_each_other(short_place: Path) -> None:
    """Two agents of one user share the slots; tasks of all CPUs of both come to their end, one at a time."""
    with FarSide(short_place) as far:
        other = FarSide(short_place)
        other.target = replace(far.target, cache=str(short_place / "other"))  # another archive, another agent
        with far.line() as first, other.line() as second:
            keys = [submit(line, 4, 0.05, "wide", cpus_per_task=CORES) for line in (first, second)]
            keys = [[*keys[0], *submit(first, 4, 0.05, "one")], [*keys[1], *submit(second, 4, 0.05, "one")]]
            spans = [spans_of(first, keys[0]), spans_of(second, keys[1])]
            assert len(direct.agents(far.spool)) == 2
    wide = [*spans[0][:4], *spans[1][:4]]
    assert most_at_once(wide) == 1
    assert most_at_once([*spans[0], *spans[1]]) <= CORES


def test_more_cpus_than_there_are_is_refused(short_place: Path) -> None:
    """A task that asks for more CPUs than there are ends at once, and the text says how many there are."""
    with FarSide(short_place) as far, far.line() as line:
        line.submit(new_key(), nap, 0.0, cpus_per_task=CORES + 1)
        ended = line.outcome().ended
    assert ended["status"] == "failed"
    text = f"needs {CORES + 1} CPUs (cpus_per_task), and there are {CORES}; ask for fewer"
    assert ended["error"] == {"class": "RemoteEnvError", "text": text, "phase": "queue"}


async def test_a_refusal_is_a_sentence_and_has_a_record(short_place: Path) -> None:
    """What never started is our own error with the machine's name, and a failed record."""
    async with direct.here(short_place, cpus_per_task=CORES + 1) as machine:
        ran = await machine.run(nap, 0.0)
        (record,) = machine.records()
    assert str(ran.error) == (
        f"localhost: nap needs {CORES + 1} CPUs (cpus_per_task), and there are {CORES}; ask for fewer."
    )
    assert type(ran.error).__name__ == "RemoteEnvError"
    assert (record["status"], record["error_type"]) == ("failed", "RemoteEnvError")


@pytest.mark.parametrize(
    ("asked", "cores", "at_once"),
    [
        ({}, 8, 8),
        ({"cpus_per_task": 4}, 8, 2),
        ({"cpus_per_task": 3}, 8, 2),
        ({"max_parallel": 2}, 8, 2),
        ({"max_parallel": 20}, 8, 20),
        ({"max_parallel": 2, "cpus_per_task": 4}, 8, 2),
        ({"max_parallel": 2, "cpus_per_task": 3}, 8, 2),
        ({"max_parallel": 8, "cpus_per_task": 4}, 8, 2),
        ({"max_parallel": 1, "cpus_per_task": 8}, 8, 1),
        ({"max_parallel": 16, "cpus_per_task": 4}, 8, 4),
    ],
)
def test_tasks_at_once(asked: dict[str, int], cores: int, at_once: int) -> None:
    """max_parallel counts tasks; their CPUs are no more than there are, unless it is above that itself."""
    needed = needs.of(asked)
    assert needed.slots(cores) // max(1, needed.cpus) == at_once


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        ({}, 1),
        ({"cpus_per_task": 4}, 4),
        ({"max_parallel": 1}, 8),
        ({"max_parallel": 3}, 2),
        ({"max_parallel": 20}, 1),
        ({"max_parallel": 1, "cpus_per_task": 2}, 2),
        ({"max_parallel": 1, "cpu_affinity": True}, 1),
    ],
)
def test_threads_of_a_task(asked: dict[str, Any], threads: int) -> None:
    """As many as its CPUs; where it did not say, its share of eight."""
    assert needs.of(asked).threads(8) == threads


def test_what_makes_no_sense_counts_as_not_said() -> None:
    """A head is a client's word: values of other types and below 1 are as if they were not there."""
    odd = {"max_parallel": -1, "cpus_per_task": "2", "slots_dir": 3, "gpus_per_task": None, "slot_env": [1]}
    assert needs.of({**odd, "gpus": "0", "cpu_affinity": "yes"}) == needs.of({})
    assert needs.of({"slot_env": {"A": "12", "B": [1], "C": []}}) == needs.of({})


def test_dispatches_and_needs_take_turns() -> None:
    """Each start puts a dispatch behind the others, and a need behind the dispatch's others."""
    waiting = backlog.Backlog()
    for dispatch, cpus in (("a", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 1)):
        head = {"dispatch_id": dispatch, "cpus_per_task": cpus, "key": f"{dispatch}{cpus}{len(waiting)}"}
        waiting.add(dict(head, needs=needs.of(head)))
        waiting.add(dict(head, needs=needs.of(head)))
    order = []
    while waiting:
        order.append(next(waiting.fronts()))
        waiting.started(order[-1])
    assert [head["key"] for head in order] == ["a10", "b13", "a22", "a11", "a14"]


def test_a_task_is_taken_out_wherever_it_stands() -> None:
    """Removed tasks are in no queue, and queues that are empty are gone."""
    waiting = backlog.Backlog()
    for number in range(4):
        head = {"dispatch_id": "d", "key": str(number), "cpus_per_task": number // 2 + 1}
        waiting.add(dict(head, needs=needs.of(head)))
    waiting.remove("0")
    waiting.remove("3")
    assert [head["key"] for head in waiting.fronts()] == ["1", "2"]
    waiting.remove("1")
    waiting.remove("2")
    assert (len(waiting), list(waiting.fronts())) == (0, [])


# ---- threads and CPUs


def told_threads() -> dict[str, str | None]:
    """Return what numeric libraries are told."""
    import os

    return {name: os.environ.get(name) for name in THREADS}


def set_to(value: object) -> dict[str, str]:
    """Return all of them with one value."""
    return dict.fromkeys(THREADS, str(value))


async def test_numeric_libraries_are_told_how_many_threads(
    short_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each CPU of the task; what the user has set, in env or on the machine, stays."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    names = THREADS

    def told() -> dict[str, str | None]:
        import os

        return {name: os.environ.get(name) for name in names}

    async with direct.here(short_place / "plain") as machine:
        assert (await machine.run(told)).value == set_to(1)
        assert (await machine.run(told, options={"cpus_per_task": CORES})).value == set_to(CORES)
        assert (await machine.run(told, options={"max_parallel": 1})).value == set_to(CORES)
        own = {"cpus_per_task": CORES, "env": {"MKL_NUM_THREADS": "7"}}
        assert (await machine.run(told, options=own)).value == {**set_to(CORES), "MKL_NUM_THREADS": "7"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    async with direct.here(short_place / "set") as machine:
        assert (await machine.run(told)).value == {**set_to(1), "OMP_NUM_THREADS": "5"}
        wide = await machine.run(told, options={"cpus_per_task": CORES, "isolation": "spawn"})
        assert wide.value == {**set_to(CORES), "OMP_NUM_THREADS": "5"}


async def test_tasks_are_held_to_the_cpus_of_their_slots(short_place: Path) -> None:
    """With cpu_affinity tasks at the same time have different CPUs; without it all of them."""

    def cpus() -> list[int]:
        import os
        import time

        time.sleep(0.2)
        return sorted(os.sched_getaffinity(0))

    async with direct.here(short_place) as machine:
        pinned = {"cpu_affinity": True}
        ran = await asyncio.gather(*(machine.run(cpus, options=pinned) for _ in range(CORES)))
        assert sorted(one.value for one in ran) == [[cpu] for cpu in sorted(os.sched_getaffinity(0))]
        every = sorted(os.sched_getaffinity(0))
        wide = {"cpu_affinity": True, "cpus_per_task": CORES}
        assert (await machine.run(cpus, options=wide)).value == every
        assert (await machine.run(cpus)).value == every


async def tasks_of_numpy(place: Path, count: int, seconds: float, **options: Any) -> tuple[int, float]:
    """Run so many numpy tasks; return the most threads that they had all together, and the seconds taken."""

    def multiply(seconds: float) -> int:
        import os
        import time

        import numpy as np

        end = time.process_time() + seconds
        matrix = np.ones((300, 300))
        while time.process_time() < end:
            matrix @ matrix
        return len(os.listdir("/proc/self/task"))

    async with direct.here(place, **options) as machine:
        await machine.run(multiply, 0.0)
        began = time.monotonic()
        told = asyncio.gather(*(machine.run(multiply, seconds) for _ in range(count)))
        most = 0
        while not told.done():
            most = max(most, sum(map(threads_of, machine.agents())))
            await asyncio.sleep(0.02)
        took = time.monotonic() - began
        return max(most, *(ran.value for ran in await told)), took


def threads_of(agent: int) -> int:
    """Return how many threads there are in all of an agent's workers that have loaded numpy."""
    found = 0
    for worker in psutil.Process(agent).children(recursive=True):
        try:
            maps = Path(f"/proc/{worker.pid}/maps").read_text()
            found += worker.num_threads() if "_multiarray_umath" in maps else 0
        except (OSError, psutil.NoSuchProcess):
            pass
    return found


@pytest.mark.parametrize(
    ("count", "seconds"), [(8, 0.1), pytest.param(16, 1.0, marks=pytest.mark.soak)], ids=["short", "full"]
)
async def test_numpy_has_no_more_threads_than_cpus(
    short_place: Path, count: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numpy tasks have, all together, a thread for each CPU and not one for each CPU in each task."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    most, took = await tasks_of_numpy(short_place / "ours", count, seconds)
    ideal = count * seconds / CORES
    print(f"{count} numpy tasks, {CORES} CPUs: {most} threads at most, {took:.1f} s, ideal {ideal:.1f} s")
    assert 1 <= most <= CORES
    if seconds >= 1:
        own = dict.fromkeys(THREADS, str(CORES))
        most, took = await tasks_of_numpy(short_place / "theirs", count, seconds, env=own, max_parallel=count)
        print(f"all at once with {CORES} threads each: {most} threads at most, {took:.1f} s")


def test_an_order_may_hold_more_locks_than_fit_a_message() -> None:
    """A task of 600 CPUs has 600 descriptors, which the kernel passes on in several messages."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as one:
        handles = [os.dup(one.fileno()) for _ in range(600)]
        assert crew._deliver(ours, {"key": "k"}, handles)
        for handle in handles:
            os.close(handle)
        order = supervisor._receive(theirs)
        assert order is not None
        assert (order["key"], len(set(order["handles"]))) == ("k", 600)
        for handle in order["handles"]:
            os.close(handle)


# ---- a directory that users share


@pytest.fixture
def shared(short_place: Path) -> Path:
    """Return a directory as an administrator makes it for all users."""
    room = short_place / "slots"
    room.mkdir()
    room.chmod(0o1777)
    short_place.chmod(0o755)
    return room


def test_two_users_share_their_slots(crowded: FarSide, shared: Path, short_place: Path) -> None:
    """Tasks of two users with one slots_dir are never more than max_parallel at once, nor on one device."""
    head = {"max_parallel": 2, "slots_dir": str(shared), "slot_env": {"DEVICE": ["a/b", "c"]}}
    with FarSide(short_place) as ours, crowded.line() as theirs, ours.line() as line:
        keys = [submit(one, 4, 0.15, "d", **head) for one in (theirs, line)]
        spans = [spans_of(theirs, keys[0]), spans_of(line, keys[1])]
    assert most_at_once(itertools.chain(*spans)) == 2
    made = {path.name: path.stat() for path in shared.iterdir()}
    assert {stat.S_IMODE(one.st_mode) for one in made.values()} == {0o666}
    assert {"0", "1", "DEVICE-c"} < set(made)
    assert {one.st_size for one in made.values()} == {0}
    assert {one.st_uid for one in made.values()} <= {0, LIMITED_USER}


def missing(room: Path) -> str:
    """No such directory."""
    room.rmdir()
    return f"{room}: No such file or directory"


def a_file(room: Path) -> str:
    """A file in its place."""
    room.rmdir()
    room.touch()
    return f"{room}: not a directory"


def not_sticky(room: Path) -> str:
    """A directory from which others can take what is locked."""
    room.chmod(0o777)
    return f"{room}: others may remove files there (chmod +t it)"


def a_link(room: Path) -> str:
    """A link in a slot's place."""
    (room.parent / "target").touch()
    (room / "0").symlink_to(room.parent / "target")
    return f"{room}/0: Too many levels of symbolic links"


def a_pipe(room: Path) -> str:
    """A pipe in a slot's place."""
    os.mkfifo(room / "0")
    return f"{room}/0: not a regular file"


def a_directory(room: Path) -> str:
    """A directory in a slot's place."""
    (room / "0").mkdir()
    return f"{room}/0: Is a directory"


@pytest.mark.parametrize("spoil", [missing, a_file, not_sticky, a_link, a_pipe, a_directory])
def test_a_shared_directory_that_cannot_be_used_says_why(shared: Path, spoil: Any) -> None:
    """Whatever is wrong with the place or a slot in it is named, and nothing there is touched."""
    cause = spoil(shared)
    with pytest.raises(rooms.Unusable, match=f"^{re.escape(cause)}$"):
        rooms.SharedRoom(str(shared)).lock(["0"], 1)


def test_a_task_does_not_wait_for_what_cannot_be_had(shared: Path, short_place: Path) -> None:
    """A task whose slots_dir cannot be used ends at once, with the place and the cause."""
    cause = not_sticky(shared)
    with FarSide(short_place) as far, far.line() as line:
        line.submit(new_key(), nap, 0.0, slots_dir=str(shared))
        error = line.outcome().ended["error"]
    assert error["text"] == f"cannot have a slot there: {cause}; correct slots_dir or that place"


def test_another_users_private_file_is_no_slot(crowded: FarSide, shared: Path) -> None:
    """A file that this user may not lock is named."""
    (shared / "0").touch(mode=0o600)
    with crowded.line() as line:
        line.submit(new_key(), nap, 0.0, slots_dir=str(shared))
        error = line.outcome().ended["error"]
    assert f"{shared}/0: Permission denied" in error["text"]


LOCKS = """
import os, sys
from covalent_sshtiming.remote import rooms
os.umask(0o077)
room = rooms.SharedRoom(sys.argv[1])
print([name for name, _ in room.lock(["0", "1", "2"], int(sys.argv[2])) or ()], flush=True)
sys.stdin.read()
"""


def test_locks_end_with_whoever_held_them(shared: Path) -> None:
    """What a process has locked is free once it was killed; all or nothing is taken meanwhile."""
    room = rooms.SharedRoom(str(shared))
    with subprocess.Popen(
        [sys.executable, "-c", LOCKS, shared, "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "['0', '1']\n"
        assert room.lock(["0", "1", "2"], 2) is None
        rest = room.lock(["0", "1", "2"], 1) or []
        assert [name for name, _ in rest] == ["2"]
        other.kill()
    rooms.close(rest)
    found = room.lock(["0", "1", "2"], 3) or ()
    assert [name for name, _ in found] == ["0", "1", "2"]
    rooms.close(found)


def test_a_place_that_is_not_absolute_is_none() -> None:
    """A relative slots_dir would be another place for each agent."""
    with pytest.raises(rooms.Unusable, match=r"^slots: not an absolute path$"):
        rooms.SharedRoom("slots")
