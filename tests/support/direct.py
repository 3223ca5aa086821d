"""The executor without a dispatcher: one call at a time, as the dispatcher would make it.

    async with direct.machine(sshd, short_directory, max_parallel=2) as machine:
        ran = await machine.run(function, 1, before=[...], name="kwarg")
        assert ran.value == 2

`machine_at` is the same for a server that may be on another machine.

A function that runs there has to be a lambda or one defined inside another: Covalent pickles those by
value, and those of a test module by their name, which the far side does not know.

Covalent is imported here under a configuration of its own, and nothing of the user's is read.
"""

from __future__ import annotations

import asyncio
import functools
import io
import itertools
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, cast

import psutil
from typing_extensions import TypeVar

from covalent_sshtiming.demo.processes import private_environment
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.remote import places
from support import there
from support.named import Server
from support.there import FarPath, There


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# Covalent reads its configuration, and writes the defaults of one, while it is imported.
with (
    tempfile.TemporaryDirectory(prefix="sst-covalent-") as _home,
    _environment(private_environment(Path(_home))),
    warnings.catch_warnings(),
):
    warnings.simplefilter("ignore")
    from covalent._shared_files.exceptions import TaskCancelledError
    from covalent._workflow.transport import TransportableObject
    from covalent.executor.utils.wrappers import wrapper_fn

    from covalent_sshtiming.host import pool
    from covalent_sshtiming.host.host import Host
    from covalent_sshtiming.localtiming import TimingExecutor
    from covalent_sshtiming.plugin import TaskEnded, TimingBase
    from covalent_sshtiming.sshtiming import TimingSSHExecutor

__all__ = [
    "Host",
    "Machine",
    "Ran",
    "TaskCancelledError",
    "TaskEnded",
    "TimingSSHExecutor",
    "TransportableObject",
    "here",
    "hook",
    "machine",
    "pool",
    "transportable",
]

_nodes = itertools.count()

# Where a machine's files are: here, unless a test says that they may be elsewhere.
P = TypeVar("P", bound=There, default=Path)


@dataclass(frozen=True)
class Ran:
    """What came of one call: the transported result or the error, and the node's streams."""

    result: Any
    stdout: str
    stderr: str
    error: BaseException | None = None

    @property
    def value(self) -> Any:
        """Unpickle the result, as a client would; raises what the executor raised."""
        if self.error is not None:
            raise self.error
        return self.result.get_deserialized()


@dataclass(frozen=True)
class Machine(Generic[P]):
    """A way to one SSH server: its settings, its spool there and its timing log here."""

    settings: dict[str, Any]
    spool: P
    log: Path
    kind: Callable[..., TimingBase] = TimingSSHExecutor

    def executor(self, **options: Any) -> TimingBase:
        """Return a new executor with fresh streams, as Covalent makes one for every electron."""
        executor = self.kind(**{**self.settings, **options})
        executor._task_stdout, executor._task_stderr = io.StringIO(), io.StringIO()
        return executor

    async def run(
        self,
        function: Any,
        *args: Any,
        before: Sequence[Any] = (),
        after: Sequence[Any] = (),
        dispatch_id: str = "dispatch",
        node_id: int | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Ran:
        """Run one call; never raises for what the executor raises.

        Args:
            function: a callable, or a TransportableObject; so are the arguments.
            args: its positional arguments.
            before: hooks in the dispatcher's form: (function, args, kwargs, retval_keyword), transported.
            after: the same, for after the call.
            dispatch_id: as Covalent knows it.
            node_id: the same; by default a number not used before.
            options: settings of this call only.
            kwargs: keyword arguments of the function.
        """
        executor = self.executor(**(options or {}))
        target, *values = map(transportable, (function, *args))
        wrapped = functools.partial(wrapper_fn, target, list(before), list(after))
        named = {name: transportable(value) for name, value in kwargs.items()}
        metadata = {
            "dispatch_id": dispatch_id,
            "node_id": next(_nodes) if node_id is None else node_id,
            "results_dir": str(self.log.parent),
        }
        result, error = None, None
        try:
            result = await executor.run(wrapped, values, named, metadata)
        except asyncio.CancelledError:
            raise
        except Exception as raised:  # noqa: BLE001 - the test looks at it
            error = raised
        return Ran(result, executor.task_stdout.getvalue(), executor.task_stderr.getvalue(), error)

    @property
    def name(self) -> str:
        """What the executor calls the machine."""
        return str(self.settings["hostname"])

    @property
    def host(self) -> Host:
        """The only warm host of the running loop."""
        (host,) = pool.hosts()
        return host

    def records(self) -> list[dict[str, Any]]:
        """Return the timing log's records."""
        path = self.log.with_name(self.log.name + ".jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def agents(self) -> set[int]:
        """Return the process ids of the agents that live in the spool."""
        return agents(self.spool)

    def alive(self, pid: int) -> bool:
        """Tell whether a process lives there, zombies not counted."""
        return there.alive(pid, self.spool)


def transportable(value: Any) -> Any:
    """Return a value as Covalent transports it; what is transportable stays as it is."""
    return TransportableObject.make_transportable(value)


def call(function: Any, *args: Any) -> tuple[Any, list[Any], dict[str, Any]]:
    """Return a call without hooks in the dispatcher's form: the wrapped function, its arguments."""
    return functools.partial(wrapper_fn, transportable(function), [], []), [*map(transportable, args)], {}


def hook(
    function: Callable[..., Any], *args: Any, retval: str = "", **kwargs: Any
) -> tuple[Any, Any, Any, str]:
    """Return a call_before or call_after hook in the dispatcher's form."""
    return transportable(function), transportable(list(args)), transportable(kwargs), retval


@asynccontextmanager
async def machine(server: SSHServer, directory: Path, **options: Any) -> AsyncIterator[Machine]:
    """Reach a server of ours with a spool and a log of its own; on leaving, connections and agents are gone.

    Args:
        server: a running private SSH server.
        directory: where spool, log and the near HOME go; its path has to be short (a socket's is bounded).
        options: settings of the executor. By default `python_path` is this very Python and the agent
            lives 5 seconds longer than its last task; "" takes a default away.
    """
    async with machine_at(server, directory, directory, **options) as reached:
        yield reached


@asynccontextmanager
async def machine_at(server: Server, directory: Path, far: P, **options: Any) -> AsyncIterator[Machine[P]]:
    """Reach a server that may be on another machine, where the spool goes into the directory `far`.

    There the Python is what the server's own settings say, or else found by the executor.
    """
    python = {} if isinstance(far, FarPath) else {"python_path": sys.executable}
    settings = {"hostname": server.host, **python, **server.settings(), **options}
    async with _reached(directory, far, TimingSSHExecutor, settings) as reached:
        yield reached


@asynccontextmanager
async def here(directory: Path, **options: Any) -> AsyncIterator[Machine]:
    """Run on this machine by TimingExecutor, as `machine` does by SSH."""
    async with _reached(directory, directory, TimingExecutor, options) as reached:
        yield reached


@asynccontextmanager
async def _reached(
    directory: Path, far: P, kind: Callable[..., TimingBase], options: Mapping[str, Any]
) -> AsyncIterator[Machine[P]]:
    home = directory / "near"
    home.mkdir(parents=True, exist_ok=True)
    spool, log = cast("P", far / "spool"), directory / "timing.log"
    settings = {"remote_spool": str(spool), "timing_filepath": log, "idle_timeout": 5, **options}
    reached = Machine(settings, spool, log, kind)
    with _environment({"HOME": str(home)}):
        try:
            yield reached
        finally:
            await pool.close_all()
            await asyncio.to_thread(end_agents, spool)


def _living(path: Path) -> int | None:
    """Return the process id in a pid file whose lock is held; else another process may have it by now."""
    with suppress(OSError, ValueError, KeyError):
        if places.is_locked(str(path)):
            return int(json.loads(path.read_text())["pid"])
    return None


def agents(spool: There) -> set[int]:
    """Return the process ids of the agents that live in a spool."""
    if isinstance(spool, FarPath):
        return there.far_agents(spool)
    return set(filter(None, map(_living, spool.glob("agents/*.pid"))))


def end_agents(spool: There) -> None:
    """Kill the agents of a spool, with the supervisors that wait ahead, and wait until they are gone."""
    if isinstance(spool, FarPath):
        there.far_agents(spool, signal.SIGKILL)
        return
    living, family = [], []
    for pid in agents(spool):
        with suppress(psutil.NoSuchProcess):  # an idle one may go by itself meanwhile
            living.append(psutil.Process(pid))
            family += living[-1].children(recursive=True)
    for process in (*living, *family):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(_lives(process) for process in (*living, *family)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
