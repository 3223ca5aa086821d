"""The demo as a user runs it, and the private servers below it."""

from __future__ import annotations

import math
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import click
import psutil
import pytest
from conftest import require_sshd
from support import readme
from support.clients import dispatch_script
from support.keys import make_key
from support.leftovers import describe, marked
from support.login import connection
from support.named import Server
from support.proxy import Proxy

from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.processes import DemoError
from covalent_sshtiming.demo.run import parse_host
from covalent_sshtiming.demo.sshserver import Kind, find_sshd, ssh_server, sshd_config

WAIT_S = 30
LAST = "Stopping everything that was started\n"


@dataclass
class Demo:
    """A way to run the demo in an empty HOME, and to see what it leaves behind."""

    home: Path
    tmp: Path
    token: str

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SSH_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "covalent_sshtiming", "demo", *arguments],
            env={**keep, "HOME": str(self.home), "TMPDIR": str(self.tmp), "DEMO_TEST": self.token}
            | {"PYTHONUTF8": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def running(self) -> list[psutil.Process]:
        """Return every process that descends from the demo."""
        return marked("DEMO_TEST", self.token)

    def left_running(self) -> list[str]:
        """Return what is there still some time after the demo has ended."""
        deadline = time.monotonic() + WAIT_S
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        return [describe(process) for process in self.running()]


@pytest.fixture
def demo(short_tmp: Path) -> Iterator[Demo]:
    """Return a demo with an empty HOME and an empty directory for temporary files."""
    base = short_tmp / secrets.token_hex(3)
    one = Demo(base / "home", base / "tmp", secrets.token_hex(8))
    one.home.mkdir(parents=True)
    one.tmp.mkdir()
    yield one
    for process in one.running():
        process.kill()


def in_general(text: str) -> str:
    """Return what the demo says without what is another each time."""
    text = re.sub(r"\S*/sshtiming-demo-\w+", "DIR", text)
    return readme.shape(re.sub("openssh|embedded", "KIND", text))


def test_the_demo_shows_result_log_and_times_and_leaves_nothing(demo: Demo) -> None:
    """The demo prints e, one sentence of the log and the phases, as the README has it; nothing stays."""
    process = demo.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    result = re.search(r"Result: ([\d.]+)", out)
    assert result
    assert math.isclose(float(result[1]), math.e, abs_tol=1e-5)
    assert len(re.findall(r"(?m)^Node 0 in dispatch \S+ took \S+s of CPU time\.$", out)) == 1
    assert re.search(r"call\W+the function itself", out)
    assert in_general(f"{err.removesuffix(LAST)}{out}{LAST}") == in_general(
        readme.shown("covalent-sshtiming demo")
    )
    assert demo.left_running() == []
    assert list(demo.home.iterdir()) == []
    assert list(demo.tmp.iterdir()) == []


@pytest.mark.parametrize("step", ["Starting a private Covalent server", "Running the how-to's workflow"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_demo_that_is_interrupted_leaves_nothing_running(
    demo: Demo, number: signal.Signals, step: str
) -> None:
    """However the demo is ended, and whenever, everything that it started ends too."""
    process = demo.start()
    assert process.stderr
    seen = ""
    while step not in seen and (character := process.stderr.read(1)):
        seen += character
    time.sleep(0.3)  # into the middle of it
    process.send_signal(number)
    process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    assert demo.left_running() == []
    if number is not signal.SIGKILL:
        assert list(demo.tmp.iterdir()) == []


def test_a_machine_that_does_not_answer_is_named(demo: Demo) -> None:
    """With --host and nobody there, the demo fails with a sentence that names the machine."""
    process = demo.start("--host", "nobody@127.0.0.1:1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out == ""
    assert re.search(r"(?m)^Error: The workflow ended FAILED: .*127\.0\.0\.1", err), err
    assert "Traceback" not in err
    assert demo.left_running() == []


def test_a_real_machine_is_reached_with_the_users_own_ssh_configuration(demo: Demo, any_sshd: Server) -> None:
    """--host takes a name of ~/.ssh/config, with the key and the host keys that stand there."""
    ssh = demo.home / ".ssh"
    ssh.mkdir(mode=0o700)
    (ssh / "config").write_text(
        f"Host build01\n  HostName {any_sshd.host}\n  Port {any_sshd.port}\n  User {any_sshd.username}\n"
        f"  IdentityFile {any_sshd.key_file}\n  UserKnownHostsFile {any_sshd.known_hosts_file}\n"
    )
    before = (ssh / "config").read_text()
    process = demo.start("--host", "build01")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "2.71828" in out
    assert demo.left_running() == []
    assert (ssh / "config").read_text() == before
    assert [path.name for path in demo.home.iterdir()] == [".ssh"]
    assert [path.name for path in ssh.iterdir()] == ["config"]


@pytest.mark.parametrize(
    ("text", "hostname", "settings"),
    [
        ("build01", "build01", {}),
        ("ada@build01.example.org:2222", "build01.example.org", {"username": "ada", "port": 2222}),
        ("[2001:db8::7]:22", "2001:db8::7", {"port": 22}),
        ("ada@192.0.2.7", "192.0.2.7", {"username": "ada"}),
    ],
)
def test_a_host_is_taken_apart(text: str, hostname: str, settings: dict[str, str | int]) -> None:
    """--host is [user@]machine[:port]."""
    machine = parse_host(text)
    assert machine.hostname == hostname
    assert {
        name: machine.settings[name] for name in machine.settings if name in {"username", "port"}
    } == settings


@pytest.mark.parametrize(
    "text", ["", "@", "a b", "-oProxyCommand=x", "build01:", "build01:ssh", "a@b@c", "x\ny"]
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """--host with anything else is a usage error."""
    with pytest.raises(click.BadParameter):
        parse_host(text)


@pytest.mark.parametrize("kind", ["openssh", "embedded"])
async def test_a_private_ssh_server_runs_commands(kind: Kind, short_tmp: Path) -> None:
    """Either server carries bytes both ways, the exit status, HOME and the environment."""
    if kind == "openssh":
        require_sshd()
    directory = short_tmp / secrets.token_hex(3)
    with ssh_server(directory, kind=kind, environment={"WORD": "two words"}) as server:
        async with connection(server) as client:
            ran = await client.run(
                'printf "%s|%s|" "$HOME" "$WORD"; cat; echo no >&2; exit 3', input=b"\xff\0", encoding=None
            )
    assert ran.stdout == f"{directory}/home|two words|".encode() + b"\xff\0"
    assert ran.stderr == b"no\n"
    assert ran.exit_status == 3


@pytest.mark.parametrize("kind", ["openssh", "embedded"])
async def test_what_a_session_leaves_ends_with_the_server(kind: Kind, short_tmp: Path) -> None:
    """A process that daemonised itself in a session does not outlive the private server."""
    if kind == "openssh":
        require_sshd()
    token = secrets.token_hex(8)
    environment = {"DAEMON_TEST": token, "PATH": os.environ["PATH"]}
    with ssh_server(short_tmp / secrets.token_hex(3), kind=kind, environment=environment) as server:
        async with connection(server) as client:
            await client.run(f"{sys.executable} -c '{DAEMON}'", check=True)
        assert len(marked("DAEMON_TEST", token)) == 1
    assert marked("DAEMON_TEST", token) == []


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(600)
    os._exit(0)
os.wait()
"""


def test_a_server_that_cannot_start_says_why(short_tmp: Path) -> None:
    """A private server that ends at once is reported with its last words."""
    require_sshd()
    directory = short_tmp / secrets.token_hex(3)
    with (
        pytest.raises(DemoError, match="NoSuchOption"),
        ssh_server(directory, kind="openssh", options={"NoSuchOption": 1}),
    ):
        pytest.fail("the server started")


def test_sshd_options_given_win(tmp_path: Path) -> None:
    """A private sshd takes the shared settings, but an option that is given instead of the shared one."""
    require_sshd()
    make_key(tmp_path / "host_key")
    found = effective(tmp_path, {"MaxSessions": 3, "LogLevel": "ERROR"}, {"A": "b c"})
    assert found >= {"maxsessions 3", "loglevel ERROR", "setenv A=b c"}
    assert found >= {"authenticationmethods publickey", "passwordauthentication no", "usepam no"}
    assert effective(tmp_path, {}, {}) >= {"loglevel VERBOSE", "maxsessions 10", "maxstartups 10:30:100"}
    with pytest.raises(DemoError, match="quotes"):
        sshd_config("/keys", 2222, environment={"A": 'b"c'})


def effective(directory: Path, options: dict[str, str | int], environment: dict[str, str]) -> set[str]:
    """Return the settings that sshd itself finds in a private server's file."""
    config = directory / "sshd_config"
    config.write_text(sshd_config(directory, 2222, options=options, environment=environment))
    command = [str(find_sshd()), "-T", "-f", str(config)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def test_a_client_reaches_the_private_covalent_server(dispatcher: Dispatcher) -> None:
    """A script's electron runs through the private server, and its own configuration knows no secret."""
    answer = dispatch_script(
        dispatcher,
        """
        import json
        import os
        from pathlib import Path
        import covalent as ct

        @ct.electron(executor="local")
        def double(x):
            return 2 * x

        workflow = ct.lattice(lambda x: double(x))
        result = ct.get_result(ct.dispatch(workflow)(21), wait=True)
        config = Path(os.environ["COVALENT_CONFIG_DIR"], "covalent.conf").read_text()
        print(json.dumps([str(result.status), result.result, "user_key" in config]))
        """,
    )
    assert answer == ["COMPLETED", 42, False]


def test_the_embedded_server_serves_the_executor(dispatcher: Dispatcher, short_tmp: Path) -> None:
    """Where there is no OpenSSH, the electron runs through the embedded server all the same."""
    directory = short_tmp / secrets.token_hex(3)
    with ssh_server(directory, kind="embedded", environment={"PATH": os.environ["PATH"]}) as server:
        table = {
            **server.settings(),
            "hostname": server.host,
            "python_path": sys.executable,
            "remote_spool": str(directory / "spool"),
        }
        dispatcher.configure({"executors": {"sshtiming": {"hosts": {"embedded": table}}}})
        answer = dispatch_script(
            dispatcher,
            """
            import json
            import sys
            import covalent as ct
            from covalent_sshtiming import TimingSSHExecutor

            @ct.electron(executor=TimingSSHExecutor(hostname="embedded", timing_filepath=sys.argv[1]))
            def where():
                import os
                print("seen")
                return os.environ["HOME"], os.urandom(100_000)

            workflow = ct.lattice(lambda: where())
            result = ct.get_result(ct.dispatch(workflow)(), wait=True)
            home, data = result.result or (None, b"")
            print(json.dumps([str(result.status), home, len(data)] + [result.error] * bool(result.error)))
            """,
            str(directory / "timing.log"),
        )
    assert answer == ["COMPLETED", str(directory / "home"), 100_000], answer


async def test_the_proxy_breaks_a_link_after_so_many_bytes(any_sshd: Server) -> None:
    """The faulty link counts connections, breaks once where it is told, and is whole again."""
    async with Proxy(any_sshd.host, any_sshd.port) as proxy:
        proxy.down.cut_after = 20_000
        outcomes = [await _bytes_through(proxy, any_sshd, 100_000) for _ in range(2)]
        assert outcomes[0] < 100_000
        assert outcomes[1] == 100_000
        assert proxy.connections == 2


async def test_the_proxy_delays(any_sshd: Server) -> None:
    """Latency is added to every round trip."""
    async with Proxy(any_sshd.host, any_sshd.port) as proxy:
        proxy.up.latency = proxy.down.latency = 0.05
        start = time.monotonic()
        assert await _bytes_through(proxy, any_sshd, 1000) == 1000
        assert time.monotonic() - start > 0.5


async def _bytes_through(proxy: Proxy, server: Server, size: int) -> int:
    try:
        async with asyncssh.connect(
            proxy.host,
            proxy.port,
            username=server.username,
            client_keys=[str(server.key_file)],
            known_hosts=None,
            agent_path=None,
            config=None,
        ) as client:
            ran = await client.run(f"head -c {size} /dev/zero", encoding=None)
            return len(ran.stdout or b"")
    except (OSError, asyncssh.Error):
        return 0
