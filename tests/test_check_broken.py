"""`covalent-sshtiming check` on machines that are broken in one way each, and what is said of it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import remote_environment
from support import direct
from support.checking import Near, near
from support.condas import fake_conda, make_environment
from support.disks import mounted
from support.interpreters import OWN, require_interpreter
from support.keys import make_key

from covalent_sshtiming.checking.walk import STEPS
from covalent_sshtiming.demo.processes import free_port
from covalent_sshtiming.demo.sshserver import SSHServer


@pytest.fixture
def box(sshd: SSHServer) -> Iterator[Near]:
    """Return the way to a machine that is good as long as nobody breaks it."""
    with near(sshd) as here:
        yield here


# Imported by every worker, whose tasks then print what nobody asked for.
LIAR = """
import sys
del sys.modules["resource"], sys.path[sys.path.index(__file__.rpartition("/")[0])]
from resource import *
import json
real = json.dumps
json.dumps = lambda value, **more: "[" * 9000 if "cloudpickle" in value else real(value, **more)
"""


def python_with(module: Path, source: str) -> str:
    """Write a module, and a Python that finds it before its own; return the path of that Python."""
    module.parent.mkdir()
    module.write_text(source)
    python = module.with_name("python")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={module.parent} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_a_setting_that_is_none(box: Near) -> None:
    """A wrong covalent.conf, a wrong option and a HOST that is none fail the first step."""
    step, error, text = box.failure("prot=22")
    assert (step, error) == ("settings", "ConfigError")
    assert text == "prot (argument of TimingSSHExecutor) is not an option: did you mean port?"
    assert box.failure(name="a b")[2] == "'a b' is not [user@]machine[:port]."
    step, _, text = box.failure('send=["/nowhere/mesh.vtk"]')
    assert (step, "/nowhere/mesh.vtk" in text) == ("settings", True)
    box.table["max_parallel"] = "many"
    step, _, text = box.failure()
    assert step == "settings"
    assert text.startswith("max_parallel ([executors.sshtiming] in covalent.conf) is 'many'; write a whole")


def test_a_name_that_does_not_resolve(box: Near) -> None:
    """An unknown name fails at the look-up."""
    step, error, text = box.failure(name="unresolved.invalid")
    assert (step, error) == ("resolve", "ConnectError")
    assert text.startswith("unresolved.invalid: the name does not resolve")


def test_a_key_that_others_can_read(box: Near) -> None:
    """Credentials that cannot be used fail before anybody is called."""
    key = make_key(box.home / "open")
    key.chmod(0o644)
    step, error, text = box.failure(f"ssh_key_file={key}")
    assert (step, error) == ("credentials", "AuthError")
    assert text == f"gpubox (127.0.0.1): others can read the key file {key}; run `chmod 600 {key}`."


def test_a_port_that_refuses(box: Near) -> None:
    """A port on which nobody listens fails the connection."""
    port = free_port("127.0.0.1")
    step, error, text = box.failure(f"port={port}")
    assert (step, error) == ("connect", "ConnectError")
    assert text.startswith(f"gpubox (127.0.0.1): port {port} cannot be reached (")
    assert text.endswith("is the machine up, and sshd? If so, correct hostname or port.")


def test_a_port_that_is_silent(box: Near) -> None:
    """Whoever takes the connection and says nothing fails after connect_timeout, at the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        step, error, text = box.failure(f"port={silent.getsockname()[1]}", "connect_timeout=1")
    assert (step, error) == ("host key", "ConnectError")
    assert "no SSH handshake within 1 s; is it up, and is port" in text


def test_a_host_key_that_has_changed(box: Near) -> None:
    """Another host key than the one on record fails that step, with the command that puts it right."""
    known = box.home / "known"
    public = make_key(box.home / "another").with_suffix(".pub").read_text()
    known.write_text(f"[127.0.0.1]:{box.server.port} {public}")
    step, error, text = box.failure(f"known_hosts_file={known}")
    assert (step, error) == ("host key", "HostKeyChanged")
    assert "its host key has changed: it presents SHA256:" in text
    assert f"run `ssh-keygen -R '[127.0.0.1]:{box.server.port}' -f {known}`" in text


def test_a_host_key_that_nobody_knows(box: Near) -> None:
    """A host key that is not on record fails that step; accept-new passes it, and says so."""
    known = box.home / "known"
    known.touch()
    step, error, text = box.failure(f"known_hosts_file={known}")
    assert (step, error) == ("host key", "HostKeyUnknown")
    assert "no known_hosts file has its host key SHA256:" in text
    assert 'set host_key_policy to "accept-new".' in text
    ran = box.check("--json", "-o", f"known_hosts_file={known}", "-o", "host_key_policy=accept-new")
    assert ran.code == 0
    assert "new host key SHA256:" in ran.err
    told = json.loads(ran.out)[STEPS.index("host key")]["detail"]
    assert told == 'on record, perhaps since now (host_key_policy = "accept-new")'


def test_a_login_that_is_refused(box: Near) -> None:
    """A key that the machine does not know fails the login."""
    key = make_key(box.home / "other")
    step, error, text = box.failure(f"ssh_key_file={key}")
    assert (step, error) == ("login", "AuthError")
    assert f"the login as {box.server.username} with the key {key} was refused" in text
    assert text.endswith("or add the public key to ~/.ssh/authorized_keys there.")


def test_an_environment(box: Near) -> None:
    """A set-up is a step of its own: it says what was done, how long it took, or what failed and why."""
    root = box.home / "conda"
    program, prefix = fake_conda(root), make_environment(root, "science")
    setup = f'setup_commands=["echo Hello >&2", "export CONDA_EXE={program}; sleep 0.2"]'
    code, steps = box.steps(setup, f"conda_env={prefix}")
    assert code == 0
    shell, environment, python = (steps[STEPS.index(name)] for name in ("shell", "environment", "python"))
    assert shell["detail"] == "prints nothing of its own"
    assert environment["detail"] == f"2 set-up commands, conda_env {prefix}, by {program}"
    assert environment["seconds"] > 0.2
    assert python["detail"] == f"of conda_env {prefix}"
    step, error, text = box.failure('setup_commands=["true"]', "python_path=/no/such/python")
    assert (step, error) == ("python", "RemoteEnvError")
    step, error, text = box.failure('setup_commands=["true", "echo no licence; false"]')
    assert (step, error) == ("environment", "RemoteEnvError")
    assert "set-up command 'echo no licence; false' ended with status 1 (it printed: no licence)." in text
    step, error, text = box.failure("conda_env=nowhere")
    assert (step, error) == ("environment", "RemoteEnvError")
    assert "conda_env 'nowhere' cannot be activated" in text


def test_a_python_that_is_none(box: Near) -> None:
    """A program that is no Python fails there with its own words, and none of the check's among them."""
    program = box.home / "python"
    program.write_text("#!/bin/sh\necho I am no Python\nexit 9\n")
    program.chmod(0o755)
    step, error, text = box.failure(f"python_path={program}")
    assert (step, error) == ("python", "RemoteEnvError")
    assert "ended with status 9 before it could serve (it printed: I am no Python)." in text


def test_a_python_of_another_version(box: Near) -> None:
    """Another minor version than ours fails that step, and so does one that is too old."""
    other = require_interpreter("3.9" if OWN != "3.9" else "3.10")
    step, error, text = box.failure(f"python_path={other}")
    assert (step, error) == ("version", "RemoteEnvError")
    assert f"this electron was pickled by Python {OWN}, and " in text
    assert f"There is {shutil.which(f'python{OWN}', path=remote_environment()['PATH'])} too: set " in text
    old = require_interpreter("3.6")
    step, _, text = box.failure(f"python_path={old}")
    assert step == "version"
    assert "is too old, 3.8 is the oldest that works." in text


def test_a_cache_that_cannot_be_written(box: Near) -> None:
    """No place for our program, none for tasks and none to work in: each fails the disk, with its setting."""
    (box.home / "file").touch()
    step, error, text = box.failure(f"remote_cache={box.home}/file/cache")
    assert (step, error) == ("disk", "TransferError")
    assert "our program cannot be stored there: " in text
    assert text.endswith("Set remote_cache to another place.")
    step, error, text = box.failure(f"remote_spool={box.home}/file")
    assert (step, error) == ("disk", "TransferError")
    assert "no place for tasks: " in text
    step, error, text = box.failure(f"remote_workdir={box.home}/file/work")
    assert (step, error) == ("disk", "StartedTransferError")
    assert text.endswith("Correct remote_workdir.")


def test_a_disk_that_is_full(box: Near) -> None:
    """A spool without room fails the disk, and says so."""
    with mounted(box.home / "disk", "16k,nr_inodes=4") as disk:
        try:
            step, error, text = box.failure(f"remote_spool={disk}")
        finally:
            direct.end_agents(disk)
    assert (step, error) == ("disk", "TransferError")
    assert "No space left on device" in text
    assert "remote_spool" in text


def test_a_python_that_lacks_a_module(box: Near) -> None:
    """A Python of the right version that cannot run our program fails there, past the disk."""
    python = python_with(box.home / "far" / "selectors.py", "raise ImportError('no selectors')\n")
    step, error, text = box.failure(f"python_path={python}")
    assert (step, error) == ("modules", "RemoteEnvError")
    assert "our program ended with status 1 before it could serve (it printed: " in text
    assert "Error: no selectors)" in text


def test_a_machine_that_lies_in_its_output(box: Near) -> None:
    """What a task of ours prints is a stranger's word: what is no JSON object is an error, not a crash."""
    python = python_with(box.home / "far" / "resource.py", LIAR)
    step, error, text = box.failure(f"python_path={python}")
    assert (step, error) == ("disk", "TaskDied")
    assert "what the trial task printed is not JSON" in text
