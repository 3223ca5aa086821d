"""Files on the Covalent server's machine: whose they are, who may read them, what stands in their place."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from support import direct, login
from support.keys import make_key
from support.standins import (
    STRANGER,
    another,
    mode,
    needs_root,
    open_to_others,
    pipe,
    umask,
)

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.outputs import Outputs
from covalent_sshtiming.timing.rotation import rotated


@pytest.mark.parametrize("place_of", ["log_stdout", "timing_filepath"])
async def test_files_here_are_the_users_alone(sshd: SSHServer, place: Path, place_of: str) -> None:
    """Under a umask that gives all away, log and output files are made with 0600; a user's mode is kept."""
    path = place / "made" / "file.jsonl"

    def say() -> None:
        print("said")

    async with direct.machine(sshd, place, **{place_of: str(path)}) as machine:
        with umask(0):
            assert (await machine.run(say)).error is None
            assert mode(path) == 0o600
            path.chmod(0o640)
            assert (await machine.run(say)).error is None
    assert mode(path) == 0o640


def test_a_packed_log_is_never_open_to_others(place: Path) -> None:
    """The file that a log is packed into has the log's mode before anything is in it, and no other."""
    log, looking = place / "log.jsonl", True
    seen: list[int] = []

    def look(event: str, args: tuple[Any, ...]) -> None:
        if looking and event == "os.chmod" and isinstance(args[0], int):
            seen.append(stat.S_IMODE(os.fstat(args[0]).st_mode))

    log.write_text("{}\n")
    log.chmod(0o640)
    sys.addaudithook(look)
    with umask(0o022):
        (packed,) = rotated(log, compress=True)
    looking = False  # a hook cannot be taken out again
    assert seen == [0o600]
    assert mode(packed) == 0o640


async def test_an_output_pipe_that_nobody_reads_holds_nobody_up(place: Path) -> None:
    """A named pipe as log_stdout without a reader costs a warning, not the task."""
    os.mkfifo(place / "pipe")
    files = Outputs({1: place / "pipe", 2: None})
    files.put(1, b"text")
    said = await asyncio.wait_for(files.finish(), 5)
    assert said == f"warning: {place / 'pipe'} cannot be written: {os.strerror(errno.ENXIO)}\n"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda key: key.chmod(0o640), "others can read the key file {key}; run `chmod 600 {key}`."),
        (lambda key: key.chmod(0o604), "others can read the key file {key}; run `chmod 600 {key}`."),
        (
            another(pipe),
            "the key file {key} is no regular file; correct ssh_key_file",
        ),
        (
            another(open_to_others),
            "the key file {key} is no regular file; correct ssh_key_file",
        ),
        (lambda key: key.unlink(), "the key file {key} cannot be read (No such file or directory)"),
    ],
    ids=["group", "others", "pipe", "directory", "absent"],
)
@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_a_key_that_is_not_ours_alone_is_refused(
    home: Path, sshd: SSHServer, spoil: Callable[[Path], Any], said: str, transport: str
) -> None:
    """A private key that others can read, or that is no file, is an AuthError at once, by either way in."""
    key = make_key(home / "key")
    spoil(key)
    section = login.reaching(sshd, ssh_key_file=str(key), transport=transport)
    text = await asyncio.wait_for(login.refusal(section, errors.AuthError), 10)
    assert said.format(key=key) in text


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
async def test_a_path_in_a_command_to_type_is_one_word(home: Path, sshd: SSHServer, transport: str) -> None:
    """A path that somebody else may have chosen does nothing but name a file when the advice is followed."""
    key, known = make_key(home / "a; touch made"), home / "k; touch made"
    key.chmod(0o644)
    section = login.reaching(sshd, transport=transport, ssh_key_file=str(key))
    assert f"run `chmod 600 '{key}'`" in await login.refusal(section, errors.AuthError)
    section = login.reaching(sshd, transport=transport, known_hosts_file=str(known))
    assert f"-o UserKnownHostsFile='{known}'" in await login.refusal(section, errors.HostKeyUnknown)


@pytest.mark.parametrize("form", ["binary", "behind a preface"])
async def test_no_form_of_a_private_key_may_be_read_by_others(home: Path, sshd: SSHServer, form: str) -> None:
    """What others can read has to be a public key, or it is refused, however it looks."""
    key = home / "odd"
    if form == "binary":
        asyncssh.read_private_key(sshd.key_file).write_private_key(key, "pkcs8-der")
    else:
        key.write_bytes(b"# of mine\n" * 500 + sshd.key_file.read_bytes())
    key.chmod(0o600)
    assert await login.enter(login.reaching(sshd, ssh_key_file=str(key))) == "in"
    key.chmod(0o644)
    text = await login.refusal(login.reaching(sshd, ssh_key_file=str(key)), errors.AuthError)
    assert f"others can read the key file {key}; run `chmod 600 {key}`." in text


@needs_root
async def test_a_strangers_secret_is_refused(home: Path, sshd: SSHServer) -> None:
    """A file with a passphrase that belongs to another user, or that others can read, is a ConfigError."""
    file = home / "passphrase"
    for owner, permissions in ((STRANGER, 0o600), (0, 0o604)):
        file.write_text("word")
        file.chmod(permissions)
        os.chown(file, owner, owner)
        section = login.reaching(sshd, ssh_key_passphrase_file=str(file))
        assert f"others can read or own {file}" in await login.refusal(section, errors.ConfigError)
