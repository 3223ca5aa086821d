"""The verb `jobs` on a machine that covalent.conf calls gpubox, and tasks there that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import toml

from support import direct
from support.faults import until
from support.there import There, begun

Machine = direct.Machine[There]


def write_configuration(place: Path, settings: dict[str, Any]) -> None:
    """Write the covalent.conf that calls a machine gpubox."""
    names = ("port", "username", "ssh_key_file", "known_hosts_file", "remote_spool", "python_path")
    table = {name: settings[name] for name in names if name in settings}
    table |= {"timing_filepath": str(place / "fetched.log")}
    table |= {"hosts": {"gpubox": {"hostname": settings["hostname"]}}}
    (place / "conf").mkdir()
    (place / "conf" / "covalent.conf").write_text(toml.dumps({"executors": {"sshtiming": table}}))


async def jobs(*arguments: str, answer: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run the verb in a process of its own; further keywords are environment variables."""
    command = [sys.executable, "-m", "covalent_sshtiming", "jobs", *arguments]
    env = {**os.environ, **more}
    return await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        input=answer,
        timeout=60,
        check=False,
        env=env,
    )


async def listed(*arguments: str) -> list[dict[str, Any]]:
    """Return what `jobs gpubox --json` prints."""
    ran = await jobs("gpubox", "--json", *arguments)
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


async def left_alone(machine: Machine, function: Callable[..., Any], *args: Any, **more: Any) -> None:
    """Submit a task and let go of it and of the connection, as a killed dispatcher does."""
    before = known(machine)
    gate = machine.spool.parent / f"gate-{len(before)}"
    options = {"on_shutdown": "leave", **more.pop("options", {})}
    running = asyncio.ensure_future(machine.run(behind(gate, function), *args, options=options, **more))
    await until(lambda: known(machine) > before)
    await direct.pool.close_all()
    gate.touch()
    await running


def behind(gate: There, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that waits for a file before it does its work: nobody is to see it end."""
    name = str(gate)

    def wait(*args: Any) -> Any:
        import os
        import time

        while not os.path.exists(name):
            time.sleep(0.01)
        return function(*args)

    wait.__name__ = function.__name__
    return wait


def known(machine: Machine) -> set[str]:
    """Return the keys of the tasks that were accepted."""
    return {path.parent.name for path in (*machine.spool.glob("tasks/*/request"), *begun(machine.spool))}


async def finished(machine: Machine, count: int = 1) -> None:
    """Wait until so many tasks have their outcome on disk."""
    await until(lambda: len(list(machine.spool.glob("tasks/*/outcome"))) == count, 20)


def burn_and_return(seconds: float) -> Callable[[], dict[str, int]]:
    """Return a function that burns CPU time and returns a value."""

    def burner() -> dict[str, int]:
        import time

        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return {"answer": 42}

    return burner
