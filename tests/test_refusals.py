"""Why a machine that lets us in does not run our program: the sentences, and the marks behind them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.condas import fake_conda, make_environment
from support.interpreters import OWN, require_interpreter

from covalent_sshtiming.host import refusals
from covalent_sshtiming.host.bootstrap import Preamble, command
from covalent_sshtiming.host.environment import DONE, Said
from covalent_sshtiming.host.target import Target

OTHER = "3.12" if OWN != "3.12" else "3.11"
NONCE = "0123456789abcdef01234567"


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
