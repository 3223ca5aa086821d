"""The worker: the process that runs the user's function, from the request to the result on disk.

Owns its standing (directory, environment, umask, streams), the order of Covalent's own wrapper
(hooks before, load, call, hooks after, dump) and a mark at every boundary. It leaves `result` in the
task directory, where there is one, and a report on the board always, and ends by `os._exit`: no
atexit, no joining of what the user left behind. The supervisor makes the outcome of it.
"""

import io
import json
import os
import platform
import sys
import time
import traceback
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple

from . import cgroup, culprit, hooks, phases, places, surroundings
from .board import Board

SMALL = 64 * 1024  # bytes of a request that is read at once
TRACEBACK_CHARS = 16000
TEXT_CHARS = 4000
SHORT_STRING = 64 * 1024  # a bytes result longer than this is not spelt out; see _string_of


class TooLarge(Exception):
    """The pickled result passed the cap."""


class CannotSpawn(Exception):
    """No fresh interpreter is to be had for a task that wants one; the text says why."""


class Request:
    """A request: the spec, and each pickled part at its offset."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._skip_head()
        self.spec: "Dict[str, Any]" = json.loads(self._file.read(self._number()).decode("utf-8"))
        self._at = self._file.tell()

    @classmethod
    def at(cls, path: str) -> "Request":
        """Open a request file; a small one is in memory then."""
        handle = places.open_file(path)
        beginning = os.read(handle, SMALL)
        if len(beginning) < SMALL:
            os.close(handle)
            return cls(io.BytesIO(beginning))
        os.lseek(handle, 0, os.SEEK_SET)
        return cls(os.fdopen(handle, "rb"))

    def _number(self) -> int:
        return int.from_bytes(self._file.read(4), "big")

    def _skip_head(self) -> None:
        self._file.seek(4 + self._number())

    def take(self, size: int) -> "Callable[[], Any]":
        """Return a function that unpickles the next `size` bytes."""
        at, self._at = self._at, self._at + size

        def load() -> Any:
            import cloudpickle

            self._file.seek(at)
            return cloudpickle.load(self._file)

        return load

    def keep(self, size: int) -> "Callable[[], Any]":
        """Return a function that unpickles the next `size` bytes, which are read into memory now."""
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += size

        def load() -> Any:
            import cloudpickle

            return cloudpickle.loads(data)

        return load

    def rest(self) -> BinaryIO:
        """Return the file at what comes behind all pickled parts."""
        spec = self.spec
        hooks_of = [hook["parts"] for hook in (*spec["before"], *spec["after"])]
        sizes = [spec["function_size"], *spec["args"], *(size for _, size in spec["kwargs"])]
        self._file.seek(self._at + sum(sizes) + sum(map(sum, hooks_of)))
        return self._file

    def close(self) -> None:
        """Let go of the file, which is already gone from the directory."""
        self._file.close()


def run(
    directory: str,
    spool: str,
    mask: int,
    environment: "Dict[str, str]",
    marks: phases.Phases,
    board: Board,
    afresh: "Optional[Callable[[str, float, Dict[str, str]], None]]" = None,
) -> None:
    """Run the task in `directory` to its report; never raises, never returns to the caller's loop.

    `environment` is what goes with the task's slots and devices. `afresh` replaces this process by a new
    interpreter for a task that asks for one; it is given the directory, the moment when this process was
    woken, and the variables that the other is to have.
    """
    report: "Dict[str, Any]" = {"status": "failed"}
    owner = os.getpid()
    try:
        os.umask(0o077)
        request = Request.at(os.path.join(directory, places.REQUEST))
        if afresh is not None:
            if request.spec.get("isolation") == "spawn":
                afresh(directory, marks.woken, dict(environment, **request.spec["env"]))
            board.keep_to_ourselves()
        os.unlink(os.path.join(directory, places.REQUEST))
        os.environ.update(environment)
        _stand(request.spec, mask)
        if request.spec.get("send") or request.spec.get("fetch"):
            _stage(request, directory)
        report = _perform(request, marks, os.path.join(directory, places.RESULT), spool)
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is an outcome
        _end_if_copy(owner, error)
        report["error"] = dict(describe(error, marks.name), phase=marks.name)
    marks.enter("exit")
    _flush()
    board.leave(dict(report, call=marks.call, left=marks.left))
    _close_streams()


def _close_streams() -> None:
    """Let the streams go, which wakes the supervisor."""
    for handle in (1, 2):
        try:
            os.close(handle)
        except OSError:  # by the user's function
            pass


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
    return _dump(value, path, int(spec["max_result_bytes"]), owner)


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


class _Capped:
    """A file that refuses to grow past a cap; for the pickler, which only writes."""

    def __init__(self, file: BinaryIO, cap: int) -> None:
        self._file = file
        self._left = cap

    def write(self, data: bytes) -> int:
        """Write `data`, or raise TooLarge."""
        self._left -= memoryview(data).nbytes  # large buffers come as pickle.PickleBuffer's view
        if self._left < 0:
            raise TooLarge
        return self._file.write(data)


def _dump(value: Any, path: str, cap: int, owner: int) -> "Dict[str, Any]":
    """Write header, string and pickle of the result; return the report of it."""
    import cloudpickle

    header = json.dumps(_header_of(value, cloudpickle.__version__)).encode("utf-8")
    string = _string_of(value).encode("utf-8", "backslashreplace")
    temporary = path and path + ".tmp"
    try:
        with _new_file(temporary) as file:
            file.write(header)
            file.write(string)
            cloudpickle.Pickler(_Capped(file, cap)).dump(value)
            _end_if_copy(owner)
            size = file.tell()
        if path:
            os.rename(temporary, path)
    except Exception as error:  # noqa: BLE001 - a pickler may raise anything
        _end_if_copy(owner)
        places.discard(temporary)  # half a result is of no use, and the outcome may need its room
        return {"status": "failed", "error": _dump_error(error, value, path, cap)}
    parts = [len(header), len(string), size - len(header) - len(string)]
    return {"status": "completed", "result": parts}


def _new_file(path: str) -> BinaryIO:
    """Return a file that is there for this user only, because the umask may give all away by now.

    Without a path it is in memory.
    """
    if not path:
        return io.BytesIO()
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _dump_error(error: BaseException, value: Any, path: str, cap: int) -> "Dict[str, Any]":
    if isinstance(error, TooLarge):
        return _error("ResultTooLarge", "the pickled result is larger than %d bytes" % cap, None)
    if isinstance(error, (OSError, MemoryError)):
        return _error(
            "TransferError", "the result could not be written to %s: %s" % (path, _text(error)), None
        )
    way, part = culprit.find(value)
    because = ", because result%s is a %s" % (way, type(part).__name__) if way else ""
    text = "a %s cannot be pickled%s: %s" % (type(value).__name__, because, _text(error))
    return _error("ResultError", text, error)


def _header_of(value: Any, cloudpickle_version: str) -> "Dict[str, Any]":
    """Describe the value as Covalent's TransportableObject does."""
    attributes = {"doc": getattr(value, "__doc__", ""), "name": getattr(value, "__name__", "")}
    return {
        "py_version": platform.python_version(),
        "cloudpickle_version": cloudpickle_version,
        "attrs": {key: v if isinstance(v, str) or v is None else "" for key, v in attributes.items()},
    }


def _string_of(value: Any) -> str:
    """Return `str(value)`, which Covalent shows and, for sublattices, reads.

    Only exact bytes are shortened, which are never read back: spelt out they are up to four
    times the result itself.
    """
    if type(value) in (bytes, bytearray) and len(value) > SHORT_STRING:
        return "%s of %d bytes, beginning %r" % (type(value).__name__, len(value), bytes(value[:64]))
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        return "<%s that cannot be shown>" % type(value).__name__


def describe(error: BaseException, phase: str) -> "Dict[str, Any]":
    """Describe what ended a task, in plain text and a class the near end knows."""
    if isinstance(error, (hooks.PipUnusable, CannotSpawn)):
        return _error("RemoteEnvError", str(error), None)
    if isinstance(error, ModuleNotFoundError) and error.name:
        found = _error("RemoteEnvError", _text(error), error)
        found["module"] = error.name.split(".")[0][:200]
        return found
    if isinstance(error, places.Unready):
        return dict(_error("TransferError", str(error), None), files=True)
    if phase == "start":
        return _error("TransferError", _text(error), error)
    if isinstance(error, hooks.HookFailed):
        return dict(_error("TaskFailed", str(error), None), hook=True)
    return _error("TaskFailed", _text(error), error)


def _error(kind: str, text: str, error: "Optional[BaseException]") -> "Dict[str, Any]":
    return {"class": kind, "text": text[:TEXT_CHARS], "traceback": _traceback(error) if error else ""}


def _text(error: BaseException) -> str:
    try:
        return "%s: %s" % (type(error).__name__, error)
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        return "%s (its text cannot be shown)" % type(error).__name__


def _traceback(error: BaseException) -> str:
    """Format the traceback without this package's own frames, head and tail if it is long."""
    own = os.path.dirname(os.path.abspath(__file__))
    tb = error.__traceback__
    while tb is not None and os.path.abspath(tb.tb_frame.f_code.co_filename).startswith(own):
        tb = tb.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, tb))
    except Exception:  # noqa: BLE001 - the user's own __str__ may raise anything
        text = _text(error)
    if len(text) > TRACEBACK_CHARS:
        text = text[: TRACEBACK_CHARS // 2] + "\n[...]\n" + text[-TRACEBACK_CHARS // 2 :]
    return text


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S110 - the user may have closed or replaced it
            pass
