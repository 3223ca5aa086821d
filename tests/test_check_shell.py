"""`covalent-sshtiming check` where the login shell is the odd one: noise, silence, no Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import remote_environment, require_sshd
from support.checking import Near, near
from support.interpreters import OWN

from covalent_sshtiming.demo.sshserver import ssh_server
from covalent_sshtiming.host.bootstrap import NOISE_MAX


@pytest.fixture
def shell(place: Path, nothing_left_running: None) -> Iterator[Near]:
    """Return a machine whose login shell is the file `shell` in our HOME's server."""
    require_sshd()
    directory = place / "ssh"
    options = {"ForceCommand": str(directory / "shell")}
    with (
        ssh_server(directory, kind="openssh", options=options, environment=remote_environment()) as server,
        near(server) as here,
    ):
        yield here


def logs_in_with(here: Near, *lines: str) -> None:
    """Give the account a login shell that runs these lines of sh, and then the command."""
    path = here.server.key_file.with_name("shell")
    path.write_text("\n".join(["#!/bin/sh", *lines, 'exec sh -c "$SSH_ORIGINAL_COMMAND"', ""]))
    path.chmod(0o755)


def test_noise_is_told_and_no_obstacle(shell: Near) -> None:
    """What a login shell prints is passed over, and said, without its control characters."""
    logs_in_with(shell, r"printf 'Wel\033[31mcome\a, ada\n'; echo beware >&2")
    code, steps = shell.steps()
    assert code == 0
    (said,) = [one["detail"] for one in steps if one["step"] == "shell"]
    assert said == "prints 19 B of its own, which is passed over (Welcome , ada)"


def test_a_shell_that_never_stops_talking(shell: Near) -> None:
    """More noise than is passed over fails the shell."""
    logs_in_with(shell, "yes what a lovely day")
    step, error, text = shell.failure()
    assert (step, error) == ("shell", "ProtocolError")
    assert f"its login shell printed over {NOISE_MAX} bytes before our program spoke" in text


def test_a_shell_that_runs_nothing(shell: Near) -> None:
    """A shell that ends with words of its own fails, with these words; none of ours are among them."""
    logs_in_with(shell, "echo This account is currently not available.; exit 1")
    step, error, text = shell.failure()
    assert (step, error) == ("shell", "RemoteEnvError")
    assert (
        "with status 1 before it could serve (it printed: This account is currently not available.)" in text
    )
    assert "Does the login shell run commands" in text


def test_a_shell_that_waits(shell: Near) -> None:
    """A start-up file that waits for input fails after connect_timeout, with what it asked."""
    logs_in_with(shell, "printf 'Which project? '", "read answer")
    step, error, text = shell.failure("connect_timeout=4")
    assert (step, error) == ("shell", "ConnectError")
    assert (
        "did not start our program within 4 s (it printed: Which project?); does a start-up file wait" in text
    )


def test_no_python(shell: Near) -> None:
    """A machine without Python passes the shell and fails there; so does a python_path that is none."""
    logs_in_with(shell, f"PATH={shell.home}; export PATH", 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    (shell.home / "sh").symlink_to("/bin/sh")
    step, error, text = shell.failure()
    assert (step, error) == ("python", "RemoteEnvError")
    assert f"no Python was found there: neither python{OWN} nor python3 is on the login shell's PATH" in text
    step, _, text = shell.failure("python_path=/no/such/python")
    assert step == "python"
    assert "python_path '/no/such/python' cannot be run there" in text
