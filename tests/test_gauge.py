"""The gauge: what a record says of a task's GPUs, which NVML tells of.

There is no GPU here: NVML is a few lines of tests/support/gpus.py.
"""

from __future__ import annotations

import math
import socket
from pathlib import Path

import pytest
from support import direct
from support.gpus import GPUs

from covalent_sshtiming.remote import gauge
from covalent_sshtiming.remote.gauge import Span


async def test_the_record_says_what_the_gpus_did(four_gpus: GPUs, place: Path) -> None:
    """Utilisation is the mean over devices and time of the call, memory the most on all; both device-wide."""

    def work(modules: str) -> None:
        import os
        import time

        while not os.path.exists(f"{modules}/asked"):
            time.sleep(0.01)
        for busy, used in ((100, 2000), (0, 7000), (0, 10)):
            for device in ("0", "1"):
                with open(f"{modules}/{device}.tmp", "w") as file:
                    file.write(f"{busy} {used}")
                os.rename(f"{modules}/{device}.tmp", f"{modules}/{device}")
            time.sleep(0.5)

    four_gpus.now("0", 50, 500)
    async with direct.here(place) as far:
        await far.run(work, str(four_gpus.modules), options={"gpus_per_task": 2})
        await far.run(lambda: None)
        (record, other) = far.records()
    assert record["gpu_devices"] == "0,1"
    assert 0.1 < record["gpu_utilization"] < 0.7
    assert record["gpu_memory_peak_bytes"] == 14000
    assert record["gpu_device_wide"] is True
    assert {value for name, value in other.items() if name.startswith("gpu_")} == {None}


async def test_a_killed_task_has_figures_too(four_gpus: GPUs, place: Path) -> None:
    """Of a task that was killed in its call the record says what its GPU did until then."""

    def die(asked: str) -> None:
        import os
        import time

        while not os.path.exists(asked):
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), 9)

    async with direct.here(place, gpus_per_task=1) as far:
        await far.run(die, str(four_gpus.asked))
        (record,) = far.records()
    assert (record["status"], record["gpu_utilization"]) == ("killed", pytest.approx(0.5))


@pytest.mark.parametrize("broken", ["", "raise OSError('no driver')\n", "import time\ntime.sleep(1.5)\n"])
async def test_without_nvml_there_are_no_figures(four_gpus: GPUs, place: Path, broken: str) -> None:
    """Where its module is not there, fails or hangs, the record has the devices only, and nobody waits."""
    (four_gpus.modules / "pynvml.py").write_text(broken) if broken else (
        four_gpus.modules / "pynvml.py"
    ).unlink()

    def nap() -> None:
        import time

        time.sleep(0.3)

    async with direct.here(place, gpus_per_task=1) as far:
        await far.run(nap)
        (record,) = far.records()
    assert record["gpu_devices"] == "0"
    figures = {record[name] for name in ("gpu_utilization", "gpu_memory_peak_bytes", "gpu_device_wide")}
    assert figures == {None}
    assert record["phase_exit_wall_s"] < 1


def test_figures_are_those_of_the_call() -> None:
    """Spans count by the part of them that lies in the call, and memory by every span that touches it."""
    seen = [(1.0, 10), (0.5, 30), (0.0, 20), (1.0, 99)]
    spans = [Span(float(second), 1.0, *one) for second, one in enumerate(seen)]
    told = gauge.between(spans, 0.5, 2.5)
    assert told == {"gpu_utilization": 0.5, "gpu_memory_peak_bytes": 30, "gpu_device_wide": True}
    assert gauge.between(spans, 4.5, 5.0) == {}
    assert gauge.between([Span(0.0, 1.0, math.nan, 10)], 0.0, 1.0)["gpu_utilization"] is None


def test_long_tasks_have_longer_spans() -> None:
    """Joined spans say the same of the whole time, and their peaks are the highest of their parts."""
    spans = [Span(number * 0.5, 0.5, 0.1 * (number % 5), number) for number in range(101)]
    joined = gauge.thin_out(spans)
    assert len(joined) == 51
    before, after = (gauge.between(some, 0.0, 50.5) for some in (spans, joined))
    assert after["gpu_utilization"] == pytest.approx(before["gpu_utilization"])
    assert after["gpu_memory_peak_bytes"] == before["gpu_memory_peak_bytes"] == 100


@pytest.mark.parametrize("told", [b"", b"\n", b"\n{", b"\n[1]", b"\n[[1,2,3]]", b'\n[["a",1,1,1]]', b"\n0"])
def test_an_answer_that_makes_no_sense_is_none(told: bytes) -> None:
    """Whatever a gauge says, the task has its outcome."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(told)
        theirs.shutdown(socket.SHUT_WR)
        end = gauge.Gauge(ours.detach())
        assert end.figures(0.0, 2.0) == {}
        end.close()
