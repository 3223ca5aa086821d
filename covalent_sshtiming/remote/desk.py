"""The desk: what a client's frames ask for, and the answers.

Owns the meaning of each frame type on the far side. A frame that makes no sense, or comes before
a hello, ends the connection and nothing else.
"""

import json
import os
import sys
import time
from typing import Any, Callable, Dict, Optional, Tuple

from . import aside, ending, jobs, places, tasks, uploads, wire
from .connection import Connection, Gone
from .foreman import Foreman, Watch

IDLE_MAX = 1e9  # seconds


class Desk:
    """Answers frames; `drop` ends an older connection of the same client."""

    def __init__(self, foreman: Foreman, name: str, drop_older: "Callable[[str], None]") -> None:
        self.idle_seconds: "Optional[float]" = None  # as the last client wished
        self._foreman = foreman
        self._name = name
        self._drop_older = drop_older
        self._handlers: "Dict[int, Callable[[Connection, wire.Frame], None]]" = {
            wire.HELLO: self._hello,
            wire.SUBMIT: self._submit,
            wire.DATA: self._data,
            wire.END: self._end,
            wire.ATTACH: self._attach,
            wire.CANCEL: self._cancel,
            wire.ACK: self._acknowledge,
            wire.PING: self._ping,
            wire.PONG: self._pong,
            wire.LIST: self._list,
            wire.FILE: self._file,
        }

    def answer(self, connection: Connection, frame: wire.Frame) -> None:
        """Do what a frame asks for; raises Gone for one that makes no sense."""
        handler = self._handlers.get(frame.type)
        if handler is None or (not connection.client and frame.type != wire.HELLO):
            raise Gone
        handler(connection, frame)

    def _hello(self, connection: Connection, frame: wire.Frame) -> None:
        """Let only the newest connection of a client speak, also across a change of agents."""
        client, number = frame.header.get("client"), frame.header.get("connection")
        if client is None or not places.is_key(client) or not isinstance(number, int):
            raise Gone
        record = os.path.join(self._foreman.base, "clients", client)
        known = places.read_json(record) or {}
        if number <= int(known.get("connection", -1)):
            raise Gone
        try:
            places.replace(record, ('{"connection": %d}' % number).encode())
        except OSError as error:  # a full disk: what is there can still be fetched, nothing new be stored
            sys.stderr.write("no record of a client: %s\n" % error)
        self._drop_older(client)
        connection.client = client
        idle = frame.header.get("idle")
        if isinstance(idle, (int, float)) and 0 <= idle <= IDLE_MAX:
            self.idle_seconds = float(idle)

    def _ping(self, connection: Connection, _: wire.Frame) -> None:
        connection.send(wire.PONG, 0, {"time": time.time()})

    def _pong(self, connection: Connection, frame: wire.Frame) -> None:
        """Nothing: that it was heard is what counts."""

    def _submit(self, connection: Connection, frame: wire.Frame) -> None:
        size = frame.header.get("size")
        key = _key(frame)
        if not isinstance(size, int) or size < 0:
            raise Gone
        try:
            if not self._claim(connection, frame):
                return
            head = {name: value for name, value in frame.header.items() if name != "sha256"}
            head = dict(head, agent=self._name, accepted=time.time())
            upload = uploads.Upload(self._foreman.directory(key), head)
            connection.uploads[frame.task] = upload
            upload.add(frame.body)
        except uploads.Refused as refusal:
            self._refuse(connection, frame.task, refusal)
            return
        if "sha256" in frame.header:
            self._end(connection, frame)

    def _claim(self, connection: Connection, frame: wire.Frame) -> bool:
        """Claim a key; False, and the answer of an attach, where it has been claimed before."""
        key = _key(frame)
        directory = self._foreman.directory(key)
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if self._foreman.find(key) == tasks.UNKNOWN:
                return True  # claimed, but the upload never came to its end
            connection.hold(wire.ACCEPTED, frame.task)
            self._tell(connection, frame, (0, 0))
            return False
        except FileNotFoundError as error:
            # Whoever connects next makes the spool anew, and its agent has a door that can be found.
            raise SystemExit("somebody has removed the spool") from error
        except OSError as error:
            raise uploads.refusal(error, directory) from error
        return True

    def _refuse(self, connection: Connection, task: int, refusal: uploads.Refused) -> None:
        connection.uploads.pop(task, None)
        connection.send(wire.REFUSED, task, refusal.facts)

    def _data(self, connection: Connection, frame: wire.Frame) -> None:
        upload = connection.uploads.get(frame.task)
        if upload is None:
            return  # refused or cancelled a moment ago; the client does not know yet
        try:
            upload.add(frame.body)
        except uploads.Refused as refusal:
            self._refuse(connection, frame.task, refusal)

    def _end(self, connection: Connection, frame: wire.Frame) -> None:
        upload = connection.uploads.pop(frame.task, None)
        if upload is None:
            return
        try:
            upload.finish(str(frame.header.get("sha256")))
        except uploads.Refused as refusal:
            self._refuse(connection, frame.task, refusal)
            return
        connection.hold(wire.ACCEPTED, frame.task)
        self._foreman.enqueue(upload.head)
        head = upload.head
        self._foreman.watch(head["key"], _watch(connection, frame.task, (0, 0), head))

    def _attach(self, connection: Connection, frame: wire.Frame) -> None:
        have = tuple(frame.header.get(name, 0) for name in ("stdout", "stderr"))
        if not all(isinstance(offset, int) and offset >= 0 for offset in have):
            raise Gone
        self._tell(connection, frame, (have[0], have[1]))

    def _tell(self, connection: Connection, frame: wire.Frame, have: "Tuple[int, int]") -> None:
        """The attach table: answer for a key from what the disk says, now or at its end."""
        task, key = frame.task, _key(frame)
        found = self._foreman.find(key)
        if found == tasks.UNKNOWN:
            connection.send(wire.UNKNOWN, task)
        elif found == tasks.ENDED:
            connection.download(self._foreman.delivery(key, _watch(connection, task, have, frame.header)))
            if frame.header.get("cancelled"):
                self._call_off(connection, task)
        else:
            self._foreman.watch(key, _watch(connection, task, have, frame.header))

    def _file(self, connection: Connection, frame: wire.Frame) -> None:
        """The client has taken so much of a task's files, and there may be more under way."""
        taken = frame.header.get("taken")
        if isinstance(taken, int):
            self._foreman.couriers.take(connection, frame.task, taken)

    def _cancel(self, connection: Connection, frame: wire.Frame) -> None:
        """Stop a task wherever it is; one that was never heard of is refused from now on."""
        key = _key(frame)
        upload = connection.uploads.pop(frame.task, None)
        directory = self._foreman.directory(key)
        if upload is not None:
            upload.abandon()
            self._foreman.watch(key, Watch(connection, frame.task, (0, 0), follow=False))
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        except OSError as error:  # a full disk: what was never stored cannot run either
            sys.stderr.write("no room to cancel: %s\n" % error)
            connection.send(wire.OUTCOME, frame.task, body=json.dumps(ending.outcome("cancelled")).encode())
            return
        self._call_off(connection, frame.task)
        self._foreman.cancel(key)

    def _call_off(self, connection: Connection, task: int) -> None:
        connection.call_off(task)
        self._foreman.couriers.stop(connection, task)

    def _list(self, connection: Connection, frame: wire.Frame) -> None:
        """Say which tasks of this user are there, whoever sent them."""

        def is_watched(key: str) -> bool:
            return self._foreman.is_watched(key, connection)

        connection.download(jobs.telling(self._foreman.base, frame.task, is_watched))

    def _acknowledge(self, connection: Connection, frame: wire.Frame) -> None:
        """All is safe at the client: forget the task."""
        key = _key(frame)
        directory = self._foreman.directory(key)
        wanted = frame.header.get("keep") or self._foreman.is_watched(key, connection)
        if tasks.state(directory) == tasks.ENDED and not wanted:
            try:
                _remove(directory)
            except OSError as error:  # the client will say it again on its next connection
                sys.stderr.write("%s cannot be removed: %s\n" % (key, error))
                return
        connection.hold(wire.ACK, frame.task)


def _remove(directory: str) -> None:
    """Remove a task's directory, and have another process wait for what that takes."""
    large = places.hold_large(directory)
    try:
        places.remove_tree(directory)
    finally:
        aside.let_go(large)


def _watch(connection: Connection, task: int, have: "Tuple[int, int]", wishes: "Dict[str, Any]") -> Watch:
    """Return who waits, with what it wishes to be told besides the end."""
    files = wishes.get("files")
    wanted = isinstance(files, int) and files >= 0
    return Watch(connection, task, have, wishes.get("follow") is True, files if wanted else None)


def _key(frame: wire.Frame) -> str:
    key = frame.header.get("key")
    if not places.is_key(key):
        raise Gone
    return str(key)
