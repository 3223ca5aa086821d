"""Login shells: whichever the account has, and whatever its start-up files print."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import remote_environment, require_sshd
from support import direct
from support.interpreters import OWN

from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.errors import ConnectError, ProtocolError
from covalent_sshtiming.host.bootstrap import NOISE_MAX, Preamble, command
from covalent_sshtiming.host.target import Target
from covalent_sshtiming.remote import places

SHELLS = ["sh", "dash", "bash", "zsh", "fish", "tcsh"]
NONCE = "0123456789abcdef01234567"
NEEDS = {"archive": "need", "machine": places.machine()[0]}  # what the doorman says where nothing of ours is
# As the account's login shell: sshd gives this to that shell, which gives the command to another.
RELAY = """\
#!/bin/sh
{start_up}
exec {shell} -c "$SSH_ORIGINAL_COMMAND"
"""


def shell_command(shell: str) -> list[str]:
    """Return the words that start a shell, or skip the test."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell} on this machine")
    return [path]


def speaking() -> Callable[[], int]:
    """Return a function that prints a line and returns 5."""

    def speak() -> int:
        print("out")
        return 5

    return speak


class Account:
    """A remote account whose login shell, and what that runs at its start, can be chosen."""

    def __init__(self, server: SSHServer, relay: Path) -> None:
        self.server = server
        self._relay = relay

    def logs_in_with(self, shell: list[str], start_up: str = "") -> None:
        """Choose the shell, and lines for `sh` that are run before it."""
        self._relay.write_text(RELAY.format(shell=shlex.join(shell), start_up=start_up))
        self._relay.chmod(0o755)


@contextmanager
def running_account(directory: Path) -> Iterator[Account]:
    """Run a server that puts a program of ours between every session and its command."""
    relay = directory / "relay"
    options = {"ForceCommand": str(relay)}
    environment = remote_environment()
    with ssh_server(directory, kind="openssh", options=options, environment=environment) as server:
        yield Account(server, relay)


@pytest.fixture(scope="module")
def account(short_tmp: Path, nothing_left_running: None) -> Iterator[Account]:
    """Return an account whose login shell each test chooses."""
    require_sshd()
    with running_account(short_tmp / "account") as running:
        yield running


@pytest.fixture
async def machine(account: Account, short_tmp: Path) -> AsyncIterator[direct.Machine]:
    """Return a way to that account, with a spool for each test."""
    directory = Path(tempfile.mkdtemp(dir=short_tmp))
    async with direct.machine(account.server, directory, retry_connect=False) as reached:
        yield reached


def announced(shell: list[str], tmp_path: Path, **target: Any) -> dict[str, Any]:
    """Return what the doorman announces when a shell is given the exec command."""
    reached = Target("label", "host", OWN, cache=str(tmp_path / "cache"), spool=str(tmp_path / "s"), **target)
    preamble, found = Preamble(NONCE), None
    with subprocess.Popen(
        [*shell, "-c", command(reached, NONCE)],
        stdin=subprocess.PIPE,  # whose end, after this, ends it where it asks for the archive
        stdout=subprocess.PIPE,
        env={"PATH": remote_environment()["PATH"], "HOME": str(tmp_path), "SHELL": shell[0]},
        start_new_session=True,
    ) as started:
        assert started.stdout is not None
        while found is None:
            data = os.read(started.stdout.fileno(), 65536)
            assert data, "it ended without a word"
            found = preamble.feed(data)
    assert found[1] == b""
    return found[0]


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_passes_the_exec_command_on(shell: str, tmp_path: Path) -> None:
    """The exec command, given to a shell as sshd gives it, starts the doorman, which asks for the archive."""
    words = shell_command(shell)
    assert announced(words, tmp_path) == NEEDS
    assert announced(words, tmp_path, python_path=sys.executable) == NEEDS


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_passes_set_up_commands_on(shell: str, tmp_path: Path) -> None:
    """Each sign of a set-up command comes to the shell that runs it; a name of conda's is taken literally."""
    signs = "".join(map(chr, range(32, 127))).replace("'", "") + "é\t"
    told = tmp_path / "told"
    lines = ["wait; read line || cd /", f"printf %s '{signs}' > {told}; pwd >> {told}"]
    assert (
        announced(
            shell_command(shell),
            tmp_path,
            setup=(*lines, f"PATH={tmp_path}/bin:$PATH"),
            python_path=sys.executable,
        )
        == NEEDS
    )
    assert told.read_text() == f"{signs}/\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "name", ["py thon", "py'thon", 'py"thon', "py$HOME`x`", "py;*?[a]&|<>()#", "~py{a,b}%^=", "größe"]
)
def test_shell_leaves_python_path_alone(shell: str, name: str, tmp_path: Path) -> None:
    """No character of a python_path means anything to a login shell, or to sh."""
    words = shell_command(shell)
    python = tmp_path / name
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    assert announced(words, tmp_path, python_path=str(python)) == NEEDS
    assert announced(words, tmp_path, python_path=f"~/{name}") == NEEDS


@pytest.mark.parametrize("shell", SHELLS)
async def test_task_runs_through_login_shell(shell: str, account: Account, machine: direct.Machine) -> None:
    """A task gets its arguments, and gives back result and output, whatever the login shell is."""
    account.logs_in_with(shell_command(shell))
    ran = await machine.run(lambda data: data[::-1], bytes(range(256)))
    assert ran.value == bytes(range(256))[::-1]
    assert (ran.stdout, ran.stderr) == ("", "")


async def test_own_start_up_files_may_print(short_tmp: Path) -> None:
    """What the account's real shell prints from its real start-up files does not reach the task's output."""
    require_sshd()
    directory = Path(tempfile.mkdtemp(dir=short_tmp))
    home = directory / "home"
    # One line that every shell understands; which of these files is read is the shell's to decide.
    for name in (".bashrc", ".zshenv", ".tcshrc", ".cshrc", ".config/fish/config.fish"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("echo Welcome. Have a lot of fun\n")
    with ssh_server(directory, kind="openssh", environment=remote_environment()) as server:
        async with direct.machine(server, directory) as machine:
            ran = await machine.run(speaking())
            assert ran.value == 5
            assert (ran.stdout, ran.stderr) == ("out\n", "")


@pytest.mark.parametrize("noise", [b"x" * 1000 + b"\n", bytes(range(256)) * 240, b"\0SSHTIMING/1 " * 4000])
async def test_noise_is_passed_over(
    noise: bytes, account: Account, machine: direct.Machine, tmp_path: Path
) -> None:
    """60 KiB of anything, NUL characters and our own magic among it, may come before our program speaks."""
    assert len(noise) < NOISE_MAX
    (tmp_path / "noise").write_bytes(noise)
    account.logs_in_with(["/bin/sh"], f"cat {tmp_path}/noise; cat {tmp_path}/noise >&2")
    ran = await machine.run(speaking())
    assert ran.value == 5
    assert (ran.stdout, ran.stderr) == ("out\n", "")


async def test_endless_noise_is_refused(account: Account, machine: direct.Machine, tmp_path: Path) -> None:
    """More than 64 KiB of noise is refused, with how much it was and whose it is."""
    (tmp_path / "noise").write_bytes(b"y\n" * 35 * 1024)
    account.logs_in_with(["/bin/sh"], f"cat {tmp_path}/noise")
    ran = await machine.run(print)
    assert isinstance(ran.error, ProtocolError)
    assert str(ran.error) == (
        "127.0.0.1: its login shell printed over 65536 bytes before our program spoke. "
        "Is something else answering there?"
    )


@pytest.mark.parametrize("first", [1000, NOISE_MAX - 1, NOISE_MAX, NOISE_MAX + 1, NOISE_MAX + 5, 1 << 20])
def test_noise_has_one_bound_however_it_arrives(first: int) -> None:
    """64 KiB of noise pass and one byte more does not, wherever the stream is cut."""
    mark = b'\0SSHTIMING/1 %s {"archive":"have"}\n\1' % NONCE.encode()

    def fed(noise: int) -> tuple[dict[str, Any], bytes] | None:
        preamble, data = Preamble(NONCE), b"n" * noise + mark
        found = preamble.feed(data[:first])
        return found if found is not None else preamble.feed(data[first:])

    assert fed(NOISE_MAX) == ({"archive": "have"}, b"\1")
    with pytest.raises(ProtocolError, match="its login shell printed over 65536 bytes"):
        fed(NOISE_MAX + 1)


@pytest.mark.parametrize("start_up", ["cat >/dev/null", "echo Password:; read answer"])
async def test_start_up_file_that_waits_is_an_error(
    start_up: str, account: Account, machine: direct.Machine
) -> None:
    """A start-up file that reads from us is a ConnectError after connect_timeout, with its words."""
    account.logs_in_with(["/bin/sh"], start_up)
    began = time.monotonic()
    ran = await machine.run(print, options={"connect_timeout": 2})
    assert 2 <= time.monotonic() - began < 6
    said = " (it printed: Password:)" if "Password" in start_up else ""
    assert isinstance(ran.error, ConnectError)
    assert str(ran.error) == (
        f"127.0.0.1: logged in, but its shell did not start our program within 2 s{said}; "
        "does a start-up file wait for input?"
    )


async def test_shell_that_runs_no_commands_is_an_error(account: Account, machine: direct.Machine) -> None:
    """An account whose shell refuses commands, as nologin does, is told so in its own words."""
    account.logs_in_with(["/bin/sh"], "echo 'This account is currently not available.'; exit 1")
    ran = await machine.run(print)
    assert str(ran.error) == (
        "127.0.0.1: our program ended with status 1 before it could serve (it printed: This account is "
        "currently not available.). Does the login shell run commands, and is python_path "
        f"{sys.executable!r} a Python?"
    )
