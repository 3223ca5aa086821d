"""An sshd with an account that has a password. Only this sshd knows of it, and only root can start one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from covalent_sshtiming.demo.sshserver import SSHServer, find_sshd, ssh_server

USER = "ada"
UID = 54_322  # that nobody has
# Of support.login.SECRET, by `openssl passwd -6`.
HASH = "$6$horse$vxD6lBW4zR.uPlvqvsbalAtsqVhKkMHHNxedhutFNmyr4mrx6UfstTRajYRPN4MlJgnRn7BUOzuX6aRxlzTi7."
# Two files stand in for the system's, seen by this process and its children only.
INSIDE = 'for name in passwd shadow; do mount --bind "$0/$name" /etc/$name || exit 9; done; exec "$@"'


@contextmanager
def password_sshd(directory: Path) -> Iterator[SSHServer]:
    """Run an sshd that lets in who knows the password, and nobody by a key; skips where that cannot be."""
    sshd = find_sshd()
    may = os.getuid() == 0 and shutil.which("unshare") and not subprocess.call(["unshare", "-m", "true"])
    if not may or sshd is None:
        # It is made for one test only, and in no real passwd.
        pytest.skip("an account for a test needs root, a mount namespace and sshd")
    directory.mkdir()
    lines = {
        "passwd": f"{USER}:x:{UID}:{UID}::/tmp:/bin/sh\n",
        "shadow": f"{USER}:{HASH}:19000:0:99999:7:::\n",
    }
    for name, line in lines.items():
        (directory / name).touch(mode=0o600 if name == "shadow" else 0o644)
        (directory / name).write_text(Path("/etc", name).read_text() + line)
    (directory / "bin").mkdir()
    wrapper = directory / "bin" / "sshd"
    wrapper.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{INSIDE}' {directory} {sshd} \"$@\"\n")
    wrapper.chmod(0o755)
    options = {"PasswordAuthentication": "yes", "AuthenticationMethods": "password", "UsePAM": "no"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
        with ssh_server(directory / "ssh", kind="openssh", options=options) as server:
            yield replace(server, username=USER)
