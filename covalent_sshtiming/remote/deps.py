"""DepsPip and DepsBash: what Covalent's two hooks ask for, done with the interpreter that runs the task.

Owns how a package is installed, a shell line is run, and how either says that it failed. What it needs for
that is loaded where it is used, because it would make every task's fork larger; this module itself is not,
because the archive may be gone from the disk by then.
"""

import fcntl
import hashlib
import os
import sys
from typing import Any, List

TAIL_CHARS = 2000


class HookFailed(Exception):
    """A pip or bash hook did not succeed; the text says what and why."""


class PipUnusable(HookFailed):
    """This interpreter cannot install anything; the text says how to change that."""


def bash(commands: "List[str]") -> None:
    """Run shell commands one after the other; the first that fails ends the task."""
    import subprocess

    for command in commands:
        done = subprocess.run(  # noqa: S602 - a shell line of the user's own is the purpose
            command, stdin=subprocess.DEVNULL, shell=True, capture_output=True, check=False
        )
        if done.returncode:
            raise HookFailed(
                "DepsBash command %r exited %d: %s"
                % (command, done.returncode, _tail(done.stderr or done.stdout))
            )


def pip(spool: str, pkgs: "Any" = (), requirements_content: str = "") -> None:
    """Install with the task's own interpreter, one install at a time for each environment."""
    words = pkgs.split() if isinstance(pkgs, str) else " ".join(pkgs).split()
    listing = ""
    if requirements_content:
        import tempfile

        handle, listing = tempfile.mkstemp(prefix="requirements-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            file.write(requirements_content)
        words = ["-r", listing]
    try:
        _install(words, spool)
    finally:
        if listing:
            os.unlink(listing)


def _install(words: "List[str]", spool: str) -> None:
    import subprocess

    name = "pip-%s.lock" % hashlib.sha256(sys.prefix.encode()).hexdigest()[:16]
    handle = os.open(os.path.join(spool, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "pip", "install", "--no-input"]
        done = subprocess.run(
            command + words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    finally:
        os.close(handle)
    if done.returncode:
        raise _pip_failure(" ".join(words), done.stdout)


def _pip_failure(wanted: str, output: bytes) -> HookFailed:
    text = _tail(output)
    if "No module named pip" in text:
        return PipUnusable(
            "DepsPip needs pip, and %s has none: run `%s -m ensurepip` there, or set python_path "
            "to the Python of a virtual environment" % (sys.executable, sys.executable)
        )
    if "externally-managed-environment" in text or "externally managed" in text:
        return PipUnusable(
            "DepsPip may not install into %s, which its system manages: make a virtual environment "
            "with `%s -m venv ~/sshtiming-env` and set python_path to ~/sshtiming-env/bin/python"
            % (sys.executable, sys.executable)
        )
    return HookFailed("`%s -m pip install %s` failed: %s" % (sys.executable, wanted, text))


def _tail(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()[-TAIL_CHARS:] or "it printed nothing"
