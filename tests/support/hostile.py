"""A hostile machine: an SSH server that lets anybody in by key, and then misbehaves as the user name says.

    with hostile_server(directory) as server:
        ... username="endless_noise" ...

Each misbehaviour below is a coroutine that has the session's streams; its name is the user name that asks for
it. The server is a process of its own, so that what it sends is not counted as our memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import pickle
import shlex
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh

from covalent_sshtiming.demo import sshserver
from covalent_sshtiming.demo.processes import free_port, guarded, wait_until
from covalent_sshtiming.demo.sshserver import LOOPBACK, SSHServer
from covalent_sshtiming.remote import wire

CANARY = "SSHTIMING_CANARY"  # variable with the path of a file that no hostile pickle may make
FACTS = {"machine": "m", "boot": "b", "hostname": "evil", "user": "eve", "os": "Linux", "cores": 2}
NOTHING: dict[str, Any] = {
    "status": "completed",
    "error": None,
    "record": {},
    "result": None,
    "stdout": 0,
    "stderr": 0,
}
NASTY = "\x1b]0;owned\x07\x1b[31mred\r\n\x00\u202eback\u2028 \x9b31m"
_HEAD = struct.Struct("!BBHII")  # spelt out, so that heads can lie


class Far:
    """One session as the hostile side has it: the streams, and the honest steps to go through first."""

    def __init__(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._process = process
        self._decoder = wire.Decoder()
        self._frames: list[wire.Frame] = []
        words = shlex.split(process.command or "")
        self.facts: dict[str, Any] = json.loads(base64.b64decode(words[-2]))

    async def write(self, data: bytes) -> None:
        """Write to stdout, no faster than the other side takes it."""
        self._process.stdout.write(data)
        await self._drained(self._process.stdout)

    async def complain(self, data: bytes) -> None:
        """Write to stderr."""
        self._process.stderr.write(data)
        await self._drained(self._process.stderr)

    async def _drained(self, stream: asyncssh.SSHWriter[bytes]) -> None:
        await stream.drain()
        await asyncio.sleep(0)  # an endless misbehaviour is to leave room for the others
        if self._process.channel.is_closing():
            raise EOFError

    async def send(self, kind: int, task: int = 0, header: Any = None, body: bytes = b"") -> None:
        """Send a frame whose header need not be one that our own encoder would make."""
        text = header if isinstance(header, bytes) else json.dumps(header).encode() if header else b""
        await self.write(_HEAD.pack(wire.VERSION, kind, len(text), task, len(body)) + text + body)

    async def announce(self, nonce: str = "", **facts: Any) -> None:
        """Say what the doorman says."""
        line = f"\0SSHTIMING/1 {nonce or self.facts['nonce']} {json.dumps(facts or {'archive': 'have'})}\n"
        await self.write(line.encode())

    async def greet(self) -> None:
        """Announce, and say hello."""
        await self.announce()
        await self.send(wire.HELLO, 0, FACTS)

    async def frame(self, *kinds: int) -> wire.Frame:
        """Wait for a frame of one of these kinds."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.type in kinds:
                    return frame
            data = await self._process.stdin.read(65536)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)

    async def task(self, accept: bool = True) -> int:
        """Greet, wait for a task that is submitted or asked for, accept it, and return its number."""
        await self.greet()
        frame = await self.frame(wire.SUBMIT, wire.ATTACH)
        if accept:
            await self.send(wire.ACCEPTED, frame.task)
        return frame.task

    async def outcome(self, task: int, **facts: Any) -> None:
        """Tell how a task ended."""
        await self.send(wire.OUTCOME, task, None, json.dumps({**NOTHING, **facts}).encode())

    async def wait(self) -> None:
        """Hold still until the other side has gone."""
        with suppress(EOFError, wire.ProtocolError):
            await self.frame()


class Trap:
    """An object that leaves a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (os.environ[CANARY], "w")


Misbehaviour = Callable[[Far], Awaitable[None]]
MISBEHAVIOURS: dict[str, Misbehaviour] = {}


def _misbehaves(work: Misbehaviour) -> Misbehaviour:
    MISBEHAVIOURS[work.__name__] = work
    return work


# ---- before the first frame


@_misbehaves
async def endless_noise(far: Far) -> None:
    """Print for ever, and never announce anything."""
    while True:
        await far.write(b"welcome to evil! " * 4096)


@_misbehaves
async def endless_complaint(far: Far) -> None:
    """Fill stderr for ever, with a task under way."""
    await far.task()
    while True:
        await far.complain(b"error! " * 8192)


@_misbehaves
async def wrong_nonce(far: Far) -> None:
    """Announce with the nonce of another connection."""
    await far.announce(nonce="0" * 24)
    await far.send(wire.HELLO, 0, FACTS)
    await far.wait()


@_misbehaves
async def announcement_without_end(far: Far) -> None:
    """Begin the announcement's line, and never end it."""
    await far.write(b"\0SSHTIMING/1 %s {" % far.facts["nonce"].encode())
    while True:
        await far.write(b" " * 4096)


@_misbehaves
async def announcement_is_a_pickle(far: Far) -> None:
    """Announce with a pickle."""
    await far.write(b"\0SSHTIMING/1 %s " % far.facts["nonce"].encode() + pickle.dumps(Trap(), 0) + b"\n\n")
    await far.wait()


@_misbehaves
async def says_nothing(far: Far) -> None:
    """Log in, and never say a byte."""
    await far.wait()


@_misbehaves
async def drips_before(far: Far) -> None:
    """Say one byte a tenth of a second, and never announce anything."""
    while True:
        await far.write(b".")
        await asyncio.sleep(0.1)


@_misbehaves
async def asks_again_for_the_archive(far: Far) -> None:
    """Ask for the archive on each connection, take it, and go."""
    await far.announce(archive="need")
    await asyncio.sleep(0.05)


@_misbehaves
async def lies_about_python(far: Far) -> None:
    """Refuse with texts that steer terminals and are much too long."""
    await far.announce(refused="python_version", python=NASTY * 5, executable=NASTY * 20, text=NASTY)
    await far.wait()


# ---- frames that are none


@_misbehaves
async def garbage_instead_of_frames(far: Far) -> None:
    """Announce, and go on in another language."""
    await far.announce()
    await far.write(os.urandom(1 << 16).replace(b"\x01", b"\x02"))
    await far.wait()


@_misbehaves
async def version_lie(far: Far) -> None:
    """Send frames of another version."""
    await far.announce()
    await far.write(_HEAD.pack(2, wire.HELLO, 2, 0, 0) + b"{}")
    await far.wait()


@_misbehaves
async def lying_length(far: Far) -> None:
    """Announce a body of four gigabytes."""
    task = await far.task()
    await far.write(_HEAD.pack(1, wire.DATA, 0, task, 0xFFFFFFFF))
    while True:
        await far.write(bytes(1 << 16))


@_misbehaves
async def not_a_number(far: Far) -> None:
    """Send a header with NaN in it."""
    await far.send(wire.RESULT, await far.task(), b'{"parts":[0,0,NaN]}')
    await far.wait()


@_misbehaves
async def endless_number(far: Far) -> None:
    """Send a number of sixty thousand digits."""
    await far.send(wire.RESULT, await far.task(), b'{"parts":[0,0,' + b"9" * 60_000 + b"]}")
    await far.wait()


@_misbehaves
async def deep_json(far: Far) -> None:
    """Send a header that is nested thirteen thousand times."""
    await far.send(wire.STREAM, await far.task(), b'{"a":' * 13_000)
    await far.wait()


@_misbehaves
async def closes_in_mid_frame(far: Far) -> None:
    """Begin a frame, and close."""
    task = await far.task()
    await far.write(_HEAD.pack(1, wire.DATA, 0, task, 1000) + b"half")


@_misbehaves
async def hello_twice(far: Far) -> None:
    """Say hello again and again, and read nothing any more."""
    await far.greet()
    while True:
        await far.send(wire.HELLO, 0, FACTS)


# ---- floods


@_misbehaves
async def floods_stdout(far: Far) -> None:
    """Send output for ever, with offsets that rise."""
    task, offset = await far.task(), 0
    while True:
        await far.send(wire.STREAM, task, {"fd": 1, "offset": offset}, bytes(1 << 16))
        offset += 1 << 16


@_misbehaves
async def floods_with_pings(far: Far) -> None:
    """Ping for ever, and read no answer."""
    await far.task()
    ping = _HEAD.pack(1, wire.PING, 0, 0, 0)
    while True:
        await far.write(ping * 5000)


@_misbehaves
async def floods_unknown_tasks(far: Far) -> None:
    """Send results of tasks that nobody has."""
    await far.task()
    number = 1000
    while True:
        number += 1
        await far.send(wire.DATA, number, None, bytes(1 << 16))


@_misbehaves
async def floods_after_its_end(far: Far) -> None:
    """End a task, and go on sending to it; then end the next one properly."""
    task = await far.task()
    await far.outcome(task, status="failed", error={"class": "TaskFailed", "text": "first"})
    while True:
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@_misbehaves
async def never_heard_of_it(far: Far) -> None:
    """Answer each submission with "unknown", so that it is sent again."""
    task = await far.task(accept=False)
    while True:
        await far.send(wire.UNKNOWN, task)


@_misbehaves
async def breaks_each_connection(far: Far) -> None:
    """Print a line of output, so that something was brought, and send garbage; on each connection anew."""
    task = await far.task()
    await far.send(wire.STREAM, task, {"fd": 1, "offset": time.time_ns() // 1000}, b"news")
    await far.write(b"\xff" * 12)
    await far.wait()


@_misbehaves
async def drips(far: Far) -> None:
    """Greet, accept, and then send one byte of a frame every tenth of a second."""
    task = await far.task()
    await far.write(_HEAD.pack(1, wire.DATA, 0, task, 60_000))
    while True:
        await far.write(b".")
        await asyncio.sleep(0.1)


@_misbehaves
async def deaf_to_a_cancel(far: Far) -> None:
    """Accept a task, answer signs of life, and do nothing else whatever is asked."""
    await far.task()
    while True:
        await far.frame(wire.PING)
        await far.send(wire.PONG)


# ---- results and outcomes


@_misbehaves
async def over_cap_result(far: Far) -> None:
    """Announce a result over the cap, and send it for ever."""
    task = await far.task()
    await far.send(wire.RESULT, task, {"parts": [100, 100, 1 << 50]})
    while True:
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@_misbehaves
async def longer_than_announced(far: Far) -> None:
    """Send more of a result than was announced, for ever."""
    task = await far.task()
    await far.send(wire.RESULT, task, {"parts": [10, 10, 10]})
    while True:
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@_misbehaves
async def result_again_and_again(far: Far) -> None:
    """Announce and send a result for ever, and never end."""
    task = await far.task()
    while True:
        await far.send(wire.RESULT, task, {"parts": [0, 0, 1 << 16]})
        await far.send(wire.DATA, task, None, bytes(1 << 16))


@_misbehaves
async def senseless_sizes(far: Far) -> None:
    """Announce a result with sizes that are no sizes."""
    task = await far.task()
    await far.send(wire.RESULT, task, {"parts": [-1, True, "4"]})
    await far.outcome(task)
    await far.wait()


@_misbehaves
async def outcome_before_accepted(far: Far) -> None:
    """Tell of a completed task that was never accepted, and has no result."""
    await far.outcome(await far.task(accept=False))
    await far.wait()


@_misbehaves
async def pickled_outcome(far: Far) -> None:
    """Send a pickle where an outcome should be."""
    await far.send(wire.OUTCOME, await far.task(), None, pickle.dumps(Trap()))
    await far.wait()


@_misbehaves
async def pickled_header(far: Far) -> None:
    """Send a pickle where a result's header should be."""
    task, trap = await far.task(), pickle.dumps(Trap())
    await far.send(wire.RESULT, task, {"parts": [len(trap), 0, 0]})
    await far.send(wire.DATA, task, None, trap)
    await far.outcome(task)
    await far.wait()


@_misbehaves
async def pickled_result(far: Far) -> None:
    """Send a well-formed result whose pickle leaves a file where it is unpickled."""
    task, trap = await far.task(), pickle.dumps(Trap())
    versions = {"py_version": "3.11.0", "cloudpickle_version": "3"}
    header = json.dumps({**versions, "attrs": {"doc": NASTY, "name": "../../x"}}).encode()
    await far.send(wire.RESULT, task, {"parts": [len(header), 4, len(trap)]})
    await far.send(wire.DATA, task, None, header + b"text" + trap)
    await far.outcome(task)
    await far.wait()


@_misbehaves
async def endless_list(far: Far) -> None:
    """Answer the question for tasks with a list that has no end."""
    await far.greet()
    task = (await far.frame(wire.LIST)).task
    numbers = itertools.count()
    while True:
        jobs = [{"key": f"{next(numbers):032x}", "state": "queued"} for _ in range(900)]
        await far.send(wire.LIST, task, None, json.dumps(jobs).encode())


@_misbehaves
async def list_of_nothing(far: Far) -> None:
    """Answer the question for tasks with lists of empty lists, thirty times their size, for ever."""
    await far.greet()
    task = (await far.frame(wire.LIST)).task
    while True:
        await far.send(wire.LIST, task, None, b"[[" + b",".join([b"[]"] * 1000) + b"]]")


# ---- files


async def _sends(far: Far, header: dict[str, Any], body: bytes = b"") -> None:
    """Send one whole file, or what claims to be one, and end the task."""
    task = await far.task()
    await far.send(
        wire.FILE, task, {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), **header}, body
    )
    await far.send(wire.FILE, task, {"end": True, "more": 0})
    await far.outcome(task, status="failed", error={"class": "TaskFailed", "text": "all sent"})
    await far.wait()


@_misbehaves
async def file_goes_up(far: Far) -> None:
    """Send a file whose name leads out of its directory."""
    await _sends(far, {"name": "../../owned.h5"}, b"owned")


@_misbehaves
async def file_is_absolute(far: Far) -> None:
    """Send a file with an absolute name."""
    await _sends(far, {"name": os.path.join(tempfile.gettempdir(), "owned.h5")}, b"owned")


@_misbehaves
async def file_not_asked_for(far: Far) -> None:
    """Send a file that no pattern names."""
    await _sends(far, {"name": ".bashrc"}, b"owned")


@_misbehaves
async def file_with_a_nasty_name(far: Far) -> None:
    """Tell of files that are left, with names, sizes and reasons that are none."""
    task = await far.task()
    reasons: tuple[object, ...] = (NASTY, None, {}, "max_bytes", "{max_bytes.__class__}", 7)
    for why in reasons:
        facts = {"name": f"../../{NASTY * 100}.h5", "size": 1 << 60, "left": why, "errno": 10**19}
        await far.send(wire.FILE, task, facts)
    await far.send(wire.FILE, task, {"end": NASTY, "more": NASTY, "broken": NASTY})
    await far.outcome(task, status="failed", error={"class": "TaskFailed", "text": "all told"})
    await far.wait()


@_misbehaves
async def file_with_another_checksum(far: Far) -> None:
    """Send a file whose content is not what its SHA-256 says."""
    await _sends(far, {"name": "wrong.h5", "sha256": hashlib.sha256(b"right").hexdigest()}, b"wrong")


@_misbehaves
async def file_with_no_checksum(far: Far) -> None:
    """Send a file whose SHA-256 is something else."""
    await _sends(far, {"name": "wrong.h5", "sha256": [NASTY]}, b"wrong")


@_misbehaves
async def file_shorter_than_announced(far: Far) -> None:
    """Send less of a file than was announced, and say that it is whole."""
    await _sends(far, {"name": "short.h5", "size": 1000}, b"short")


@_misbehaves
async def file_longer_than_announced(far: Far) -> None:
    """Send more of a file than was announced, for ever."""
    task = await far.task()
    await far.send(wire.FILE, task, {"name": "long.h5", "size": 100})
    while True:
        await far.send(wire.FILE, task, None, bytes(1 << 16))


@_misbehaves
async def file_without_end(far: Far) -> None:
    """Announce a file of an exabyte, and send it."""
    task = await far.task()
    await far.send(wire.FILE, task, {"name": "endless.h5", "size": 1 << 60})
    while True:
        await far.send(wire.FILE, task, None, bytes(1 << 16))


@_misbehaves
async def files_without_end(far: Far) -> None:
    """Send one small file after the other, for ever."""
    task, number = await far.task(), 0
    facts = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    while True:
        number += 1
        await far.send(wire.FILE, task, {**facts, "name": f"{number}.h5"})


@_misbehaves
async def files_left_without_end(far: Far) -> None:
    """Tell of files that are left there, for ever."""
    task, number = await far.task(), 0
    while True:
        number += 1
        await far.send(wire.FILE, task, {"name": f"{number}.h5", "size": 0, "left": "link"})


@_misbehaves
async def bytes_of_no_file(far: Far) -> None:
    """Send bytes of a file that was never announced."""
    task = await far.task()
    while True:
        await far.send(wire.FILE, task, None, bytes(1 << 16))


@_misbehaves
async def file_in_a_file(far: Far) -> None:
    """Announce a file in the middle of another."""
    task = await far.task()
    for name in ("a.h5", "b.h5"):
        await far.send(wire.FILE, task, {"name": name, "size": 100}, b"half")
    await far.wait()


# ---- what is shown and written down


@_misbehaves
async def steers_terminals(far: Far) -> None:
    """Fail with control characters in every text."""
    error = {"class": "TaskFailed", "text": NASTY * 500, "traceback": NASTY, "phase": NASTY}
    await far.outcome(await far.task(), status="failed", error=error, exit_signal=NASTY)
    await far.wait()


@_misbehaves
async def refuses_with_a_novel(far: Far) -> None:
    """Refuse a task with fields that are too long, of the wrong type and full of control characters."""
    facts = {"text": NASTY * 200, "path": NASTY * 200, "errno": NASTY * 200, "free": 10**19}
    await far.greet()
    while True:
        submitted = await far.frame(wire.SUBMIT)
        await far.send(wire.REFUSED, submitted.task, facts)


@_misbehaves
async def names_like_paths(far: Far) -> None:
    """Put paths and somebody else's names wherever a record has a field."""
    paths = ("record_id", "dispatch_id", "function", "host", "hostname", "kind", "schema", "timing_filepath")
    record = {**dict.fromkeys(paths, "../../../../etc/passwd"), "cpu_s": float(10**300), "node_id": -1}
    error = {"class": "../../TaskFailed", "text": "/etc/passwd"}
    await far.outcome(await far.task(), status="../../completed", record=record, error=error)
    await far.wait()


@_misbehaves
async def enormous_hello(far: Far) -> None:
    """Say hello with as many facts as a frame holds, and fail."""
    await far.announce()
    await far.send(wire.HELLO, 0, {**FACTS, "hostname": NASTY * 600, "python": "9" * 5000, "cores": 10**19})
    frame = await far.frame(wire.SUBMIT, wire.ATTACH)
    await far.outcome(frame.task, status="failed", error={"class": "TaskFailed", "text": "here"})
    await far.wait()


# ---- the server


class _Gate(asyncssh.SSHServer):
    """Opens sessions for all misbehaviours but one."""

    def __init__(self) -> None:
        self._user = ""

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def session_requested(self) -> Any:
        if self._user == "opens_no_session":
            return asyncio.get_running_loop().create_future()
        return asyncssh.SSHServerProcess(_serve, None, 3, False)


async def _serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    work = MISBEHAVIOURS[str(process.get_extra_info("username"))]
    with suppress(OSError, EOFError, asyncssh.Error, wire.ProtocolError):
        await work(Far(process))
    process.close()


async def _listen(directory: Path, port: int) -> None:
    listener = await asyncssh.listen(
        LOOPBACK,
        port,
        server_factory=_Gate,
        server_host_keys=[directory / "host_key"],
        authorized_client_keys=str(directory / "authorized_keys"),
        encoding=None,
    )
    await listener.wait_closed()


@contextmanager
def hostile_server(directory: Path, canary: Path) -> Iterator[SSHServer]:
    """Run the hostile server; what its pickles would make is the file `canary`."""
    directory.mkdir()
    sshserver._write_keys(directory)
    port = free_port(LOOPBACK)
    paths = os.pathsep.join(map(str, [Path(__file__).parents[2], Path(__file__).parents[1]]))
    environment = {**os.environ, "PYTHONPATH": paths, CANARY: str(canary)}
    command: list[str | Path] = [sys.executable, "-m", "support.hostile", directory, str(port)]
    with guarded(command, log=directory / "server.log", env=environment, cwd=directory) as process:
        wait_until(lambda: sshserver._greets(port), process, what="The hostile server", timeout=20)
        yield SSHServer(
            kind="embedded",
            host=LOOPBACK,
            port=port,
            username="nobody",
            key_file=directory / "user_key",
            known_hosts_file=sshserver._write_known_hosts(directory, port),
            remote_home=directory,
            process=process,
        )


def as_user(server: SSHServer, misbehaviour: str) -> SSHServer:
    """Return a server that misbehaves in one way."""
    return replace(server, username=misbehaviour)


if __name__ == "__main__":
    asyncio.run(_listen(Path(sys.argv[1]), int(sys.argv[2])))
