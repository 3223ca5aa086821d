"""Set-up commands, modules and conda environments as a task has them, through a login shell."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import direct
from support.condas import exports, fake_conda, make_environment, make_venv, places, real_condas
from support.interpreters import OWN

from covalent_sshtiming.demo.run import base_python
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.errors import RemoteEnvError

MODULES = [Path("/etc/profile.d") / name for name in ("modules.sh", "lmod.sh", "z00_lmod.sh")]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Return a directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="env-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
async def machine(sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a way to the server on which the Python is to be found."""
    async with direct.machine(sshd, place, python_path="", retry_connect=False) as reached:
        yield reached


@pytest.fixture(scope="module")
def venv(place: Path) -> Path:
    """Return an empty virtual environment."""
    return make_venv(place / "venv")


def look() -> Callable[..., dict[str, str]]:
    """Return a function that says which Python runs it, and what some variables are."""

    def looking(*names: str) -> dict[str, str]:
        import os
        import sys

        print("said")
        ours = {name: value for name, value in os.environ.items() if name.startswith("_sst")}
        return {"prefix": sys.prefix, **{name: os.environ.get(name, "") for name in names}, **ours}

    return looking


# ---- through a login shell


async def test_set_up_commands_are_those_of_a_terminal(
    machine: direct.Machine, sshd: SSHServer, venv: Path
) -> None:
    """A function of a start-up file, a variable and a virtual environment: lines go on from each other."""
    profile = sshd.remote_home / ".profile"
    profile.write_text("greet() { echo Welcome; GREETED=$1; export GREETED; }\necho Hello\n")
    lines = ["greet ada", "cd /", 'export GREETING="$GREETED\'s home: $PWD!"', f"source {venv}/bin/activate"]
    try:
        ran = await machine.run(look(), "GREETING", "VIRTUAL_ENV", options={"setup_commands": lines})
    finally:
        profile.unlink()
    assert ran.value == {"prefix": str(venv), "GREETING": "ada's home: /!", "VIRTUAL_ENV": str(venv)}
    assert (ran.stdout, ran.stderr) == ("said\n", "")


async def test_set_up_makes_targets_differ(machine: direct.Machine, place: Path, venv: Path) -> None:
    """The same set-up shares an agent and is done once; another one has an agent of its own."""
    log = place / "done"
    lines = [f"echo >> {log}", f". {venv}/bin/activate"]
    for _ in range(2):
        await machine.run(look(), options={"setup_commands": lines})
    assert log.read_text() == "\n"
    assert len(machine.agents()) == 1
    other = [*lines, "export ADA=1"]
    assert (await machine.run(look(), "ADA", options={"setup_commands": other})).value["ADA"] == "1"
    assert (await machine.run(look(), "ADA", options={"setup_commands": lines})).value["ADA"] == ""
    assert len(machine.agents()) == 2


async def test_modules_that_came_later_are_found(machine: direct.Machine, place: Path) -> None:
    """Of PYTHONPATH, while the agent is warm: one directory is added to, one made, an archive replaced."""

    def importing(*names: str) -> list[str]:
        import importlib

        return [importlib.import_module(name).__name__ for name in names]

    def pack(name: str) -> None:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{name}.py", "")

    there, later, packed = place / "there", place / "later", place / "packed.zip"
    there.mkdir()
    pack("came_first")
    options = {"setup_commands": [f"export PYTHONPATH={there}:{later}:{packed}"]}
    await machine.run(importing, "came_first", options=options)
    later.mkdir()
    for directory in (there, later):
        (directory / f"came_{directory.name}.py").touch()
    pack("came_packed")
    names = ["came_there", "came_later", "came_packed"]
    assert (await machine.run(importing, *names, options=options)).value == names
    assert len(machine.agents()) == 1


async def test_a_new_connection_and_a_new_agent_have_the_set_up(machine: direct.Machine, venv: Path) -> None:
    """After the loss of both, the next task finds the same environment."""
    options = {"setup_commands": [f". {venv}/bin/activate"]}
    first = await machine.run(look(), options=options)
    await direct.pool.close_all()
    for agent in machine.agents():
        psutil.Process(agent).kill()
    assert (await machine.run(look(), options=options)).value == first.value
    assert first.value["prefix"] == str(venv)


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_a_set_up_that_fails_over_ssh(transport: str, machine: direct.Machine) -> None:
    """The executor raises RemoteEnvError with the command and its words, by either transport."""
    options = {"transport": transport, "setup_commands": ["true", "echo no licence >&2; exit 3"]}
    ran = await machine.run(look(), options=options)
    assert isinstance(ran.error, RemoteEnvError)
    assert str(ran.error) == (
        "127.0.0.1: set-up command 'echo no licence >&2; exit 3' ended with status 3 (it printed: no "
        "licence). Correct setup_commands, which a login shell runs without a terminal."
    )


async def test_a_set_up_command_that_does_not_end(machine: direct.Machine) -> None:
    """After connect_timeout it is named, and neither it nor its shell goes on there."""
    options = {"connect_timeout": 2, "setup_commands": ["echo waiting", "sleep 4711"]}
    ran = await machine.run(look(), options=options)
    assert isinstance(ran.error, RemoteEnvError)
    assert str(ran.error) == (
        "127.0.0.1: set-up command 'sleep 4711' did not end within 2 s. Does it wait for something? If it is "
        "only slow, raise connect_timeout."
    )
    deadline = time.monotonic() + 5
    while sleeping("4711"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def sleeping(seconds: str) -> list[psutil.Process]:
    """Return the living processes with such an argument."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if any(seconds in word for word in process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


async def test_pip_goes_into_the_environment(machine: direct.Machine, venv: Path) -> None:
    """DepsPip means the environment's interpreter, and no other's pip."""
    from covalent import DepsPip

    before = [DepsPip(["anything"]).apply()]
    ran = await machine.run(look(), before=before, options={"setup_commands": [f". {venv}/bin/activate"]})
    assert f"run `{venv}/bin/python{OWN} -m ensurepip` there" in ran.stderr


async def test_the_local_executor_has_the_same(place: Path, venv: Path) -> None:
    """TimingExecutor runs set-up commands too, and takes the Python that they lead to and not its own."""
    local = place / "here"
    local.mkdir()
    async with direct.here(local, setup_commands=[f". {venv}/bin/activate"]) as machine:
        assert (await machine.run(look())).value["prefix"] == str(venv)


# ---- conda


@pytest.mark.parametrize(("by", "whole"), [("conda", False), ("mamba", True), ("micromamba", False)])
async def test_a_conda_environment_is_activated(
    by: str, whole: bool, machine: direct.Machine, place: Path
) -> None:
    """By a fake of each: its Python, PATH and activation scripts are there, by name or by whole path."""
    root = place / f"fake-{by}"
    prefix = make_environment(root, "science")
    await _is_activated(machine, root, fake_conda(root, by), prefix, str(prefix) if whole else "science")


# No package that pip or apt can install has a conda; fakes are tried above, SSHTIMING_CONDAS names real ones.
@pytest.mark.parametrize("real", real_condas() or [pytest.param("", marks=pytest.mark.skip("no conda here"))])
async def test_a_real_conda_environment_is_activated(real: str, machine: direct.Machine, place: Path) -> None:
    """The same, by the conda, mamba or micromamba of this machine."""
    root = place / f"real-{Path(real).name}"
    prefix = make_environment(root, "science", Path(real))
    for name in ("science", str(prefix)):
        await _is_activated(machine, root, Path(real), prefix, name)


async def _is_activated(machine: direct.Machine, root: Path, by: Path, prefix: Path, name: str) -> None:
    variable = "CONDA_EXE" if by.name == "conda" else "MAMBA_EXE"
    lines = exports({**places(root), variable: str(by), "LD_LIBRARY_PATH": "/there/lib"})
    options = {"setup_commands": lines, "conda_env": name}
    ran = await machine.run(look(), "CONDA_PREFIX", "ADA_HOME", "LD_LIBRARY_PATH", "PATH", options=options)
    found = ran.value
    assert found.pop("PATH").split(":")[0] == f"{prefix}/bin"
    assert found == {
        "prefix": str(prefix),
        "CONDA_PREFIX": str(prefix),
        "ADA_HOME": f"{prefix}/ada",
        "LD_LIBRARY_PATH": f"{prefix}/lib:/there/lib",
    }
    assert ran.stdout == "said\n"


@pytest.fixture
def miniforge(sshd: SSHServer) -> Iterator[Path]:
    """Return a place below the remote home directory where conda's installers put it."""
    root = sshd.remote_home / "miniforge3"
    yield root
    shutil.rmtree(root)


async def test_conda_in_a_usual_place_is_found(machine: direct.Machine, miniforge: Path) -> None:
    """A conda below the home directory needs no PATH; and an explicit python_path still counts."""
    fake_conda(miniforge)
    prefix = make_environment(miniforge, "science")
    found = (await machine.run(look(), options={"conda_env": "science"})).value
    assert found["prefix"] == str(prefix)
    options = {"conda_env": "~/miniforge3/envs/science", "python_path": sys.executable}
    found = (await machine.run(look(), "ADA_HOME", options=options)).value
    assert found == {"prefix": sys.prefix, "ADA_HOME": f"{prefix}/ada"}


# ---- environment modules


@pytest.fixture
def modules(place: Path) -> str:
    """Return the set-up command that makes `sst/1` loadable; it brings a Python and variables."""
    if not any(path.exists() for path in MODULES):
        if os.environ.get("SSHTIMING_REQUIRE_MODULES") == "1":
            pytest.fail("No environment modules were found, and SSHTIMING_REQUIRE_MODULES=1 asks for them.")
        pytest.skip("neither environment-modules nor Lmod is installed")
    file = place / "modules" / "sst" / "1"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "#%Module1.0\n"
        f"prepend-path PATH {Path(base_python()).parent}\n"
        "prepend-path LD_LIBRARY_PATH /opt/cuda/lib\n"
        "setenv CUDA_HOME /opt/cuda\n"
    )
    return f"module use {place}/modules"


async def test_a_real_module_is_loaded(machine: direct.Machine, modules: str) -> None:
    """`module load` works as in a terminal, and the task has what the module brings."""
    names = ("CUDA_HOME", "LD_LIBRARY_PATH", "LOADEDMODULES", "PATH")
    options = {"setup_commands": [modules, "module load sst/1"]}
    found = (await machine.run(look(), *names, options=options)).value
    assert found["CUDA_HOME"] == "/opt/cuda"
    assert found["LD_LIBRARY_PATH"].split(":")[0] == "/opt/cuda/lib"
    assert "sst/1" in found["LOADEDMODULES"].split(":")
    assert found["PATH"].split(":")[0] == str(Path(base_python()).parent)


async def test_a_module_that_is_not_there(machine: direct.Machine, modules: str) -> None:
    """The module system's own words are in the error."""
    ran = await machine.run(look(), options={"setup_commands": [modules, "module load sst/2"]})
    assert isinstance(ran.error, RemoteEnvError)
    assert str(ran.error).startswith("127.0.0.1: set-up command 'module load sst/2' ended with status 1 (it")
    assert "sst/2" in str(ran.error).split("(it printed:")[1]
