"""What tests hang around a function: Deps as the dispatcher hands them over, and a wheel to install."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from typing import Any

import cloudpickle

from support.there import There

# This module is not on the far side, so its functions travel by value, as those of a script do.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


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
