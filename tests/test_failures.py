"""How a task ends that does not just return: what the user reads, and what the record says."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from support import direct
from support.endings import cause, failed, still_works
from support.there import There

from covalent_sshtiming import errors

Machine = direct.Machine[There]

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Picky(Exception):
    """An exception that cannot be made from its text alone."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(code, place)
        self.code = code


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
