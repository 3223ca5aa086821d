"""Hooks: what Covalent runs before and after the user's function, on the task's own machine.

Owns the three kinds: `call` (any pickled function), `pip` and `bash` (Covalent's DepsPip and
DepsBash, which are pickled by reference to covalent; `deps` does their work). Returned values are
collected as Covalent's wrapper does.
"""

from typing import Any, Callable, Dict, List

from . import deps

FILES_KEY = "files"  # Covalent hands values under this keyword over as a list, even a single one


def run(hook: "Dict[str, Any]", load: "Callable[[int], Any]", spool: str) -> Any:
    """Run one hook and return its value; `load(i)` unpickles its i-th part."""
    arguments, keywords = load(1), load(2)
    if hook["kind"] == "pip":
        return deps.pip(spool, *arguments, **keywords)
    if hook["kind"] == "bash":
        return deps.bash(*arguments, **keywords)
    return load(0)(*arguments, **keywords)


def collect(values: "Dict[str, List[Any]]") -> "Dict[str, Any]":
    """Turn the values under each keyword into arguments, as Covalent's wrapper does."""
    return {key: found[0] if len(found) == 1 and key != FILES_KEY else found for key, found in values.items()}
