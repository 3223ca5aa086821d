"""Fixtures: a real OpenSSH server, a real Covalent server, and proof that nothing is left running.

`sshd` is always a server of our own on this machine: for tests that look at its files and processes, or
break it. `any_sshd` is the one that SSHTIMING_TEST_HOST names, and without that the same as `sshd`: for tests
that look at its machine by `far_place` alone. They are marked `integration`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import direct, faults, jobs, leftovers
from support.disks import mounted
from support.environments import make_environment
from support.farside import FarSide
from support.gpus import GPUs
from support.interpreters import OWN
from support.keys import make_key, sign
from support.named import NamedError, NamedServer, Server, is_named, named_server
from support.there import FarPath, There

from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.dispatcher import dispatcher as private_dispatcher
from covalent_sshtiming.demo.run import base_python
from covalent_sshtiming.demo.sshserver import SSHServer, find_sshd, ssh_server

leftovers.mark()

# Tests install packages on the far side, where HOME is another one: the user's pip configuration goes along.
_PIP_FILES = (".config/pip/pip.conf", ".pip/pip.conf", "Library/Application Support/pip/pip.conf")
_PIP_FILE = next((path for path in (Path.home() / name for name in _PIP_FILES) if path.exists()), None)
if _PIP_FILE:
    os.environ.setdefault("PIP_CONFIG_FILE", str(_PIP_FILE))


def pytest_configure(config: pytest.Config) -> None:
    """Let what the tests start hear Ctrl-C; say once, and at once, where the named server cannot be used."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and whatever we start would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_named() and not hasattr(config, "workerinput"):
        try:
            with tempfile.TemporaryDirectory() as name, named_server(Path(name)):
                pass
        except NamedError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_report_header() -> str:
    """Say which server the integration tests go to."""
    return f"integration tests: {os.environ.get('SSHTIMING_TEST_HOST') or 'an sshd of their own'}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what goes to the named server."""
    if "any_sshd" in getattr(item, "fixturenames", ()):
        item.add_marker("integration")


def require_sshd() -> None:
    """Skip where there is no OpenSSH server; fail where SSHTIMING_REQUIRE_SSHD=1 asks for it."""
    if find_sshd():
        return
    if os.environ.get("SSHTIMING_REQUIRE_SSHD") == "1":
        pytest.fail("OpenSSH's sshd is missing, and SSHTIMING_REQUIRE_SSHD=1 asks for it.")
    pytest.skip("OpenSSH's sshd is not installed")  # make test installs it where it may, CI asks for it


def remote_environment() -> dict[str, str]:
    """Return the variables of every remote session: PATH with our own Python, pip's, the marker."""
    path = f"{Path(base_python()).parent}:/usr/local/bin:/usr/bin:/bin"
    passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return {"PATH": path, **passed, leftovers.MARKER: os.environ[leftovers.MARKER]}


def executor_settings(server: Server, spool: There) -> dict[str, Any]:
    """Return the [executors.sshtiming] table that reaches an SSH server."""
    return {"hostname": server.host, **server.settings(), "remote_spool": str(spool)}


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail where a test, or a fixture, has left a process behind; and end it."""
    yield
    words = []
    for _ in range(3):  # because what is being ended may start more
        left = leftovers.leftovers()
        for process in left:
            words.append(leftovers.describe(process))
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    if words:
        pytest.fail("left running:\n" + "\n".join(words))


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """Return a directory with a short path, because that of a socket has to stay under 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="sst-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def sshd(short_tmp: Path, nothing_left_running: None) -> Iterator[SSHServer]:
    """Return a running OpenSSH server whose sessions have a HOME of their own, and with two host keys."""
    require_sshd()
    options = {"HostKey": str(make_key(short_tmp / "rsa_host", kind="rsa"))}
    with ssh_server(
        short_tmp / "ssh", kind="openssh", options=options, environment=remote_environment()
    ) as server:
        yield server


@pytest.fixture
def server(place: Path, nothing_left_running: None) -> Iterator[SSHServer]:
    """Return an OpenSSH server of this test's own, so that all its processes are this test's."""
    require_sshd()
    with ssh_server(place / "ssh", kind="openssh", environment=remote_environment()) as own:
        yield own


@pytest.fixture(scope="session")
def named(short_tmp: Path) -> Iterator[NamedServer | None]:
    """Return the server that SSHTIMING_TEST_HOST names, if there is one."""
    if not is_named():
        yield None
        return
    with named_server(short_tmp) as server:
        yield server


@pytest.fixture(scope="session")
def any_sshd(named: NamedServer | None, request: pytest.FixtureRequest) -> Server:
    """Return the named server, or else one of our own."""
    server: Server = named or request.getfixturevalue("sshd")
    return server


@pytest.fixture(scope="session")
def far_directory(any_sshd: Server, named: NamedServer | None, short_tmp: Path) -> Callable[[], There]:
    """Return a maker of directories, with short paths, on the machine of `any_sshd`."""
    numbers = itertools.count()
    base: There = named.directory if named else short_tmp

    def make() -> There:
        made = base / f"far-{next(numbers)}"
        made.mkdir()
        return made

    return make


@pytest.fixture
def far_place(far_directory: Callable[[], There]) -> There:
    """Return a directory of one test on the machine of `any_sshd`."""
    return far_directory()


@pytest.fixture
async def gpubox(
    any_sshd: Server, place: Path, far_place: There, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[direct.Machine[There]]:
    """Return a machine that covalent.conf calls gpubox, with a data directory of our own."""
    monkeypatch.setenv("COVALENT_CONFIG_DIR", str(place / "conf"))
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    async with direct.machine_at(any_sshd, place, far_place, max_parallel=1) as reached:
        jobs.write_configuration(place, reached.settings)
        yield reached


@pytest.fixture(scope="session")
def authority(short_tmp: Path) -> Path:
    """Return the key that signs host and user certificates."""
    return make_key(short_tmp / "authority")


@pytest.fixture(scope="session")
def gate(short_tmp: Path, authority: Path, nothing_left_running: None) -> Iterator[SSHServer]:
    """Return a second sshd: it has a host certificate, and lets in whom the authority has certified."""
    require_sshd()
    key = make_key(short_tmp / "certified_host", kind="ecdsa")
    options = {
        "HostKey": str(key),
        "HostCertificate": str(sign(authority, key, "127.0.0.1", "-h")),
        "TrustedUserCAKeys": f"{authority}.pub",
        "AuthorizedPrincipalsFile": "none",
    }
    with ssh_server(
        short_tmp / "gate", kind="openssh", options=options, environment=remote_environment()
    ) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a HOME of one's own, with no key agent around."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture(scope="session")
def spool(far_directory: Callable[[], There]) -> There:
    """Return the node-local place of the sockets, locks and tasks of `dispatcher`."""
    return far_directory() / "spool"


@pytest.fixture(scope="session")
def dispatcher(
    any_sshd: Server, spool: There, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dispatcher]:
    """Return a running Covalent server whose `sshtiming` executor reaches `any_sshd`."""
    home = tmp_path_factory.mktemp("covalent")
    with private_dispatcher(home, executors={"sshtiming": executor_settings(any_sshd, spool)}) as server:
        yield server
    if isinstance(spool, FarPath):  # those of our own server end with it
        direct.end_agents(spool)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory of one test whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="sst-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
async def machine(any_sshd: Server, place: Path, far_place: There) -> AsyncIterator[direct.Machine[There]]:
    """Return a way to `any_sshd`, with an agent of this test's own; a module may have another one."""
    async with direct.machine_at(any_sshd, place, far_place) as reached:
        yield reached


@pytest.fixture
def far(place: Path) -> Iterator[FarSide]:
    """Return a far side without SSH, with a spool of its own."""
    with FarSide(place / "far") as side:
        yield side


@pytest.fixture
def small_spool(place: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB where the spool in `place` will be."""
    with mounted(place / "spool", "1m") as disk, faults.no_agents_left(disk):
        yield disk


@pytest.fixture
def four_gpus(place: Path, monkeypatch: pytest.MonkeyPatch) -> GPUs:
    """Return a machine with four GPUs, which this process's far sides see."""
    made = GPUs(place / "gpus", 4)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


# A user id with no process but ours, another one for each of pytest-xdist's workers: they count what it has.
LIMITED_USER = 61234 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


@pytest.fixture
def crowded(place: Path) -> Iterator[FarSide]:
    """Return a far side under a user id that nobody else has: root is exempt from limits on processes."""
    if os.getuid() != 0 or not shutil.which("prlimit"):
        # The kernel's rule, not ours to fake.
        pytest.skip("root is exempt from the limit on processes, and only root can be another user")
    python = next((one for one in (sys.executable, "/usr/bin/python3") if may_run(one)), None)
    if python is None:
        pytest.skip(f"no Python {OWN} that another user may run")  # root's own pyenv is closed to others
    place.chmod(0o755)
    room = place / "far"
    room.mkdir()
    os.chown(room, LIMITED_USER, LIMITED_USER)
    with FarSide(room, user=LIMITED_USER, python=python) as far:
        yield far


def may_run(python: str) -> bool:
    """Say whether that user may run this Python, and it is of our minor version."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        ran = subprocess.run(
            [python, "-c", code], user=LIMITED_USER, group=LIMITED_USER, capture_output=True, check=False
        )
    except OSError:
        return False
    return ran.stdout.decode().strip() == OWN


@pytest.fixture(scope="module")
def with_pip(far_directory: Callable[[], There]) -> str:
    """Return the Python of an environment there that has pip and nothing else."""
    return make_environment(far_directory() / "with-pip", pip=True)


@pytest.fixture(scope="module")
def without_pip(far_directory: Callable[[], There]) -> str:
    """Return the Python of an environment there that has nothing at all."""
    return make_environment(far_directory() / "without-pip", pip=False)
