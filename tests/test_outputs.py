"""log_stdout and log_stderr: a task's output in local files, while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from support import direct
from support.faults import through, until
from support.named import Server
from support.proxy import Proxy
from support.there import There

from covalent_sshtiming.remote import pump


def says(*lines: str, until_there: There) -> Callable[[], None]:
    """Return a function that prints lines, then waits for a file, then prints one more."""
    path = str(until_there)

    def function() -> None:
        import os
        import sys
        import time

        for line in lines:
            print(line, flush=True)
        print("trouble", file=sys.stderr, flush=True)
        while not os.path.exists(path):
            time.sleep(0.01)
        print("last")

    return function


def content(path: Path) -> str:
    """Return what a file holds, nothing where there is none."""
    return path.read_text() if path.exists() else ""


async def test_lines_appear_while_the_task_runs(any_sshd: Server, place: Path, far_place: There) -> None:
    """Both files have what was printed so far before the task has ended, and all of it, once, after."""
    out, err, go = place / "out.log", place / "err.log", far_place / "go"
    async with direct.machine_at(
        any_sshd, place, far_place, log_stdout=str(out), log_stderr=str(err)
    ) as machine:
        task = asyncio.ensure_future(machine.run(says("one", "two", until_there=go)))
        await until(lambda: content(out) == "one\ntwo\n" and content(err) == "trouble\n")
        assert not task.done()
        go.touch()
        ran = await task
    assert content(out) == ran.stdout == "one\ntwo\nlast\n"
    assert content(err) == ran.stderr == "trouble\n"
    assert out.stat().st_mode & 0o777 == 0o600


async def test_names_keep_the_tasks_of_a_fan_out_apart(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """{dispatch_id} and {node_id} are replaced; a relative name lies in the dispatch's results."""
    async with direct.machine_at(
        any_sshd, place, far_place, log_stdout="{dispatch_id}-{node_id}.txt"
    ) as machine:
        ran = await asyncio.gather(
            *(machine.run(lambda n: print("task", n), n, dispatch_id="fan-out", node_id=n) for n in (1, 2))
        )
    assert [(one.error, one.stdout) for one in ran] == [(None, "task 1\n"), (None, "task 2\n")]
    results = machine.log.parent / "fan-out"
    assert [content(results / f"fan-out-{n}.txt") for n in (1, 2)] == ["task 1\n", "task 2\n"]


async def test_a_broken_link_doubles_and_loses_nothing(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """After a reconnect the file goes on where it was."""
    out, go = place / "out.log", far_place / "go"
    async with (
        Proxy(any_sshd.host, any_sshd.port) as proxy,
        direct.machine_at(
            any_sshd, place, far_place, log_stdout=str(out), **through(proxy, any_sshd, place)
        ) as machine,
    ):
        task = asyncio.ensure_future(machine.run(says("one", until_there=go)))
        await until(lambda: content(out) == "one\n")
        proxy.reset()
        go.touch()
        await task
    assert content(out) == "one\nlast\n"


async def test_a_flood_is_cut_in_the_middle(any_sshd: Server, place: Path, far_place: There) -> None:
    """Of more output than is kept the file has the beginning, a count of what is missing, and the end."""
    out = place / "out.log"

    def function() -> None:
        for number in range(400_000):
            print(f"{number:09}")

    async with direct.machine_at(any_sshd, place, far_place, log_stdout=str(out)) as machine:
        ran = await machine.run(function)
    text = content(out)
    assert text == ran.stdout
    assert text.startswith("000000000\n000000001\n")
    assert text.endswith("000399999\n")
    assert f"[... {4_000_000 - pump.HEAD - pump.TAIL} bytes dropped ...]" in text


async def test_a_failures_words_are_in_the_file_too(any_sshd: Server, place: Path, far_place: There) -> None:
    """What is added to the node's stderr, traceback and sentence, is in log_stderr as well."""
    err = place / "err.log"
    async with direct.machine_at(any_sshd, place, far_place, log_stderr=str(err)) as machine:
        ran = await machine.run(lambda: 1 / 0)
    assert "ZeroDivisionError" in content(err)
    assert content(err) == ran.stderr


async def test_a_file_that_cannot_be_written_costs_a_warning(
    any_sshd: Server, place: Path, far_place: There
) -> None:
    """An unwritable log_stdout is told in the node's stderr; the task's result is not lost for it."""
    async with direct.machine_at(any_sshd, place, far_place, log_stdout="/dev/null/out.txt") as machine:
        ran = await machine.run(print, "said")
    assert ran.value is None
    assert ran.stderr == "warning: /dev/null/out.txt cannot be written: Not a directory\n"


async def test_covalent_writes_no_file_a_second_time(any_sshd: Server, place: Path, far_place: There) -> None:
    """Covalent's own way of writing the streams at the end adds nothing to what is there."""
    out = place / "out.log"
    async with direct.machine_at(any_sshd, place, far_place, log_stdout=str(out)) as machine:
        executor = machine.executor()
        executor._init_runtime()
        call = direct.call(lambda: print("once"))
        _result, stdout, _, _ = await executor.execute(*call, "streams", str(place), 0)
    assert stdout == content(out) == "once\n"
