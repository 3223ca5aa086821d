"""What Covalent runs before and after a function: calls, pip, bash, modules and file transfers."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from support import direct
from support.clients import dispatch_script
from support.endings import cause, failed
from support.environments import make_environment
from support.there import There

from covalent_sshtiming import errors
from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.sshserver import SSHServer

Machine = direct.Machine[There]

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def with_pip(far_directory: Callable[[], There]) -> str:
    """Return the Python of an environment there that has pip and nothing else."""
    return make_environment(far_directory() / "with-pip", pip=True)


@pytest.fixture(scope="module")
def without_pip(far_directory: Callable[[], There]) -> str:
    """Return the Python of an environment there that has nothing at all."""
    return make_environment(far_directory() / "without-pip", pip=False)


def wheel(directory: There, name: str, source: str) -> There:
    """Make a wheel of one module by hand, so that no registry and no build backend is needed."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text.encode())}\n")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(lines) + f"{info}/RECORD,,\n")
    made = directory / f"{name}-1.0-py3-none-any.whl"
    made.write_bytes(packed.getvalue())
    return made


def deps(*found: Any) -> list[Any]:
    """Return Covalent's Deps objects as the hooks that its dispatcher makes of them."""
    return [dep.apply() for dep in found]


def appends(path: There, word: str) -> Any:
    """Return a function that appends a word to a file."""
    name = str(path)

    def append(*values: Any) -> str:
        with open(name, "a") as file:
            file.write(" ".join([word, *map(str, values)]) + "\n")
        return word

    return append


def identity(**named: Any) -> dict[str, Any]:
    """Return what it was given by name."""
    return named


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
