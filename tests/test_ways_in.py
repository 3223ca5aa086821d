"""Ways in: keys, passphrases, agents, certificates, passwords; what the ssh configuration says of them.

Against real sshds, with a HOME of one's own. A password's server is asyncssh's where root's sshd is not to be
had, which alone can have an account whose password is known.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from support.accounts import password_sshd
from support.keys import keygen, make_key, public, sign
from support.login import SECRET, enter, known_file, reaching, refusal, target_of
from support.named import Server

from covalent_sshtiming import errors, settings
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.host import dial


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


# ---- keys, agents, certificates, passwords


@pytest.fixture
def locked(home: Path, any_sshd: Server) -> Path:
    """Return the server's user key, encrypted."""
    path = home / "locked"
    path.write_bytes(any_sshd.key_file.read_bytes())
    path.chmod(0o600)
    assert keygen("-q", "-p", "-P", "", "-N", SECRET, "-f", path) == 0
    return path


async def test_an_encrypted_key_needs_its_passphrase(home: Path, any_sshd: Server, locked: Path) -> None:
    """Without one the sentence names the agent and both settings."""
    text = await refusal(reaching(any_sshd, ssh_key_file=str(locked)), errors.AuthError)
    assert f"the key {locked} is encrypted, and no key agent has it. Run `ssh-add {locked}`" in text
    assert "ssh_key_passphrase_env or ssh_key_passphrase_file in covalent.conf" in text


async def test_a_passphrase_from_the_environment(
    home: Path, any_sshd: Server, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that covalent.conf names opens the key; unset and wrong are told without it."""
    section = reaching(any_sshd, ssh_key_file=str(locked)) | {"ssh_key_passphrase_env": "SST_PASSPHRASE"}
    text = await refusal(section, errors.ConfigError)
    assert "the environment variable that ssh_key_passphrase_env names is empty, or is not set" in text
    monkeypatch.setenv("SST_PASSPHRASE", SECRET)
    assert await enter(section) == "in"
    monkeypatch.setenv("SST_PASSPHRASE", "wrong pony")
    text = await refusal(section, errors.AuthError)
    assert f"the passphrase does not open the key {locked}; correct what ssh_key_passphrase_env" in text
    assert "pony" not in text


async def test_a_passphrase_from_a_file(home: Path, any_sshd: Server, locked: Path) -> None:
    """A file of mode 0600 opens the key; one that others can read, is absent or is empty is refused."""
    file = home / "passphrase"
    section = reaching(any_sshd, ssh_key_file=str(locked), ssh_key_passphrase_file=str(file))
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


async def test_an_encrypted_key_that_the_agent_has(home: Path, any_sshd: Server, locked: Path) -> None:
    """A named key that is encrypted is taken from the agent, and no other key of the agent's."""
    others = [make_key(home / f"other{i}") for i in range(7)]
    with key_agent(home, *others, any_sshd.key_file) as socket:
        assert await enter(reaching(any_sshd, ssh_key_file=str(locked), identity_agent=str(socket))) == "in"


async def test_the_agents_keys_and_identities_only(home: Path, any_sshd: Server) -> None:
    """An agent with too many keys fails at MaxAuthTries; IdentitiesOnly leaves the one that counts."""
    others = [make_key(home / f"other{i}") for i in range(7)]
    section = reaching(any_sshd, ssh_key_file=None)
    with key_agent(home, *others, any_sshd.key_file) as socket:
        (home / ".ssh/config").write_text(f"IdentityAgent {socket}\n")
        text = await refusal(section, errors.AuthError)
        assert "Too many authentication failures" in text
        assert "set IdentitiesOnly" in text
        (home / ".ssh/id_work.pub").write_text(Path(f"{any_sshd.key_file}.pub").read_text())
        (home / ".ssh/config").write_text(
            f"IdentityAgent {socket}\nIdentitiesOnly yes\nIdentityFile ~/.ssh/id_work.pub\n"
        )
        assert await enter(section) == "in"
        # Also where the key's own file is there, but encrypted, so that only its public half can be read.
        key = home / ".ssh/id_private"
        key.write_bytes(any_sshd.key_file.read_bytes())
        key.chmod(0o600)
        assert keygen("-q", "-p", "-P", "", "-N", SECRET, "-f", key) == 0
        (home / ".ssh/config").write_text(
            f"IdentityAgent {socket}\nIdentitiesOnly yes\nIdentityFile ~/.ssh/id_private\n"
        )
        assert await enter(section) == "in"


async def test_a_key_agent_that_is_gone_is_named(
    home: Path, any_sshd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that leads nowhere is named with the setting or variable that says so."""
    gone = home / "gone.sock"
    text = await refusal(reaching(any_sshd, ssh_key_file=None, identity_agent=str(gone)), errors.AuthError)
    assert f"the key agent at {gone} (identity_agent) cannot be reached (" in text
    assert "start it, or correct identity_agent" in text
    monkeypatch.setenv("SSH_AUTH_SOCK", str(gone))
    text = await refusal(reaching(any_sshd, ssh_key_file=None), errors.AuthError)
    assert "with no key at all was refused" in text
    assert f"the key agent at {gone} (SSH_AUTH_SOCK) cannot be reached" in text
    # A key file is enough without the agent.
    assert await enter(reaching(any_sshd)) == "in"


async def test_a_public_key_is_no_private_key(home: Path, any_sshd: Server) -> None:
    """A public key as ssh_key_file is told as such, with the private one beside it."""
    public = f"{any_sshd.key_file}.pub"
    text = await refusal(reaching(any_sshd, ssh_key_file=public), errors.AuthError)
    assert f"{public} is a public key, or no key at all, and no key agent has its private half" in text
    assert f"Set ssh_key_file to the private key, {any_sshd.key_file}." in text
    with key_agent(home, any_sshd.key_file) as socket:
        assert await enter(reaching(any_sshd, ssh_key_file=public, identity_agent=str(socket))) == "in"


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


async def test_what_else_the_ssh_configuration_says_reaches_the_connection(
    home: Path, any_sshd: Server
) -> None:
    """Options that this package has no word for, such as Ciphers, hold as the ssh configuration has them."""
    (home / ".ssh/config").write_text("Ciphers aes192-ctr\n")
    connection = await dial.dial(target_of(settings.resolve({}, reaching(any_sshd)), "3.11"))
    assert connection.get_extra_info("send_cipher") == "aes192-ctr"
    connection.close()
    await connection.wait_closed()


async def test_the_cipher_that_is_fast_comes_first(home: Path, any_sshd: Server) -> None:
    """Where nobody chose a cipher, it is one that the processor has instructions for."""
    connection = await dial.dial(target_of(settings.resolve({}, reaching(any_sshd)), "3.11"))
    assert connection.get_extra_info("send_cipher") == "aes128-gcm@openssh.com"
    connection.close()
    await connection.wait_closed()


async def test_an_ssh_configuration_that_includes_itself(home: Path, sshd: SSHServer) -> None:
    """A circle of Include lines is refused with file and line, as ssh refuses it."""
    (home / ".ssh/config").write_text("# all of them\nInclude ~/.ssh/*\n")
    text = await refusal(reaching(sshd), errors.ConfigError)
    assert f"{home}/.ssh/config line 2: Include leads over 16 files deep, or in a circle" in text


@pytest.mark.parametrize("included", [False, True])
async def test_an_ssh_configuration_that_others_can_write(
    home: Path, sshd: SSHServer, included: bool
) -> None:
    """Who may write it chooses a ProxyCommand that runs here; so it is refused, as ssh refuses it."""
    file = home / ".ssh" / ("more" if included else "config")
    (home / ".ssh/config").write_text("Include more\n")
    (home / ".ssh/more").write_text("User nobody\n")
    file.chmod(0o646)
    text = await refusal(reaching(sshd), errors.ConfigError)
    assert f"others can write or own {file}, and so choose what runs here; run `chmod go-w {file}`" in text


@pytest.mark.parametrize("config", ["", "Compression no\n", "Compression yes\n"])
async def test_nobody_but_the_ssh_configuration_turns_compression_on(home: Path, config: str) -> None:
    """A server that insists on it is refused: what it sends could unpack to a thousand times its size."""
    (home / ".ssh/config").write_text(config)
    async with password_server(home, compression_algs=["zlib@openssh.com"]) as section:
        (home / "password").touch(mode=0o600)
        (home / "password").write_text(SECRET)
        section |= {"password_file": str(home / "password")}
        if "yes" in config:
            assert await enter(section) == "in"
        else:
            assert "no SSH session could be agreed on" in await refusal(section, errors.ConnectError)


async def test_a_certificate_that_is_none(home: Path, any_sshd: Server) -> None:
    """A certificate file that cannot be used is named with its setting."""
    section = reaching(any_sshd, ssh_certificate_file=str(home / "none"))
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
async def password_server(home: Path, **options: Any) -> AsyncIterator[dict[str, Any]]:
    """Run a server that wants a password; yields the section that reaches it, without one."""
    key = make_key(home / "password_host")
    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[key], server_factory=_PasswordServer, process_factory=_answer,
        encoding=None, **options,
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


async def test_a_password_by_name_against_a_real_sshd(home: Path, place: Path) -> None:
    """OpenSSH's server lets the password's owner in; a wrong one is told with its setting, and not shown."""
    file = home / "password"
    file.touch(mode=0o600)
    with password_sshd(place / "account") as server:
        section = reaching(server, ssh_key_file=None, password_file=str(file))
        file.write_text(f"{SECRET}\n")
        assert await enter(section) == "in"
        file.write_text("wrong pony")
        text = await refusal(section, errors.AuthError)
    assert "the login as ada with the password of password_file was refused (Permission denied" in text
    assert "Correct username, or the password that password_file leads to" in text
    assert "pony" not in text


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
