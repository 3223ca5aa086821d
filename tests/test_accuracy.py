"""The benchmarks in short, so that they cannot rot; and the total against GNU time, perf and the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks import accuracy, truth
from covalent_sshtiming.demo.sshserver import SSHServer

ROOT = Path(__file__).parents[1]


# Elsewhere the record says itself that it is not complete.
@pytest.mark.skipif(sys.platform != "linux", reason="orphans and CPU clocks of others are Linux's")
async def test_the_total_is_what_others_say(sshd: SSHServer) -> None:
    """cpu_total_s and cpu_s agree with all that can be asked here: control group, perf, GNU time."""
    chosen = [work for work in accuracy.WORKS if work.name in ("single thread", "killed task")]
    with tempfile.TemporaryDirectory(prefix="acc-", dir="/tmp", ignore_cleanup_errors=True) as name:
        found = await accuracy.measure(sshd, Path(name), chosen, rounds=1)
    rows = [row for rows in found for row in rows]
    print(accuracy.table(found))
    if all(row.kernel_s is None and row.gnu_time_s is None for row in rows):
        # There is no truth to compare with.
        pytest.skip("neither control groups nor perf nor GNU time can be asked here")
    assert [row.work for row in rows] == [work.name for work in chosen]
    assert [miss for row in rows for miss in row.misses()] == []


def test_a_miss_is_told() -> None:
    """A row further from the truth than the larger of 20 ms and 2 % says by how much, and from whose."""
    fine = accuracy.Row("w", 1.0, 1.0, 1.0199, 1.0, 0.981, "rusage", True, 1.0, 5.0, 5.0999, True)
    assert fine.misses() == []
    off = accuracy.Row("w", 1.0, 1.021, 1.0211, 1.0, 0.97, "rusage", True, 1.0, 5.0, 5.101, True)
    assert off.misses() == [
        "w: +21.1 ms against the kernel",
        "w: -30.0 ms against the kernel in the call",
        "w: +101.0 ms against GNU time",
    ]


def test_gnu_times_report_is_read() -> None:
    """User and system time are taken out of GNU time's report, also that of a killed program."""
    path = truth.gnu_time()
    if path is None:
        # Make accuracy installs it where it may.
        pytest.skip("GNU time is not installed (Debian's package `time`)")
    code = "import os, time\nwhile time.process_time() < 0.2: pass\nos.kill(os.getpid(), 9)"
    ran = subprocess.run(
        [path, "-v", sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert 0.17 <= truth.read_gnu_time(ran.stderr) <= 0.3


def test_metering_is_measured(tmp_path: Path) -> None:
    """The metering benchmark prints its table and leaves every figure with the machine's context."""
    kept = tmp_path / "metering.json"
    command = [sys.executable, "-m", "benchmarks.metering", "--rounds", "20", "--json", str(kept)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(kept.read_text())
    assert all(cost["name"] in ran.stdout for cost in found["costs"]), ran.stderr
    assert found["machine"]["cores"] >= 1
