"""Ways in: each kind of host key, key, agent, jump host and transport, by which a machine is reached or not.

Against real sshds, with an ssh configuration of one's own in HOME. Only the password's server is asyncssh's:
sshd would need an account whose password is known.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from conftest import remote_environment, require_sshd
from support import direct

from covalent_sshtiming import errors, settings
from covalent_sshtiming.demo.sshserver import SSHServer, ssh_server
from covalent_sshtiming.host import knownhosts, pool
from covalent_sshtiming.sshtiming import _target

SECRET = "correct horse"  # noqa: S105 - opens keys that this test makes
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


class Listener:
    """A receiver that keeps what it hears, up to the end."""

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def received(self, data: bytes) -> None:
        """Keep stdout."""
        self.output += data

    def complained(self, data: bytes) -> None:
        """Keep stderr."""
        self.errors += data

    def writable(self, free: bool) -> None:
        """Nothing is written here."""

    def lost(self, status: int | None) -> None:
        """Keep the end."""
        if not self.status.done():
            self.status.set_result(status)


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """Make a key pair."""
    assert keygen("-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", path) == 0
    return path


def sign(authority: Path, key: Path, name: str, *words: str) -> Path:
    """Have an authority certify a public key for a name; return the certificate."""
    assert keygen("-q", "-s", authority, "-I", "test", "-n", name, *words, f"{key}.pub") == 0
    return Path(f"{key}-cert.pub")


def public(key: Path) -> str:
    """Return a key's public half, a line of text."""
    return Path(f"{key}.pub").read_text()


def fingerprint(key: Path) -> str:
    """Return a key's fingerprint."""
    return asyncssh.import_public_key(public(key)).get_fingerprint()


def shown_by(server: SSHServer) -> str:
    """Return the fingerprint of a server's plain host key."""
    return fingerprint(server.key_file.with_name("host_key"))


def keygen(*words: str | Path) -> int:
    """Run ssh-keygen; return its status."""
    ran = subprocess.run(["ssh-keygen", *words], stdout=subprocess.DEVNULL, check=False, timeout=20)
    return ran.returncode


@pytest.fixture(scope="module")
def authority(short_tmp: Path) -> Path:
    """Return the key that signs this module's host and user certificates."""
    return make_key(short_tmp / "authority")


@pytest.fixture(scope="module")
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


@contextmanager
def key_agent(directory: Path, *keys: Path) -> Iterator[Path]:
    """Run an ssh-agent that holds these keys; yields its socket."""
    path = directory / "agent.sock"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert agent.poll() is None
        for key in keys:
            env = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", key], env=env, check=True, timeout=20)
        yield path
    finally:
        agent.terminate()
        agent.wait(10)


def known_file(home: Path) -> str:
    """Return the place of a test's own known_hosts file."""
    return str(home / "known")


def reaching(server: SSHServer, **more: Any) -> dict[str, Any]:
    """Return the covalent.conf section that reaches a server; None takes a setting away."""
    section = {"hostname": server.host, **server.settings(), "connect_timeout": 10, **more}
    return {name: value for name, value in section.items() if value is not None}


async def enter(section: Mapping[str, Any]) -> str:
    """Log in as a section of covalent.conf says, run a command there, and return what it printed."""
    target = _target(settings.resolve({}, section), "3.11")
    listener = Listener()
    streams = await pool.open_ssh(target, "echo in; echo complaint >&2; exit 3", listener)
    status = await asyncio.wait_for(listener.status, 10)
    await streams.close()
    assert (status, listener.errors) == (3, b"complaint\n")
    return listener.output.decode().strip()


async def refusal(section: Mapping[str, Any], kind: type[errors.SSHTimingError]) -> str:
    """Return the sentence with which a login fails, which has to be of this class."""
    with pytest.raises(errors.SSHTimingError) as caught:
        await asyncio.wait_for(enter(section), 30)
    assert type(caught.value) is kind, repr(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


# ---- host keys


async def test_an_unknown_key_is_refused(home: Path, sshd: SSHServer) -> None:
    """Strict is the default; the sentence has the fingerprint, the command and the other policy."""
    text = await refusal(reaching(sshd, known_hosts_file=known_file(home)), errors.HostKeyUnknown)
    assert f"no known_hosts file has its host key {shown_by(sshd)}" in text
    assert f"run `ssh -p {sshd.port} -o UserKnownHostsFile={home}/known {sshd.host}` once" in text
    assert 'host_key_policy to "accept-new"' in text
    assert not (home / "known").exists()


async def test_accept_new_records_the_key_and_then_is_strict(home: Path, sshd: SSHServer) -> None:
    """The first key goes into the user's own file, mode 0600 in 0700, as ssh would write it."""
    (home / ".ssh").rmdir()
    section = reaching(sshd, known_hosts_file=None, host_key_policy="accept-new")
    assert await enter(section) == "in"
    file = home / ".ssh" / "known_hosts"
    (line,) = file.read_text().splitlines()
    assert line.split()[1:] == sshd.known_hosts_file.read_text().split()[1:3]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert await enter({**section, "host_key_policy": "strict"}) == "in"


async def test_accept_new_hashes_names_where_the_ssh_config_says_so(home: Path, sshd: SSHServer) -> None:
    """HashKnownHosts hides the name, and the entry is found again, by ssh-keygen too."""
    section = reaching(sshd, known_hosts_file=None, host_key_policy="accept-new")
    (home / ".ssh/config").write_text("HashKnownHosts no\n")
    assert await enter(section) == "in"
    plain = (home / ".ssh/known_hosts").read_text()
    assert plain.split() == sshd.known_hosts_file.read_text().split()[:3]
    (home / ".ssh/known_hosts").unlink()
    (home / ".ssh/config").write_text("HashKnownHosts yes\n")
    assert await enter(section) == "in"
    file = home / ".ssh" / "known_hosts"
    _, version, salt, digest = file.read_text().split()[0].split("|")
    name = f"[{sshd.host}]:{sshd.port}"
    made = hmac.new(base64.b64decode(salt), name.encode(), "sha1").digest()
    assert (version, base64.b64decode(digest)) == ("1", made)
    assert keygen("-F", name, "-f", file) == 0
    assert await enter({**section, "host_key_policy": "strict"}) == "in"


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
async def test_a_changed_key_is_refused(home: Path, sshd: SSHServer, policy: str) -> None:
    """Another key than the recorded one stays refused, also one of another type, with both fingerprints."""
    for kind in ("ed25519", "ecdsa"):
        other = make_key(home / kind, kind=kind)
        (home / "known").write_text(f"[{sshd.host}]:{sshd.port} {public(other)}")
        section = reaching(sshd, known_hosts_file=known_file(home), host_key_policy=policy)
        text = await refusal(section, errors.HostKeyChanged)
        assert f"it presents {shown_by(sshd)}" in text
        assert f"known_hosts has {fingerprint(other)}" in text
        assert f"`ssh-keygen -R '[{sshd.host}]:{sshd.port}' -f {home}/known`" in text
        assert len((home / "known").read_text().splitlines()) == 1


@pytest.mark.parametrize("policy", ["strict", "accept-new", "off"])
async def test_a_revoked_key_is_refused(home: Path, sshd: SSHServer, policy: str) -> None:
    """A key that is marked @revoked is refused under every policy, with its fingerprint."""
    line = sshd.known_hosts_file.read_text()
    (home / "known").write_text(f"{line}@revoked * {line.split(' ', 1)[1]}")
    text = await refusal(
        reaching(sshd, known_hosts_file=known_file(home), host_key_policy=policy), errors.HostKeyRevoked
    )
    assert f"{shown_by(sshd)} is marked @revoked" in text


async def test_without_checking_each_connect_warns(
    home: Path, sshd: SSHServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`off` lets a changed key pass, and says so at every connect, with host and fingerprint."""
    other = make_key(home / "other")
    (home / "known").write_text(f"[{sshd.host}]:{sshd.port} {public(other)}")
    section = reaching(sshd, known_hosts_file=known_file(home), host_key_policy="off")
    with caplog.at_level(logging.WARNING, "covalent_sshtiming"):
        assert [await enter(section), await enter(section)] == ["in", "in"]
    shown = shown_by(sshd)
    said = [message for message in caplog.messages if "is not checked" in message]
    assert len(said) == 2
    assert all(
        sshd.host in message and f"presents {shown}, known_hosts has SHA256:" in message for message in said
    )


async def test_a_host_certificate_is_enough(home: Path, gate: SSHServer, authority: Path) -> None:
    """A line @cert-authority stands for every machine that it has signed; other signers are refused."""
    signer = public(authority)
    (home / "known").write_text(f"garbage\n@cert-authority 127.0.0.* {signer}")
    assert await enter(reaching(gate, known_hosts_file=known_file(home))) == "in"
    stranger = make_key(home / "stranger")
    (home / "known").write_text(f"@cert-authority * {public(stranger)}")
    text = await refusal(reaching(gate, known_hosts_file=known_file(home)), errors.HostKeyUnknown)
    assert f"signed by {fingerprint(authority)}" in text
    assert fingerprint(stranger) in text


async def test_a_revoked_key_inside_a_certificate_is_refused(
    home: Path, gate: SSHServer, authority: Path, short_tmp: Path
) -> None:
    """Neither a revoked authority nor a revoked key that a good one has signed is let through."""
    signer = public(authority)
    for revoked in (authority, short_tmp / "certified_host"):
        (home / "known").write_text(f"@cert-authority * {signer}@revoked * {public(revoked)}")
        text = await refusal(reaching(gate, known_hosts_file=known_file(home)), errors.HostKeyRevoked)
        assert f"{fingerprint(revoked)} is marked @revoked" in text


async def test_a_key_recorded_for_an_address_is_not_good_for_a_name(home: Path, sshd: SSHServer) -> None:
    """A name has to be on record itself: whoever forges its address has only that address's key."""
    (home / "known").write_text(sshd.known_hosts_file.read_text())
    text = await refusal(
        reaching(sshd, hostname="localhost", known_hosts_file=known_file(home)), errors.HostKeyUnknown
    )
    assert text.startswith("localhost: ")


async def test_accept_new_refuses_what_it_cannot_record(home: Path, sshd: SSHServer) -> None:
    """A file that forgets makes every key a new one; so that is refused, naming file and setting."""
    section = reaching(sshd, known_hosts_file="/dev/null", host_key_policy="accept-new")
    text = await refusal(section, errors.HostKeyUnknown)
    assert "cannot be recorded in /dev/null (it is no regular file" in text


def test_many_may_record_at_once(tmp_path: Path) -> None:
    """Processes that record one key at the same time leave one whole line, others a line each."""
    keys = [make_key(tmp_path / str(i)) for i in range(2)]
    path = tmp_path / "known_hosts"
    path.write_text("# a line without its end")
    script = (
        "import sys, asyncssh; from pathlib import Path; from covalent_sshtiming.host import knownhosts\n"
        "key = asyncssh.read_public_key(sys.argv[2])\n"
        "for i in range(20): knownhosts.record(Path(sys.argv[1]), f'h{i}', key, False)\n"
    )
    words = [sys.executable, "-c", script, str(path)]
    running = [subprocess.Popen([*words, f"{keys[i % 2]}.pub"]) for i in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    first, *lines = path.read_text().splitlines()
    assert first == "# a line without its end"
    assert sorted(line.split()[0] for line in lines) == sorted(f"h{i}" for i in range(20))
    assert all(len(line.split()) == 3 and knownhosts.look_up([path], line.split()[0]).keys for line in lines)


# ---- keys, agents, certificates, passwords


@pytest.fixture
def locked(home: Path, sshd: SSHServer) -> Path:
    """Return the server's user key, encrypted."""
    path = home / "locked"
    path.write_bytes(sshd.key_file.read_bytes())
    path.chmod(0o600)
    assert keygen("-q", "-p", "-P", "", "-N", SECRET, "-f", path) == 0
    return path


async def test_an_encrypted_key_needs_its_passphrase(home: Path, sshd: SSHServer, locked: Path) -> None:
    """Without one the sentence names the agent and both settings."""
    text = await refusal(reaching(sshd, ssh_key_file=str(locked)), errors.AuthError)
    assert f"the key {locked} is encrypted, and no key agent has it. Run `ssh-add {locked}`" in text
    assert "ssh_key_passphrase_env or ssh_key_passphrase_file in covalent.conf" in text


async def test_a_passphrase_from_the_environment(
    home: Path, sshd: SSHServer, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that covalent.conf names opens the key; unset and wrong are told without it."""
    section = reaching(sshd, ssh_key_file=str(locked)) | {"ssh_key_passphrase_env": "SST_PASSPHRASE"}
    text = await refusal(section, errors.ConfigError)
    assert "the environment variable that ssh_key_passphrase_env names is empty, or is not set" in text
    monkeypatch.setenv("SST_PASSPHRASE", SECRET)
    assert await enter(section) == "in"
    monkeypatch.setenv("SST_PASSPHRASE", "wrong pony")
    text = await refusal(section, errors.AuthError)
    assert f"the passphrase does not open the key {locked}; correct what ssh_key_passphrase_env" in text
    assert "pony" not in text


async def test_a_passphrase_from_a_file(home: Path, sshd: SSHServer, locked: Path) -> None:
    """A file of mode 0600 opens the key; one that others can read, is absent or is empty is refused."""
    file = home / "passphrase"
    section = reaching(sshd, ssh_key_file=str(locked), ssh_key_passphrase_file=str(file))
    assert "cannot be read (No such file" in await refusal(section, errors.ConfigError)
    file.write_text(f"{SECRET}\n")
    file.chmod(0o640)
    text = await refusal(section, errors.ConfigError)
    assert f"run `chmod 600 {file}`" in text
    assert "ssh_key_passphrase_file" in text
    file.chmod(0o600)
    assert await enter(section) == "in"
    file.write_text("\n")
    assert "is empty" in await refusal(section, errors.ConfigError)


async def test_an_encrypted_key_that_the_agent_has(home: Path, sshd: SSHServer, locked: Path) -> None:
    """A named key that is encrypted is taken from the agent, and no other key of the agent's."""
    others = [make_key(home / f"other{i}") for i in range(7)]
    with key_agent(home, *others, sshd.key_file) as socket:
        assert await enter(reaching(sshd, ssh_key_file=str(locked), identity_agent=str(socket))) == "in"


async def test_the_agents_keys_and_identities_only(home: Path, sshd: SSHServer) -> None:
    """An agent with too many keys fails at MaxAuthTries; IdentitiesOnly leaves the one that counts."""
    others = [make_key(home / f"other{i}") for i in range(7)]
    section = reaching(sshd, ssh_key_file=None)
    with key_agent(home, *others, sshd.key_file) as socket:
        (home / ".ssh/config").write_text(f"IdentityAgent {socket}\n")
        with pytest.raises(errors.SSHTimingError):
            await enter(section)
        (home / ".ssh/id_work.pub").write_text(sshd.key_file.with_suffix(".pub").read_text())
        (home / ".ssh/config").write_text(
            f"IdentityAgent {socket}\nIdentitiesOnly yes\nIdentityFile ~/.ssh/id_work.pub\n"
        )
        assert await enter(section) == "in"
        # Also where the key's own file is there, but encrypted, so that only its public half can be read.
        key = home / ".ssh/id_private"
        key.write_bytes(sshd.key_file.read_bytes())
        key.chmod(0o600)
        assert keygen("-q", "-p", "-P", "", "-N", SECRET, "-f", key) == 0
        (home / ".ssh/config").write_text(
            f"IdentityAgent {socket}\nIdentitiesOnly yes\nIdentityFile ~/.ssh/id_private\n"
        )
        assert await enter(section) == "in"


async def test_a_key_agent_that_is_gone_is_named(
    home: Path, sshd: SSHServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that leads nowhere is named with the setting or variable that says so."""
    gone = home / "gone.sock"
    text = await refusal(reaching(sshd, ssh_key_file=None, identity_agent=str(gone)), errors.AuthError)
    assert f"the key agent at {gone} (identity_agent) cannot be reached (" in text
    assert "start it, or correct identity_agent" in text
    monkeypatch.setenv("SSH_AUTH_SOCK", str(gone))
    text = await refusal(reaching(sshd, ssh_key_file=None), errors.AuthError)
    assert "with no key at all was refused" in text
    assert f"the key agent at {gone} (SSH_AUTH_SOCK) cannot be reached" in text
    # A key file is enough without the agent.
    assert await enter(reaching(sshd)) == "in"


async def test_a_public_key_is_no_private_key(home: Path, sshd: SSHServer) -> None:
    """A public key as ssh_key_file is told as such, with the private one beside it."""
    public = f"{sshd.key_file}.pub"
    text = await refusal(reaching(sshd, ssh_key_file=public), errors.AuthError)
    assert f"{public} is a public key, or no key at all, and no key agent has its private half" in text
    assert f"Set ssh_key_file to the private key, {sshd.key_file}." in text
    with key_agent(home, sshd.key_file) as socket:
        assert await enter(reaching(sshd, ssh_key_file=public, identity_agent=str(socket))) == "in"


@pytest.mark.parametrize("source", ["setting", "ssh config", "beside the key", "agent"])
async def test_a_user_certificate_opens_the_door(
    home: Path, gate: SSHServer, authority: Path, source: str
) -> None:
    """A key that the machine does not know is let in with its certificate, wherever that is named."""
    key = make_key(home / "certified")
    assert "was refused" in await refusal(reaching(gate, ssh_key_file=str(key)), errors.AuthError)
    certificate = sign(authority, key, gate.username)
    if source == "beside the key":
        assert await enter(reaching(gate, ssh_key_file=str(key))) == "in"
        return
    certificate = certificate.rename(home / "elsewhere.pub")
    if source == "setting":
        section = reaching(gate, ssh_key_file=str(key), ssh_certificate_file=str(certificate))
        assert await enter(section) == "in"
    elif source == "ssh config":
        (home / ".ssh/config").write_text("IdentityFile ~/certified\nCertificateFile ~/elsewhere.pub\n")
        assert await enter(reaching(gate, ssh_key_file=None)) == "in"
    else:
        with key_agent(home, key) as socket:
            section = reaching(
                gate, ssh_key_file=None, ssh_certificate_file=str(certificate), identity_agent=str(socket)
            )
            assert await enter(section) == "in"


async def test_a_certificate_that_is_none(home: Path, sshd: SSHServer) -> None:
    """A certificate file that cannot be used is named with its setting."""
    section = reaching(sshd, ssh_certificate_file=str(home / "none"))
    text = await refusal(section, errors.AuthError)
    assert f"the certificate {home / 'none'} cannot be read, or is none; correct ssh_certificate_file" in text


class _PasswordServer(asyncssh.SSHServer):
    """Lets in whoever knows the password."""

    def begin_auth(self, _: str) -> bool:
        """Ask for it."""
        return True

    def password_auth_supported(self) -> bool:
        """By this method."""
        return True

    def validate_password(self, _: str, password: str) -> bool:
        """Compare."""
        return password == SECRET


def _answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stdout.write(b"in\n")
    process.stderr.write(b"complaint\n")
    process.exit(3)


@asynccontextmanager
async def password_server(home: Path) -> AsyncIterator[dict[str, Any]]:
    """Run a server that wants a password; yields the section that reaches it, without one."""
    key = make_key(home / "password_host")
    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[key], server_factory=_PasswordServer, process_factory=_answer,
        encoding=None,
    )  # fmt: skip
    port = listener.get_port()
    (home / "known").write_text(f"[127.0.0.1]:{port} {public(key)}")
    try:
        yield {"hostname": "127.0.0.1", "port": port, "username": "ada", "known_hosts_file": known_file(home)}
    finally:
        listener.close()
        await listener.wait_closed()


async def test_a_password_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password comes from the variable or the file that covalent.conf names; a wrong one is not shown."""
    file = home / "password"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    monkeypatch.setenv("SST_PASSWORD", "wrong pony")
    async with password_server(home) as section:
        assert await enter({**section, "password_file": str(file)}) == "in"
        text = await refusal({**section, "password_env": "SST_PASSWORD"}, errors.AuthError)
        assert "the login as ada with the password of password_env was refused" in text
        assert "pony" not in text
        monkeypatch.setenv("SST_PASSWORD", SECRET)
        assert await enter({**section, "password_env": "SST_PASSWORD"}) == "in"


async def test_a_password_is_kept_from_a_machine_that_is_not_the_right_one(home: Path) -> None:
    """A refused host key, or a race that is lost in recording a new one, comes before any password."""
    seen: list[str] = []

    class Thief(_PasswordServer):
        def validate_password(self, _: str, password: str) -> bool:
            seen.append(password)
            return True

    file = home / "password"
    file.write_text(SECRET)
    file.chmod(0o600)
    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[make_key(home / "thief")], server_factory=Thief,
        process_factory=_answer, encoding=None,
    )  # fmt: skip
    section = {"hostname": "127.0.0.1", "port": listener.get_port(), "password_file": str(file)}
    await refusal(section, errors.HostKeyUnknown)
    section |= {"host_key_policy": "accept-new", "known_hosts_file": "/dev/null"}
    await refusal(section, errors.HostKeyUnknown)
    listener.close()
    await listener.wait_closed()
    assert seen == []


# ---- jump hosts, proxy commands, the ssh configuration


async def test_a_jump_host(home: Path, sshd: SSHServer, gate: SSHServer) -> None:
    """Both machines are logged in to, each by its own host key; by the setting and by ProxyJump."""
    (home / "known").write_text(sshd.known_hosts_file.read_text() + gate.known_hosts_file.read_text())
    authorize(gate, sshd)
    section = reaching(sshd, known_hosts_file=known_file(home))
    assert await enter({**section, "proxy_jump": f"{gate.username}@{gate.host}:{gate.port}"}) == "in"
    (home / ".ssh/config").write_text(
        f"Host bastion\n  HostName {gate.host}\n  Port {gate.port}\n  HostKeyAlias {gate.host}\n"
        f"Host inner\n  HostName {sshd.host}\nHost *\n  ProxyJump bastion\n"
    )
    (home / "known").write_text(
        (home / "known").read_text() + f"{gate.host} {gate.known_hosts_file.read_text().split(' ', 1)[1]}"
    )
    assert await enter({**section, "hostname": "inner"}) == "in"


def authorize(server: SSHServer, other: SSHServer) -> None:
    """Let the user of another server in by the same key."""
    file = server.key_file.with_name("authorized_keys")
    file.write_text(file.read_text() + other.key_file.with_suffix(".pub").read_text())


async def test_a_jump_host_that_fails_is_named(home: Path, sshd: SSHServer, gate: SSHServer) -> None:
    """An unknown key, a refused login, a closed port: each names the hop, and what lies behind it."""
    authorize(gate, sshd)
    jump = f"{gate.host}:{gate.port}"
    section = reaching(sshd, known_hosts_file=known_file(home), proxy_jump=jump)
    hop = f"127.0.0.1: jump host {gate.host}: "
    (home / "known").write_text(sshd.known_hosts_file.read_text())
    text = await refusal(section, errors.HostKeyUnknown)
    assert text.startswith(f"{hop}no known_hosts file has its host key SHA256:")
    assert f"run `ssh -p {gate.port} -o UserKnownHostsFile={home}/known {gate.host}` once" in text
    (home / "known").write_text(gate.known_hosts_file.read_text())
    text = await refusal(section, errors.HostKeyUnknown)  # the inner one, now
    assert text.startswith("127.0.0.1: no known_hosts file has its host key SHA256:")
    text = await refusal({**section, "port": 1}, errors.ConnectError)
    assert text.startswith(f"{hop}it cannot reach 127.0.0.1 port 1 (")
    text = await refusal({**section, "proxy_jump": "127.0.0.1:1"}, errors.ConnectError)
    assert text.startswith("127.0.0.1: jump host 127.0.0.1: port 1 cannot be reached")


async def test_jump_hosts_in_a_circle(home: Path, sshd: SSHServer) -> None:
    """A chain of ProxyJump that never ends is refused with what to write."""
    (home / ".ssh/config").write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    text = await refusal(reaching(sshd, hostname="a"), errors.ConfigError)
    assert "lead in a circle" in text


async def test_a_proxy_command(home: Path, sshd: SSHServer) -> None:
    """A ProxyCommand carries the connection, its stderr aside; one that fails is told in its own words."""
    (home / "relay.py").write_text(RELAY)
    (home / ".ssh/config").write_text(
        f"Host behind\n  HostName 127.0.0.1\n  HostKeyAlias [127.0.0.1]:{sshd.port}\n"
        f"  ProxyCommand {sys.executable} {home}/relay.py %h %p 2>&2\n"
        "Host broken\n  ProxyCommand echo no route to %h >&2\n"
    )
    assert await enter(reaching(sshd, hostname="behind")) == "in"
    text = await refusal(reaching(sshd, hostname="broken"), errors.ConnectError)
    assert "broken: the ProxyCommand of the ssh configuration ended before an SSH server answered" in text
    assert "(no route to broken)" in text


async def test_the_ssh_configuration_as_ssh_reads_it(home: Path, sshd: SSHServer) -> None:
    """Alias, port, Include in order, Match with exec and its tokens, and a key file that is not there."""
    (home / ".ssh/config").write_text("Include parts/*.conf\n")
    (home / ".ssh/parts").mkdir()
    (home / ".ssh/parts/1.conf").write_text(
        f'Match originalhost build exec "test %n = build"\n  Port {sshd.port}\n  HostName 127.0.0.1\n'
    )
    (home / ".ssh/parts/2.conf").write_text(
        "Host build  # a comment\n  Port 1\n  HostName 127.0.0.2\n  IdentityFile ~/missing\n"
        f"  IdentityFile {sshd.key_file}\n"
    )
    section = reaching(sshd, hostname="build", port=None, ssh_key_file=None)
    assert await enter(section) == "in"
    (home / ".ssh/parts/1.conf").write_text("Port many\n")
    text = await refusal(section, errors.ConfigError)
    assert f"({home}/.ssh/parts/1.conf line 1: Invalid Port integer value: many)" in text


async def test_strict_host_key_checking_there_loosens_nothing(home: Path, sshd: SSHServer) -> None:
    """What an ssh configuration says of host key checking does not change host_key_policy."""
    (home / ".ssh/config").write_text("StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n")
    await refusal(reaching(sshd, known_hosts_file=None), errors.HostKeyUnknown)


# ---- the system's ssh


async def test_the_systems_ssh(home: Path, sshd: SSHServer) -> None:
    """`transport = "openssh"` runs the command by ssh: streams, status, none of its chatter."""
    assert await enter(reaching(sshd, transport="openssh")) == "in"


async def test_the_systems_ssh_runs_a_task(sshd: SSHServer, short_tmp: Path) -> None:
    """A whole task goes over the system's ssh."""
    place = short_tmp / "openssh"
    place.mkdir()
    async with direct.machine(sshd, place, transport="openssh") as machine:
        assert (await machine.run(lambda text: text * 2, "ab")).value == "abab"


async def test_the_systems_ssh_and_host_keys(home: Path, sshd: SSHServer) -> None:
    """Unknown, changed and revoked are our three errors there too, with the fingerprint that was shown."""
    shown = shown_by(sshd)
    section = reaching(sshd, transport="openssh", known_hosts_file=known_file(home))
    text = await refusal(section, errors.HostKeyUnknown)
    assert f"it presents {shown}" in text
    assert (
        f"run `ssh -p {sshd.port} -l {sshd.username} -o UserKnownHostsFile={home}/known {sshd.host}` once"
        in text
    )
    other = make_key(home / "other")
    (home / "known").write_text(f"[{sshd.host}]:{sshd.port} {public(other)}")
    text = await refusal(section, errors.HostKeyChanged)
    assert f"ssh-keygen -R '[{sshd.host}]:{sshd.port}' -f {home}/known" in text
    line = sshd.known_hosts_file.read_text()
    (home / "known").write_text(f"@revoked * {line.split(' ', 1)[1]}{line}")
    assert "Do not connect" in await refusal(section, errors.HostKeyRevoked)
    (home / "known").write_text("")
    assert await enter({**section, "host_key_policy": "accept-new"}) == "in"
    assert (home / "known").read_text().startswith(("[", "|1|"))


async def test_the_systems_ssh_refused_or_unreachable(
    home: Path, sshd: SSHServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused login, a closed port and a name that is none are our classes, in ssh's words and ours."""
    section = reaching(sshd, transport="openssh")
    key = make_key(home / "stranger")
    text = await refusal({**section, "ssh_key_file": str(key)}, errors.AuthError)
    assert "Permission denied (publickey)" in text
    assert "leave a ControlMaster open" in text
    text = await refusal({**section, "port": 1}, errors.ConnectError)
    assert "Connection refused" in text
    text = await refusal({**section, "hostname": "no-such-host.invalid"}, errors.ConnectError)
    assert "Could not resolve hostname" in text
    with caplog.at_level(logging.WARNING, "covalent_sshtiming"):
        assert await enter({**section, "host_key_policy": "off"}) == "in"
    assert f"presents {shown_by(sshd)}" in caplog.text
