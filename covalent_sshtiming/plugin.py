"""What both executors are: Covalent's calls, one task through, one cancel.

Covalent loads the plugin modules in the middle of its own import and builds a new executor for every
electron, so importing this is cheap, an instance holds nothing but settings (no secret among them),
and what outlives an instance is in `host.pool` and in `_live` and `_cancelled` below.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import covalent_sshtiming.early  # noqa: F401 - before the rest

# isort: split
from covalent._shared_files import TaskRuntimeError
from covalent._shared_files.config import get_config
from covalent._shared_files.exceptions import TaskCancelledError
from covalent._shared_files.util_classes import RESULT_STATUS
from covalent.executor.base import AsyncBaseExecutor
from covalent.executor.schemas import TaskUpdate

from covalent_sshtiming import errors, outcomes, sending, settings
from covalent_sshtiming.electron import Call, ResultBuilder, take_apart
from covalent_sshtiming.fetched import Wanted
from covalent_sshtiming.fetching import Fetching
from covalent_sshtiming.host import pool
from covalent_sshtiming.host.host import Host
from covalent_sshtiming.host.task import Outcome, Request
from covalent_sshtiming.options import LOCAL, Plugin, Settings
from covalent_sshtiming.outputs import Outputs, place
from covalent_sshtiming.reach import request_of, target_of
from covalent_sshtiming.stopping import finished, server_is_stopping
from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import TimingRecord

_log = logging.getLogger(__name__)
_TaskId = tuple[str, int]
_TOMBSTONES = 10_000
# Shared by all instances of this process, each changed in one synchronous step: the tasks under
# way, and those that were cancelled before they came (bounded, oldest forgotten first).
_live: dict[_TaskId, tuple[Host, Request]] = {}
_cancelled: OrderedDict[_TaskId, None] = OrderedDict()


class TaskEnded(TaskRuntimeError):  # type: ignore[misc] # Covalent has no type information
    """What Covalent is told of a task that had started and failed: it keeps the task's output."""


class TimingBase(AsyncBaseExecutor):  # type: ignore[misc] # Covalent has no type information
    """What Covalent asks of an executor; each of ours says by `plugin` which options it has."""

    def __init__(self, plugin: Plugin, options: Mapping[str, Any]) -> None:
        rest = dict(options)
        # Covalent hands a whole section over, `hosts` with it; `resolve` then says what is wrong where.
        if "hosts" not in rest:
            settings.check_names(rest, plugin.arguments, plugin)
        base = {"log_stdout": "", "log_stderr": "", "cache_dir": "", "time_limit": 0, "retries": 0}
        super().__init__(**{name: rest.pop(name, None) or default for name, default in base.items()})
        for name in ("timing_filepath", "ssh_key_file", "known_hosts_file", "send"):
            if rest.get(name):
                rest[name] = settings.absolute_from_caller(rest[name])
        self.__dict__.update(rest)

    def _plugin(self) -> Plugin:
        raise NotImplementedError  # each of the two executors says which it is

    # ---- Covalent's calls

    async def run(
        self,
        function: Callable[..., Any],
        args: list[Any],
        kwargs: dict[str, Any],
        task_metadata: dict[str, Any],
    ) -> Any:
        """Run one task and return its result as a TransportableObject.

        Raises:
            TaskCancelledError: it was cancelled.
            TaskEnded: it had started and failed; its output and our sentence are in `task_stderr`.
            SSHTimingError: it never started; the subclass and its text say why.
        """
        task = (str(task_metadata["dispatch_id"]), int(task_metadata["node_id"]))
        if task in _cancelled:
            raise TaskCancelledError
        plugin = self._plugin()
        found = settings.resolve(self._arguments(), _section(plugin), plugin)
        results = str(task_metadata.get("results_dir", ""))
        files = Outputs(
            {1: place(found.log_stdout, results, *task), 2: place(found.log_stderr, results, *task)}
        )
        run = _Run(self, found, task, take_apart(function, args, kwargs), files, local=plugin is LOCAL)
        if found.fetch:
            run.fetching = Fetching(_wanted(found, results, task))
        try:
            return await run.through()
        finally:
            self.tell(stderr=await files.finish())

    async def cancel(self, task_metadata: dict[str, Any], job_handle: Any) -> bool:  # noqa: ARG002 - Covalent's signature
        """Stop a task of this process, also one that has yet to come; one that has ended stays so.

        A stopping server cancels everything, one dispatch after the other. Here that is done in one step,
        so that the end of one task does not let another begin; tasks that are to be left are not touched.
        """
        task = (str(task_metadata["dispatch_id"]), int(task_metadata["node_id"]))
        _cancelled[task] = None
        while len(_cancelled) > _TOMBSTONES:
            _cancelled.popitem(last=False)
        if server_is_stopping():
            ending = [(host, request) for host, request in _live.values() if not request.leave]
        else:
            ending = [_live[task]] if task in _live else []
        for host, request in ending:
            host.cancel(request.key)
        return True

    async def receive(self, task_group_metadata: dict[str, Any], data: Any) -> list[TaskUpdate]:  # noqa: ARG002 - Covalent's signature
        """Tell Covalent that nodes which were cancelled before they started are CANCELLED."""
        return [
            TaskUpdate(
                dispatch_id=task_group_metadata["dispatch_id"],
                node_id=node,
                status=RESULT_STATUS.CANCELLED,
                assets={},
            )
            for node in task_group_metadata["node_ids"]
        ]

    async def write_streams_to_file(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: log_stdout and log_stderr were written while the task ran."""

    def _arguments(self) -> dict[str, Any]:
        """Return what was set on this instance, without Covalent's own attributes."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def tell(self, stdout: bytes = b"", stderr: str = "") -> None:
        """Write to the node's streams, which exist only under a dispatcher."""
        if self.task_stdout is not None:
            self.task_stdout.write(stdout.decode("utf-8", "replace"))
        if self.task_stderr is not None:
            self.task_stderr.write(stderr)


class _Run:
    """One task on its way through: request, outcome, record, acknowledgement."""

    def __init__(
        self, executor: TimingBase, found: Settings, task: _TaskId, call: Call, files: Outputs, *, local: bool
    ) -> None:
        self.executor = executor
        self.files = files
        self.settings = found
        self.task = task
        self.call = call
        self.local = local
        self.label = found.host_label
        self.key = os.urandom(16).hex()
        self.log = TimingLog(found.timing_filepath)
        self.submitted = datetime.now(timezone.utc)
        self.builder = ResultBuilder(found.max_result_bytes)
        self.fetching: Fetching | None = None
        self.sent: list[sending.Local] = []
        self.request = self._requested()

    def _requested(self) -> Request:
        request = request_of(self.settings, self.call, self.task, self.key, self.sent)
        request.files = self.fetching
        request.live = self.files.put if self.files else None
        request.leave = self.settings.on_shutdown == "leave"
        return request

    def say(self, text: str) -> None:
        """Add words of ours to the task's stderr, on the node and in its file."""
        self.executor.tell(stderr=text)
        self.files.put(2, text.encode("utf-8", "replace"))

    async def through(self) -> Any:
        """See the task through, whatever happens."""
        try:
            await self._prepare()
        except asyncio.CancelledError:
            raise TaskCancelledError from None
        try:
            host, outcome = await self._there_or_here()
        except asyncio.CancelledError:
            # Covalent would leave the node RUNNING for ever if this one escaped.
            await self._settle_files()
            if not self.request.leave:
                await self._record({"status": "cancelled"})
            raise TaskCancelledError from None
        except errors.SSHTimingError as error:
            await self._settle_files()
            await self._record(outcomes.record_of_error(error))
            self._raise(error)
        finally:
            _live.pop(self.task, None)
        return await self._conclude(host, outcome)

    async def _prepare(self) -> None:
        """Look at what is wanted of this machine's disk, before anything is sent; raises ConfigError."""
        if not self.log.was_writable():
            await asyncio.to_thread(self.log.check_writable)
        if self.settings.send:
            found = self.settings
            self.sent = await asyncio.to_thread(sending.find, found.send, found.send_max_bytes)
        if self.settings.send or self.settings.fetch:
            self.request = self._requested()

    async def _settle_files(self, *, completed: bool = False) -> None:
        """Have all files written that came, and say what did not go as asked."""
        if self.fetching is not None:
            brought = await self.fetching.finish()
            self.say(brought.warnings(self.settings.host_label, completed=completed))

    async def _there_or_here(self) -> tuple[Host, Outcome]:
        """Run it on its machine; or here, if that is allowed and it has certainly not begun there.

        Host keys are no reason for that: a machine that is not to be trusted is to be heard of.
        """
        try:
            return await self._run()
        except (errors.ConnectError, errors.AuthError) as error:
            if self.request.left or not self.settings.run_local_on_ssh_fail:
                raise
            _log.warning("task.local host=%s error=%s", self.label, error)
            self.say(f"warning: {error} So this task ran on the dispatcher's machine.\n")
        self.settings, self.local = settings.run_here(self.settings, _section(LOCAL)), True
        self.request = self._requested()
        return await self._run()

    async def _run(self) -> tuple[Host, Outcome]:
        host = pool.host_for(target_of(self.settings, self.call.python, local=self.local))
        _live[self.task] = (host, self.request)
        if self.task in _cancelled:  # while we looked at the log
            raise TaskCancelledError
        return host, await host.run(self.request, self.builder)

    async def _conclude(self, host: Host, outcome: Outcome) -> Any:
        """Bring result and record to safety, then let the far side forget the task."""
        error = outcomes.error_of(outcome, self.settings.host_label, self.call.name)
        self.executor.tell(outcome.stdout, outcome.stderr.decode("utf-8", "replace"))
        if outcome.doubt:
            self.say(f"warning: {outcome.doubt}\n")
        result = None
        if error is None and outcome.ended.get("status") == "completed":
            try:
                result = self.builder.finish()
            except errors.TaskError as cause:
                error = type(cause)(f"{self.settings.host_label}: {self.call.name}: {cause}")
        await self._settle_files(completed=outcome.ended.get("status") == "completed")
        await self._record(outcomes.record_of(outcome, error))
        host.acknowledge(self.key, keep=not self.settings.do_cleanup)
        if outcome.ended.get("status") == "cancelled":
            raise TaskCancelledError
        if error is not None:
            self._raise(error)
        return result

    def _raise(self, error: errors.SSHTimingError) -> None:
        """Raise what Covalent understands: its own class keeps the task's output, ours shows its text."""
        if not error.after_start:
            raise error
        traceback = getattr(error, "traceback", "")
        self.say(f"{traceback.rstrip()}\n{error}\n" if traceback else f"{error}\n")
        raise TaskEnded(str(error)) from error

    async def _record(self, figures: Mapping[str, Any]) -> None:
        """Append the record; a log that fails now costs the record's place, not the result."""
        record = TimingRecord.from_mapping({**figures, **self._known()})
        try:
            await finished(asyncio.get_running_loop().run_in_executor(None, self.log.append, record))
        except Exception as error:  # noqa: BLE001 - a lost record must not lose the result: it goes to stderr instead
            _log.warning("timing log failed: %s", error)
            self.say(f"warning: {error}\nthe record: {record.to_json()}\n")

    def _known(self) -> dict[str, Any]:
        return {
            "record_id": self.key,
            "dispatch_id": self.task[0],
            "node_id": self.task[1],
            "attempt": 1,
            "function": self.call.name,
            "kind": self.call.kind,
            "host": self.label,
            "ran_locally": self.local,
            "plugin_version": outcomes.plugin_version(),
            "submitted_at": outcomes.timestamp(self.submitted.timestamp()),
            "request_bytes": self.request.size,
            "result_bytes": self.builder.size,
            **self._files_known(),
        }

    def _files_known(self) -> dict[str, Any]:
        known = self.fetching.brought.record() if self.fetching is not None else {}
        if self.settings.send:
            known["sent_files"] = len(self.sent)
            known["sent_bytes"] = sum(local.size for local in self.sent)
        return known


def _wanted(found: Settings, results_dir: str, task: _TaskId) -> Wanted:
    """Return which files are to come, and where to: by default into a directory of the node's own."""
    dispatch = place(".", results_dir, *task)
    base = place(found.fetch_to, results_dir, *task) or dispatch
    assert base is not None  # noqa: S101 - a name was given
    inner = "" if found.fetch_to else f"node_{task[1]}"
    return Wanted(base, inner, found.fetch, found.fetch_max_bytes, found.fetch_max_files, dispatch=dispatch)


def _section(plugin: Plugin) -> dict[str, Any]:
    """Return an executor's table in covalent.conf as the server has it now."""
    try:
        section = get_config(f"executors.{plugin.section}")
    except KeyError:
        return {}
    return dict(section) if isinstance(section, Mapping) else {}
