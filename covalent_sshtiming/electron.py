"""Electron: Covalent's call turned into bytes, and bytes turned into Covalent's result.

Owns what is known of Covalent's wrapper: the partial that the dispatcher hands over is taken
apart into its pickled pieces, so that the far side needs cloudpickle and not covalent. Nothing is
unpickled here, in either direction: what came from the user stays base64, what came from the
machine is checked and put into a `TransportableObject` as it is.

Covalent is imported inside the functions: its import loads our plugin, which imports this module,
so an import at the top would fail for whoever comes here first.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pybase64

from covalent_sshtiming.errors import ConfigError, ResultError, ResultTooLarge, TaskError

if TYPE_CHECKING:
    from covalent._workflow.transport import TransportableObject

_PIECE = 64 * 1024 // 3 * 4  # base64 characters that decode to no more than one frame's body
_HEADER_MAX = 4 << 20  # bytes; a docstring is the only long thing in it
_GATHERED = 1 << 20  # bytes of a result between two times that its text is put together
_OWN_NAMES = {"_auto_list_node", "_auto_dict_node", "_build_sublattice_graph", "_postprocess_recursively"}


@dataclass(frozen=True)
class Call:
    """A call as it travels: the electron's name, its Python ("3.11"), and its pickled parts in order.

    `layout` tells the worker what the parts are; each part is Covalent's base64 text.
    """

    name: str
    python: str
    layout: dict[str, Any]
    parts: list[str]

    @property
    def kind(self) -> str:
        """Tell "electron" from "helper", a node that Covalent made by itself: a list, an operator."""
        plain = self.name.isidentifier() or self.name == "<lambda>"
        return "electron" if plain and self.name not in _OWN_NAMES else "helper"

    def body(self, spec: Mapping[str, Any]) -> tuple[int, Callable[[], Iterator[bytes]]]:
        """Return (size in bytes, a function that yields the request's body anew) for a spec."""
        text = json.dumps({**spec, **self.layout}).encode()
        front = len(text).to_bytes(4, "big") + text
        size = len(front) + sum(decoded_size(part) for part in self.parts)

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(front), 65536):
                yield front[start : start + 65536]
            for part in self.parts:
                for start in range(0, len(part), _PIECE):
                    yield pybase64.b64decode(part[start : start + _PIECE], validate=True)

        return size, chunks


def decoded_size(text: str) -> int:
    """Return how many bytes a base64 text stands for."""
    return len(text) // 4 * 3 - text[-2:].count("=")


def take_apart(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Take a call of the dispatcher's apart; raises ConfigError for what cannot be a call."""
    from covalent._workflow.transport import TransportableObject
    from covalent.executor.utils.wrappers import wrapper_fn

    before: Sequence[Any] = ()
    after: Sequence[Any] = ()
    if isinstance(function, functools.partial) and function.func is wrapper_fn:
        target, before, after = function.args
    else:
        target = TransportableObject.make_transportable(function)
    values = [TransportableObject.make_transportable(arg) for arg in args]
    named = {name: TransportableObject.make_transportable(value) for name, value in kwargs.items()}
    parts = [part.get_serialized() for part in (target, *values, *named.values())]
    layout = {
        "function_size": decoded_size(parts[0]),
        "args": [decoded_size(value.get_serialized()) for value in values],
        "kwargs": [[name, decoded_size(value.get_serialized())] for name, value in named.items()],
        "before": [_hook(hook, parts) for hook in before],
        "after": [_hook(hook, parts) for hook in after],
    }
    name = str(target.attrs.get("name") or "electron")
    return Call(name, _minor(str(target.python_version)), layout, parts)


def _hook(hook: Sequence[Any], parts: list[str]) -> dict[str, Any]:
    """Describe one hook and append its three pickled parts."""
    function, args, kwargs, retval = hook
    texts = [piece.get_serialized() for piece in (function, args, kwargs)]
    parts.extend(texts)
    kind = _own_hooks().get(texts[0], "call")
    return {"kind": kind, "parts": [decoded_size(text) for text in texts], "retval": retval or ""}


@functools.cache
def _own_hooks() -> dict[str, str]:
    """Map Covalent's own hooks, which are pickled by reference, to the kinds that the worker does itself."""
    from covalent._workflow.depsbash import apply_bash_commands
    from covalent._workflow.depspip import apply_pip_deps
    from covalent._workflow.transport import TransportableObject

    known = {"pip": apply_pip_deps, "bash": apply_bash_commands}
    return {TransportableObject(function).get_serialized(): kind for kind, function in known.items()}


def _minor(version: str) -> str:
    found = re.match(r"(\d+\.\d+)", version)
    if not found:
        raise ConfigError(
            f"the electron does not say which Python pickled it ({version!r}); build the workflow anew."
        )
    return found[1]


class ResultBuilder:
    """A result as it arrives: header, string and pickle, checked and never unpickled."""

    def __init__(self, max_bytes: int) -> None:
        self.size: int | None = None  # bytes of the pickle
        self._error: TaskError | None = None
        self._max = max_bytes
        self._sizes = [0, 0, 0]
        self._clear()

    def _clear(self) -> None:
        self._received = 0
        self._front = bytearray()
        self._odd = b""
        self._text = ""
        self._texts: list[str] = []  # what is to be added to it
        self._added = 0

    def begin(self, parts: object) -> None:
        """Start anew with the sizes announced; what is wrong with them is told by `finish`."""
        self._clear()
        self._sizes, self._error = [0, 0, 0], None
        if not (
            isinstance(parts, list)
            and len(parts) == 3
            and all(type(size) is int and size >= 0 for size in parts)
        ):
            self._error = ResultError("the result was announced with sizes that make no sense.")
            return
        if parts[0] > _HEADER_MAX or max(parts[1:]) > self._max:
            self._error = ResultTooLarge(
                f"the result has {parts[2]} bytes pickled and {parts[1]} as text, over max_result_bytes = "
                f"{self._max}: return a path or a part of it instead, or raise the cap."
            )
            return
        self._sizes = parts
        self.size = parts[2]

    def add(self, data: bytes) -> None:
        """Take the next bytes; raises ResultError, or ResultTooLarge, for those of a result that is none."""
        if self._error is not None:
            raise self._error
        self._received += len(data)
        if self._received > sum(self._sizes):
            raise ResultError("the result is longer than was announced.")
        room = self._sizes[0] + self._sizes[1] - len(self._front)
        if room:
            self._front += data[:room]
            data = data[room:]
        if data:
            data = self._odd + data
            whole = len(data) // 3 * 3
            self._texts.append(pybase64.b64encode_as_string(data[:whole]))
            self._odd = data[whole:]
            self._added += whole
            if self._added >= _GATHERED:
                self._gather()

    def _gather(self) -> None:
        """Append what has come to the text.

        CPython lets a string grow in place if nothing else refers to it: so a large result is never there
        twice, and no step holds the event loop up as joining all of it in the end would. From 3.11 on it
        does so in code that it has seen run some ten times, by when the text is still short. Each growth may
        move all of it, which takes milliseconds: hence what has come is joined first.
        """
        more = "".join(self._texts)
        text, self._text = self._text, ""
        text += more
        self._text = text
        self._texts.clear()
        self._added = 0

    def finish(self) -> TransportableObject:
        """Return Covalent's object around the checked parts; raises ResultError or ResultTooLarge."""
        from covalent._workflow.transport import TransportableObject

        if self._error is not None:
            raise self._error
        if self.size is None or self._received != sum(self._sizes):
            raise ResultError("the result is shorter than was announced.")
        self._texts.append(pybase64.b64encode_as_string(self._odd))
        self._gather()
        front = bytes(self._front)
        attributes = {
            "_header": _checked_header(front[: self._sizes[0]]),
            "_object_string": front[self._sizes[0] :].decode("utf-8", "replace"),
            "_object": self._text,
        }
        self._clear()
        return TransportableObject.from_dict({"attributes": attributes})


def _checked_header(text: bytes) -> dict[str, Any]:
    """Keep of a result's header what Covalent's has, and only as text."""
    try:
        header = json.loads(text)
        attributes = header["attrs"]
        versions = {name: header[name] for name in ("py_version", "cloudpickle_version")}
        shown = {name: attributes[name] for name in ("doc", "name")}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ResultError("the result's header cannot be read.") from error
    if not all(isinstance(value, str) for value in versions.values()):
        raise ResultError("the result's header has no versions.")
    return {**versions, "attrs": {name: v if isinstance(v, str) else None for name, v in shown.items()}}
