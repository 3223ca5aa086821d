"""Values that another Python has pickled, as Covalent's client of that version would send them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import cloudpickle

from support import direct

# Run by the interpreter that is to pickle. What the source defines is in `__main__`, so it travels by value.
_PICKLING = """
import base64, json, platform, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import cloudpickle

def transported(value):
    return {
        "_object": base64.b64encode(cloudpickle.dumps(value)).decode(),
        "_object_string": str(value),
        "_header": {
            "py_version": platform.python_version(),
            "cloudpickle_version": cloudpickle.__version__,
            "attrs": {"doc": getattr(value, "__doc__", ""), "name": getattr(value, "__name__", "")},
        },
    }

source, expressions = json.load(sys.stdin)
exec(source, globals())
print(json.dumps([transported(eval(expression)) for expression in expressions]))
"""


def pickled_by(interpreter: Path | str, source: str, *expressions: str) -> list[Any]:
    """Return what expressions after a source text are worth, pickled by an interpreter with our cloudpickle.

    Args:
        interpreter: the Python that pickles; it needs no package of its own.
        source: statements that define what the expressions name; in that Python's grammar.
        expressions: one for each value.
    """
    package = str(Path(cloudpickle.__file__).parents[1])
    ran = subprocess.run(
        [interpreter, "-c", _PICKLING, package],
        input=json.dumps([source, expressions]),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [direct.TransportableObject.from_dict({"attributes": one}) for one in json.loads(ran.stdout)]
