"""The standing of a task's process: where it is, what it may do to itself, and how many there are at once."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from typing import Any

import cloudpickle
import pytest
from support import direct
from support.endings import still_works
from support.login import connection
from support.named import Server
from support.there import There, mode

Machine = direct.Machine[There]

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


# ---- functions that fork, close and flood


async def test_a_forked_child_that_returns(machine: Machine, far_place: There) -> None:
    """A child that a function forks and lets return gives no result of its own and runs nothing twice."""
    note = far_place / "forked"
    name = str(note)

    def forks() -> str:
        child = os.fork()
        if child == 0:
            return "child"
        os.waitpid(child, 0)
        return "parent"

    def after() -> None:
        with open(name, "a") as file:
            file.write("x")

    ran = await machine.run(forks, after=[direct.hook(after)])
    assert ran.value == "parent"
    assert note.read_text() == "x"


async def test_a_forked_child_that_raises(machine: Machine) -> None:
    """A child that a function forks and that raises is no failure of the task."""

    def forks_badly() -> int:
        child = os.fork()
        if child == 0:
            raise ValueError("in the child")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    ran = await machine.run(forks_badly)
    assert ran.value == 1


async def test_a_flood_of_binary_output(machine: Machine) -> None:
    """64 MiB of binary output keep their head and tail, and a line says how much was dropped."""

    def floods() -> str:
        os.write(1, b"the head\n")
        piece = b"\xff\x00\xfe\x80" * 16384
        for _ in range(1024):
            os.write(1, piece)
        os.write(1, b"the tail\n")
        return "done"

    ran = await machine.run(floods)
    assert ran.value == "done"
    assert ran.stdout.startswith("the head\n")
    assert ran.stdout.endswith("the tail\n")
    dropped = re.search(r"\n\[\.\.\. (\d+) bytes dropped \.\.\.\]\n", ran.stdout)
    assert dropped
    total = 64 * 1024**2 + 18
    assert machine.records()[-1]["stdout_bytes"] == total
    assert int(dropped[1]) == total - 2 * 1024**2
    await still_works(machine)


async def test_closing_every_descriptor(machine: Machine) -> None:
    """A function that closes all file descriptors still brings its result home."""

    def closes() -> str:
        os.closerange(0, 256)
        return "nevertheless"

    ran = await machine.run(closes)
    assert ran.value == "nevertheless"
    await still_works(machine)


async def test_hooks_after_a_function_that_reuses_descriptors(machine: Machine) -> None:
    """What runs after the function is read from our request, whatever the function did to its descriptors."""

    def reuses() -> str:
        os.closerange(3, 256)
        for _ in range(8):
            os.open(os.devnull, os.O_RDONLY)
        return "reused"

    ran = await machine.run(reuses, after=[direct.hook(lambda: print("after"))])
    assert ran.value == "reused"
    assert ran.stdout == "after\n"


# ---- where a task stands


def standing() -> dict[str, Any]:
    """Return what a task sees of its surroundings."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "cwd": os.getcwd(),
        "pwd": os.environ.get("PWD"),
        "umask": mask,
        "flavour": os.environ.get("FLAVOUR"),
        "stdin": sys.stdin.read(),
        "ssh": sorted(name for name in os.environ if name.startswith("SSH_")),
        "files": sorted(os.listdir("/dev/fd")),
    }


async def test_the_default_workdir(machine: Machine, any_sshd: Server) -> None:
    """Without a setting a task runs in `covalent-workdir` below the home directory there."""
    found = (await machine.run(standing)).value
    assert found["cwd"] == found["pwd"] == str(any_sshd.remote_home / "covalent-workdir")


async def test_a_workdir_of_ones_own(machine: Machine, far_place: There) -> None:
    """`create_unique_workdir` gives each task `<remote_workdir>/<dispatch_id>/node_<node_id>`."""
    options = {"remote_workdir": str(far_place / "work"), "create_unique_workdir": True}
    ran = await machine.run(standing, options=options, dispatch_id="abc", node_id=99)
    assert ran.value["cwd"] == str(far_place / "work" / "abc" / "node_99")
    assert (far_place / "work" / "abc" / "node_99").is_dir()


async def test_environment_and_stdin(machine: Machine) -> None:
    """A task has the variables of `env`, an empty stdin, and nothing of the SSH session's."""
    found = (await machine.run(standing, options={"env": {"FLAVOUR": "ume plum"}})).value
    assert found["flavour"] == "ume plum"
    assert found["stdin"] == ""
    assert found["ssh"] == []


async def test_descriptors(machine: Machine) -> None:
    """A task inherits no descriptor but its three streams and its own request."""
    found = (await machine.run(standing)).value
    assert len(found["files"]) <= 5, found["files"]  # 0, 1, 2, the request, the listing itself


async def test_umask_is_the_users(machine: Machine, any_sshd: Server) -> None:
    """A task's umask is that of the login, although our own files are closed to others."""
    async with connection(any_sshd) as session:
        mask = int(str((await session.run("umask", check=True)).stdout), 8)
    found = (await machine.run(standing)).value
    assert found["umask"] == mask
    assert mode(machine.spool) & 0o077 == 0


# ---- how many at once


def when(seconds: float) -> tuple[float, float]:
    """Return begin and end of a nap."""
    begun = time.time()
    time.sleep(seconds)
    return begun, time.time()


@pytest.mark.parametrize("at_once", [1, 2])
async def test_max_parallel(machine: Machine, at_once: int) -> None:
    """No more tasks than max_parallel run at the same time, and that many do."""
    options = {"max_parallel": at_once}
    ran = await asyncio.gather(*(machine.run(when, 0.2, options=options) for _ in range(4)))
    spans = sorted(each.value for each in ran)
    most = max(sum(begun <= start < end for begun, end in spans) for start, _ in spans)
    assert most == at_once
