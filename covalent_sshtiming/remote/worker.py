"""The worker: the process that runs the user's function, from the request to the result on disk.

Owns its standing (directory, environment, umask, streams), the order of Covalent's own wrapper
(hooks before, load, call, hooks after, dump) and a mark at every boundary. It leaves `result` in the
task directory, where there is one, and a report on the board always, and ends by `os._exit`: no
atexit, no joining of what the user left behind. The supervisor makes the outcome of it.
"""

import io
import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import causes, cgroup, hooks, phases, places, result, surroundings
from .board import Board
from .request import SMALL, Request


def run(
    directory: str,
    spool: str,
    mask: int,
    environment: "Dict[str, str]",
    marks: phases.Phases,
    board: Board,
    afresh: "Optional[Callable[[str, float], None]]" = None,
    workdir: str = "",
) -> None:
    """Run the task in `directory` to its report; never raises, never returns to the caller's loop.

    `environment` is what goes with the task's slots and devices. `afresh` replaces this process by a new
    interpreter for a task that asks for one, standing where the task is to run and with its variables; it
    is given the directory and the moment when this process was woken. `workdir` is where that one stood.
    """
    report: "Dict[str, Any]" = {"status": "failed"}
    owner = os.getpid()
    try:
        os.umask(0o077)
        request = Request.at(os.path.join(directory, places.REQUEST))
        os.environ.update(environment)
        if afresh is not None:
            if request.spec.get("isolation") == "spawn":
                _stand(request.spec, mask)
                afresh(directory, marks.woken)
            board.keep_to_ourselves()
        os.unlink(os.path.join(directory, places.REQUEST))
        # Where an interpreter of its own stands is not found out twice: the variables may name another home.
        _stand(dict(request.spec, workdir=workdir, unique=False) if workdir else request.spec, mask)
        if request.spec.get("send") or request.spec.get("fetch"):
            _stage(request, directory)
        report = _perform(request, marks, os.path.join(directory, places.RESULT), spool)
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is an outcome
        _end_if_copy(owner, error)
        report["error"] = dict(causes.describe(error, marks.name), phase=marks.name)
    marks.enter("exit")
    _flush()
    board.leave(dict(report, call=marks.call, left=marks.left))


def _end_if_copy(owner: int, error: "Optional[BaseException]" = None) -> None:
    """End here if this is a fork that the user's function made and let return into our code."""
    if os.getpid() == owner:
        return
    _flush()
    code = error.code if isinstance(error, SystemExit) else bool(error)
    os._exit(code if isinstance(code, int) else 1)


def _stand(spec: "Dict[str, Any]", mask: int) -> None:
    """Take up the place in which the user's code expects to run."""
    workdir = os.path.join(os.path.expanduser("~"), os.path.expanduser(spec["workdir"]))
    if spec["unique"]:
        workdir = os.path.join(workdir, spec["dispatch_id"], "node_%s" % spec["node_id"])
    os.umask(mask)
    try:
        os.chdir(workdir)
    except FileNotFoundError:
        os.makedirs(workdir, exist_ok=True)
        os.chdir(workdir)
    os.environ.update(spec["env"])
    os.environ["PWD"] = workdir


def _stage(request: Request, directory: str) -> None:
    """See to the task's files; what that takes is loaded only where there are any."""
    from . import staging

    staging.prepare(request.spec, request.rest(), directory)


def open_streams() -> None:
    """Have Python's standard streams on this process's own descriptors; before there is a task."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115 - the same
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115 - the same
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc] # Final only to type checkers


def rehearse(board: Board, group: "Optional[cgroup.Group]", mask: int) -> int:
    """Go once where each task goes, before there is one; return the bytes of memory that a task begins with.

    A fork pays for every page that it is the first to touch, and a task touches hundreds: paid here, they
    cost the task a third, and the measured interval next to nothing. The memory is the agent's heap, which
    a fork has as its own.
    """
    marks = phases.Phases(time.monotonic(), board, group)
    request = Request(io.BytesIO(rehearsed_request()))
    _stand(request.spec, mask)
    report = _perform(request, marks, "", "")
    marks.enter("exit")
    board.leave(dict(report, call=marks.call, left=marks.left))
    board.clear()
    return surroundings.anonymous()


_kept_request = b""


def rehearsed_request() -> bytes:
    """Return the request of a function that does nothing; made once, in the agent, for all its forks."""
    global _kept_request  # noqa: PLW0603 - a cache without functools, whose own would be one more page
    if not _kept_request:
        import cloudpickle

        function = cloudpickle.dumps(lambda: None)
        spec: "Dict[str, Any]" = dict.fromkeys(("args", "kwargs", "before", "after"), ())
        spec.update(workdir="/", unique=False, env={}, function_size=len(function), max_result_bytes=SMALL)
        text = json.dumps(spec).encode()
        _kept_request = bytes(4) + len(text).to_bytes(4, "big") + text + function
    return _kept_request


def _perform(request: Request, marks: phases.Phases, path: str, spool: str) -> "Dict[str, Any]":
    """Go through the phases in the order of Covalent's wrapper; return the report's beginnings.

    The result goes to a file at `path`; without one, nowhere.
    """
    owner = os.getpid()
    spec = request.spec
    load_function = request.take(spec["function_size"])
    load_args = [request.take(size) for size in spec["args"]]
    load_kwargs = [(name, request.take(size)) for name, size in spec["kwargs"]]
    before = [(hook, [request.take(size) for size in hook["parts"]]) for hook in spec["before"]]
    # In memory, and the file closed before the call: descriptors are the user's to close and to reuse.
    after = [(hook, [request.keep(size) for size in hook["parts"]]) for hook in spec["after"]]

    marks.enter("before")
    injected = _run_hooks(before, spool, owner)
    marks.enter("load")
    _forget_import_caches()
    function = load_function()
    args = [load() for load in load_args]
    kwargs = {name: load() for name, load in load_kwargs}
    kwargs.update(injected)
    request.close()
    _end_if_copy(owner)
    marks.enter("call")
    value = function(*args, **kwargs)
    marks.enter("after")
    _end_if_copy(owner)
    if after:
        try:
            _run_hooks(after, spool, owner)
        finally:
            marks.look_again()
    marks.enter("dump")
    return result.dump(value, path, int(spec["max_result_bytes"]), lambda: _end_if_copy(owner))


def _run_hooks(steps: "List[Tuple[Dict[str, Any], List[Any]]]", spool: str, owner: int) -> "Dict[str, Any]":
    values: "Dict[str, List[Any]]" = {}
    for hook, parts in steps:
        value = hooks.run(hook, lambda index, parts=parts: parts[index](), spool)  # type: ignore[misc] # a bound default
        _end_if_copy(owner)
        if hook["retval"]:
            values.setdefault(hook["retval"], []).append(value)
    return hooks.collect(values)


def let_installed_modules_come_first() -> None:
    """Move our archive to the end of the path: what is installed here wins for the user's code."""
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [path for path in sys.path if path != place] + [place]


def _forget_import_caches() -> None:
    """Let what a hook has just installed be found."""
    import importlib

    importlib.invalidate_caches()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S110 - the user may have closed or replaced it
            pass
