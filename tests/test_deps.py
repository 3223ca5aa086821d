"""DepsBash and DepsPip: done by the far end itself, with the interpreter that runs the task."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import direct
from support.endings import cause, failed
from support.hooks import appends, deps, identity, wheel
from support.there import There

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer

Machine = direct.Machine[There]


# ---- bash


async def test_bash_commands(machine: Machine, far_place: There) -> None:
    """DepsBash runs its lines in order, each by a shell, in the task's own directory."""
    from covalent import DepsBash

    lines = [f"echo one > {far_place}/out", f"pwd >> {far_place}/out && echo $((1 + 1)) >> {far_place}/out"]
    ran = await machine.run(os.getcwd, before=deps(DepsBash(lines)))
    assert (far_place / "out").read_text().splitlines() == ["one", ran.value, "2"]


async def test_a_single_bash_command(machine: Machine, far_place: There) -> None:
    """DepsBash takes a single line as well as a list."""
    from covalent import DepsBash

    ran = await machine.run(identity, before=deps(DepsBash(f"touch {far_place}/touched")))
    assert ran.error is None
    assert (far_place / "touched").exists()


async def test_a_bash_command_after_the_cache_was_cleared(sshd: SSHServer, place: Path) -> None:
    """Who has cleared our cache under a warm agent may still use DepsBash there."""
    from covalent import DepsBash

    cache = place / "cache"
    async with direct.machine(sshd, place, remote_cache=str(cache)) as machine:
        assert (await machine.run(identity)).error is None
        shutil.rmtree(cache)
        ran = await machine.run(identity, before=deps(DepsBash(f"touch {place}/touched")))
    assert ran.error is None
    assert (place / "touched").exists()


async def test_a_bash_command_that_fails(machine: Machine, far_place: There) -> None:
    """A DepsBash line that fails is named with exit code and stderr, and nothing after it runs."""
    from covalent import DepsBash

    note = far_place / "ran"
    commands = ["echo about to fail; echo the reason >&2; exit 9", f"touch {note}"]
    ran = await machine.run(appends(note, "function"), before=deps(DepsBash(commands)))
    assert isinstance(cause(ran), errors.TaskFailed)
    for word in (machine.name, "DepsBash", commands[0], "exited 9", "the reason"):
        assert word in failed(ran)
    assert not note.exists()


# ---- pip


async def test_pip_installs_where_the_task_runs(machine: Machine, with_pip: str, far_place: There) -> None:
    """DepsPip installs into the interpreter of the task, and the function imports it at once."""
    from covalent import DepsPip

    package = wheel(far_place, "sst_first", "ANSWER = 42\n")

    def uses() -> list[Any]:
        import sst_first  # type: ignore[import-not-found] # installed over there

        return [sst_first.ANSWER, sst_first.__file__]

    options = {"python_path": with_pip}
    before = deps(DepsPip([str(package)]))
    answer, file = (await machine.run(uses, before=before, options=options)).value
    assert answer == 42
    assert file.startswith(os.path.dirname(os.path.dirname(with_pip)))
    assert (await machine.run(uses, options=options)).value[0] == 42


async def test_pip_provides_what_unpickling_needs(
    machine: Machine, with_pip: str, far_place: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DepsPip runs before the function is unpickled, so it may bring the module that the function is in."""
    from covalent import DepsPip

    source = "def double(x):\n    return 2 * x\n"
    package = wheel(far_place, "sst_second", source)
    monkeypatch.syspath_prepend(str(wheel(tmp_path, "sst_second", source)))
    import sst_second  # type: ignore[import-not-found] # a wheel is a zip, which Python imports from

    options = {"python_path": with_pip}
    without = await machine.run(sst_second.double, 21, options=options)
    assert "needs the module 'sst_second'" in failed(without)
    ran = await machine.run(sst_second.double, 21, before=deps(DepsPip([str(package)])), options=options)
    assert ran.value == 42


async def test_pip_takes_a_requirements_file(
    machine: Machine, with_pip: str, far_place: There, tmp_path: Path
) -> None:
    """DepsPip with a requirements file sends its content along."""
    from covalent import DepsPip

    package = wheel(far_place, "sst_third", "ANSWER = 3\n")
    listing = tmp_path / "requirements.txt"
    listing.write_text(f"# a comment\n{package}\n")

    def uses() -> Any:
        import sst_third  # type: ignore[import-not-found] # installed over there

        return sst_third.ANSWER

    before = deps(DepsPip(reqs_path=str(listing)))
    assert (await machine.run(uses, before=before, options={"python_path": with_pip})).value == 3


async def test_pip_that_fails(machine: Machine, with_pip: str, far_place: There) -> None:
    """A DepsPip that cannot install says with which interpreter, what, and what pip said."""
    from covalent import DepsPip

    absent = str(far_place / "absent-1.0-py3-none-any.whl")
    ran = await machine.run(identity, before=deps(DepsPip([absent])), options={"python_path": with_pip})
    for word in (machine.name, "-m pip install", absent, with_pip):
        assert word in failed(ran)


async def test_no_pip_there(machine: Machine, without_pip: str) -> None:
    """Where the interpreter has no pip, DepsPip is a RemoteEnvError with two ways out."""
    from covalent import DepsPip

    ran = await machine.run(
        identity, before=deps(DepsPip(["anything"])), options={"python_path": without_pip}
    )
    assert isinstance(cause(ran), errors.RemoteEnvError)
    for word in (machine.name, without_pip, f"{without_pip} -m ensurepip", "python_path"):
        assert word in failed(ran)
    assert machine.records()[-1]["error_type"] == "RemoteEnvError"
