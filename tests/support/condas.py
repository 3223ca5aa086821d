"""conda and its like: environments without a channel, the real programs of this machine, and fakes of them.

A conda environment is a directory with `conda-meta`, and its Python may be a virtual environment's in the
same place; so neither the real programs nor the fakes have to fetch anything. The fakes answer the two
command lines by which a shell is told how to activate one, in the form in which the real ones do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from covalent_sshtiming.demo.run import base_python

_FAKE = """\
#!/bin/sh
if [ "$1 $2" = "{words}" ]; then shift {shift}; else echo "unknown command: $*" >&2; exit 2; fi
case $1 in */*) prefix=$1;; *) prefix={root}/envs/$1;; esac
if [ ! -d "$prefix/conda-meta" ]; then echo "no environment $1 here" >&2; exit 1; fi
echo "export PATH='$prefix/bin:$PATH'"
echo "export CONDA_PREFIX='$prefix'"
echo "export CONDA_SHLVL='1'"
for script in "$prefix"/etc/conda/activate.d/*.sh; do [ -f "$script" ] && echo ". \\"$script\\""; done
exit 0
"""
_SCRIPT = """\
echo "ada is active"
export ADA_HOME="$CONDA_PREFIX/ada"
export LD_LIBRARY_PATH="$CONDA_PREFIX/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
"""


def fake_conda(root: Path, name: str = "conda") -> Path:
    """Write a program that knows the environments below `root`, as conda, mamba or micromamba do."""
    program = root / "bin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    words, shift = ("shell.posix activate", 2) if name == "conda" else ("shell activate", 4)
    program.write_text(_FAKE.format(words=words, shift=shift, root=root))
    program.chmod(0o755)
    return program


def real_condas() -> list[str]:
    """Return the programs of the kind that this machine has, or that SSHTIMING_CONDAS names (with colons)."""
    named = filter(None, os.environ.get("SSHTIMING_CONDAS", "").split(":"))
    return [*named, *filter(None, map(shutil.which, ("conda", "mamba", "micromamba")))]


def make_environment(root: Path, name: str, program: Path | None = None) -> Path:
    """Make an environment with a Python like ours and an activation script; return its prefix.

    Args:
        root: below whose `envs` it is.
        name: its name.
        program: the real program that makes it; None for a directory that looks like one.
    """
    prefix = root / "envs" / name
    if program is None:
        (prefix / "conda-meta").mkdir(parents=True)
        (prefix / "conda-meta" / "history").touch()
    else:
        # By its path, because `create --name` would replace a user's environment of that name.
        command = [str(program), "create", "--yes", "--quiet", "--offline", "--prefix", str(prefix)]
        subprocess.run(command, env={**os.environ, **places(root)}, check=True, capture_output=True)
    subprocess.run([base_python(), "-m", "venv", "--without-pip", prefix], check=True)
    script = prefix / "etc" / "conda" / "activate.d" / "ada.sh"
    script.parent.mkdir(parents=True)
    script.write_text(_SCRIPT)
    return prefix


def places(root: Path) -> dict[str, str]:
    """Return the variables by which the real programs keep to `root`."""
    return {
        "CONDA_ENVS_DIRS": str(root / "envs"),
        "CONDA_PKGS_DIRS": str(root / "pkgs"),
        "MAMBA_ROOT_PREFIX": str(root),
    }


def make_venv(place: Path) -> Path:
    """Make a virtual environment without pip."""
    venv.create(place, with_pip=False, symlinks=True)
    assert (place / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}").exists()
    return place


def exports(variables: dict[str, str]) -> Sequence[str]:
    """Return the set-up commands that set variables."""
    return [f"export {name}='{value}'" for name, value in variables.items()]
