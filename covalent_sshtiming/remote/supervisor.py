"""The supervisor: a task's parent, and the only one who kills it.

Owns the task from `lock` to `outcome`: its own session, subreaper of all that the task starts,
the task's lock and slot. It is forked ahead, with its worker forked and waiting, and sleeps on
the agent's socket until a key comes. It outlives the agent. It lets the worker go once the task
is marked as started, pumps its output, enforces the time limit, kills until no descendant is
left, and publishes the outcome, which is final. Then it forks a worker for the next task: of the
two processes that each task needs, this one has no user code in it and nothing to forget.
"""

import array
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, Dict, List, Optional

from . import courier, ending, figures, gauge, limits, places, platforms, standby, surroundings

ORDER_MAX = 64 * 1024  # bytes, with the longest facts and variables of a task
HANDLES_MAX = 253  # descriptors that the kernel passes on with one message
CANCEL_GRACE = 5.0  # seconds between TERM and KILL for a cancel or the time limit
ROOM = 16 * 1024  # bytes of blanks in the lock file, so that the outcome fits onto a disk that fills up
PUBLISH_SECONDS = 1.0
PUBLISH_TRIES = 600
RETRY_KILL = 0.05  # seconds between rounds of killing what is left
REST_SECONDS = 0.004  # before the next worker is forked


def stand_by(control: socket.socket, base: str, mask: int, groups: "Optional[str]") -> None:
    """See one task after the other through; the body of a freshly forked process; never returns."""
    code = 1
    try:
        os.setsid()
        platforms.close_all_but([0, 1, 2, control.fileno()])
        platforms.become_subreaper()
        wakeup = _catch_signals()
        me = identity()
        while _serve_one(base, control, wakeup, mask, groups, me):
            _rest(control)
        code = 0
    except BaseException:  # noqa: BLE001 - told to the agent's log, the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _serve_one(
    base: str, control: socket.socket, wakeup: int, mask: int, groups: "Optional[str]", me: "Dict[str, Any]"
) -> bool:
    """Have a worker ready, wait for a task and see it through; False once the agent has let go of us."""
    with standby.Standby(control, base, mask, groups) as crew:
        order = _receive(control)
        if not order:
            return False
        supervisor = Supervisor(base, order, control, crew, wakeup, me)
        try:
            supervisor.see_through()
        finally:
            supervisor.let_go()
        return supervisor.report_back()


def _rest(control: socket.socket) -> None:
    """Leave the CPU for a moment to those who bring home what we have just reported, unless an order comes.

    To have the next worker takes some milliseconds of computing, and the kernel has whoever it wakes on this
    CPU wait for that, though another is idle: a sixth of what a lone task takes.
    """
    agent = select.poll()
    agent.register(control, select.POLLIN)
    agent.poll(REST_SECONDS * 1000)


def _catch_signals() -> int:
    """Turn SIGCHLD and SIGTERM into bytes on a pipe; return its reading end."""
    reading, writing = os.pipe()
    for handle in (reading, writing):
        os.set_blocking(handle, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    return reading


def _receive(control: socket.socket) -> "Optional[Dict[str, Any]]":
    """Wait for the agent's order; the locks come along as descriptors, many of them with messages more."""
    handles = array.array("i")
    data = _receive_with(control, handles)
    if not data:
        return None
    order: "Dict[str, Any]" = json.loads(data.decode())
    while len(handles) < order["handles"]:
        if not _receive_with(control, handles):
            return None
    order["handles"] = list(handles)
    return order


def _receive_with(control: socket.socket, handles: "array.array[int]") -> bytes:
    """Return one message, and add the descriptors that came with it."""
    data, ancillary, _, _ = control.recvmsg(ORDER_MAX, socket.CMSG_SPACE(handles.itemsize * HANDLES_MAX))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handles.frombytes(content[: len(content) - len(content) % handles.itemsize])
    return data


class Supervisor:
    """One task, from its lock to its outcome."""

    def __init__(
        self,
        base: str,
        order: "Dict[str, Any]",
        control: socket.socket,
        crew: standby.Standby,
        wakeup: int,
        me: "Dict[str, Any]",
    ) -> None:
        self.order = order
        self.me = me
        self.directory = os.path.join(base, "tasks", order["key"])
        self.control = control
        self.crew = crew
        self.wakeup = wakeup
        self.status: "Optional[int]" = None
        self.usage: "Any" = None
        self.orphans: "List[figures.Orphan]" = []
        self.reason = ""  # why we are killing: cancelled, timeout
        self.limit_at = self.kill_at = float("inf")
        self.lock: "Optional[int]" = None
        self.agent_gone = False
        self.spent = False  # a child of ours hangs that the next task would be charged for
        self.gauge = gauge.Gauge(order["handles"].pop()) if order.get("gauged") else None
        self.oom_kills: "Optional[int]" = None  # of the whole machine, when the worker was let go
        self.forgetful = False  # whether a worker that left no report had SIGCHLD ignored
        self.woken = self.left = time.monotonic()
        self.started = self.finished = time.time()

    def see_through(self) -> None:
        """Take the lock, start the worker, wait for everything, publish; or touch nothing."""
        try:
            self.lock = places.try_lock(self._path(places.LOCK), regular=True)
        except FileNotFoundError:
            return
        if self.lock is None or os.path.exists(self._path(places.OUTCOME)):
            return
        if os.path.exists(self._path(places.CANCEL)):
            places.discard(self._path(places.REQUEST))
            self._publish(ending.outcome("cancelled"))
            return
        mark = dict(self.me, facts=self.order.get("facts"))
        if not places.mark(self.lock, json.dumps(mark).encode().ljust(ROOM)):
            return
        self._run()
        ended = self._outcome()
        if ended["status"] != "cancelled" and courier.has_order(self.directory):
            self.spent = not courier.note_apart(self.directory)
        self._publish(ended)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _run(self) -> None:
        self.crew.stdout.open(self._path(places.STDOUT))
        self.crew.stderr.open(self._path(places.STDERR))
        limits.impose(self.order, self.crew.pid, self.crew.group)
        self.crew.wake(self.directory, self.order["environment"])
        self.oom_kills = surroundings.oom_kills()
        limit = float(self.order.get("time_limit") or 0)
        if limit > 0:
            self.limit_at = time.monotonic() + limit
        if os.path.exists(self._path(places.CANCEL)):  # marked while we marked it as started
            self._stop("cancelled", CANCEL_GRACE)
        poll = select.poll()
        for handle in (self.crew.stdout.source, self.crew.stderr.source, self.wakeup, self.control.fileno()):
            poll.register(handle, select.POLLIN)
        while not self._finished():
            for handle, event in poll.poll(self._patience()):
                self._serve(poll, handle, event)
        self.crew.stdout.drain()
        self.crew.stderr.drain()

    def _patience(self) -> float:
        """Milliseconds until something is due."""
        due = min(self.limit_at, self.kill_at, time.monotonic() + 3600)
        return max(0.0, (due - time.monotonic()) * 1000 + 1)

    def _serve(self, poll: "select.poll", handle: int, event: int) -> None:
        if handle == self.wakeup:
            self._read_signals()
            return
        if handle == self.control.fileno():
            # The agent never speaks after the order: this is its end, and we go on without it.
            self.agent_gone = True
            poll.unregister(handle)
            return
        stream = self.crew.stdout if handle == self.crew.stdout.source else self.crew.stderr
        if not stream.move() and not event & select.POLLIN:
            poll.unregister(handle)

    def _read_signals(self) -> None:
        try:
            numbers = os.read(self.wakeup, 512)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers and os.path.exists(self._path(places.CANCEL)):
            self._stop("cancelled", CANCEL_GRACE)

    def _stop(self, reason: str, grace: float) -> None:
        """Begin to end the task: TERM now, KILL after `grace` seconds, or when its left-overs were to end."""
        if self.reason:
            return
        self.reason = reason
        self._signal(signal.SIGTERM)
        self.kill_at = min(self.kill_at, time.monotonic() + grace)

    def _finished(self) -> bool:
        """Reap what there is and push on what is due; true once no descendant is left."""
        alive = self._reap()
        now = time.monotonic()
        if self.status is None:
            if now >= self.limit_at:
                self.limit_at = float("inf")
                self._stop("timeout", CANCEL_GRACE)
        elif alive and self.kill_at == float("inf"):
            self._signal(signal.SIGTERM)
            self.kill_at = now + float(self.order.get("linger") or 1.0)
        if alive and now >= self.kill_at:
            self._signal(signal.SIGKILL)
            self.kill_at = now + RETRY_KILL
        return not alive

    def _reap(self) -> bool:
        """Wait for every child that has ended; true while any is left."""
        while True:
            try:
                ended = platforms.next_ended()
                if ended == self.crew.pid and not self.crew.board.has_report:
                    self.forgetful = surroundings.forgets_children(ended)
                pid, status, usage = os.wait4(ended, os.WNOHANG) if ended else (0, 0, None)
            except ChildProcessError:
                return False
            if usage is None or pid == 0:
                return True
            if pid == self.crew.pid:
                self.status, self.usage, self.left = status, usage, time.monotonic()
                self.finished = time.time()
            else:
                self.orphans.append(figures.Orphan(pid, time.monotonic(), usage))

    def _signal(self, number: int) -> None:
        if platforms.LINUX:
            platforms.send_signal(platforms.descendants(os.getpid()), number)
        elif self.status is None:
            platforms.send_signal([self.crew.pid], number)

    def _outcome(self) -> "Dict[str, Any]":
        report = self.crew.board.report()
        code, number = ending.exit_of(self.status)
        # Why we ended it counts before what it said on the way: it may catch TERM and return.
        if report and not (self.reason or code or number):
            ended = ending.outcome(report["status"], report.get("error"))
            ended["result"] = report.get("result")
        else:
            ended = self._abnormal(code, number)
        ended["exit_code"], ended["exit_signal"] = code, number or None
        ended["stdout"], ended["stderr"] = self.crew.stdout.total, self.crew.stderr.total
        ended["record"] = figures.of_task(report, self._seen())
        if self.order.get("gpus"):
            ended["record"].update(self._of_gpus(), gpu_devices=self.order["gpus"])
        return ended

    def _of_gpus(self) -> "Dict[str, Any]":
        """Return what the GPUs did in the call, which something may have cut short."""
        marks = self.crew.board.marks()
        if self.gauge is None or "call" not in marks:
            return {}
        after = marks.get("after")
        return self.gauge.figures(marks["call"].wall, after.wall if after else self.left)

    def _abnormal(self, code: "Optional[int]", number: int) -> "Dict[str, Any]":
        if self.reason == "cancelled":
            return ending.outcome("cancelled")
        if self.reason == "timeout":
            text = "ran longer than its time limit of %g s" % float(self.order["time_limit"])
            return ending.outcome("timeout", {"class": "TimeLimitExceeded", "text": text})
        if number:
            text = "was killed by %s" % ending.signal_name(number)
            if number == signal.SIGKILL:
                text += self._out_of_memory()
            return ending.outcome("killed", {"class": "TaskDied", "text": text})
        if os.path.exists(self._path(places.REQUEST)):  # a fork has opened it at once: this one is spawned
            text = "its fresh interpreter exited %s before it began: see its stderr, and what env sets for it"
            return ending.outcome(
                "failed", {"class": "RemoteEnvError", "text": text % code, "phase": "start"}
            )
        return ending.outcome("failed", {"class": "TaskDied", "text": "exited %s without a result" % code})

    def _out_of_memory(self) -> str:
        of_group = self.crew.group.oom_kills() if self.crew.group else None
        return ending.oom_words(of_group, self.oom_kills, surroundings.oom_kills())

    def _seen(self) -> figures.Seen:
        return figures.Seen(
            worker=self.crew.pid,
            usage=self.usage,
            forgetful=self.forgetful,
            orphans=self.orphans,
            board=self.crew.board,
            group=self.crew.group,
            queued=float(self.order["queued"]),
            woken=self.woken,
            left=self.left,
            started=self.started,
            finished=self.finished,
        )

    def _publish(self, ended: "Dict[str, Any]") -> None:
        content = json.dumps(ended).encode()
        if not self._try_publish(content):
            self._make_room()
            for _ in range(PUBLISH_TRIES):
                if self._try_publish(content):
                    break
                time.sleep(PUBLISH_SECONDS)

    def let_go(self) -> None:
        """Give slots, devices and the task's lock back; whatever became of it stands on the disk by now."""
        if self.gauge is not None:
            self.gauge.close()
        for handle in [*self.order["handles"], self.lock]:
            if handle is not None:
                os.close(handle)

    def report_back(self) -> bool:
        """Tell the agent that the task is done with; False if the agent has gone, or we must go."""
        if self.spent:
            return False
        if not self.agent_gone:
            try:
                self.control.send(b"o", socket.MSG_DONTWAIT)
            except OSError as error:
                self.agent_gone = error.errno != errno.EAGAIN
        return not self.agent_gone

    def _make_room(self) -> None:
        """Let go of the room that was kept for the outcome."""
        try:
            places.give_way(self._path(places.LOCK))
        except OSError:  # it was never there, or the disk is read-only
            pass

    def _try_publish(self, content: bytes) -> bool:
        """Publish, or say False where the disk has no room: what the task has done is worth a wait."""
        try:
            places.publish(self._path(places.OUTCOME), content)
        except FileNotFoundError:  # somebody has removed the directory: nobody will ask
            pass
        except OSError:
            return False
        return True


def identity() -> "Dict[str, Any]":
    """Return what a lock file says of a task's supervisor: another agent tells by it whether it lives."""
    ticks = platforms.start_ticks(os.getpid())
    return {"boot": places.machine()[1], "pid": os.getpid(), "session": os.getsid(0), "ticks": ticks}
