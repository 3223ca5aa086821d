"""Virtual environments on the machine that a test's tasks run on.

A machine behind a named sshd may have neither pip nor ensurepip: then the environment is given our own pip.
"""

from __future__ import annotations

import io
import venv
import zipfile
from pathlib import Path

import pip as our_pip

from support.there import FarPath, There

_UNPACK = """
import sys, sysconfig, zipfile
zipfile.ZipFile(sys.argv[1]).extractall(sysconfig.get_paths()["purelib"])
"""


def make_environment(place: There, *, pip: bool) -> str:
    """Make an environment with pip or with nothing in it; return the path of its Python."""
    python = str(place / "bin" / "python")
    if not isinstance(place, FarPath):
        venv.create(place, with_pip=pip, symlinks=True)
        return python
    place.shell.run(place.shell.python, "-m", "venv", "--without-pip", str(place))
    if pip:
        packed = place / "pip.zip"
        packed.write_bytes(_pip())
        place.shell.run(python, "-c", _UNPACK, str(packed))
    return python


def _pip() -> bytes:
    """Return the pip of our own environment, which is the Python source of one package."""
    package = Path(our_pip.__file__).parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in package.rglob("*"):
            if path.suffix != ".pyc":
                archive.write(path, path.relative_to(package.parent))
    return packed.getvalue()
