"""Visit: a short connection to a machine by hand, to see its tasks and to fetch, end or remove some.

Owns what the far side says of a task before anybody prints it (bounded, without control characters), and
what fetching means: record into the log, result and the files that it left into theirs, and only then is the
task forgotten there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covalent_sshtiming import outcomes, settings
from covalent_sshtiming.errors import ConfigError, SSHTimingError, TaskDied
from covalent_sshtiming.fetched import Wanted
from covalent_sshtiming.fetching import Fetching
from covalent_sshtiming.host import pool
from covalent_sshtiming.host.host import Host
from covalent_sshtiming.host.task import Nowhere
from covalent_sshtiming.options import Settings
from covalent_sshtiming.reach import arguments_of, target_of
from covalent_sshtiming.results import ResultFile, directory
from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import TimingRecord

_STATES = ("queued", "running", "finished", "uploading")
_KEY = 32  # hexadecimal digits


@dataclass(frozen=True)
class Job:
    """A task on a machine; texts are the machine's, made fit for a terminal.

    Attributes:
        key: its key there, 32 hexadecimal digits.
        state: queued, running, finished (and not yet fetched) or uploading.
        status: how it has finished, "" before.
        function: the electron's name.
        kind: electron or helper.
        dispatch_id: the dispatch that it belongs to.
        node_id: its node.
        submitted: seconds since the epoch, by the clock of whoever sent it.
        age_s: seconds since it was accepted there, by that machine's clock.
        cpu_s: CPU seconds; of a running task those so far, with the harness; of a finished one its `cpu_s`.
        watched: whether a connected dispatcher waits for it.
    """

    key: str
    state: str
    status: str
    function: str
    kind: str
    dispatch_id: str
    node_id: int | None
    submitted: float | None
    age_s: float | None
    cpu_s: float | None
    watched: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as a flat object."""
        return asdict(self)


@dataclass(frozen=True)
class Brought:
    """What a fetch brought: the result's file if there is one, the error's sentence, the log's path.

    And where the files are that the task has left, None without any, with what there is to say of them.
    """

    path: Path | None
    error: str
    log: Path
    files: Path | None = None
    warnings: str = ""


def job_of(told: object) -> Job | None:
    """Make a job of what a machine says of it; None for what is none."""
    if not isinstance(told, Mapping):
        return None
    key, state = told.get("key"), told.get("state")
    if not isinstance(key, str) or len(key) != _KEY or key.strip("0123456789abcdef") or state not in _STATES:
        return None
    node = told.get("node_id")
    return Job(
        key=key,
        state=str(state),
        status=_text(told.get("status")),
        function=_text(told.get("function")),
        kind=_text(told.get("kind")),
        dispatch_id=_text(told.get("dispatch_id")),
        node_id=node if type(node) is int and abs(node) < 1 << 62 else None,
        submitted=_number(told.get("submitted")),
        age_s=_number(told.get("age_s")),
        cpu_s=_number(told.get("cpu_s")),
        watched=told.get("watched") is True,
    )


def _text(value: object) -> str:
    return outcomes.clean(value, 200).replace("\n", " ").replace("\t", " ") if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


class Visit:
    """A machine that is being looked at."""

    def __init__(self, host: Host, found: Settings) -> None:
        self._host = host
        self._settings = found
        self._log = TimingLog(found.timing_filepath)

    async def jobs(self) -> list[Job]:
        """Return the tasks that are there, oldest first; raises one of our errors."""
        found = await self._host.jobs(job_of)
        return sorted(found, key=lambda job: -(job.age_s or 0.0))

    async def fetch(self, job: Job) -> Brought:
        """Bring a finished task home, then let the machine forget it.

        Raises:
            ConfigError: if the timing log cannot be written; nothing was fetched.
        """
        await asyncio.to_thread(self._log.check_writable)
        file = ResultFile(job.key, self._settings.max_result_bytes)
        left = self._fetching(job)
        error: SSHTimingError | None
        path = None
        try:
            outcome = await self._host.attach(job.key, file, left)
            error = outcomes.error_of(outcome, self._settings.host_label, job.function)
            if error is None and outcome.ended.get("status") == "completed":
                path = await asyncio.to_thread(file.finish)
        finally:
            file.close()
            brought = await left.finish()
        figures = outcomes.record_of(outcome, error)
        if left.settled:
            figures.update(brought.record())
        record = TimingRecord.from_mapping({**figures, **self._known(job, file)})
        try:
            await asyncio.to_thread(self._log.append, record)
        except OSError as cause:
            raise ConfigError(f"{cause}; the task stays there until it is fetched again.") from cause
        await self.forget([job])
        trace = str(getattr(error, "traceback", "")).rstrip()
        told = f"{trace}\n{error}" if trace else str(error or "")
        said = brought.warnings(self._settings.host_label, completed=False)
        files = brought.directory if brought.files else None
        return Brought(path, told, self._log.path, files, said)

    def _fetching(self, job: Job) -> Fetching:
        """Make ready for the files that a task has left; which were asked for, only the machine knows."""
        most = self._settings.fetch_max_bytes, self._settings.fetch_max_files
        return Fetching(Wanted(directory(), f"{job.key}.files", None, *most, mode=0o700))

    def _known(self, job: Job, file: ResultFile) -> dict[str, Any]:
        return {
            "record_id": job.key,
            "dispatch_id": job.dispatch_id,
            "node_id": job.node_id,
            "attempt": 1,
            "function": job.function,
            "kind": job.kind or "electron",
            "host": self._settings.host_label,
            "ran_locally": False,
            "plugin_version": outcomes.plugin_version(),
            "submitted_at": outcomes.timestamp(job.submitted),
            "result_bytes": file.size,
        }

    async def kill(self, job: Job) -> str:
        """End a task and wait until nothing of it runs; return its status.

        Raises:
            TaskDied: if its machine does not end it.
        """
        ending = asyncio.ensure_future(self._host.attach(job.key, Nowhere()))
        await asyncio.sleep(0)
        self._host.cancel(job.key)
        outcome = await ending
        if outcome.doubt:
            raise TaskDied(outcome.doubt)
        return outcomes.clean(outcome.ended.get("status"), 20)

    async def forget(self, chosen: Sequence[Job]) -> None:
        """Have the machine remove finished tasks."""
        for job in chosen:
            self._host.acknowledge(job.key)
        await self._host.acknowledged()


@asynccontextmanager
async def visit(machine: str, log_path: str | None) -> AsyncIterator[Visit]:
    """Go to a machine with the executor's settings for it.

    Args:
        machine: a name of covalent.conf, or [user@]machine[:port].
        log_path: the timing log for what is fetched; None for the configured one.

    Raises:
        ConfigError: for a machine that is none, or settings that are wrong.
    """
    arguments = arguments_of(machine)
    if log_path:
        arguments["timing_filepath"] = settings.absolute_from_caller(log_path)
    found = settings.resolve(arguments, await asyncio.to_thread(settings.load_section))
    try:
        yield Visit(pool.host_for(target_of(found, "", local=False)), found)
    finally:
        await pool.close_all()
