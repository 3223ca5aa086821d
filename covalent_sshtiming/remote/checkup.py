"""What `covalent-sshtiming check` has run on a machine: a look around, and a piece of work of known size.

Each is the function of a task like any other, named by its module, so that nothing of it has to be pickled
there and back. What it found goes to its standard output, as one line of JSON.
"""

import importlib.util
import json
import os
import sys
from typing import Any, Dict, Optional

from . import places

ROUNDS = 200000  # some ten milliseconds of a CPU's time


def look_around(spool: str) -> None:
    """Print where things are kept, the room that is there (`statvfs`), and which modules."""
    import cloudpickle

    cache = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found: "Dict[str, Any]" = {
        "cloudpickle": cloudpickle.__version__,
        "pip": importlib.util.find_spec("pip") is not None,
    }
    for name, path in (("cache", cache), ("spool", places.spool_base(spool)), ("workdir", os.getcwd())):
        found[name] = path
        found[name + "_free"] = _free(path)
    sys.stdout.write(json.dumps(found) + "\n")


def _free(path: str) -> "Optional[int]":
    """Return the bytes that this user may still write there."""
    try:
        room = os.statvfs(path)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def work() -> None:
    """Add up squares, and print the sum."""
    total = sum(number * number for number in range(ROUNDS))
    sys.stdout.write(json.dumps({"sum": total}) + "\n")
