"""The forms that a text may have in a setting: a host, a user, a path, one of a few words.

Each check returns the text in its final form, or raises ValueError with what to write instead. Host and
user names are held free of a shell's signs, because an ssh configuration may hand them to one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from covalent_sshtiming.remote import names

# What a ProxyCommand or a `Match exec` in an ssh configuration would hand to a shell with the name.
_SHELL = "'`\"$\\\\;&<>|(){}*?#!~"
# With these a name would be several, or another one's, in the known_hosts line that `accept-new` writes.
_LISTS = r",\[\]"
_FAR_PATH_MAX = 1000


def host_name(value: str) -> str:
    """Check a name, address or alias of a machine."""
    wrong = rf"\s@/{_SHELL}{_LISTS}"
    if not re.fullmatch(rf"[^{wrong}-][^{wrong}]*", value) or not value.isprintable():
        raise ValueError("write a name, an address or an alias of ~/.ssh/config; a user goes into username")
    return value


def machine(text: str) -> tuple[str, str, int]:
    """Take [user@]machine[:port] apart into (machine, user or "", port or 0).

    An IPv6 address with a port stands in brackets. What the parts may contain is for others to check.
    """
    place = r"\[([0-9A-Fa-f:.%\w]+)\]|([^@:\s\[\]-][^@:\s\[\]]*)"
    match = re.fullmatch(rf"(?:([^@\s]+)@)?(?:{place})(?::(\d{{1,5}}))?", text)
    if not match:
        raise ValueError(f"{text!r:.80} is not [user@]machine[:port]")
    return match[2] or match[3], match[1] or "", int(match[4] or 0)


def user_name(value: str) -> str:
    """Check the name of a user there."""
    if not re.fullmatch(rf"[^\s{_SHELL}-][^\s{_SHELL}]*", value) or not value.isprintable():
        raise ValueError("write a user name: no space, no quote, none of a shell's signs, no - in front")
    return value


def jump_hosts(value: str) -> str:
    """Check a chain of jump hosts, as `ssh -J` takes it."""
    for hop in value.split(","):
        user, _, rest = hop.strip().rpartition("@")
        found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*))(?::([0-9]{1,5}))?", rest)
        try:
            if not found:
                raise ValueError
            host_name(found[1] or found[2] or "")
            user_name(user or "nobody")
        except ValueError:
            fix = "write [user@]host[:port], several of them with commas between, the nearest one first"
            raise ValueError(fix) from None
    return ",".join(hop.strip() for hop in value.split(","))


def one_of(*words: str) -> Callable[[str], str]:
    """Return a check for one of a few words."""

    def check(value: str) -> str:
        if value not in words:
            raise ValueError("write one of " + ", ".join(json.dumps(word) for word in words))
        return value

    return check


def variable(value: str) -> str:
    """Check the name of an environment variable, where somebody might write its value."""
    fix = "write the name of an environment variable of the server's, not the secret itself"
    return _fitting(value, r"[A-Za-z_][A-Za-z0-9_]*", fix)


def device(value: str) -> str:
    """Check the name of a GPU, as CUDA_VISIBLE_DEVICES has it."""
    fix = "write the index or the UUID of one GPU in each text, as `nvidia-smi -L` shows them"
    return _fitting(value, r"[A-Za-z0-9_/.:-]{1,100}", fix)


def far_directory(value: str) -> str:
    """Check a path on the machine that is no place relative to another."""
    if not value.startswith(("/", "~/")) or len(value) > _FAR_PATH_MAX:
        raise ValueError("write an absolute path, or one that begins with ~/")
    return value


def conda_environment(value: str) -> str:
    """Check the name or path of a conda environment, which conda puts into a script for a shell."""
    fix = "write a name or a path: letters, digits, spaces and ./~@%+=,:_- with no - in front"
    return _fitting(value, r"[\w./~][\w./~@%+=,: -]*", fix)


def _fitting(value: str, pattern: str, fix: str) -> str:
    if not re.fullmatch(pattern, value):
        raise ValueError(fix)
    return value


def agent_socket(value: str) -> str:
    """Check the path of a key agent's socket, or `none`."""
    return value if value == "none" else local_path(value)


def local_path(value: str) -> str:
    """Return a path on the server's machine in its absolute form."""
    try:
        path = Path(value).expanduser()
    except RuntimeError:  # "~somebody" where there is no such user
        path = Path(value)
    if not path.is_absolute():
        raise ValueError("write an absolute path, or one that begins with ~/")
    return str(path)


def file_pattern(value: str) -> str:
    """Check a pattern of files in a task's working directory."""
    wrong = names.fault(value)
    if wrong == "too long":
        raise ValueError(f"write a pattern of at most {names.NAME_BYTES} bytes and {names.PARTS_MAX} parts")
    if wrong:
        raise ValueError(
            "write a path relative to the task's working directory, without . or .. in it, and without / at "
            "its end, such as *.h5, plots/*.png or logs/**"
        )
    return value
