"""Which Python runs a task: the versions that can, those that are refused, and how one is found."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from conftest import remote_environment, require_sshd
from support import direct
from support.interpreters import OWN, require_interpreter
from support.pickles import pickled_by

from covalent_sshtiming.demo.run import base_python
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.errors import RemoteEnvError

OTHER = "3.12" if OWN != "3.12" else "3.11"
RUNS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
TOO_OLD = ["2.7", "3.6", "3.7"]
# What a refusal ends with where the tests' sessions have a Python like ours, and where there is nothing.
THERE = (
    f"There is {shutil.which(f'python{OWN}', path=remote_environment()['PATH'])} too: set python_path to it."
)
_NAME = f"py{OWN.replace('.', '')}"
INSTALL = (
    f"Install Python {OWN} there, with uv by `uv venv --python {OWN} ~/{_NAME}` or with conda by `conda "
    f"create -n {_NAME} python={OWN}`, and set python_path to ~/{_NAME}/bin/python or conda_env to {_NAME}."
)

# What another interpreter pickles: an electron and its two arguments.
WORK = """
factor = 3

class Pair:
    def __init__(self, *parts):
        self.parts = parts

def work(pair, *, power=1):
    '''Doc of the electron.'''
    import cloudpickle
    inner = lambda value: (value * factor) ** power
    print(f"{sum(map(inner, pair.parts))=}")
    value = sum(map(inner, pair.parts))
    return [list(sys.version_info[:2]), value, type(pair).__name__, cloudpickle.__version__]
"""
CALL = ("work", "Pair(1, 2)", "2")


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.marker), "w")


def starter(path: Path, *command: str | Path) -> None:
    """Write a program that is another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
    path.chmod(0o755)


Bare = Callable[..., AbstractAsyncContextManager[direct.Machine]]


@pytest.fixture
def bare(short_tmp: Path, tmp_path: Path) -> Bare:
    """Return a way to a machine on whose PATH there is `sh` and what is given, and nothing else."""
    require_sshd()
    directory = Path(tempfile.mkdtemp(dir=short_tmp))

    @asynccontextmanager
    async def reached(**programs: Sequence[str | Path]) -> AsyncIterator[direct.Machine]:
        starter(tmp_path / "bin" / "sh", "/bin/sh")
        for name, command in programs.items():
            starter(tmp_path / "bin" / name, *command)
        environment = {**remote_environment(), "PATH": str(tmp_path / "bin")}
        with ssh_server(directory, kind="openssh", environment=environment) as server:
            async with direct.machine(server, directory, python_path="", retry_connect=False) as machine:
                yield machine

    return reached


@pytest.mark.parametrize("minor", RUNS)
async def test_electron_runs_on_the_python_that_pickled_it(
    minor: str, sshd: SSHServer, short_tmp: Path
) -> None:
    """An electron that a Python pickled runs on that very Python, and its result comes back."""
    interpreter = require_interpreter(minor)
    work, pair, power = pickled_by(interpreter, WORK, *CALL)
    async with direct.machine(sshd, short_tmp / f"py{minor}", python_path=str(interpreter)) as machine:
        ran = await machine.run(work, pair, power=power)
        version = [int(part) for part in minor.split(".")]
        assert ran.value == [version, 45, "Pair", cloudpickle.__version__], ran.stderr
        assert ran.stdout == "sum(map(inner, pair.parts))=45\n"
        assert ran.result.python_version.startswith(f"{minor}.")
        assert machine.records()[0]["python_version"] == ran.result.python_version


@pytest.mark.parametrize("minor", TOO_OLD)
async def test_old_python_is_told_that_it_is_too_old(minor: str, sshd: SSHServer, short_tmp: Path) -> None:
    """A Python before 3.8 is refused by version and path, with the version to install instead."""
    interpreter = require_interpreter(minor)
    async with direct.machine(sshd, short_tmp / f"old{minor}", python_path=str(interpreter)) as machine:
        ran = await machine.run(print)
        assert isinstance(ran.error, RemoteEnvError)
        assert str(ran.error).startswith(f"127.0.0.1: Python {minor}.")
        assert str(interpreter) in str(ran.error)
        assert str(ran.error).endswith(f") is too old, 3.8 is the oldest that works. {THERE}")
        assert not (machine.spool / "tasks").exists()


async def test_other_minor_version_is_refused_before_anything_is_unpickled(
    sshd: SSHServer, short_tmp: Path, tmp_path: Path
) -> None:
    """What one minor version pickled never reaches an unpickler of another; its own does unpickle it."""
    other = require_interpreter(OTHER)
    traps = [tmp_path / "argument", tmp_path / "hook"]
    hook = direct.hook(lambda _: None, Trap(traps[1]))
    async with direct.machine(sshd, short_tmp / "other", python_path=str(other)) as machine:
        ran = await machine.run(lambda _: 1, Trap(traps[0]), before=[hook])
        assert isinstance(ran.error, RemoteEnvError)
        assert str(ran.error).startswith(
            f"127.0.0.1: this electron was pickled by Python {OWN}, and {other} there is Python {OTHER}."
        )
        assert str(ran.error).endswith(f", which cannot safely load it. {THERE}")
        assert not any(trap.exists() for trap in traps)
        own = await machine.run(
            lambda _: 1, Trap(traps[0]), before=[hook], options={"python_path": sys.executable}
        )
        assert own.value == 1
        assert all(trap.exists() for trap in traps)


async def test_two_versions_are_served_side_by_side(sshd: SSHServer, short_tmp: Path) -> None:
    """Electrons of two Pythons go to two agents of one machine, each to its own."""
    interpreters = {minor: require_interpreter(minor) for minor in (OWN, OTHER)}
    async with direct.machine(sshd, short_tmp / "both") as machine:
        for minor, interpreter in interpreters.items():
            work, pair, power = pickled_by(interpreter, WORK, *CALL)
            ran = await machine.run(work, pair, power=power, options={"python_path": str(interpreter)})
            assert ran.value[0] == [int(part) for part in minor.split(".")]
        assert len(machine.agents()) == 2


async def test_machine_needs_neither_covalent_nor_cloudpickle(
    sshd: SSHServer, short_tmp: Path, tmp_path: Path
) -> None:
    """An empty virtual environment is enough: what a task needs beside Python has travelled."""
    environment = tmp_path / "empty"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"

    def look() -> tuple[str, list[bool], str]:
        import importlib.util
        import sys

        import cloudpickle

        names = ("covalent", "covalent_sshtiming", "asyncssh", "pip")
        return sys.prefix, [importlib.util.find_spec(name) is None for name in names], cloudpickle.__file__

    async with direct.machine(sshd, short_tmp / "empty", python_path=str(python)) as machine:
        prefix, absent, pickler = (await machine.run(look)).value
    assert prefix == str(environment)
    assert absent == [True] * 4
    assert pickler.startswith(str(sshd.remote_home / ".cache" / "covalent-sshtiming"))


async def test_python_of_the_electrons_version_is_found_on_path(bare: Bare) -> None:
    """Without python_path, python3.X of the electron's version is used, also where python3 is another."""
    other = require_interpreter(OTHER)
    async with bare(**{f"python{OWN}": [base_python()], "python3": [other]}) as machine:
        ran = await machine.run(lambda: ".".join(map(str, sys.version_info[:2])))
    assert ran.value == OWN


async def test_only_python3_x_is_enough(bare: Bare) -> None:
    """A machine that has python3.X and no python3 runs the task."""
    async with bare(**{f"python{OWN}": [base_python()]}) as machine:
        assert (await machine.run(lambda: 5)).value == 5


async def test_python3_of_the_right_version_is_enough(bare: Bare) -> None:
    """A machine that has only python3, of the electron's version, runs the task."""
    async with bare(python3=[base_python()]) as machine:
        assert (await machine.run(lambda: 5)).value == 5


async def test_shim_without_an_interpreter_is_passed_over(bare: Bare) -> None:
    """A python3.X that exists and finds no interpreter, as a version manager's does, leaves it to python3."""
    shim = ["/bin/sh", "-c", "echo not switched on >&2; exit 127"]
    async with bare(**{f"python{OWN}": shim, "python3": [base_python()]}) as machine:
        assert (await machine.run(lambda: 5)).value == 5


async def test_only_another_python3_is_refused(bare: Bare) -> None:
    """Where the search finds only a python3 of another version, the error names it and what to install."""
    other = require_interpreter(OTHER)
    async with bare(python3=[other]) as machine:
        ran = await machine.run(print)
    assert isinstance(ran.error, RemoteEnvError)
    assert str(ran.error).startswith(f"127.0.0.1: this electron was pickled by Python {OWN}, and ")
    assert f" there is Python {OTHER}." in str(ran.error)
    assert str(ran.error).endswith(f", which cannot safely load it. {INSTALL}")


async def test_machine_without_python_is_told_which_to_install(bare: Bare) -> None:
    """Where there is no Python at all, the error says what was looked for, where, and what to do."""
    async with bare() as machine:
        ran = await machine.run(print)
    assert isinstance(ran.error, RemoteEnvError)
    assert str(ran.error) == (
        f"127.0.0.1: no Python was found there: neither python{OWN} nor python3 is on the login shell's "
        f"PATH. {INSTALL}"
    )


@pytest.mark.parametrize("kind", ["absent", "directory", "not executable"])
async def test_python_path_that_does_not_work_is_never_replaced(
    kind: str, sshd: SSHServer, short_tmp: Path, tmp_path: Path
) -> None:
    """A python_path that cannot be run is an error with its name, although the search would find a Python."""
    path = tmp_path / "python"
    if kind == "directory":
        path.mkdir()
    elif kind == "not executable":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o644)
    async with direct.machine(sshd, short_tmp / "wrong", python_path=str(path)) as machine:
        ran = await machine.run(print)
    assert isinstance(ran.error, RemoteEnvError)
    assert str(ran.error).startswith(f"127.0.0.1: python_path '{path}' cannot be run there (")
    assert str(ran.error).endswith(f"; set it to a Python {OWN} of that machine.")


async def test_python_path_may_be_a_command(bare: Bare) -> None:
    """A python_path without a slash is looked for on the PATH, and is no path in the home directory."""
    async with bare(**{"own-python": [base_python()]}) as machine:
        assert (await machine.run(lambda: 5, options={"python_path": "own-python"})).value == 5
        ran = await machine.run(lambda: 5, options={"python_path": "no-python"})
        assert "python_path 'no-python' cannot be run there (" in str(ran.error)


async def test_python_path_may_begin_with_the_home_directory(sshd: SSHServer, short_tmp: Path) -> None:
    """A python_path of `~/...` is looked for in the remote home directory, not in the local one."""
    starter(sshd.remote_home / "own python" / "run", sys.executable)
    async with direct.machine(sshd, short_tmp / "tilde", python_path="~/own python/run") as machine:
        assert (await machine.run(lambda: 5)).value == 5
