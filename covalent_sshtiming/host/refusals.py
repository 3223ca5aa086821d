"""Refusals: why a machine that has let us in does not run our program, and what makes it do so.

Owns those sentences: of a set-up that failed, of a Python that is missing or another one, of a place that
cannot be written. What the far side says in them is bounded, and none of it stands in a command to type.
"""

from __future__ import annotations

import posixpath
import re
import sys
from typing import Any

from covalent_sshtiming.errors import ConnectError, RemoteEnvError, SSHTimingError, TransferError
from covalent_sshtiming.host import environment
from covalent_sshtiming.host.bootstrap import printable
from covalent_sshtiming.host.environment import Said
from covalent_sshtiming.host.target import Target

NO_PYTHON = (126, 127)  # a shell's statuses for a command that it cannot run, or cannot find
_NOT_FOUND = 127
_CONDAS = ("conda", "mamba", "micromamba")


def slow(target: Target, said: Said, noise: bytes) -> SSHTimingError:
    """Word that our program has not begun in time."""
    limit, printed = f"within {target.connect_timeout:g} s", _printed(said.text or noise)
    step = _step(target, said)
    if step:
        return RemoteEnvError(
            f"{target}: {step} did not end {limit}{printed}. Does it wait for something? If it is only slow, "
            "raise connect_timeout."
        )
    return ConnectError(
        f"{target}: logged in, but its shell did not start our program {limit}{printed}; does a start-up "
        "file wait for input?"
    )


def ended(target: Target, status: int | None, said: Said, noise: bytes) -> SSHTimingError:
    """Say why the streams ended before the agent spoke; a `status` of None is a lost connection."""
    text = printable(said.text)
    for mark, what, fix in _PLACES:
        if mark in text:
            return TransferError(f"{target}: {what}: {text.split(mark)[1].strip()}. {fix}")
    if "SSHTIMING-agent:" in text:
        return RemoteEnvError(f"{target}: {text.split('SSHTIMING-agent:')[1].strip()}")
    if status is None:
        return ConnectError(f"{target}: the connection was lost while our program started.")
    if _step(target, said):
        return _not_prepared(target, status, said)
    if status in NO_PYTHON and target.prepares == (said.step == environment.DONE):
        return _no_python(target, text)
    runs = f"is python_path {target.python_path!r} a Python" if target.python_path else "can it run Python"
    return RemoteEnvError(
        f"{target}: our program ended with status {status} before it could serve"
        f"{_printed(said.text or noise)}. Does the login shell run commands, and {runs}?"
    )


_PLACES = (
    ("SSHTIMING-spool:", "no place for tasks", "Set remote_spool to another one."),
    ("SSHTIMING-cache:", "our program cannot be stored there", "Set remote_cache to another place."),
)


def _printed(said: bytes) -> str:
    text = printable(said)
    return f" (it printed: {text})" if text else ""


# ---- the environment


def _step(target: Target, said: Said) -> str:
    """Name the part of the preparation that is not done; "" where none is."""
    if said.step.isdecimal() and int(said.step) < len(target.setup):
        return f"set-up command {target.setup[int(said.step)]!r:.300}"
    known = said.step in (environment.CONDA, environment.NO_CONDA, environment.NO_PYTHON)
    if target.conda_env and (known or said.step.startswith(environment.CONDA_BY)):
        return f"conda_env {target.conda_env!r}"
    return ""


def _not_prepared(target: Target, status: int, said: Said) -> SSHTimingError:
    step, printed = f"{target}: {_step(target, said)}", _printed(said.text)
    if said.step.isdecimal():
        fix = _correct(target.setup[int(said.step)].split(), status)
        return RemoteEnvError(f"{step} ended with status {status}{printed}. {fix}")
    if said.step == environment.NO_CONDA:
        return RemoteEnvError(
            f"{step} cannot be activated: neither conda, mamba nor micromamba was found there, on the login "
            "shell's PATH, as CONDA_EXE or MAMBA_EXE, or in a usual place (~/miniforge3, ~/miniconda3, "
            "/opt/conda, ~/.local/bin and the like). Put it on the PATH with setup_commands, or set "
            "python_path to that environment's Python."
        )
    asked = re.findall(rb"(conda|mamba|micromamba): ", said.text)
    name = _tool([posixpath.basename(said.tool), *(one.decode() for one in asked)])
    option = f"{'-p' if '/' in target.conda_env else '-n'} {target.conda_env}"
    if said.step == environment.NO_PYTHON:
        fix = f"`{name} install {option} python={target.python}` there puts one into it."
        return RemoteEnvError(f"{step} has no Python: {fix}")
    if said.step == environment.CONDA:
        return RemoteEnvError(
            f"{step} cannot be activated{printed}. Correct it, or make it there with "
            f"`{name} create {option} python={target.python}`; `{name} env list` shows those that there are."
        )
    return RemoteEnvError(
        f"{step} was found by {printable(said.tool, 200)}, but activating it ended with status "
        f"{status}{printed}. Look at the scripts in its etc/conda/activate.d."
    )


def _correct(words: list[str], status: int) -> str:
    """Say what to do about a set-up command that fails."""
    if words[1:2] == ["activate"] and words[0] in _CONDAS:
        return f"Set conda_env to what `{words[0]} activate` is given, and leave it out of setup_commands."
    known = "; what only interactive shells know has to be sourced first" if status == _NOT_FOUND else ""
    return f"Correct setup_commands, which a login shell runs without a terminal{known}."


# ---- the Python


def _no_python(target: Target, said: str) -> SSHTimingError:
    said = f" ({said})" if said else ""
    if target.python_path:
        return RemoteEnvError(
            f"{target}: python_path {target.python_path!r} cannot be run there{said}; set it to a Python "
            f"{target.python} of that machine."
        )
    path = "PATH that setup_commands leave" if target.setup else "login shell's PATH"
    return RemoteEnvError(
        f"{target}: no Python was found there: neither python{target.python} nor python3 is on the "
        f"{path}{said}. {_remedy(target, Said(), {})}"
    )


def refused(target: Target, said: Said, facts: dict[str, Any]) -> SSHTimingError:
    """Word what the doorman could not accept."""
    found = printable(str(facts.get("python")), 20)
    where = printable(str(facts.get("executable")), 200)
    if facts["refused"] == "python_too_old":
        return RemoteEnvError(
            f"{target}: Python {found} ({where}{_of(target)}) is too old, 3.8 is the oldest that works. "
            f"{_remedy(target, said, facts)}"
        )
    if facts["refused"] == "python_version":
        return RemoteEnvError(
            f"{target}: this electron was pickled by Python {target.python}, and {where}{_of(target)} there "
            f"is Python {found}, which cannot safely load it. {_remedy(target, said, facts)}"
        )
    text = printable(str(facts.get("text")))
    return TransferError(
        f"{target}: our program cannot be stored there: {text}. Set remote_cache to another place."
    )


def _of(target: Target) -> str:
    """Say whose Python it is, where that was not asked for by its name."""
    if target.python_path:
        return ""
    if target.conda_env:
        return f", of conda_env {target.conda_env!r},"
    return ", which setup_commands lead to," if target.setup else ""


def _remedy(target: Target, said: Said, facts: dict[str, Any]) -> str:
    """Say how to get a Python of the right minor version, by what the doorman has seen there."""
    minor = target.python or "{}.{}".format(*sys.version_info)
    name = "py" + minor.replace(".", "")
    found = facts.get("found")
    found = found if isinstance(found, dict) else {}
    conda = f"`{_tool([posixpath.basename(said.tool), *found])} create -n {{0}} python={minor}`"
    if target.conda_env or facts.get("conda") is True:
        env = posixpath.basename(target.conda_env.rstrip("/"))
        other = f"{env}-{name}" if env else name
        return f"{conda.format(other)} there makes one with it; set conda_env to {other}."
    own = printable(str(found.get("python", "")), 200)
    if own:
        return f"There is {own} too: set python_path to it."
    uv = f"`uv venv --python {minor} ~/{name}`"
    if "uv" in found:
        return f"{uv} there makes one; set python_path to ~/{name}/bin/python."
    if any(tool in found for tool in _CONDAS):
        return f"{conda.format(name)} there makes one; set conda_env to {name}."
    if "pyenv" in found:
        return (
            f"`pyenv install {minor} && pyenv prefix {minor}` there makes one and says where it is; set "
            "python_path to bin/python in it."
        )
    return (
        f"Install Python {minor} there, with uv by {uv} or with conda by {conda.format(name)}, and set "
        f"python_path to ~/{name}/bin/python or conda_env to {name}."
    )


def _tool(found: Any) -> str:
    """Return the first of conda's kind that was found, and conda where none was."""
    return next((tool for tool in _CONDAS if tool in found), "conda")
