"""Ways through: jump hosts, proxy commands, and the ssh configuration that names them."""

from __future__ import annotations

import sys
from pathlib import Path

from support.login import authorize, enter, known_file, name_of, reaching, refusal
from support.named import Server

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer

RELAY = """
import os, socket, sys, threading
sys.stderr.write("relay says hello\\n"); sys.stderr.flush()
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := peer.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    peer.sendall(data)
"""


async def test_a_jump_host(home: Path, any_sshd: Server, gate: SSHServer) -> None:
    """Both machines are logged in to, each by its own host key; by the setting and by ProxyJump."""
    (home / "known").write_text(any_sshd.known_hosts_file.read_text() + gate.known_hosts_file.read_text())
    authorize(gate, any_sshd)
    section = reaching(any_sshd, known_hosts_file=known_file(home))
    assert await enter({**section, "proxy_jump": f"{gate.username}@{gate.host}:{gate.port}"}) == "in"
    (home / ".ssh/config").write_text(
        f"Host bastion\n  HostName {gate.host}\n  Port {gate.port}\n  HostKeyAlias {gate.host}\n"
        f"Host inner\n  HostName {any_sshd.host}\nHost *\n  ProxyJump bastion\n"
    )
    (home / "known").write_text(
        (home / "known").read_text() + f"{gate.host} {gate.known_hosts_file.read_text().split(' ', 1)[1]}"
    )
    assert await enter({**section, "hostname": "inner"}) == "in"


async def test_a_jump_host_that_fails_is_named(home: Path, any_sshd: Server, gate: SSHServer) -> None:
    """An unknown key, a refused login, a closed port: each names the hop, and what lies behind it."""
    authorize(gate, any_sshd)
    jump = f"{gate.host}:{gate.port}"
    section = reaching(any_sshd, known_hosts_file=known_file(home), proxy_jump=jump)
    hop = f"{any_sshd.host}: jump host {gate.host}: "
    (home / "known").write_text(any_sshd.known_hosts_file.read_text())
    text = await refusal(section, errors.HostKeyUnknown)
    assert text.startswith(f"{hop}no known_hosts file has its host key SHA256:")
    assert f"run `ssh -p {gate.port} -o UserKnownHostsFile={home}/known {gate.host}` once" in text
    (home / "known").write_text(gate.known_hosts_file.read_text())
    text = await refusal(section, errors.HostKeyUnknown)  # the inner one, now
    assert text.startswith(f"{any_sshd.host}: no known_hosts file has its host key SHA256:")
    text = await refusal({**section, "port": 1}, errors.ConnectError)
    assert text.startswith(f"{hop}it cannot reach {any_sshd.host} port 1 (")
    text = await refusal({**section, "proxy_jump": "127.0.0.1:1"}, errors.ConnectError)
    assert text.startswith(f"{any_sshd.host}: jump host 127.0.0.1: port 1 cannot be reached")


async def test_jump_hosts_in_a_circle(home: Path, any_sshd: Server) -> None:
    """A chain of ProxyJump that never ends is refused with what to write."""
    (home / ".ssh/config").write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    text = await refusal(reaching(any_sshd, hostname="a"), errors.ConfigError)
    assert "lead in a circle" in text


async def test_a_proxy_command(home: Path, any_sshd: Server) -> None:
    """A ProxyCommand carries the connection, its stderr aside; one that fails is told in its own words."""
    (home / "relay.py").write_text(RELAY)
    (home / ".ssh/config").write_text(
        f"Host behind\n  HostName {any_sshd.host}\n  HostKeyAlias {name_of(any_sshd)}\n"
        f"  ProxyCommand {sys.executable} {home}/relay.py %h %p 2>&2\n"
        "Host broken\n  ProxyCommand echo no route to %h >&2\n"
    )
    assert await enter(reaching(any_sshd, hostname="behind")) == "in"
    text = await refusal(reaching(any_sshd, hostname="broken"), errors.ConnectError)
    assert "broken: the ProxyCommand of the ssh configuration ended before an SSH server answered" in text
    assert "(no route to broken)" in text


async def test_the_ssh_configuration_as_ssh_reads_it(home: Path, any_sshd: Server) -> None:
    """Alias, port, Include in order, Match with exec and its tokens, and a key file that is not there."""
    (home / ".ssh/config").write_text("Include parts/*.conf\n")
    (home / ".ssh/parts").mkdir()
    (home / ".ssh/parts/1.conf").write_text(
        'Match originalhost build exec "test %n = build"\n'
        f"  Port {any_sshd.port}\n  HostName {any_sshd.host}\n"
    )
    (home / ".ssh/parts/2.conf").write_text(
        "Host build  # a comment\n  Port 1\n  HostName 127.0.0.2\n  IdentityFile ~/missing\n"
        f"  IdentityFile {any_sshd.key_file}\n"
    )
    section = reaching(any_sshd, hostname="build", port=None, ssh_key_file=None)
    assert await enter(section) == "in"
    (home / ".ssh/parts/1.conf").write_text("Port many\n")
    text = await refusal(section, errors.ConfigError)
    assert f"({home}/.ssh/parts/1.conf line 1: Invalid Port integer value: many)" in text


async def test_strict_host_key_checking_there_loosens_nothing(home: Path, any_sshd: Server) -> None:
    """What an ssh configuration says of host key checking does not change host_key_policy."""
    (home / ".ssh/config").write_text("StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n")
    await refusal(reaching(any_sshd, known_hosts_file=None), errors.HostKeyUnknown)
