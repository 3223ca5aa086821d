"""The system's `ssh` as the way to a machine, and its failures in our classes."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import direct, faults
from support.keys import make_key, public
from support.login import authorize, enter, known_file, name_of, port_flag, reaching, refusal, shown_by
from support.named import Server
from support.there import There

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer


async def test_the_systems_ssh(home: Path, any_sshd: Server) -> None:
    """`transport = "openssh"` runs the command by ssh: streams, status, none of its chatter."""
    assert await enter(reaching(any_sshd, transport="openssh")) == "in"


async def test_the_systems_ssh_runs_a_task(any_sshd: Server, place: Path, far_place: There) -> None:
    """A whole task goes over the system's ssh."""
    async with direct.machine_at(any_sshd, place, far_place, transport="openssh") as machine:
        assert (await machine.run(lambda text: text * 2, "ab")).value == "abab"


async def test_the_systems_ssh_loses_its_link(sshd: SSHServer, place: Path) -> None:
    """A link that breaks under the system's ssh costs a reconnect, as under our own: one run, its result."""
    async with faults.linked(sshd, place, transport="openssh") as (machine, proxy):
        running = asyncio.ensure_future(machine.run(faults.noting(place / "ran", 1.0)))
        await faults.until((place / "ran").exists)
        proxy.reset()
        assert (await asyncio.wait_for(running, 20)).value == "result"
        assert machine.host.connections == 2
    assert len(faults.runs(place / "ran")) == 1


async def test_the_systems_ssh_and_host_keys(home: Path, any_sshd: Server) -> None:
    """Unknown, changed and revoked are our three errors there too, with the fingerprint that was shown."""
    shown = shown_by(any_sshd)
    section = reaching(any_sshd, transport="openssh", known_hosts_file=known_file(home))
    text = await refusal(section, errors.HostKeyUnknown)
    assert f"it presents {shown}" in text
    by_hand = f"ssh{port_flag(any_sshd)} -l {any_sshd.username} -o UserKnownHostsFile={home}/known"
    assert f"run `{by_hand} {any_sshd.host}` once" in text
    other = make_key(home / "other")
    (home / "known").write_text(f"{name_of(any_sshd)} {public(other)}")
    text = await refusal(section, errors.HostKeyChanged)
    assert f"ssh-keygen -R '{name_of(any_sshd)}' -f {home}/known" in text
    line = any_sshd.known_hosts_file.read_text()
    (home / "known").write_text(f"@revoked * {line.split(' ', 1)[1]}{line}")
    assert "Do not connect" in await refusal(section, errors.HostKeyRevoked)
    (home / "known").write_text("")
    assert await enter({**section, "host_key_policy": "accept-new"}) == "in"
    assert (home / "known").read_text().startswith(("[", "|1|"))


async def test_the_systems_ssh_refused_or_unreachable(
    home: Path, any_sshd: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused login, a closed port and a name that is none are our classes, in ssh's words and ours."""
    section = reaching(any_sshd, transport="openssh")
    key = make_key(home / "stranger")
    text = await refusal({**section, "ssh_key_file": str(key)}, errors.AuthError)
    assert re.search(r"Permission denied \(publickey[,)]", text)  # what else is allowed is the server's
    assert "leave a ControlMaster open" in text
    text = await refusal({**section, "port": 1}, errors.ConnectError)
    assert "Connection refused" in text
    text = await refusal({**section, "hostname": "no-such-host.invalid"}, errors.ConnectError)
    assert "Could not resolve hostname" in text
    with caplog.at_level(logging.WARNING, "covalent_sshtiming"):
        assert await enter({**section, "host_key_policy": "off"}) == "in"
    assert f"presents {shown_by(any_sshd)}" in caplog.text


@pytest.fixture
def ssh_config(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration that `ssh` reads here; by itself it asks the user database for its HOME."""
    ssh, path = shutil.which("ssh"), home / "ssh_config"
    (home / "bin").mkdir()
    (home / "bin/ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {path} "$@"\n')
    (home / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")
    return path


async def test_the_systems_ssh_uses_an_open_master(
    home: Path, any_sshd: Server, short_tmp: Path, ssh_config: Path
) -> None:
    """A machine that would not let us in is reached over a ControlMaster that somebody has opened."""
    section = reaching(any_sshd, transport="openssh", ssh_key_file=None, identity_agent="none")
    socket = short_tmp / "master"
    (home / "ssh_config").write_text(f"ControlPath {socket}\nIdentityFile none\n")
    assert "Permission denied" in await refusal(section, errors.AuthError)
    known = f"UserKnownHostsFile={any_sshd.known_hosts_file}"
    words = ["ssh", "-M", "-N", "-T", "-o", known, "-i", str(any_sshd.key_file)]
    words += ["-l", any_sshd.username, "-p", str(any_sshd.port), any_sshd.host]
    master = subprocess.Popen(words, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - ended below
    try:
        while not socket.exists():
            assert master.poll() is None
            await asyncio.sleep(0.01)
        assert await enter(section) == "in"
    finally:
        master.kill()  # TERM lets it wait for whoever still uses it
        master.wait(10)


async def test_the_systems_ssh_goes_through_jump_hosts(
    home: Path, any_sshd: Server, gate: SSHServer, authority: Path, ssh_config: Path
) -> None:
    """`proxy_jump` holds for the system's ssh too; an unknown or changed key of the hop's names the hop."""
    authorize(gate, any_sshd)
    jump = f"{gate.username}@{gate.host}:{gate.port}"
    section = reaching(any_sshd, transport="openssh", proxy_jump=jump)
    config = f"IdentityFile {any_sshd.key_file}\nGlobalKnownHostsFile /dev/null\nUserKnownHostsFile "
    (home / "known").write_text(f"@cert-authority * {public(authority)}")
    (home / "ssh_config").write_text(f"{config}{known_file(home)}\n")
    assert await enter(section) == "in"
    (home / "ssh_config").write_text(f"{config}/dev/null\n")
    text = await refusal(section, errors.HostKeyUnknown)
    assert text.startswith(f"{any_sshd.host}: jump host {jump}: ssh failed (")
    assert f"run `ssh -p {gate.port} {gate.username}@{gate.host}` once" in text
    (home / "known").write_text(f"[{gate.host}]:{gate.port} {public(make_key(home / 'other'))}")
    (home / "ssh_config").write_text(f"{config}{known_file(home)}\n")
    text = await refusal(section, errors.HostKeyChanged)
    assert text.startswith(f"{any_sshd.host}: jump host [{gate.host}]:{gate.port}: ssh failed (")
    assert f"`ssh-keygen -R '[{gate.host}]:{gate.port}'`" in text


@pytest.mark.parametrize("name", ["ssh_key_file", "known_hosts_file", "identity_agent"])
async def test_paths_that_ssh_would_read_in_another_way(home: Path, any_sshd: Server, name: str) -> None:
    """A path with a quote or a variable is refused for the system's ssh; spaces and % are passed on."""
    odd = home / "a $HOME"
    odd.write_bytes(any_sshd.key_file.read_bytes())
    odd.chmod(0o600)
    text = await refusal(reaching(any_sshd, transport="openssh", **{name: str(odd)}), errors.ConfigError)
    assert f"{name} '{odd}' has a quote, $ or backslash" in text
    key = home / "a %h key"
    key.write_bytes(any_sshd.key_file.read_bytes())
    key.chmod(0o600)
    assert await enter(reaching(any_sshd, transport="openssh", ssh_key_file=str(key))) == "in"
