"""Host keys: which machine is let be the right one, under each policy, by real sshds."""

from __future__ import annotations

import base64
import hmac
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.keys import fingerprint, keygen, make_key, public
from support.login import enter, known_file, name_of, port_flag, reaching, refusal, shown_by, shown_for
from support.named import Server

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.host import knownhosts


async def test_an_unknown_key_is_refused(home: Path, any_sshd: Server) -> None:
    """Strict is the default; the sentence has the fingerprint, the command and the other policy."""
    text = await refusal(reaching(any_sshd, known_hosts_file=known_file(home)), errors.HostKeyUnknown)
    assert f"no known_hosts file has its host key {shown_by(any_sshd)}" in text
    login = f"{port_flag(any_sshd)} -l {any_sshd.username}"
    assert f"run `ssh{login} -o UserKnownHostsFile={home}/known {any_sshd.host}` once" in text
    assert 'host_key_policy to "accept-new"' in text
    assert not (home / "known").exists()


async def test_accept_new_records_the_key_and_then_is_strict(home: Path, any_sshd: Server) -> None:
    """The first key goes into the user's own file, mode 0600 in 0700, as ssh would write it."""
    (home / ".ssh").rmdir()
    section = reaching(any_sshd, known_hosts_file=None, host_key_policy="accept-new")
    assert await enter(section) == "in"
    file = home / ".ssh" / "known_hosts"
    (line,) = file.read_text().splitlines()
    assert line.split()[1:] == any_sshd.known_hosts_file.read_text().split()[1:3]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert await enter({**section, "host_key_policy": "strict"}) == "in"


async def test_accept_new_hashes_names_where_the_ssh_config_says_so(home: Path, any_sshd: Server) -> None:
    """HashKnownHosts hides the name, and the entry is found again, by ssh-keygen too."""
    section = reaching(any_sshd, known_hosts_file=None, host_key_policy="accept-new")
    (home / ".ssh/config").write_text("HashKnownHosts no\n")
    assert await enter(section) == "in"
    plain = (home / ".ssh/known_hosts").read_text()
    assert plain.split() == any_sshd.known_hosts_file.read_text().split()[:3]
    (home / ".ssh/known_hosts").unlink()
    (home / ".ssh/config").write_text("HashKnownHosts yes\n")
    assert await enter(section) == "in"
    file = home / ".ssh" / "known_hosts"
    _, version, salt, digest = file.read_text().split()[0].split("|")
    name = name_of(any_sshd)
    made = hmac.new(base64.b64decode(salt), name.encode(), "sha1").digest()
    assert (version, base64.b64decode(digest)) == ("1", made)
    assert keygen("-F", name, "-f", file) == 0
    assert await enter({**section, "host_key_policy": "strict"}) == "in"


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
async def test_a_changed_key_is_refused(home: Path, any_sshd: Server, policy: str) -> None:
    """Another key than the recorded one stays refused, also one of another type, with both fingerprints."""
    for kind in ("ed25519", "ecdsa"):
        other = make_key(home / kind, kind=kind)
        (home / "known").write_text(f"{name_of(any_sshd)} {public(other)}")
        section = reaching(any_sshd, known_hosts_file=known_file(home), host_key_policy=policy)
        text = await refusal(section, errors.HostKeyChanged)
        assert f"it presents {shown_for(any_sshd, kind)}" in text
        assert f"known_hosts has {fingerprint(other)}" in text
        assert f"`ssh-keygen -R '{name_of(any_sshd)}' -f {home}/known`" in text
        assert len((home / "known").read_text().splitlines()) == 1


@pytest.mark.parametrize("policy", ["strict", "accept-new", "off"])
async def test_a_revoked_key_is_refused(home: Path, any_sshd: Server, policy: str) -> None:
    """A key that is marked @revoked is refused under every policy, with its fingerprint."""
    line = any_sshd.known_hosts_file.read_text()
    (home / "known").write_text(f"{line}@revoked * {line.split(' ', 1)[1]}")
    text = await refusal(
        reaching(any_sshd, known_hosts_file=known_file(home), host_key_policy=policy), errors.HostKeyRevoked
    )
    assert f"{shown_by(any_sshd)} is marked @revoked" in text


async def test_without_checking_each_connect_warns(
    home: Path, any_sshd: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """`off` lets a changed key pass, and says so at every connect, with host and fingerprint."""
    other = make_key(home / "other")
    (home / "known").write_text(f"{name_of(any_sshd)} {public(other)}")
    section = reaching(any_sshd, known_hosts_file=known_file(home), host_key_policy="off")
    with caplog.at_level(logging.WARNING, "covalent_sshtiming"):
        assert [await enter(section), await enter(section)] == ["in", "in"]
    shown = shown_by(any_sshd)
    said = [message for message in caplog.messages if "is not checked" in message]
    assert len(said) == 2
    assert all(
        any_sshd.host in message and f"presents {shown}, known_hosts has SHA256:" in message
        for message in said
    )


async def test_without_checking_an_authority_does_not_matter(
    home: Path, gate: SSHServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`off` lets a machine with a certificate in, whoever has signed it, and warns."""
    (home / "known").write_text(f"@cert-authority * {public(make_key(home / 'stranger'))}")
    section = reaching(gate, known_hosts_file=known_file(home), host_key_policy="off")
    assert await enter(section) == "in"
    assert "is not checked" in caplog.text


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


def test_a_line_is_for_the_names_that_openssh_takes_it_for(tmp_path: Path) -> None:
    """Wildcards, negation, ports, capitals, empty patterns and networks: each as ssh-keygen finds them."""
    key, file = public(make_key(tmp_path / "key")), tmp_path / "known"
    patterns = (
        "host", "Host", "[HOST]:2222", "*.example.org", "*.EXAMPLE.org,!bad.example.org", "!host,*", "h?st",
        "host,", ",", "10.0.0.0/8", "10.*", "[10.*]:2222", "2001:DB8::1", "[a-z]ost", "[!h]ost", "*\\host",
    )  # fmt: skip
    names = ("host", "[host]:2222", "a.example.org", "bad.example.org", "10.1.2.3", "2001:db8::1", "other")
    for pattern in patterns:
        file.write_text(f"\t{pattern}\t{key}")
        for name in names:
            found = bool(knownhosts.look_up([file], name).keys)
            assert found is (keygen("-F", name, "-f", file) == 0), (pattern, name)


@pytest.mark.parametrize(
    "line", ["Host {key}", "@revoked Host {key}", "@revoked r*,host {key}", "@cert-authority host, {key}"]
)
def test_a_mark_is_for_the_same_names(tmp_path: Path, line: str) -> None:
    """A name in capitals is no way around a revocation, nor a stray comma a way to be everybody's."""
    (tmp_path / "known").write_text(line.format(key=public(make_key(tmp_path / "key"))))
    for name, found in (("host", 1), ("[host]:22222", 1), ("another", 0)):
        known = knownhosts.look_up([tmp_path / "known"], name)
        assert len([*known.keys, *known.portless, *known.revoked, *known.authorities]) == found


async def test_accept_new_refuses_what_it_cannot_record(home: Path, any_sshd: Server) -> None:
    """A file that forgets makes every key a new one; so that is refused, naming file and setting."""
    section = reaching(any_sshd, known_hosts_file="/dev/null", host_key_policy="accept-new")
    text = await refusal(section, errors.HostKeyUnknown)
    assert "cannot be recorded in /dev/null (it is no regular file" in text


def test_a_key_is_recorded_whole_or_not_at_all(tmp_path: Path) -> None:
    """On a disk with room for a part of the line only, nothing is recorded, and nobody believes it is."""
    path, before = tmp_path / "known_hosts", "# what was there\n"
    path.write_text(before)
    key = make_key(tmp_path / "key")
    script = (
        "import resource, sys, asyncssh; from pathlib import Path\n"
        "from covalent_sshtiming.host import knownhosts\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))\n"
        "knownhosts.record(Path(sys.argv[1]), 'host', asyncssh.read_public_key(sys.argv[2]), False)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, path, f"{key}.pub"], capture_output=True, text=True, check=False
    )
    assert "OSError: [Errno 27]" in ran.stderr
    assert path.read_text() == before


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
