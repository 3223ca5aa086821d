"""The oracles: tasks whose cost is known, against what the far end says they cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import direct
from support.farside import FarSide, new_key

from covalent_sshtiming.demo.sshserver import SSHServer

BURN = """
import time
def burn(seconds):
    end = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) + seconds
    while time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) < end:
        pass
"""


@pytest.fixture
def far() -> Iterator[FarSide]:
    """Return a far side with a spool of its own, whose path is short enough for a socket."""
    with (
        tempfile.TemporaryDirectory(prefix="met-", dir="/tmp", ignore_cleanup_errors=True) as name,
        FarSide(Path(name)) as side,
    ):
        yield side


def measured(far: FarSide, source: str) -> dict[str, Any]:
    """Run the statements of a source text as a task, `burn(seconds)` at hand, and return its figures."""

    def task() -> None:
        exec(BURN + source, {})  # noqa: S102 - each case in the words of a script

    with far.line() as line:
        line.submit(new_key(), task)
        told = line.outcome()
    return {**told.ended["record"], "status": told.status}


def within(low: float, value: float, high: float) -> bool:
    """Tell whether a figure is what it should be, and show it where it is not."""
    print(f"{low} <= {value} <= {high}")
    return low <= value <= high


def test_the_main_thread(far: FarSide) -> None:
    """A second of pure Python costs a second."""
    found = measured(far, "burn(1.0)")
    assert within(0.99, found["cpu_s"], 1.05)
    assert (found["cpu_source"], found["cpu_complete"]) == ("wait4_subreaper", True)
    assert within(0, found["phase_exit_cpu_s"], 0.01)


def test_threads_without_the_lock(far: FarSide) -> None:
    """Four threads that burn half a second each, the interpreter's lock released, cost two."""
    found = measured(
        far,
        """
import hashlib, threading
data = bytes(1 << 20)
def work():
    end = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) + 0.5
    while time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) < end:
        hashlib.sha256(data).digest()
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
""",
    )
    assert within(1.98, found["cpu_s"], 2.15)
    assert found["threads_alive"] == 0


SPAWN = f"import subprocess, sys, os\nCODE = {BURN!r}\n"


def test_a_subprocess(far: FarSide) -> None:
    """A child that was waited for counts, as a child."""
    found = measured(far, SPAWN + "subprocess.run([sys.executable, '-c', CODE + 'burn(1.0)'])")
    assert within(0.99, found["cpu_s"], 1.15)
    assert within(0.99, found["cpu_children_s"], 1.15)
    assert found["cpu_self_s"] < 0.05


def test_a_child_that_nobody_waited_for(far: FarSide) -> None:
    """A child that had ended, and was never reaped by the function, counts as late."""
    found = measured(far, "import os\nif os.fork() == 0:\n burn(0.5); os._exit(0)\ntime.sleep(1)")
    assert within(0.49, found["cpu_s"], 0.56)
    assert found["cpu_late_s"] > 0.45


def test_a_double_fork(far: FarSide) -> None:
    """A daemon that ended in the call, its parent long gone, counts as late."""
    found = measured(
        far,
        """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn(1.0)
    os._exit(0)
os.wait(); time.sleep(1.6)
""",
    )
    assert within(0.99, found["cpu_s"], 1.10)
    assert found["cpu_late_s"] > 0.9


def test_a_pool_that_is_left_open(far: FarSide) -> None:
    """Workers of a process pool that live when the function returns are ended, counted and reported."""
    found = measured(
        far,
        """
import os
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        burn(0.25); time.sleep(60); os._exit(0)
time.sleep(1.0)
""",
    )
    assert within(0.49, found["cpu_s"], 0.60)
    assert found["descendants_alive"] == 2


def test_sleep_is_free(far: FarSide) -> None:
    """A second of sleep costs next to nothing, and takes a second."""
    found = measured(far, "time.sleep(1)")
    assert found["cpu_s"] < 0.02
    assert within(0.99, found["wall_s"], 1.2)


def test_children_that_the_kernel_forgets_are_owned_up_to(far: FarSide) -> None:
    """With SIGCHLD ignored children's usage is lost, and the record says that it may be incomplete."""
    found = measured(
        far,
        """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    burn(0.2); os._exit(0)
time.sleep(0.6)
""",
    )
    assert found["cpu_complete"] is False


def test_peak_memory_is_the_calls(far: FarSide) -> None:
    """256 MiB that were touched and let go are the peak; a task that touches none has a small one."""
    large = measured(
        far, "data = bytearray(256 << 20)\nfor i in range(0, len(data), 4096): data[i] = 1\ndel data"
    )
    small = measured(far, "pass")
    base = small["rss_peak_bytes"]
    assert within(0.95 * (256 << 20), large["rss_peak_bytes"] - base, 1.05 * (256 << 20))
    assert base < 40 << 20


def test_a_task_killed_in_its_call(far: FarSide) -> None:
    """What a killed task and its orphan had burnt until then is on record."""
    found = measured(
        far,
        """
import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn(0.6); os._exit(0)
    os._exit(0)
os.wait(); burn(0.4); time.sleep(1.0)
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert found["status"] == "killed"
    assert within(0.98, found["cpu_s"], 1.10)
    assert found["cpu_late_s"] > 0.55


def test_input_and_output_are_counted(far: FarSide) -> None:
    """What the function writes and reads appears in the record, and its page faults."""
    found = measured(
        far, "open('/dev/null', 'wb').write(bytes(1 << 20)); open('/dev/zero', 'rb').read(1 << 20)"
    )
    assert within(1 << 20, found["write_chars"], 1.1 * (1 << 20))
    assert within(1 << 20, found["read_chars"], 1.2 * (1 << 20))
    assert found["faults_minor"] > 0
    assert found["load_1m_start"] >= 0


def burn_in_child(seconds: float, wait: bool) -> Callable[[], None]:
    """Return a hook that starts a child which burns, and leaves it running or waits for it."""

    def start() -> None:
        import os
        import time

        if os.fork() == 0:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            os._exit(0)
        if wait:
            os.wait()
        else:
            time.sleep(2 * seconds)

    return start


@pytest.mark.parametrize("wait", [True, False])
async def test_what_a_hook_started_is_not_the_functions(sshd: SSHServer, wait: bool) -> None:
    """A child of a call_before hook is not in cpu_s, whether the hook or the function waits for it."""

    def function() -> None:
        import os
        from contextlib import suppress

        with suppress(ChildProcessError):
            os.wait()

    with tempfile.TemporaryDirectory(prefix="hok-", dir="/tmp", ignore_cleanup_errors=True) as name:
        async with direct.machine(sshd, Path(name)) as machine:
            ran = await machine.run(function, before=[direct.hook(burn_in_child(0.4, wait))])
            assert ran.error is None
            (record,) = machine.records()
    assert record["cpu_s"] < 0.05
    assert within(0.4, record["cpu_total_s"], 0.6)
