"""Hooks: what Covalent runs before and after the user's function, on the task's own machine.

Owns the three kinds: `call` (any pickled function), `pip` and `bash` (Covalent's DepsPip and
DepsBash, which are pickled by reference to covalent; we do their work ourselves, with the
interpreter that runs the task). Returned values are collected as Covalent's wrapper does.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, List

FILES_KEY = "files"  # Covalent hands values under this keyword over as a list, even a single one
TAIL_CHARS = 2000


class HookFailed(Exception):
    """A pip or bash hook did not succeed; the text says what and why."""


class PipUnusable(HookFailed):
    """This interpreter cannot install anything; the text says how to change that."""


def run(hook: "Dict[str, Any]", load: "Callable[[int], Any]", spool: str) -> Any:
    """Run one hook and return its value; `load(i)` unpickles its i-th part."""
    arguments, keywords = load(1), load(2)
    if hook["kind"] == "pip":
        return pip(spool, *arguments, **keywords)
    if hook["kind"] == "bash":
        return bash(*arguments, **keywords)
    return load(0)(*arguments, **keywords)


def collect(values: "Dict[str, List[Any]]") -> "Dict[str, Any]":
    """Turn the values under each keyword into arguments, as Covalent's wrapper does."""
    return {key: found[0] if len(found) == 1 and key != FILES_KEY else found for key, found in values.items()}


def bash(commands: "List[str]") -> None:
    """Run shell commands one after the other; the first that fails ends the task."""
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
