"""What Covalent runs before and after a function: calls, pip, bash, modules and file transfers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from support import direct
from support.clients import dispatch_script
from support.endings import cause, failed
from support.hooks import appends, deps, identity, wheel
from support.there import There

from covalent_sshtiming import errors
from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.sshserver import SSHServer

Machine = direct.Machine[There]

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


# ---- calls


async def test_calls_around_the_function(machine: Machine, far_place: There) -> None:
    """call_before runs before the function and call_after behind it, in order, with their arguments."""
    from covalent import DepsCall

    note = far_place / "order"
    before = deps(DepsCall(appends(note, "first")), DepsCall(appends(note, "second"), args=[1, 2]))
    after = deps(DepsCall(appends(note, "third"), args=["x"]), DepsCall(appends(note, "fourth")))
    ran = await machine.run(appends(note, "function"), before=before, after=after)
    assert ran.value == "function"
    assert note.read_text().splitlines() == ["first", "second 1 2", "function", "third x", "fourth"]


async def test_what_hooks_print_is_the_tasks_output(machine: Machine) -> None:
    """Whatever a call before the function prints is in the node's stdout."""
    ran = await machine.run(identity, before=[direct.hook(lambda: print("from the hook"))])
    assert ran.value == {}
    assert ran.stdout == "from the hook\n"


@pytest.mark.parametrize(
    ("keywords", "given"),
    [
        (["single"], {"single": 0}),
        (["same", "same", "other"], {"same": [0, 1], "other": 2}),
        (["files"], {"files": [0]}),
        (["files", "files"], {"files": [0, 1]}),
        (["", ""], {}),
    ],
)
async def test_returned_values_become_arguments(
    machine: Machine, keywords: Sequence[str], given: dict[str, Any]
) -> None:
    """A value goes in by its retval_keyword, those of one keyword as a list, `files` always as a list."""
    from covalent import DepsCall

    before = [
        DepsCall(lambda n: n, args=[number], retval_keyword=keyword, override_reserved_retval_keys=True)
        for number, keyword in enumerate(keywords)
    ]
    assert (await machine.run(identity, before=deps(*before))).value == given


async def test_a_returned_value_wins_over_an_argument(machine: Machine) -> None:
    """A hook's value replaces the argument of the same name, as with Covalent's own wrapper."""
    ran = await machine.run(identity, before=[direct.hook(lambda: "hook", retval="x")], x="given", y=1)
    assert ran.value == {"x": "hook", "y": 1}


async def test_a_call_before_that_raises(machine: Machine, far_place: There) -> None:
    """A call before the function that raises fails the task, and the function never runs."""

    def spoils() -> None:
        raise LookupError("no spoon")

    note = far_place / "ran"
    ran = await machine.run(appends(note, "function"), before=[direct.hook(spoils)])
    assert "LookupError: no spoon" in failed(ran)
    assert "in spoils" in ran.stderr
    assert not note.exists()


async def test_a_call_after_that_raises(machine: Machine) -> None:
    """A call after the function that raises fails the task, although the function returned."""

    def spoils() -> None:
        raise LookupError("too late")

    ran = await machine.run(identity, after=[direct.hook(spoils)])
    assert "LookupError: too late" in failed(ran)


async def test_a_forked_child_of_a_hook(machine: Machine, far_place: There) -> None:
    """A child that a hook forks and lets return runs neither the function nor another hook."""

    def forks() -> str:
        child = os.fork()
        if child == 0:
            return "child"
        os.waitpid(child, 0)
        return "parent"

    note = far_place / "ran"
    before = [direct.hook(forks, retval="x"), direct.hook(appends(note, "before"))]
    after = [direct.hook(forks), direct.hook(appends(note, "after"))]
    ran = await machine.run(
        lambda append, x: append(x), appends(note, "function"), before=before, after=after
    )
    assert ran.error is None
    assert note.read_text().splitlines() == ["before", "function parent", "after"]


async def test_hooks_cost_the_function_nothing(machine: Machine) -> None:
    """CPU time that hooks burn, themselves or in a child, is in their own phases and not in cpu_s."""

    def burns() -> None:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        code = "import time\nwhile time.process_time() < 0.3: pass"
        subprocess.run([sys.executable, "-c", code], check=True)

    ran = await machine.run(identity, before=[direct.hook(burns)], after=[direct.hook(burns)])
    assert ran.error is None
    record = machine.records()[-1]
    assert record["cpu_s"] < 0.05
    assert record["phase_before_cpu_s"] >= 0.6
    assert record["phase_after_cpu_s"] >= 0.6


# ---- modules and files


async def test_a_module_by_value(
    machine: Machine, without_pip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of one's own that is registered as DepsModule registers it needs no file over there."""
    (tmp_path / "sst_own.py").write_text("FACTOR = 3\ndef triple(x):\n    return FACTOR * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import sst_own  # type: ignore[import-not-found] # written above

    options = {"python_path": without_pip}
    lacking = await machine.run(sst_own.triple, 14, options=options)
    assert "ct.DepsModule" in failed(lacking)
    cloudpickle.register_pickle_by_value(sst_own)
    try:
        assert (await machine.run(sst_own.triple, 14, options=options)).value == 42
    finally:
        cloudpickle.unregister_pickle_by_value(sst_own)


async def test_a_file_transfer_without_covalent(machine: Machine, without_pip: str, far_place: There) -> None:
    """A Shutil transfer, which needs Covalent over there, says so and how to install it."""
    import covalent as ct

    (far_place / "from").write_text("content")
    moved = ct.fs.FileTransfer(str(far_place / "from"), str(far_place / "to"))
    before = [direct.hook(hook) for hook in moved.cp()]
    ran = await machine.run(identity, before=before, options={"python_path": without_pip})
    assert isinstance(cause(ran), errors.RemoteEnvError)
    for word in (machine.name, "'covalent'", f"{without_pip} -m pip install covalent"):
        assert word in failed(ran)


async def test_a_file_transfer_with_covalent(sshd: SSHServer, place: Path, tmp_path: Path) -> None:
    """A Shutil transfer works where Covalent is, and the function is given its file names."""
    import covalent as ct

    (tmp_path / "from").write_text("content")
    moved = ct.fs.FileTransfer(str(tmp_path / "from"), str(tmp_path / "to"))
    names, transfer = moved.cp()
    home = tmp_path / "home"
    home.mkdir()
    before = [direct.hook(names, retval="files"), direct.hook(transfer)]
    # Our own Python has Covalent.
    async with direct.machine(sshd, place, env={"COVALENT_CONFIG_DIR": str(home)}) as machine:
        ran = await machine.run(identity, before=before)
    assert ran.value == {"files": [(str(tmp_path / "from"), str(tmp_path / "to"))]}
    assert (tmp_path / "to").read_text() == "content"


# ---- all at once, through Covalent

EVERYTHING = """
import json, sys
import covalent as ct
from covalent_sshtiming import TimingSSHExecutor

here, there, package, python, log = sys.argv[1:]
sys.path.insert(0, here)
import sst_helpers

def note(word):
    with open(f"{there}/order", "a") as file:
        file.write(word + "\\n")
    return word

executor = TimingSSHExecutor(python_path=python, timing_filepath=log)

@ct.electron(
    executor=executor,
    deps_bash=ct.DepsBash([f"echo bash >> {there}/order"]),
    deps_pip=ct.DepsPip([package]),
    deps_module=sst_helpers,
    call_before=[
        ct.DepsCall(note, args=["before"], retval_keyword="single"),
        ct.DepsCall(note, args=["one"], retval_keyword="both"),
        ct.DepsCall(note, args=["two"], retval_keyword="both"),
    ],
    call_after=[ct.DepsCall(note, args=["after"])],
)
def uses(x, single=None, both=None):
    import sst_all
    note("function")
    return [sst_helpers.triple(x), sst_all.ANSWER, single, both]

@ct.lattice
def workflow(x):
    return uses(x)

dispatch_id = ct.dispatch(workflow)(14)
result = ct.get_result(dispatch_id, wait=True)
node = result.get_node_result(0)
print(json.dumps([str(result.status), result.result, (node["error"] or "") + (node["stderr"] or "")]))
"""


def test_all_hooks_at_once(dispatcher: Dispatcher, with_pip: str, tmp_path: Path, far_place: There) -> None:
    """One electron with every kind of hook works through the dispatcher as with Covalent's local executor."""
    package = wheel(far_place, "sst_all", "ANSWER = 42\n")
    (tmp_path / "sst_helpers.py").write_text("def triple(x):\n    return 3 * x\n")
    arguments = map(str, (tmp_path, far_place, package, with_pip, tmp_path / "timing.log"))
    status, result, told = dispatch_script(dispatcher, EVERYTHING, *arguments)
    assert status == "COMPLETED", told
    assert result == [42, 42, "before", ["one", "two"]]
    order = (far_place / "order").read_text().split()
    assert order == ["bash", "before", "one", "two", "function", "after"]
