"""Check: the walk itself, from the settings to a task that ran.

The connection is the executor's own, by `pool.open_ssh` and a `Host`, and so are the settings, the request
and the errors: what is done when is only looked at, by what the login tells and by a `Watch`. So no step is
a second way of doing a thing, and the first one that is not done when an error comes is the one that failed.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from covalent_sshtiming import outcomes, sending, settings
from covalent_sshtiming.checking import words
from covalent_sshtiming.checking.walk import Step, Walk
from covalent_sshtiming.checking.watch import Watch
from covalent_sshtiming.electron import Call
from covalent_sshtiming.errors import ConnectError, RemoteEnvError, SSHTimingError, TaskDied
from covalent_sshtiming.host import dial, pool
from covalent_sshtiming.host.bootstrap import FAR_PACKAGE, printable
from covalent_sshtiming.host.host import Host
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.streams import Receiver, Streams
from covalent_sshtiming.host.target import OPENSSH
from covalent_sshtiming.host.task import Nowhere, Outcome
from covalent_sshtiming.options import Settings
from covalent_sshtiming.reach import arguments_of, request_of, target_of
from covalent_sshtiming.remote import checkup, wire
from covalent_sshtiming.timing.record import TimingRecord

TASK_SECONDS = 60.0
_PINGS = 5
_PING_POLL = 0.001
_BESIDE = 4096  # slots to look for a free one in
_TOLD_MAX = 16 * 1024  # bytes of what a task of ours printed
_PYTHON = "{}.{}".format(*sys.version_info)


async def check(
    machine: str,
    overrides: Mapping[str, Any],
    report: Callable[[Step], None],
    *,
    in_server: bool = False,
) -> bool:
    """Go to a machine as an electron would, and report each step as it is done; all of them in the end.

    Args:
        machine: a name of covalent.conf, or [user@]machine[:port].
        overrides: further arguments, as TimingSSHExecutor takes them.
        report: called with each step, in the order of `STEPS`.
        in_server: whether our environment is the Covalent server's; else `env_from` is not looked at.

    Returns:
        Whether all of it went well.
    """
    walk = Walk(report)
    try:
        found = await _settle(machine, overrides, in_server=in_server)
        walk.done("settings", words.of_settings(found))
        await _Check(walk, found).through()
    except SSHTimingError as error:
        if isinstance(error, RemoteEnvError) and walk.is_done("version"):
            walk.skip_to("modules")  # our program was stored, and does not run
        walk.fail(error)
        return False
    return True


async def _settle(machine: str, overrides: Mapping[str, Any], *, in_server: bool) -> Settings:
    section = await asyncio.to_thread(settings.load_section)
    found = settings.resolve({**arguments_of(machine), **overrides}, section)
    if not in_server:
        found = replace(found, env_from=())
    settings.passed_on(found, os.environ)
    await asyncio.to_thread(sending.find, found.send, found.send_max_bytes)
    return found


class _Check:
    """One walk to a machine whose settings are known."""

    def __init__(self, walk: Walk, found: Settings) -> None:
        self._walk = walk
        self._asked = found
        # A task of ours queues behind nobody's, needs nothing that others have, and has an end.
        self._settings = replace(
            found,
            max_parallel=_BESIDE,
            time_limit=TASK_SECONDS,
            cpus_per_task=0,
            cpu_affinity=False,
            gpus_per_task=0,
            slot_env={},
            slots_dir="",
        )
        target = target_of(found, _PYTHON, local=False)
        # One attempt, because somebody is watching; and a machine that goes is not waited for.
        self._target = replace(target, attempts=1, reconnect_timeout=target.connect_timeout)
        self._host = Host(self._target, self._open)
        self._session: Session | None = None
        self._jumps = ""

    async def through(self) -> None:
        """Go through the steps; raises one of our errors at the first that fails."""
        if self._target.transport == OPENSSH:
            self._walk.done("resolve", "left to ssh")
            self._walk.done("jump hosts", "left to ssh")
        else:
            way, addresses = await dial.look_up(self._target)
            self._jumps = words.of_jumps(way)
            self._walk.done("resolve", words.of_way(way, addresses))
        try:
            await self._look_around()
            await self._ping()
            await self._work()
            await self._host.acknowledged()
        finally:
            await self._host.close()

    async def _open(self, command: str, receiver: Receiver) -> Streams:
        """Open the way as the pool does, and see what is done of it."""
        assert isinstance(receiver, Session)  # noqa: S101 - a host's opener is given its session
        self._session = receiver
        watch = Watch(receiver, self._walk)
        return await pool.open_ssh(self._target, watch.marked(command), watch, self._logged_in)

    def _logged_in(self, part: str) -> None:
        detail = self._jumps if part == "jump hosts" else words.of_login(part, self._target)
        self._walk.done(part, detail)

    async def _look_around(self) -> None:
        """Run the first task, which also brings the connection."""
        connecting = 4 * self._target.connect_timeout + dial.LOGIN_SECONDS
        began = time.monotonic()
        outcome = await self._run("look_around", self._settings.remote_spool, more=connecting)
        took = time.monotonic() - began - (outcome.waits["phase_connect_wall_s"] or 0.0)
        told, record = self._told(outcome), _record(outcome)
        self._walk.done("disk", words.of_disks(told), seconds=record.wall_s)
        # Archive, agent and task, each of which has to load what it needs.
        self._walk.done("modules", words.of_modules(told, outcome.machine, record), seconds=took)

    async def _ping(self) -> None:
        """Ask for a few signs of life; what the session's clock learns of them comes with the next task."""
        session = self._session
        assert session is not None  # noqa: S101 - a task has been there
        deadline = time.monotonic() + self._target.connect_timeout
        for _ in range(_PINGS):
            before = session.clock.answers
            session.ask()
            while session.clock.answers == before and time.monotonic() < deadline:  # noqa: ASYNC110 - a few times, and nobody else waits
                await asyncio.sleep(_PING_POLL)

    async def _work(self) -> None:
        """Run the trial task."""
        began = time.monotonic()
        outcome = await self._run("work")
        took = time.monotonic() - began
        told, record = self._told(outcome), _record(outcome)
        error = record.clock_offset_err_s
        trip = None if error is None else 2 * error
        self._walk.done("clock", words.of_clock(record), seconds=trip)
        cores, wanted = record.cores_available, self._asked.cpus_per_task
        if cores and wanted > cores:
            raise RemoteEnvError(
                f"{self._target}: cpus_per_task is {wanted}, and there are {cores} CPUs; ask for fewer."
            )
        self._walk.done("cores", words.of_cores(record, self._asked))
        self._walk.done("round trip", f"the quickest of {_PINGS} or so", seconds=trip)
        if told.get("sum") != sum(number * number for number in range(checkup.ROUNDS)):
            raise TaskDied(f"{self._target}: the trial task reckoned wrong; look at that machine's hardware.")
        self._walk.done("trial task", words.of_work(record), seconds=took)

    async def _run(self, name: str, *args: str, more: float = 0.0) -> Outcome:
        """Run a function of `remote.checkup` there; raises what a task would."""
        label, key, limit = self._target.label, os.urandom(16).hex(), TASK_SECONDS + more
        request = request_of(self._settings, _call(name, *args), ("check", 0), key)
        try:
            outcome = await asyncio.wait_for(self._host.run(request, Nowhere()), limit)
        except asyncio.TimeoutError as error:
            raise ConnectError(
                f"{self._target}: a small task did not end within {limit:g} s; is the machine overloaded, or "
                f"its disk? `covalent-sshtiming jobs {label}` lists what runs there."
            ) from error
        self._host.acknowledge(key)
        failure = outcomes.error_of(outcome, label, "the trial task")
        if failure is not None:
            raise failure
        return outcome

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        """Return what a task of ours printed; raises TaskDied for what is no JSON object."""
        lines = outcome.stdout[-_TOLD_MAX:].splitlines()
        try:
            return wire.json_object(lines[-1] if lines else b"", "what the trial task printed")
        except wire.ProtocolError as error:
            raise TaskDied(
                f"{self._target}: {printable(str(error))}; does something in that Python's site-packages "
                "print, or end processes? Try another one with python_path."
            ) from error


def _call(name: str, *args: str) -> Call:
    """Return the call of a function that came with the archive: a pickle that names it, for any Python."""
    function = f"c{FAR_PACKAGE}.checkup\n{name}\n.".encode()
    pickled = [function, *(pickle.dumps(arg, protocol=2) for arg in args)]
    sizes = [len(one) for one in pickled]
    layout = {"function_size": sizes[0], "args": sizes[1:], "kwargs": [], "before": [], "after": []}
    return Call("check", _PYTHON, layout, [base64.b64encode(one).decode("ascii") for one in pickled])


def _record(outcome: Outcome) -> TimingRecord:
    return TimingRecord.from_mapping(outcomes.record_of(outcome, None))
