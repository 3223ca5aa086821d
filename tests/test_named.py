"""SSHTIMING_TEST_HOST: the server that it names is used, and where that cannot be, a sentence says why.

The named server is one of our own here, so that this runs in every `make test`; what is said of it is said by
its sshd, as that of any machine's would be.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from support import direct
from support.interpreters import OWN
from support.keys import make_key
from support.named import NamedError, NamedServer, named_server
from support.there import alive, kill, mode, parent

from covalent_sshtiming.demo.sshserver import SSHServer

HERE = Path(__file__).parent


@pytest.fixture
def naming(sshd: SSHServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Name our own server."""
    monkeypatch.setenv("SSHTIMING_TEST_HOST", f"{sshd.username}@{sshd.host}:{sshd.port}")
    monkeypatch.setenv("SSHTIMING_TEST_KEY", str(sshd.key_file))
    monkeypatch.delenv("SSHTIMING_TEST_KNOWN_HOSTS", raising=False)
    monkeypatch.delenv("SSHTIMING_TEST_PYTHON", raising=False)
    return monkeypatch


@pytest.fixture
def named_here(naming: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[NamedServer]:
    """Return our own server as a named one."""
    with named_server(tmp_path) as server:
        yield server


def test_what_a_named_server_is_known_by(named_here: NamedServer, sshd: SSHServer) -> None:
    """It has our server's address, host key and home, and an empty directory of its own."""
    known = {"known_hosts_file": str(named_here.known_hosts_file)}
    assert named_here.settings() == {**sshd.settings(), **known}
    assert named_here.known_hosts_file.read_text().split() == sshd.known_hosts_file.read_text().split()[:3]
    assert str(named_here.remote_home) == str(sshd.remote_home)
    assert list(named_here.directory.iterdir()) == []


def test_files_there_are_files(named_here: NamedServer) -> None:
    """What is done by a FarPath is done on the machine, and what is there is seen."""
    place, twin = named_here.directory / "a b", Path(str(named_here.directory)) / "a b"
    assert not place.exists()
    place.mkdir()
    (place / "text").write_text("é\n")
    (place / "empty").touch()
    assert (twin / "text").read_text() == (place / "text").read_text() == "é\n"
    assert sorted(path.name for path in place.iterdir()) == ["empty", "text"]
    assert [str(path) for path in place.parent.glob("*/te*")] == [str(twin / "text")]
    assert list((place / "nowhere").glob("*")) == []
    assert place.is_dir()
    assert not (place / "text").is_dir()
    assert mode(place) == mode(twin)
    assert (twin / "empty").read_bytes() == b""


def test_processes_there_are_processes(named_here: NamedServer) -> None:
    """A process is seen to live, has a parent, can be killed, and is then seen not to live."""
    child = subprocess.Popen(["sleep", "60"])
    assert alive(child.pid, named_here.directory)
    assert parent(child.pid, named_here.directory) == os.getpid()
    kill(child.pid, named_here.directory)
    assert not alive(child.pid, named_here.directory)  # nor is it as a zombie
    assert child.wait(10) == -9
    kill(child.pid, named_here.directory)


async def test_agents_there_are_ended(named_here: NamedServer, place: Path) -> None:
    """A task runs by the Python that is found there; its agent is known, and gone afterwards."""
    far = named_here.directory
    async with direct.machine_at(named_here, place, far) as machine:
        assert (await machine.run(lambda: 6 * 7)).value == 42
        (agent,) = machine.agents()
        assert machine.alive(agent)
    assert not alive(agent, far)
    assert direct.agents(far / "spool") == set()


def test_the_directory_there_is_removed(naming: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the tests make on a named machine is gone when they are."""
    with named_server(tmp_path) as server:
        (server.directory / "file").touch()
    assert not Path(str(server.directory)).exists()


def refusal(directory: Path) -> str:
    """Return why the named server cannot be used."""
    with pytest.raises(NamedError) as caught, named_server(directory):
        pytest.fail("it can be used")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HOST", "a b", "SSHTIMING_TEST_HOST: 'a b' is not [user@]machine[:port]."),
        ("HOST", "127.0.0.1:1", "127.0.0.1: no SSH server answers at port 1. Is it running, and is SSHT"),
        ("HOST", "127.0.0.1:99999", "no SSH server answers at port 99999 (Bad port '99999'). Is it running"),
        ("KEY", "", "SSHTIMING_TEST_KEY is '': name the private key that SSHTIMING_TEST_HOST lets in"),
        ("KEY", "/nowhere/key", "SSHTIMING_TEST_KEY is '/nowhere/key': name the private key"),
        (
            "KNOWN_HOSTS",
            "/dev/null",
            "SSHTIMING_TEST_KNOWN_HOSTS, /dev/null, has no host key for [127",
        ),
        ("PYTHON", "/bin/true", f"has no Python {OWN} (/bin/true), and what these tests pickle needs one."),
    ],
)
def test_what_cannot_be_used_is_said(
    name: str, value: str, words: str, naming: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong address, key, file of host keys or Python is told with the variable to correct."""
    naming.setenv(f"SSHTIMING_TEST_{name}", value)
    assert words in refusal(tmp_path)


def test_a_key_that_does_not_let_in_is_said(naming: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key that the server does not know is told with its own words."""
    naming.setenv("SSHTIMING_TEST_KEY", str(make_key(tmp_path / "other")))
    text = refusal(tmp_path)
    assert "is not let in: Permission denied" in text
    assert text.endswith("Correct SSHTIMING_TEST_HOST or SSHTIMING_TEST_KEY.")


def test_a_key_that_others_can_read_is_said(naming: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such a key is refused once, with what to run, and not by each test in turn."""
    key = make_key(tmp_path / "open")
    key.chmod(0o644)
    naming.setenv("SSHTIMING_TEST_KEY", str(key))
    text = refusal(tmp_path)
    assert text == f"SSHTIMING_TEST_KEY: others can read {key}, so it is refused; run `chmod 600 {key}`."


def test_a_host_key_that_is_on_record_is_held_to(
    naming: pytest.MonkeyPatch, sshd: SSHServer, tmp_path: Path
) -> None:
    """With SSHTIMING_TEST_KNOWN_HOSTS another key than the recorded one is refused; hashed names count."""
    known = tmp_path / "recorded"
    known.write_text(f"# ours\n{sshd.known_hosts_file.read_text()}")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    naming.setenv("SSHTIMING_TEST_KNOWN_HOSTS", str(known))
    with named_server(tmp_path) as server:
        assert server.settings()["port"] == sshd.port
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known.write_text(f"[{sshd.host}]:{sshd.port} {other}")
    assert "is not let in: Host key is not trusted" in refusal(tmp_path)


def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a part of the suite in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False, timeout=120)


def test_integration_tests_go_to_the_named_server(naming: pytest.MonkeyPatch, sshd: SSHServer) -> None:
    """With the two variables set, an integration test logs in to that server and to no other."""
    before = sshd.process.log.read_text().count("Accepted publickey")
    ran = suite("-m", "integration", "tests/test_outputs.py", "-k", "fan_out")
    assert ran.returncode == 0, ran.stdout
    assert f"integration tests: {sshd.username}@{sshd.host}:{sshd.port}\n" in ran.stdout
    assert re.search(r"^=+ 1 passed, \d+ deselected", ran.stdout, re.MULTILINE)
    # Once to see whether it can be used, once to look at its files, and once by the executor.
    assert sshd.process.log.read_text().count("Accepted publickey") - before == 3


def test_a_named_server_that_cannot_be_used_ends_the_run_at_once(naming: pytest.MonkeyPatch) -> None:
    """Nothing is tried, and one sentence is said, where the named server cannot be used."""
    naming.setenv("SSHTIMING_TEST_KEY", "/nowhere")
    ran = suite("tests/test_outputs.py")
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert ran.stderr.strip().startswith("ERROR: SSHTIMING_TEST_KEY is '/nowhere': name the private key")
    assert "passed" not in ran.stdout
