"""Reserved: Covalent's own files in a dispatch's directory, whose names no fetched file may have there.

Covalent keeps functions, values and results in that directory as pickles, and reads them back: a machine's
file in the place of one would be unpickled by whoever asks for the result.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

NAMES = frozenset(
    {
        "function.tobj",
        "function_string.txt",
        "function_docstring.txt",
        "value.tobj",
        "inputs.tobj",
        "results.tobj",
        "stdout.log",
        "stderr.log",
        "error.log",
        "hooks.json",
        "call_before.json",
        "call_after.json",
        "executor_data.pkl",
        "workflow_executor_data.pkl",
    }
)
_NODE = re.compile(r"node_\d+")


def is_covalents(path: Path, dispatch: Path) -> bool:
    """Whether `path` is, or is below, a file of Covalent's in the directory of a dispatch or of its node."""
    here, top = (Path(os.path.normpath(one).casefold()) for one in (path, dispatch))  # some disks fold case
    if not here.is_relative_to(top):
        return False
    parts = here.relative_to(top).parts
    if parts and _NODE.fullmatch(parts[0]):
        parts = parts[1:]
    return bool(parts) and parts[0] in NAMES
