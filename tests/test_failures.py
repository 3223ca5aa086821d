"""How a task ends that does not just return: what the user reads, and what is left on the machine."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from support import direct
from support.environments import make_environment
from support.farside import until
from support.login import connection
from support.named import Server
from support.there import There, kill, mode

from covalent_sshtiming import errors
from covalent_sshtiming.plugin import TaskEnded

Machine = direct.Machine[There]

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LINUX_ONLY = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's subreaper")


@pytest.fixture(scope="module")
def bare_python(far_directory: Callable[[], There]) -> str:
    """Return the Python of an environment there that has nothing in it, not even pip."""
    return make_environment(far_directory() / "bare", pip=False)


def failed(ran: direct.Ran) -> str:
    """Return the sentence of a task that had started: our error's text, which is in stderr as well."""
    assert isinstance(ran.error, TaskEnded), repr(ran.error)
    assert str(ran.error) in ran.stderr
    return str(ran.error)


def cause(ran: direct.Ran) -> BaseException | None:
    """Return our own error behind what Covalent is given."""
    assert ran.error is not None
    return ran.error.__cause__


class Picky(Exception):
    """An exception that cannot be made from its text alone."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(code, place)
        self.code = code


def seven() -> int:
    """Return seven."""
    return 7


async def still_works(machine: Machine) -> None:
    """The same connection still takes a task and brings its result."""
    before = machine.host.connections
    assert (await machine.run(seven)).value == 7
    assert machine.host.connections == before


# ---- the function raises


async def test_a_function_that_raises(machine: Machine) -> None:
    """The error says host, function, exception and where the traceback is; stderr has the traceback."""

    def divides() -> float:
        return 1 / 0

    ran = await machine.run(divides)
    assert failed(ran) == (
        f"{machine.name}: divides raised ZeroDivisionError: division by zero. "
        "The remote traceback is in the node's stderr."
    )
    assert isinstance(cause(ran), errors.TaskFailed)
    assert ran.stderr.startswith("Traceback (most recent call last):\n")
    assert "in divides" in ran.stderr


async def test_an_exception_of_the_users_own(machine: Machine) -> None:
    """An exception that needs two arguments and a class that only the far side has arrives as text."""

    def raises_own() -> None:
        class OnlyThere(Picky):
            pass

        raise OnlyThere(7, "kitchen")

    ran = await machine.run(raises_own)
    assert "raises_own raised OnlyThere: (7, 'kitchen')." in failed(ran)


async def test_an_exception_that_says_nothing(machine: Machine) -> None:
    """An exception without a word, as of a bare assert, is its class's name, as in Python's own traceback."""

    def asserts() -> None:
        raise AssertionError

    ran = await machine.run(asserts)
    assert f"{machine.name}: asserts raised AssertionError. The remote traceback" in failed(ran)


async def test_an_exception_without_a_text(machine: Machine) -> None:
    """An exception whose own `__str__` raises still ends the task with its class's name."""

    def raises_mute() -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("never")

        raise Mute

    ran = await machine.run(raises_mute)
    assert "raises_mute raised Mute (its text cannot be shown)." in failed(ran)


async def test_terminal_controls_are_taken_out(machine: Machine) -> None:
    """An exception's text cannot steer the terminal that shows it."""

    def steers() -> None:
        raise ValueError("red \x1b[31m alert")

    ran = await machine.run(steers)
    assert "\x1b" not in failed(ran)
    assert "red [31m alert" in failed(ran)


async def test_sys_exit(machine: Machine) -> None:
    """`sys.exit` in the function is a failure of the task, and not the worker's end."""

    def leaves() -> None:
        sys.exit(3)

    ran = await machine.run(leaves)
    assert "leaves raised SystemExit: 3." in failed(ran)


async def test_keyboard_interrupt(machine: Machine) -> None:
    """A KeyboardInterrupt that the function raises is told like any other exception."""

    def interrupts() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    ran = await machine.run(interrupts)
    assert "interrupts raised KeyboardInterrupt" in failed(ran)


# ---- the result


async def test_a_result_that_does_not_pickle(machine: Machine) -> None:
    """A result that cannot be pickled is named with its type."""

    def gives_lock() -> Any:
        import threading

        return threading.Lock()

    ran = await machine.run(gives_lock)
    assert isinstance(cause(ran), errors.ResultError)
    text = failed(ran)
    assert text.startswith(
        f"{machine.name}: gives_lock returned what cannot be brought back: a lock cannot be pickled"
    )
    assert text.endswith("Return something that cloudpickle can pickle.")


async def test_what_in_a_result_does_not_pickle(machine: direct.Machine) -> None:
    """Deep in a result, what cannot be pickled is named with the way to it; other parts are not blamed."""

    def gives_nested() -> Any:
        import threading

        class Box:
            def __init__(self) -> None:
                self.size = 7
                self.guard = threading.Lock()

        return {"fine": bytes(1 << 20), "model": [1, (2, Box())]}

    text = failed(await machine.run(gives_nested))
    assert "a dict cannot be pickled, because result['model'][1][1].guard is a lock: TypeError: " in text


async def test_a_result_over_the_cap(machine: Machine) -> None:
    """A result over max_result_bytes is refused where it is made, and the text says how to go on."""

    def gives_much() -> bytes:
        return bytes(1_000_001)

    ran = await machine.run(gives_much, options={"max_result_bytes": 1_000_000})
    assert isinstance(cause(ran), errors.ResultTooLarge)
    assert "larger than 1000000 bytes" in failed(ran)
    assert failed(ran).endswith("Return a path or a part of it instead, or raise max_result_bytes.")
    await still_works(machine)


async def test_a_result_just_under_the_cap(machine: Machine) -> None:
    """A result that fits under max_result_bytes comes home."""

    def gives_less() -> bytes:
        return bytes(900_000)

    ran = await machine.run(gives_less, options={"max_result_bytes": 1_000_000})
    assert len(ran.value) == 900_000


# ---- modules that the machine lacks


async def test_a_module_missing_at_load(machine: Machine, bare_python: str) -> None:
    """A function whose unpickling needs an absent package fails with the ways to bring it there."""
    import numpy as np

    ran = await machine.run(np.sum, [1, 2], options={"python_path": bare_python})
    assert isinstance(cause(ran), errors.RemoteEnvError)
    text = failed(ran)
    assert text.startswith(f"{machine.name}: ")
    assert "needs the module 'numpy'" in text
    assert bare_python in text
    assert "pip install numpy" in text
    assert "ct.DepsPip" in text


async def test_a_module_missing_inside_the_call(machine: Machine, bare_python: str) -> None:
    """A function that imports an absent module while it runs fails with the same sentence."""

    def imports() -> Any:
        import numpy as np

        return np.pi

    ran = await machine.run(imports, options={"python_path": bare_python})
    assert isinstance(cause(ran), errors.RemoteEnvError)
    assert "imports needs the module 'numpy'" in failed(ran)
    assert "ct.DepsModule" in failed(ran)


async def test_covalent_missing(machine: Machine, bare_python: str) -> None:
    """What needs Covalent on the machine says so, and offers the local executor."""
    from covalent._workflow.transport import TransportableObject

    ran = await machine.run(TransportableObject, 1, options={"python_path": bare_python})
    assert "needs the module 'covalent'" in failed(ran)
    assert "pip install covalent" in failed(ran)
    assert 'executor="local"' in failed(ran)


async def test_python_path_that_is_not_there(machine: Machine, far_place: There) -> None:
    """An explicit python_path that does not exist is an error with its name, never a fallback."""
    wrong = str(far_place / "no-such" / "python3")
    ran = await machine.run(seven, options={"python_path": wrong})
    assert isinstance(ran.error, errors.RemoteEnvError)
    assert wrong in str(ran.error)
    assert machine.name in str(ran.error)


# ---- the process dies


def exits_hard() -> None:
    """Leave without a word, with code 5."""
    os._exit(5)


def kills_itself() -> None:
    """End by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def crashes() -> None:
    """End by SIGSEGV."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("before the crash", flush=True)
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "words", "exit_code", "exit_signal"),
    [
        (exits_hard, "exited 5 without a result", 5, None),
        (kills_itself, "was killed by SIGKILL", None, "SIGKILL"),
        (crashes, "was killed by SIGSEGV", None, "SIGSEGV"),
    ],
)
async def test_a_process_that_dies(
    machine: Machine,
    function: Callable[[], None],
    words: str,
    exit_code: int | None,
    exit_signal: str | None,
) -> None:
    """A task that dies says how, its record too, and the connection takes the next one."""
    ran = await machine.run(function)
    assert isinstance(cause(ran), errors.TaskDied)
    assert failed(ran).startswith(f"{machine.name}: {function.__name__} {words}")
    assert ran.stdout == ("before the crash\n" if function is crashes else "")
    record = machine.records()[-1]
    wanted = signal.Signals[exit_signal].value if exit_signal else None
    assert (record["exit_code"], record["exit_signal"]) == (exit_code, wanted)
    assert record["status"] == ("killed" if exit_signal else "failed")
    assert record["error_type"] == "TaskDied"
    await still_works(machine)


async def test_a_time_limit(machine: Machine) -> None:
    """A task over its time limit is stopped soon after, with the limit in the text and output kept."""

    def sleeps_long() -> None:
        print("going to sleep", flush=True)
        time.sleep(60)

    begun = time.monotonic()
    ran = await machine.run(sleeps_long, options={"time_limit": 0.3})
    assert time.monotonic() - begun < 4
    assert isinstance(cause(ran), errors.TimeLimitExceeded)
    assert failed(ran) == (
        f"{machine.name}: sleeps_long ran longer than its time limit of 0.3 s. "
        "Raise time_limit if it should run longer."
    )
    assert ran.stdout == "going to sleep\n"
    assert machine.records()[-1]["status"] == "timeout"


async def test_a_time_limit_is_not_reached_in_the_queue(machine: Machine) -> None:
    """Waiting for a slot does not count towards the time limit."""

    def naps() -> int:
        time.sleep(0.5)
        return 1

    one = {"max_parallel": 1, "time_limit": 1.2}
    ran = await asyncio.gather(*(machine.run(naps, options=one) for _ in range(4)))
    assert [each.value for each in ran] == [1, 1, 1, 1]


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


# ---- places that cannot be used


async def test_an_unwritable_timing_log(machine: Machine, place: Path, far_place: There) -> None:
    """A timing log that cannot be written is told before the task starts, and the task does not run."""
    note = far_place / "side-effect"
    name = str(note)

    def marks() -> None:
        with open(name, "w"):
            pass

    blocked = place / "a-file"
    blocked.touch()
    ran = await machine.run(marks, options={"timing_filepath": str(blocked / "timing.log")})
    assert isinstance(ran.error, errors.ConfigError)
    assert str(blocked / "timing.log") in str(ran.error)
    assert "nothing was submitted" in str(ran.error)
    assert not note.exists()


async def test_a_spool_that_cannot_be_made(machine: Machine, far_place: There) -> None:
    """A remote_spool where a file is in the way is a TransferError with host, path and cause."""
    blocked = far_place / "not-a-directory"
    blocked.touch()
    ran = await machine.run(seven, options={"remote_spool": str(blocked)})
    assert isinstance(ran.error, errors.TransferError)
    for word in (machine.name, str(blocked), "not a directory"):
        assert word in str(ran.error)


async def test_a_workdir_that_cannot_be_made(machine: Machine, far_place: There) -> None:
    """A remote_workdir where a file is in the way fails the task with its path."""
    blocked = far_place / "no-workdir"
    blocked.touch()
    ran = await machine.run(seven, options={"remote_workdir": str(blocked)})
    assert isinstance(cause(ran), errors.TransferError)
    assert str(blocked) in failed(ran)


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


# ---- what a task leaves behind


async def test_a_background_process_is_ended(machine: Machine) -> None:
    """A child that outlives the function ends with the task, and run() waits no longer than `linger`."""

    def leaves_child() -> int:
        return subprocess.Popen(["sleep", "300"]).pid

    begun = time.monotonic()
    pid = (await machine.run(leaves_child)).value
    assert time.monotonic() - begun < 1
    assert not machine.alive(pid)


@LINUX_ONLY
async def test_a_background_process_that_ignores_term(machine: Machine) -> None:
    """A leftover child that ignores TERM is killed once `linger` is over, and not before."""

    def leaves_stubborn() -> int:
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(300)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        next(iter(child.stdout or ()))
        return child.pid

    begun = time.monotonic()
    pid = (await machine.run(leaves_stubborn, options={"linger": 0.5})).value
    assert 0.5 <= time.monotonic() - begun < 3
    assert not machine.alive(pid)


@LINUX_ONLY
async def test_a_daemon_is_ended(machine: Machine, far_place: There) -> None:
    """A leftover that forked twice and has a session of its own ends with the task as well."""
    note = far_place / "daemon"
    name = str(note)

    def leaves_daemon() -> None:
        first = os.fork()
        if first == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                with open(name + ".new", "w") as file:
                    file.write(str(os.getpid()))
                os.rename(name + ".new", name)
                time.sleep(300)
            os._exit(0)
        os.waitpid(first, 0)
        while not os.path.exists(name):
            time.sleep(0.01)

    begun = time.monotonic()
    ran = await machine.run(leaves_daemon, options={"linger": 0.3})
    assert ran.error is None
    assert time.monotonic() - begun < 3
    pid = int(note.read_text())
    try:
        assert not machine.alive(pid)
    finally:
        kill(pid, far_place)


async def test_output_of_a_leftover_does_not_hold_the_task(machine: Machine) -> None:
    """A leftover that holds the task's stdout open does not keep run() waiting for its end."""

    def leaves_writer() -> str:
        subprocess.Popen(["sh", "-c", "echo from the background; sleep 300"])
        time.sleep(0.3)
        return "done"

    begun = time.monotonic()
    ran = await machine.run(leaves_writer)
    assert ran.value == "done"
    assert time.monotonic() - begun < 2
    assert ran.stdout == "from the background\n"


def tasks_in(spool: There) -> set[str]:
    """Return the names of the task directories in a spool."""
    return {path.name for path in (spool / "tasks").iterdir()}


async def test_nothing_of_a_task_stays_in_the_spool(machine: Machine) -> None:
    """Once result and record are safe the task's directory goes."""
    assert (await machine.run(seven)).value == 7
    before = tasks_in(machine.spool)  # those of tests whose agent was killed right after
    assert (await machine.run(seven)).value == 7
    await asyncio.to_thread(until, lambda: tasks_in(machine.spool) <= before, "the directory to go")


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
