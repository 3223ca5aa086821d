"""docker/: its files agree, its scripts work, and the image does, all without a Docker engine.

`make docker-proof` runs the full form: the image is built, and the integration tests go to the sshd in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import create_connection
from typing import Any

import pytest
import yaml

from covalent_sshtiming.demo import sshserver
from covalent_sshtiming.demo.processes import free_port, guarded, wait_until

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]

# Stands for Docker with an engine: says what it was asked for, and knows one host key for each machine.
ENGINE = """\
#!/bin/sh
echo "PYTHON=$SSHTIMING_PYTHON $*" >> "$ENGINE_LOG"
case "$*" in *host_key.pub) echo "ssh-ed25519 KEY-OF-$8";; esac
"""


def copies() -> dict[str, str]:
    """Return what the Dockerfile takes from the repository, and to where."""
    return dict(re.findall(r"^COPY (\S+) (\S+)$", DOCKERFILE, re.MULTILINE))


def test_the_image_has_the_very_settings_of_the_tests_own_servers() -> None:
    """The file that every private sshd includes goes into the image, and is what the sshd there reads."""
    shared = str(sshserver.SETTINGS.relative_to(ROOT))
    there = copies()[shared]
    assert f"-f {there} " in (DOCKER / "start.sh").read_text()
    assert f'Include "{sshserver.SETTINGS}"' in sshserver.sshd_config("/keys", 2222)


def test_nothing_else_of_ours_can_get_into_the_image() -> None:
    """The build is handed the two files that it copies, and neither key nor package."""
    everything, *allowed = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert everything == "*"
    assert {line.removeprefix("!") for line in allowed} == set(copies())
    assert all((ROOT / name).is_file() for name in copies())


def test_the_image_is_built_once() -> None:
    """One service builds the image that all have: a Compose that builds side by side fails at a second."""
    assert [name for name, service in SERVICES.items() if "build" in service] == ["node1"]
    assert len({service["image"] for service in SERVICES.values()}) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_machine_may_do_no_more_than_it_needs(name: str) -> None:
    """Every service is reached from this machine only, has no privilege, and writes to its home alone."""
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    mounted = [volume for volume in service["volumes"] if ":" in volume]
    assert all(volume.endswith(":ro") for volume in mounted)
    assert {*service["volumes"]} - {*mounted} <= {"/home/ada"}
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["ada"]


def test_compose_accepts_the_file(tmp_path: Path) -> None:
    """`docker-compose config` accepts compose.yaml, with its two machines and the slow link."""
    compose = shutil.which("docker-compose")
    if compose is None:
        # Docker's tools are not for every contributor.
        pytest.skip("docker-compose is not installed; make docker-proof installs it")
    command = [compose, "--file", str(DOCKER / "compose.yaml"), "config"]
    env = {**os.environ, "SSHTIMING_PYTHON": "3.12"}
    ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = yaml.safe_load(ran.stdout)["services"]
    assert set(found) == {"node1", "node2", "slow"}
    assert found["node1"]["build"]["args"] == {"PYTHON": "3.12"}
    assert found["node1"]["build"]["context"] == str(ROOT)


# ---- make docker-up and the others


def asked(verb: str, path: str, place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run machines.sh in a copy of docker/, so that a user's own keys stay, under a strict umask."""
    copy = place / "docker"
    if not copy.exists():
        shutil.copytree(DOCKER, copy, ignore=shutil.ignore_patterns("keys"))
    return subprocess.run(
        ["/bin/sh", copy / "machines.sh", verb, "3.12"],
        env={"PATH": path, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        umask=0o077,
    )


def program(path: Path, text: str) -> Path:
    """Write a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("verb", ["engine", "up", "running", "down"])
@pytest.mark.parametrize(
    ("docker", "words"),
    [
        (None, "Docker is not installed."),
        ("exit 1", "No Docker engine answers. Is it running, and may you use it?"),
        ('test "$1" = info', "Docker is here without Compose. Install docker-compose-plugin"),
    ],
)
def test_without_an_engine_each_verb_says_so(
    verb: str, docker: str | None, words: str, tmp_path: Path
) -> None:
    """Where Docker, its engine or Compose is missing, that is the first and only thing said."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dirname").symlink_to(str(shutil.which("dirname")))
    if docker:
        program(tmp_path / "bin" / "docker", f"#!/bin/sh\n{docker}\n")
    ran = asked(verb, str(tmp_path / "bin"), tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(words)
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "docker" / "keys").exists()


@pytest.mark.parametrize("target", ["docker-up", "docker-test", "docker-demo", "docker-down"])
def test_each_target_asks_for_the_engine_first(target: str) -> None:
    """The make targets go by machines.sh before they build or run anything."""
    command = ["make", "-n", "-C", str(ROOT), target, f"VENV={sys.prefix}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in ran.stdout.splitlines() if "Entering directory" not in line]
    assert lines[0].startswith("docker/machines.sh "), ran.stdout


def test_up_leaves_what_it_takes_to_log_in(tmp_path: Path) -> None:
    """`up` builds with the Python asked for, and leaves a key, host keys and a config that ssh reads."""
    program(tmp_path / "bin" / "docker", ENGINE)
    log, path = tmp_path / "engine.log", f"{tmp_path}/bin:/usr/bin:/bin"
    ran = asked("up", path, tmp_path, ENGINE_LOG=str(log))
    assert ran.returncode == 0, ran.stderr
    begun = "PYTHON=3.12 compose --project-name sshtiming --file compose.yaml"
    assert log.read_text().splitlines()[2:4] == [f"{begun} build node1", f"{begun} up --detach"]
    ssh = tmp_path / "docker" / "keys" / ".ssh"
    assert (ssh / "id_ed25519").stat().st_mode & 0o077 == 0
    assert (ssh / "id_ed25519.pub").stat().st_mode & 0o444 == 0o444
    assert (ssh / "known_hosts").read_text().splitlines() == [
        "[127.0.0.1]:2201 ssh-ed25519 KEY-OF-node1",
        "[127.0.0.1]:2202 ssh-ed25519 KEY-OF-node2",
        "[127.0.0.1]:2203 ssh-ed25519 KEY-OF-node2",
    ]
    for name, service in SERVICES.items():
        command = ["ssh", "-G", "-F", str(ssh / "config"), name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert {"hostname 127.0.0.1", "user ada", f"userknownhostsfile {ssh}/known_hosts"} <= set(told)
        assert f"identityfile {ssh}/id_ed25519" in told
        (port,) = [line.split()[1] for line in told if line.startswith("port ")]
        assert service["ports"] == [f"127.0.0.1:{port}:2222"]
    assert asked("down", path, tmp_path, ENGINE_LOG=str(log)).returncode == 0
    assert "down --volumes --remove-orphans" in log.read_text().splitlines()[-1]


def test_the_keys_are_not_of_the_repository() -> None:
    """Git ignores the folder with the throwaway key."""
    key = "docker/keys/.ssh/id_ed25519"
    ran = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", key], check=False)
    assert ran.returncode in (0, 128)  # 128: this is no repository, but an unpacked archive


# ---- the slow link


@contextmanager
def slow_link(server: sshserver.SSHServer, seconds: float, place: Path) -> Iterator[int]:
    """Run slow.py before a server; yields its port."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), "LISTEN": f"127.0.0.1:{port}"}
    command = [sys.executable, str(DOCKER / "slow.py"), server.host, str(server.port), str(seconds)]

    def listens() -> bool:
        try:
            create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    with guarded(command, log=place / "slow.log", env=env) as process:
        wait_until(listens, process, what="the slow link")
        yield port


def test_the_slow_link_is_slow(sshd: sshserver.SSHServer, tmp_path: Path) -> None:
    """A greeting through the link comes, and comes so much later."""
    with slow_link(sshd, 0.3, tmp_path) as port:
        begun = time.monotonic()
        with closing(create_connection(("127.0.0.1", port), timeout=10)) as connection:
            assert connection.recv(4) == b"SSH-"
        assert time.monotonic() - begun >= 0.3


# ---- in full


@pytest.mark.docker
@pytest.mark.timeout(3600)
def test_the_image_is_built_and_the_integration_tests_pass_against_it() -> None:
    """The proof of docker/README.md: Compose, build, content, login, and every integration test."""
    missing = [tool for tool in ("buildah", "debootstrap", "docker-compose") if not shutil.which(tool)]
    if (missing or os.getuid() != 0) and os.environ.get("SSHTIMING_REQUIRE_BUILDAH") != "1":
        # Make docker-proof installs them, and fails without.
        pytest.skip(f"needs root, and {', '.join(missing) or 'its tools'}")
    command = [str(DOCKER / "proof.sh"), "-n", "2"]
    env = {**os.environ, "PYTEST": str(Path(sys.executable).with_name("pytest"))}
    assert subprocess.run(command, env=env, check=False).returncode == 0
