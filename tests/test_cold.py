"""The cold start: what travels, how often it does, and what a warm machine does not do again."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import pytest
from conftest import remote_environment, require_sshd
from support import direct
from support.interpreters import OWN
from support.proxy import Proxy

from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.errors import TransferError
from covalent_sshtiming.host.bootstrap import FAR_PACKAGE, archive, command
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.remote import doorman, wire

REMOTE = Path(wire.__file__).parent
PICKLER = Path(cloudpickle.__file__).parent


def sources() -> dict[str, bytes]:
    """Return the files that have to be on the far side, by their names there, from the disk."""
    packages = {FAR_PACKAGE: REMOTE, "cloudpickle": PICKLER}
    return {
        f"{package}/{path.name}": path.read_bytes()
        for package, directory in packages.items()
        for path in directory.glob("*.py")
    }


@pytest.fixture
def place(short_tmp: Path) -> Path:
    """Return a directory for one test, with a short path."""
    return Path(tempfile.mkdtemp(dir=short_tmp))


class Starts(NamedTuple):
    """How often something was started so far."""

    logins: int
    sessions: int
    interpreters: int


class Counted:
    """An interpreter that counts its starts, and a server's log that counts logins and commands."""

    def __init__(self, server: SSHServer, directory: Path) -> None:
        self.python = directory / "counted"
        self._starts = directory / "starts"
        self._server = server
        self._starts.touch()
        lines = ["#!/bin/sh", f"echo >> {self._starts}", f'exec {shlex.quote(sys.executable)} "$@"', ""]
        self.python.write_text("\n".join(lines))
        self.python.chmod(0o755)

    def now(self) -> Starts:
        """Count."""
        log = self._server.process.log.read_text(errors="replace")
        starts = len(self._starts.read_text().splitlines())
        return Starts(log.count("Accepted publickey"), log.count("Starting session: command"), starts)


def test_archive_is_the_files_byte_for_byte() -> None:
    """What travels is the far side's package and cloudpickle's source, unchanged, and nothing else."""
    found = json.loads(zlib.decompress(archive().data))
    assert {name: text.encode() for name, text in found.items()} == sources()


async def test_stored_archive_is_the_files_byte_for_byte(sshd: SSHServer, place: Path) -> None:
    """What lies in the remote cache after a task is those same files, readable by their owner alone."""
    async with direct.machine(sshd, place, remote_cache=str(place / "cache")) as machine:
        assert (await machine.run(lambda: 5)).value == 5
    (stored,) = (place / "cache").iterdir()
    assert stored.name == archive().digest[:32]
    found = {str(path.relative_to(stored)): path.read_bytes() for path in stored.rglob("*.py")}
    assert found == sources()
    assert {path.stat().st_mode & 0o077 for path in stored.rglob("*")} == {0}


async def test_a_cache_behind_a_link_is_left_where_it_led(sshd: SSHServer, place: Path) -> None:
    """What is run lies where the link led when its owner was checked, wherever it may lead after that."""
    (place / "real").mkdir()
    (place / "link").symlink_to(place / "real")
    async with direct.machine(sshd, place, remote_cache=str(place / "link")) as machine:
        ran = await machine.run(lambda: __import__("covalent_sshtiming_remote").__file__)
    assert Path(ran.value).is_relative_to(place / "real")


@pytest.mark.parametrize("python_path", ["", "/opt/python 3/bin/python3"])
@pytest.mark.parametrize("setup", [(), ("x" * 4096,), ("module load x", "echo 'a b' \"$HOME\" \\ é!\t")])
def test_exec_command_fits_into_any_shell(python_path: str, setup: tuple[str, ...]) -> None:
    """The exec command is one printable line of under 16 kB, without the `!` that shells of old expand."""
    long = "/" + "d" * 1000
    env = "science" if setup else ""
    target = Target(
        "l", "host", OWN, python_path=python_path, conda_env=env, setup=setup, cache=long, spool=long
    )
    line = command(target, "f" * 24)
    assert len(line) < 16_000
    assert line.isascii()
    assert line.isprintable()
    assert "!" not in line
    assert shlex.split(line)[:3] == ["exec", "sh", "-c"]


async def test_second_connection_uploads_nothing(sshd: SSHServer, place: Path) -> None:
    """The archive is sent once: a later connection sends that much less, also where no agent is left."""
    async with Proxy(sshd.host, sshd.port) as proxy:
        key = sshd.known_hosts_file.read_text().split(maxsplit=1)[1]
        known = place / "known_hosts"
        known.write_text(f"[{proxy.host}]:{proxy.port} {key}")
        sent: list[int] = []
        for _ in range(2):
            async with direct.machine(
                sshd,
                place,
                port=proxy.port,
                known_hosts_file=str(known),
                remote_cache=str(place / "cache"),
            ) as machine:
                assert (await machine.run(lambda: 5)).value == 5
            sent.append(proxy.up.count - sum(sent))
    assert proxy.connections == 2
    assert sent[0] - sent[1] == pytest.approx(len(archive().data), abs=2000)


async def test_second_task_starts_nothing(
    sshd: SSHServer, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tasks after the first open no connection and no session and start no interpreter: each is a fork."""
    counted = Counted(sshd, place)
    before = counted.now()
    async with direct.machine(sshd, place, python_path=str(counted.python)) as machine:
        workers = {(await machine.run(os.getpid)).value}
        first = counted.now()
        assert [now - then for now, then in zip(first, before, strict=True)] == [1, 1, 1]
        agents, times = machine.agents(), []
        for _ in range(40):
            began = time.perf_counter()
            ran = await machine.run(os.getpid)
            times.append(time.perf_counter() - began)
            workers.add(ran.value)
        assert counted.now() == first
        assert machine.host.connections == 1
        assert machine.agents() == agents
        assert len(agents) == 1
        assert len(workers) == 41
    with capsys.disabled():
        print(f"\nwarm task through run(): median {statistics.median(times) * 1e3:.1f} ms")


async def test_second_connection_finds_the_agent(sshd: SSHServer, place: Path) -> None:
    """A client that comes back while the agent lives starts one interpreter, the doorman, and no agent."""
    counted = Counted(sshd, place)
    async with direct.machine(sshd, place, python_path=str(counted.python)) as machine:
        assert (await machine.run(lambda: 5)).value == 5
        agents, first = machine.agents(), counted.now()
        await direct.pool.close_all()
        assert (await machine.run(lambda: 5)).value == 5
        assert [now - then for now, then in zip(counted.now(), first, strict=True)] == [1, 1, 1]
        assert machine.agents() == agents


async def test_two_first_connections_at_once(sshd: SSHServer, place: Path) -> None:
    """Two clients that find an empty machine at the same moment share one archive and one agent."""
    cache = place / "cache"
    async with direct.machine(sshd, place, remote_cache=str(cache)) as machine:
        runs = (machine.run(lambda: 5, options={"idle_timeout": seconds}) for seconds in (5, 6, 7))
        assert [ran.value for ran in await asyncio.gather(*runs)] == [5, 5, 5]
        assert len(direct.pool.hosts()) == 3
        assert len(machine.agents()) == 1
    assert [path.name for path in cache.iterdir()] == [archive().digest[:32]]


def test_first_connections_make_the_cache_together(place: Path) -> None:
    """Doormen that find no cache at the very same moment all go on with the one that came into being."""
    many = 8
    gate = threading.Barrier(many)

    def come(cache: str) -> None:
        gate.wait()
        doorman.make_cache(cache)

    with ThreadPoolExecutor(many) as doormen:
        for turn in range(200):
            cache = place / str(turn) / "cache"
            list(doormen.map(come, [str(cache)] * many))
            assert cache.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_caches_place_is_refused(place: Path) -> None:
    """What is there but is no directory is not taken for the cache of another connection."""
    (place / "cache").write_text("in the way")
    with pytest.raises(FileExistsError):
        doorman.make_cache(str(place / "cache"))


def _leave_to_others(stored: Path) -> None:
    stored.chmod(0o777)


def _give_away(stored: Path) -> None:
    os.chown(stored, 65534, -1)


def _lead_elsewhere(stored: Path) -> None:
    stored.rename(stored.with_name("elsewhere"))
    stored.symlink_to(stored.with_name("elsewhere"))


def _leave_cache_to_others(stored: Path) -> None:
    stored.parent.chmod(0o777)


@pytest.mark.parametrize("tamper", [_leave_to_others, _give_away, _lead_elsewhere, _leave_cache_to_others])
async def test_code_that_others_could_have_changed_is_refused(
    tamper: Callable[[Path], None], sshd: SSHServer, place: Path
) -> None:
    """An archive that another user owns, or could swap or write, is not run; the error says which it is."""
    if tamper is _give_away and os.getuid() != 0:
        pytest.skip("only root can give a directory away")  # chown is root's
    stored = place / "cache" / archive().digest[:32]
    async with direct.machine(sshd, place, remote_cache=str(stored.parent)) as machine:
        assert (await machine.run(lambda: 5)).value == 5
    tamper(stored)
    async with direct.machine(sshd, place, remote_cache=str(stored.parent)) as machine:
        ran = await machine.run(lambda: 5)
        assert not machine.agents()
    assert isinstance(ran.error, TransferError)
    at_fault = stored.parent if tamper is _leave_cache_to_others else stored
    assert str(ran.error) == (
        f"127.0.0.1: our program cannot be stored there: {at_fault} belongs to, or can be written by, "
        "another user. Set remote_cache to another place."
    )


@pytest.mark.parametrize(("cache", "cause"), [("file", "File exists"), ("file/cache", "Not a directory")])
async def test_cache_that_cannot_be_made_is_an_error(
    cache: str, cause: str, sshd: SSHServer, place: Path
) -> None:
    """A remote_cache that cannot be made is an error that says why, and what to set."""
    (place / "file").touch()
    async with direct.machine(sshd, place, remote_cache=str(place / cache)) as machine:
        ran = await machine.run(lambda: 5)
    assert_not_stored(ran.error, cause)


async def test_archive_that_cannot_be_stored_is_an_error(place: Path) -> None:
    """A disk that takes no more once the archive has been sent is the same error."""
    require_sshd()
    full = {"ForceCommand": """sh -c 'ulimit -f 0; eval "$SSH_ORIGINAL_COMMAND"'"""}
    with ssh_server(place, kind="openssh", options=full, environment=remote_environment()) as server:
        async with direct.machine(server, place, retry_connect=False) as machine:
            ran = await machine.run(lambda: 5)
    assert_not_stored(ran.error, "File too large")


def assert_not_stored(error: BaseException | None, cause: str) -> None:
    """Check the sentence that says why our program is not there."""
    assert isinstance(error, TransferError), error
    assert str(error).startswith("127.0.0.1: our program cannot be stored there: ")
    assert cause in str(error)
    assert str(error).endswith(". Set remote_cache to another place.")
