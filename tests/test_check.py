"""`covalent-sshtiming check`: a good machine, those that are broken in one way each, and what is said."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import toml
from click.testing import CliRunner
from conftest import remote_environment, require_sshd
from support import direct, readme
from support.condas import fake_conda, make_environment
from support.interpreters import require_interpreter
from support.keys import make_key
from support.login import authorize
from support.named import Server
from support.there import There
from support.verbs import Ran, run_verb

from covalent_sshtiming.checking.walk import STEPS, Step, Walk
from covalent_sshtiming.checking.watch import Watch
from covalent_sshtiming.cli import main
from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.processes import free_port
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.host.bootstrap import NOISE_MAX
from covalent_sshtiming.host.environment import Said
from covalent_sshtiming.host.session import Session
from covalent_sshtiming.host.target import Target

OWN = "{}.{}".format(*sys.version_info)


class Near:
    """Our side: a HOME whose covalent.conf calls the machine gpubox."""

    def __init__(self, home: Path, server: SSHServer) -> None:
        self.home = home
        self.spool = home / "spool"
        self.server = server
        self.table: dict[str, Any] = {
            "remote_spool": str(self.spool),
            "idle_timeout": 5,
            **server.settings(),
            "hosts": {"gpubox": {"hostname": server.host}},
        }

    def configure(self) -> None:
        """Write covalent.conf."""
        conf = self.home / ".config" / "covalent" / "covalent.conf"
        conf.parent.mkdir(parents=True, exist_ok=True)
        conf.write_text(toml.dumps({"executors": {"sshtiming": self.table}}))

    def check(self, *arguments: str, **more: Any) -> Ran:
        """Run the verb in a process of its own; further keywords are environment variables."""
        self.configure()
        return run_verb("check", "gpubox", *arguments, home=self.home, **more)

    def check_here(self, *arguments: str) -> Ran:
        """Run the verb in this process, which is quicker."""
        self.configure()
        others = ("COVALENT_CONFIG_DIR", "XDG_CONFIG_DIR", "SSH_AUTH_SOCK")
        env = {"HOME": str(self.home), **dict.fromkeys(others)}
        ran = CliRunner().invoke(main, ["check", *arguments], env=env)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return Ran(ran.stdout, ran.stderr, ran.exit_code)

    def steps(self, *options: str, name: str = "gpubox") -> tuple[int, list[dict[str, Any]]]:
        """Return the exit code, and what --json prints."""
        arguments = [word for option in options for word in ("-o", option)]
        ran = self.check_here("--json", *arguments, "--", name)
        assert ran.err == ""
        steps: list[dict[str, Any]] = json.loads(ran.out)
        assert [one["step"] for one in steps] == list(STEPS)
        return ran.code, steps

    def failure(self, *options: str, name: str = "gpubox") -> tuple[str, str, str]:
        """Return the step that failed, its error's class and sentence; none after it may have been tried."""
        code, steps = self.steps(*options, name=name)
        assert code == 1
        states = [one["ok"] for one in steps]
        at = states.index(False)
        assert states == [True] * at + [False] + [None] * (len(STEPS) - at - 1)
        failed = steps[at]
        assert failed["seconds"] >= 0
        return failed["step"], failed["error"], failed["detail"]


@contextmanager
def near(server: SSHServer) -> Iterator[Near]:
    """Reach a server from a HOME of one's own; its agents are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chk-", dir="/tmp", ignore_cleanup_errors=True) as name:
        here = Near(Path(name), server)
        try:
            yield here
        finally:
            direct.end_agents(here.spool)


@pytest.fixture
def box(sshd: SSHServer) -> Iterator[Near]:
    """Return the way to a machine that is good as long as nobody breaks it."""
    with near(sshd) as here:
        yield here


@pytest.fixture
def shell(short_place: Path, nothing_left_running: None) -> Iterator[Near]:
    """Return a machine whose login shell is the file `shell` in our HOME's server."""
    require_sshd()
    directory = short_place / "ssh"
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


# ---- a good machine


def test_a_good_machine_passes_each_step(box: Near) -> None:
    """Every step is ok with its time; a Python without cloudpickle will do, because that comes along."""
    ran = box.check("--json")
    assert (ran.code, ran.err) == (0, "")
    steps = json.loads(ran.out)
    assert [one["step"] for one in steps] == list(STEPS)
    assert all(one["ok"] is True and one["error"] is None for one in steps)
    assert all(one["seconds"] >= 0 for one in steps)
    told = {one["step"]: one["detail"] for one in steps}
    assert told["settings"] == f"{box.home}/.config/covalent/covalent.conf; gpubox is 127.0.0.1"
    assert told["resolve"].endswith(f"@127.0.0.1 port {box.server.port}: 127.0.0.1")
    assert told["jump hosts"] == "none"
    assert told["credentials"] == str(box.server.key_file)
    assert told["host key"] == "on record"
    assert told["shell"] == "prints nothing of its own"
    assert told["python"] == "on the login shell's PATH"
    assert told["version"] == f"{OWN}, as here"
    for place in ("cache ", f"spool {box.spool}: ", "workdir "):
        assert place in told["disk"]
    assert told["disk"].count("iB free") == 3
    assert f"Python {OWN}." in told["modules"]
    assert " came along; " in told["modules"]
    assert "give or take" in told["clock"]
    assert f"; at most {len(os.sched_getaffinity(0))} tasks at once" in told["cores"]
    assert " of CPU in " in told["trial task"]
    assert not list(box.spool.glob("tasks/*"))


def test_a_machine_with_a_shell_of_its_own_passes(any_sshd: Server, far_place: There, tmp_path: Path) -> None:
    """The same holds for any good machine, whatever it is called, its shell prints and its PATH has."""
    spool = far_place / "spool"
    table = {
        **any_sshd.settings(),
        "remote_spool": str(spool),
        "hosts": {"gpubox": {"hostname": any_sshd.host}},
    }
    conf = tmp_path / ".config" / "covalent" / "covalent.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(toml.dumps({"executors": {"sshtiming": table}}))
    try:
        ran = run_verb("check", "gpubox", "--json", home=tmp_path)
        assert ran.code == 0, ran.out
        steps = json.loads(ran.out)
        assert [(one["step"], one["ok"]) for one in steps] == [(step, True) for step in STEPS]
        told = {one["step"]: one["detail"] for one in steps}
        assert f"{any_sshd.username}@{any_sshd.host} port {any_sshd.port}: " in told["resolve"]
        assert told["version"] == f"{OWN}, as here"
        assert f"spool {spool}: " in told["disk"]
        assert not list(spool.glob("tasks/*"))
    finally:
        direct.end_agents(spool)


def test_lines_are_for_people(box: Near) -> None:
    """Without --json each step has a line: its name, how it went, its time; no escape sequence in a pipe."""
    ran = box.check("-o", "max_parallel=3", FORCE_COLOR="")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert len(lines) == len(STEPS)
    for line, step in zip(lines, STEPS, strict=True):
        assert line.startswith(f"{step:<12} ok  ")
        assert line[24:].split()[1] in ("µs", "ms", "s")
    assert "at most 3 tasks at once" in ran.out
    assert "\x1b" not in ran.out


def test_a_narrow_terminal_has_the_details_below(box: Near) -> None:
    """Where there is no room beside the times, details stand under their steps, and no line is wider."""
    ran = box.check("-o", f"port={free_port('127.0.0.1')}", COLUMNS="44")
    assert ran.code == 1
    assert max(map(len, ran.out.splitlines())) <= 44
    text = " ".join(ran.out.split())
    assert (
        "is the machine up, and sshd? If so, correct hostname or port. host key not tried login not" in text
    )
    wide = box.check("-o", f"port={free_port('127.0.0.1')}", COLUMNS="90").out
    assert max(map(len, wide.splitlines())) <= 90
    assert any(line.startswith(" " * 30) for line in wide.splitlines())


def test_noise_is_told_and_no_obstacle(shell: Near) -> None:
    """What a login shell prints is passed over, and said, without its control characters."""
    logs_in_with(shell, r"printf 'Wel\033[31mcome\a, ada\n'; echo beware >&2")
    code, steps = shell.steps()
    assert code == 0
    (said,) = [one["detail"] for one in steps if one["step"] == "shell"]
    assert said == "prints 19 B of its own, which is passed over (Welcome , ada)"


def test_the_systems_ssh_is_watched_too(box: Near) -> None:
    """With transport = "openssh" the same steps are told, as far as ssh tells of them."""
    code, steps = box.steps("transport=openssh")
    assert code == 0
    told = {one["step"]: one["detail"] for one in steps}
    assert told["settings"].endswith(", by the system's ssh")
    assert told["resolve"] == "left to ssh"
    other = make_key(box.home / "other")
    step, error, text = box.failure("transport=openssh", f"ssh_key_file={other}")
    assert (step, error) == ("login", "AuthError")
    assert "Permission denied" in text


def test_an_alias_of_the_ssh_configuration_will_do(box: Near) -> None:
    """HOST may be what ~/.ssh/config calls a machine; user and port before it and behind it count."""
    (box.home / ".ssh").mkdir()
    (box.home / ".ssh" / "config").write_text("Host nick\n  Hostname 127.0.0.1\n")
    del box.table["port"], box.table["username"]
    name = f"{box.server.username}@nick:{box.server.port}"
    code, steps = box.steps(name=name)
    assert code == 0
    assert steps[1]["detail"] == f"{box.server.username}@127.0.0.1 port {box.server.port}: 127.0.0.1"


def test_a_jump_host_is_on_the_way(box: Near, gate: SSHServer) -> None:
    """Behind a jump host nobody here looks the name up; where the jump host fails, it is named."""
    authorize(gate, box.server)
    known = box.home / "known"
    known.write_text(box.server.known_hosts_file.read_text())
    way = ("host_key_policy=accept-new", f"known_hosts_file={known}", f"proxy_jump=127.0.0.1:{gate.port}")
    ran = box.check("--json", *(word for option in way for word in ("-o", option)))
    assert ran.code == 0, ran.out
    told = {one["step"]: one["detail"] for one in json.loads(ran.out)}
    assert told["resolve"].endswith(f" port {box.server.port}: by jump host")
    assert told["jump hosts"] == "127.0.0.1"
    step, error, text = box.failure(*way[:2], f"proxy_jump=127.0.0.1:{free_port('127.0.0.1')}")
    assert (step, error) == ("jump hosts", "ConnectError")
    assert text.startswith("gpubox: jump host 127.0.0.1: port ")


def test_the_readme_shows_what_is_printed(box: Near) -> None:
    """The page's check of a machine without the Python that is asked for is as printed."""
    words = readme.typed("covalent-sshtiming check gpubox")
    ran = box.check(*words[3:])
    assert (ran.err, ran.code) == ("", 1)
    out = ran.out.replace(str(box.server.key_file), "/home/ada/.ssh/id_ed25519")
    out = out.replace(str(box.home), "/home/ada").replace(f" {box.server.username}@", " ada@")
    assert readme.shape(out) == readme.shape(readme.shown(" ".join(words))).replace(
        "Python 3.11", f"Python {OWN}"
    )


def test_forms_for_programs(box: Near) -> None:
    """--csv has what --json has; only one of them at a time."""
    options = ("-o", f"port={free_port('127.0.0.1')}")
    (rows, objects) = (box.check_here(form, *options, "gpubox").out for form in ("--csv", "--json"))
    steps = list(csv.DictReader(io.StringIO(rows)))
    assert [(one["step"], one["error"]) for one in steps] == [
        (one["step"], one["error"] or "") for one in json.loads(objects)
    ]
    assert {one["ok"] for one in steps} == {"true", "false", ""}
    assert box.check_here("--csv", "--json", "gpubox").code == 2


# ---- broken machines


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
    disk = box.home / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=4,mode=0700", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")  # a disk that is full has to be one's own
    try:
        step, error, text = box.failure(f"remote_spool={disk}")
    finally:
        direct.end_agents(disk)
        subprocess.run(["umount", "-l", str(disk)], check=True)
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


# ---- what the streams tell


class Heard:
    """What a watch hands on, in place of a session."""

    nonce = "0123456789abcdef01234567"
    target = Target("far", "far", OWN)

    def __init__(self) -> None:
        self.data = b""
        self.said = Said()

    def received(self, data: bytes) -> None:
        """Keep stdout."""
        self.data += data

    def lost(self, status: int | None) -> None:
        """Keep the end."""
        self.data += b"<end %d>" % (status or 0)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_mark_is_found_however_it_is_cut(size: int) -> None:
    """Whatever pieces the stream comes in, the session hears all of it but the mark, and steps are told."""
    heard, steps = Heard(), list[Step]()
    watch = Watch(cast("Session", heard), Walk(steps.append))
    mark = watch.marked("").split()[1].rstrip(";").encode()
    noise = b"hello " + mark[:-1] + b" sshtiming-check-\n"
    stream = noise + mark + b'\n\0SSHTIMING/1 %s {"archive": "have"}\nframes' % heard.nonce.encode()
    for start in range(0, len(stream), size):
        watch.received(stream[start : start + size])
    watch.received(mark[:5])
    watch.lost(3)
    assert heard.data == stream.replace(mark + b"\n", b"") + mark[:5] + b"<end 3>"
    assert [one.step for one in steps] == list(STEPS[: STEPS.index("version") + 1])
    assert steps[STEPS.index("shell")].detail.startswith(f"prints {len(noise)} B of its own")


def test_what_is_held_back_is_not_lost() -> None:
    """A stream that ends within what might have been the mark is handed on whole."""
    heard = Heard()
    watch = Watch(cast("Session", heard), Walk(lambda _: None))
    watch.received(b"sshtiming-ch")
    assert heard.data == b""
    watch.lost(1)
    assert heard.data == b"sshtiming-ch<end 1>"


# ---- usage


@pytest.mark.parametrize(
    "arguments", [[], ["a", "b"], ["a", "-o", "port"], ["a", "-o", "=1"], ["a", "--port"]]
)
def test_wrong_usage_is_2(arguments: Sequence[str], tmp_path: Path) -> None:
    """What is no usage of the verb ends with code 2, and nobody is called."""
    ran = run_verb("check", *arguments, home=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: " in ran.err


def test_help_has_an_example(tmp_path: Path) -> None:
    """--help shows how it is used."""
    ran = run_verb("check", "--help", home=tmp_path)
    assert ran.code == 0
    assert "covalent-sshtiming check gpubox --through-dispatcher\n" in ran.out
    assert "--in-server" not in ran.out


# ---- through the dispatcher


def test_the_server_checks_in_its_own_environment(
    dispatcher: Dispatcher, any_sshd: Server, tmp_path: Path
) -> None:
    """--through-dispatcher shows what the server finds: its covalent.conf, its variables; failures too."""
    environment = dispatcher.client_environment()
    home = Path(environment.pop("HOME"))
    more: dict[str, Any] = {
        name: value for name, value in environment.items() if name.startswith(("COVALENT_", "XDG_", "TMPDIR"))
    }
    name = any_sshd.host
    ran = run_verb("check", name, "--through-dispatcher", "--json", home=home, cwd=tmp_path, **more)
    assert ran.code == 0, ran.err
    steps = json.loads(ran.out)
    assert [one["step"] for one in steps] == list(STEPS)
    assert all(one["ok"] for one in steps)
    assert steps[0]["detail"] == str(dispatcher.config_file)
    ran = run_verb("check", "127.0.0.1", "--through-dispatcher", "-o", "port=1", home=home, **more)
    assert ran.code == 1
    assert "127.0.0.1: port 1 cannot be reached" in ran.out
    assert ran.out.splitlines()[-1].split() == ["trial", "task", "not", "tried"]


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Without a running server --through-dispatcher says so, and what to do; stdout stays empty."""
    port = free_port("127.0.0.1")
    conf = tmp_path / ".config" / "covalent" / "covalent.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(toml.dumps({"dispatcher": {"address": "127.0.0.1", "port": port}}))
    ran = run_verb("check", "gpubox", "--through-dispatcher", "--json", home=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert (
        f"the Covalent server at http://127.0.0.1:{port} cannot be had (ConnectionError); start it" in ran.err
    )
    assert "Traceback" not in ran.err


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    """What is left of a killed server takes connections; it is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        conf = tmp_path / ".config" / "covalent" / "covalent.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(toml.dumps({"dispatcher": {"address": "127.0.0.1", "port": port}}))
        ran = run_verb("check", "gpubox", "--through-dispatcher", home=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert f"the Covalent server at http://127.0.0.1:{port} cannot be had (ReadTimeout)" in ran.err
