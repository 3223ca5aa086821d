"""What is made ready in the far shell before Python starts: set-up commands, modules, conda environments."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import direct
from support.condas import exports, fake_conda, make_environment, make_venv, places, real_condas
from support.interpreters import require_interpreter

from covalent_sshtiming.demo.run import base_python
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.errors import RemoteEnvError
from covalent_sshtiming.host import refusals
from covalent_sshtiming.host.bootstrap import Preamble, command
from covalent_sshtiming.host.environment import DONE, Said
from covalent_sshtiming.host.target import Target

OWN = "{}.{}".format(*sys.version_info)
OTHER = "3.12" if OWN != "3.12" else "3.11"
NONCE = "0123456789abcdef01234567"
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


# ---- the texts, without a connection


def starts(tmp_path: Path, path: Sequence[Path] = (), **target: Any) -> str:
    """Do what sshd does with the exec command; return what the executor's error would say, or nothing.

    The machine has `sh` and bash, and no program but those that `path` brings.
    """
    reached = Target("box", "box", OWN, cache=str(tmp_path / "cache"), spool=str(tmp_path / "s"), **target)
    home = tmp_path / "home"
    (home / ".profile").parent.mkdir(exist_ok=True)
    programs = ":".join(map(str, [*path, shells(tmp_path)]))
    (home / ".profile").write_text(f"PATH={programs}\n")  # a login shell's start-up may set it anew
    preamble, said = Preamble(NONCE), Said()
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        subprocess.Popen(
            ["/bin/bash", "-c", command(reached, NONCE)],
            stdin=subprocess.PIPE,  # open, because its end would be ours
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={"PATH": programs, "HOME": str(home), "SHELL": "/bin/bash"},
            start_new_session=True,
        ) as started,
    ):
        assert started.stdout is not None
        found = None
        while found is None and (data := os.read(started.stdout.fileno(), 65536)):
            found = preamble.feed(data)
    said.hear((tmp_path / "stderr").read_bytes())
    if found is None:
        return str(refusals.ended(reached, started.returncode, said, preamble.noise))
    return str(refusals.refused(reached, said, found[0])) if "refused" in found[0] else ""


def shells(tmp_path: Path) -> Path:
    """Return a directory with `sh` and nothing else."""
    directory = tmp_path / "shells"
    directory.mkdir(exist_ok=True)
    if not (directory / "sh").exists():
        (directory / "sh").symlink_to("/bin/sh")
    return directory


def program(path: Path, *words: str | Path) -> Path:
    """Write a program that is another one; return its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    path.chmod(0o755)
    return path.parent


@pytest.mark.parametrize(
    ("line", "status", "printed", "fix"),
    [
        ("echo out; echo err >&2; (exit 7)", 7, " (it printed: out err)", ""),
        ("exit 9", 9, "", ""),
        (
            "module load cuda/12",
            127,
            " (it printed: /bin/bash: module: command not found)",
            "; what only interactive shells know has to be sourced first",
        ),
        ("read answer", 1, "", ""),
    ],
)
def test_a_set_up_command_that_fails_is_named(
    line: str, status: int, printed: str, fix: str, tmp_path: Path
) -> None:
    """The command, its status and what it printed are in the error; the commands around it are not."""
    text = starts(tmp_path, setup=("echo before", "unset -f module", line, "echo after"))
    assert re.sub(r"line \d+: ", "", text) == (
        f"box: set-up command {line!r} ended with status {status}{printed}. Correct setup_commands, which a "
        f"login shell runs without a terminal{fix}."
    )


def test_the_last_output_of_a_set_up_command_is_shown(tmp_path: Path) -> None:
    """Of much output the error has the end, on one line and without a terminal's signs."""
    line = "i=0; while [ $i -lt 9000 ]; do echo 0123456789; i=$((i+1)); done; printf '\\033[1mthe end'; false"
    text = starts(tmp_path, setup=(line,))
    assert "0123456789 the end). Correct setup_commands" in text
    assert len(text) < 1000
    assert text.isprintable()


def test_conda_activate_as_a_set_up_command(tmp_path: Path) -> None:
    """Who writes `conda activate` there is told of conda_env."""
    text = starts(tmp_path, setup=("conda activate science",))
    assert text.endswith(
        "Set conda_env to what `conda activate` is given, and leave it out of setup_commands."
    )


def test_a_machine_without_conda(tmp_path: Path) -> None:
    """Where there is no conda the error says where it was looked for, and two ways out."""
    assert starts(tmp_path, conda_env="science") == (
        "box: conda_env 'science' cannot be activated: neither conda, mamba nor micromamba was found there, "
        "on the login shell's PATH, as CONDA_EXE or MAMBA_EXE, or in a usual place (~/miniforge3, "
        "~/miniconda3, /opt/conda, ~/.local/bin and the like). Put it on the PATH with setup_commands, or "
        "set python_path to that environment's Python."
    )


def test_an_environment_that_is_not_there(tmp_path: Path) -> None:
    """Each program of conda's kind is asked, and all their answers are in the error, with what makes it."""
    conda = fake_conda(tmp_path / "one")
    mamba = fake_conda(tmp_path / "two", "micromamba")
    assert starts(tmp_path, [conda.parent, mamba.parent], conda_env="science") == (
        f"box: conda_env 'science' cannot be activated (it printed: {conda}: no environment science here "
        f"{mamba}: no environment science here). Correct it, or make it there with `conda create -n science "
        f"python={OWN}`; `conda env list` shows those that there are."
    )
    text = starts(tmp_path, [mamba.parent], conda_env="/no/such")
    assert f"with `micromamba create -p /no/such python={OWN}`; `micromamba env list` shows" in text


@pytest.mark.parametrize("name", ["conda", "micromamba"])
def test_an_environment_without_python(name: str, tmp_path: Path) -> None:
    """An environment with no Python of its own is no reason to take another one."""
    conda = fake_conda(tmp_path / "one", name)
    (tmp_path / "one" / "envs" / "bare" / "conda-meta").mkdir(parents=True)
    python = program(tmp_path / "bin" / f"python{OWN}", sys.executable)
    assert starts(tmp_path, [conda.parent, python], conda_env="bare") == (
        f"box: conda_env 'bare' has no Python: `{name} install -n bare python={OWN}` there puts one into it."
    )


def test_an_activation_script_that_ends_the_shell(tmp_path: Path) -> None:
    """What a package's activation script does wrong is the environment's, and names the place."""
    conda = fake_conda(tmp_path / "one")
    scripts = tmp_path / "one" / "envs" / "bad" / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (tmp_path / "one" / "envs" / "bad" / "conda-meta").mkdir()
    (scripts / "x.sh").write_text("echo no licence; exit 4\n")
    assert starts(tmp_path, [conda.parent], conda_env="bad") == (
        f"box: conda_env 'bad' was found by {conda}, but activating it ended with status 4 (it printed: no "
        "licence). Look at the scripts in its etc/conda/activate.d."
    )


def test_a_wrong_version_comes_with_a_command_that_makes_a_right_one(tmp_path: Path) -> None:
    """The remedy for a wrong minor version is one of what is there: the right Python, uv, conda, pyenv."""
    other = program(tmp_path / "python" / "python3", require_interpreter(OTHER))
    name = f"py{OWN.replace('.', '')}"
    tools = {tool: program(tmp_path / tool / tool, "true") for tool in ("uv", "micromamba", "pyenv")}
    own = program(tmp_path / "own" / f"python{OWN}", sys.executable)
    remedies = {
        (): (
            f"Install Python {OWN} there, with uv by `uv venv --python {OWN} ~/{name}` or with conda by "
            f"`conda create -n {name} python={OWN}`, and set python_path to ~/{name}/bin/python or conda_env "
            f"to {name}."
        ),
        (tools["pyenv"],): (
            f"`pyenv install {OWN} && pyenv prefix {OWN}` there makes one and says where it is; set "
            "python_path to bin/python in it."
        ),
        (tools["micromamba"], tools["pyenv"]): (
            f"`micromamba create -n {name} python={OWN}` there makes one; set conda_env to {name}."
        ),
        (tools["uv"], tools["micromamba"]): (
            f"`uv venv --python {OWN} ~/{name}` there makes one; set python_path to ~/{name}/bin/python."
        ),
        (tools["uv"], own): f"There is {own}/python{OWN} too: set python_path to it.",
    }
    for path, remedy in remedies.items():
        text = starts(tmp_path, path, python_path=str(other / "python3"), setup=(":",))
        assert text.startswith(f"box: this electron was pickled by Python {OWN}, and ")
        assert f" there is Python {OTHER}." in text
        assert text.endswith(f", which cannot safely load it. {remedy}")


@pytest.mark.parametrize("by", ["conda", "micromamba"])
def test_a_wrong_version_in_a_conda_environment(by: str, tmp_path: Path) -> None:
    """An environment of another minor version is refused by its name, with the command for one beside it."""
    conda = fake_conda(tmp_path / "root", by)
    prefix = make_environment(tmp_path / "root", "science")
    (prefix / "bin" / "python").unlink()
    program(prefix / "bin" / "python", require_interpreter(OTHER))
    text = starts(tmp_path, conda_env="science", setup=(f"export MAMBA_EXE={conda} CONDA_EXE={conda}",))
    assert f", of conda_env 'science', there is Python {OTHER}." in text
    name = f"science-py{OWN.replace('.', '')}"
    assert text.endswith(
        f"`{by} create -n {name} python={OWN}` there makes one with it; set conda_env to {name}."
    )


def test_what_set_up_commands_put_in_front_is_used(tmp_path: Path) -> None:
    """A python3 that they put before a python3.X of the right version is the one that is meant."""
    other = program(tmp_path / "module" / "python3", require_interpreter(OTHER))
    own = program(tmp_path / "system" / f"python{OWN}", sys.executable)
    assert starts(tmp_path, [other, own]) == ""
    text = starts(tmp_path, [own], setup=(f"PATH={other}:$PATH",))
    assert f"which setup_commands lead to, there is Python {OTHER}." in text
    assert starts(tmp_path, [own], setup=(f"PATH=$PATH:{other}",)) == ""
    text = starts(tmp_path, [], setup=(":",))
    assert f"neither python{OWN} nor python3 is on the PATH that setup_commands leave." in text


@given(st.data())
def test_marks_are_found_however_stderr_is_cut(data: st.DataObject) -> None:
    """The step and its words are the same in whatever pieces they come."""
    text = b"hello\nSSHTIMING-step 0\none\n\nSSHTIMING-step 1\ntwo\n\nSSHTIMING-step conda-by /c\n\nthree"
    said = Said()
    while text:
        size = data.draw(st.integers(1, len(text)))
        said.hear(text[:size])
        text = text[size:]
    assert (said.step, said.tool, said.text) == ("conda-by /c", "/c", b"\n\nthree")
    said.hear(b"\nSSHTIMING-step done\nmore\nSSHTIMING-step 7\n")
    assert said.step == DONE
    assert said.text == b"\nmore\nSSHTIMING-step 7\n"
    said.hear(b"x" * 200_000)
    assert said.text == b"x" * 65536


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
