"""A small SSH server in Python, for machines without OpenSSH's sshd.

Started as a script by `sshserver`. Runs each command through the user's shell in a process of its own,
with binary streams, as sshd does.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import asyncssh

_Stream = TypeVar("_Stream", asyncio.StreamReader, asyncio.StreamWriter)

_CHUNK = 65536
_NO_SHELLS = ("/nologin", "/false")
_GONE = (OSError, asyncssh.Error, asyncssh.SignalReceived, asyncssh.BreakReceived)


class EmbeddedServer:
    """Runs the commands of all sessions, with one environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        user = pwd.getpwuid(os.getuid())
        # An account that nobody is to log in to has a shell that runs nothing.
        self.shell = user.pw_shell if user.pw_shell and not user.pw_shell.endswith(_NO_SHELLS) else "/bin/sh"
        self.cwd = user.pw_dir if Path(user.pw_dir).is_dir() else "/"
        self.environment = {
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": self.shell,
            "PATH": os.defpath,
            **environment,
        }

    async def run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run one session's command, and give back its exit status."""
        command = ["-c", process.command] if process.command else ["-l"]
        client = process.get_extra_info("peername")
        child = await asyncio.create_subprocess_exec(
            self.shell,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.environment, "SSH_CLIENT": f"{client[0]} {client[1]} 22"},
            cwd=self.cwd,
            start_new_session=True,
        )
        stdin, stdout, stderr = _pipe(child.stdin), _pipe(child.stdout), _pipe(child.stderr)
        feeding = asyncio.create_task(_feed(process.stdin, stdin))
        await asyncio.gather(_drain(stdout, process.stdout), _drain(stderr, process.stderr))
        status = await child.wait()
        feeding.cancel()
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            process.exit(status)


def _pipe(stream: _Stream | None) -> _Stream:
    assert stream is not None  # noqa: S101 - all three were asked for
    return stream


async def _feed(source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter) -> None:
    """Carry the client's bytes to the command; a lost connection is an end like any other."""
    with suppress(*_GONE):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    target.close()


async def _drain(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    """Carry the command's bytes to the client; after a lost connection read on, or it would block."""
    while data := await source.read(_CHUNK):
        with suppress(*_GONE):
            target.write(data)
            await target.drain()


async def serve(directory: Path, port: int, environment: dict[str, str]) -> None:
    """Serve until somebody ends this process."""
    listener = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[directory / "host_key"],
        authorized_client_keys=str(directory / "authorized_keys"),
        process_factory=EmbeddedServer(environment).run,
        encoding=None,
    )
    await listener.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])))
