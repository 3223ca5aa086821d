"""The doorman: what the exec command starts, up to the point where our own archive is there.

Its source travels inside the exec command itself (an exec command arrives a round trip earlier
than anything on stdin), so it is small, and it says "too old" on any Python from 2.7 on instead
of SyntaxError: types in comments, no newer syntax. Owns the announcement (NUL, magic, nonce, one
JSON line), the check of the interpreter and the archive's place in the cache. Everything after
that is in `gate`, which comes out of the archive.
"""

import base64
import json
import os
import sys
import zlib

if False:  # for type checkers; Python 2.7 has no typing
    from typing import Any, Dict  # type: ignore[unreachable] # noqa: F401 - named in comments only


def announce(nonce, facts):
    # type: (str, Dict[str, Any]) -> None
    """Open our stream: everything before this line is a login shell's noise."""
    line = "\0SSHTIMING/1 %s %s\n" % (nonce, json.dumps(facts))
    data = line.encode("ascii")
    while data:
        data = data[os.write(1, data) :]


def leave(nonce, code, text="", found=None):
    # type: (str, str, str, Any) -> None
    """Say why this interpreter or machine cannot serve, and end."""
    facts = {
        "refused": code,
        "text": text,
        "python": "%d.%d.%d" % tuple(sys.version_info[:3]),
        "executable": sys.executable,
        "conda": os.path.isdir(os.path.join(sys.prefix, "conda-meta")),
        "found": found,
    }
    announce(nonce, facts)
    sys.exit(3)


def machine_id():
    # type: () -> str
    """Say which machine this is before anything is sent to it: another may have its name; "" if unknown."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path) as file:
                return file.read(64).strip()
        except (OSError, IOError):
            pass
    return ""


def look_around(python):
    # type: (str) -> Dict[str, str]
    """Return where there is a Python of that version, and what could make one."""
    import glob

    home = os.path.expanduser("~")
    pythons = glob.glob(os.path.join(home, ".pyenv", "versions", python + ".*", "bin", "python3"))
    found = {"python": pythons[0]} if pythons else {}
    places = [place for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    usual = (".local/bin", ".pyenv/bin", "miniforge3/bin", "miniconda3/bin")
    places += [os.path.join(home, place) for place in usual]
    for place in places:
        for name in ("python" + python, "uv", "conda", "mamba", "micromamba", "pyenv"):
            path = os.path.join(place, name)
            # A version manager's shim for what is not installed looks like a Python.
            if os.access(path, os.X_OK) and "shims" not in path:
                found.setdefault("python" if name == "python" + python else name, path)
    return found


def check_python(params):
    # type: (Dict[str, Any]) -> None
    """Refuse an interpreter that cannot load what another minor version pickled; "" is any."""
    if sys.version_info[:2] < (3, 8):
        leave(params["nonce"], "python_too_old", found=look_around(params["python"]))
    if params["python"] not in ("", "%d.%d" % tuple(sys.version_info[:2])):
        leave(params["nonce"], "python_version", found=look_around(params["python"]))


def read_exactly(size):
    # type: (int) -> bytes
    """Read so many bytes of stdin and not one more: what follows is the agent's."""
    parts = []
    while size:
        data = os.read(0, min(size, 65536))
        if not data:
            sys.exit(4)
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def store(data, scratch, place):
    # type: (bytes, str, str) -> None
    """Unpack the archive beside its place and rename it there; the first one stays."""
    for name, source in json.loads(zlib.decompress(data).decode("utf-8")).items():
        path = os.path.join(scratch, *name.split("/"))
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(source.encode("utf-8"))
    try:
        os.rename(scratch, place)
    except OSError:
        if not os.path.isdir(place):
            raise


def remove(scratch):
    # type: (str) -> None
    """Remove what did not become the archive's place; what that takes stays out of the agent where it did."""
    if os.path.isdir(scratch):
        import shutil

        shutil.rmtree(scratch, ignore_errors=True)


def check_owner(place):
    # type: (str) -> None
    """Refuse code that somebody else put there, or could still change."""
    found = os.lstat(place)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError("%s belongs to, or can be written by, another user" % place)
    cache = os.path.dirname(place)  # in which others could put something else in its place
    found = os.stat(cache)
    if found.st_uid not in (0, os.getuid()) or (found.st_mode & 0o022 and not found.st_mode & 0o1000):
        raise OSError("%s belongs to, or can be written by, another user" % cache)


def make_cache(cache):
    # type: (str) -> None
    """Make the cache's directory, also while another first connection makes it."""
    try:
        os.makedirs(cache, 0o700)
    except OSError:
        if not os.path.isdir(cache):
            raise


def archive(params):
    # type: (Dict[str, Any]) -> str
    """Return the archive's place in the cache, asking for the archive if it is not there."""
    cache = os.path.expanduser(params["cache"] or "~/.cache/covalent-sshtiming")
    place = os.path.join(os.path.realpath(cache), params["archive"][:32])
    if os.path.isdir(place):
        check_owner(place)
        announce(params["nonce"], {"archive": "have", "machine": machine_id()})
        return place
    make_cache(cache)
    scratch = os.path.join(os.path.dirname(place), ".new-%s" % base64.b16encode(os.urandom(8)).decode())
    os.mkdir(scratch, 0o700)
    announce(params["nonce"], {"archive": "need", "machine": machine_id()})
    try:
        import hashlib

        data = read_exactly(params["size"])
        if hashlib.sha256(data).hexdigest() != params["archive"]:
            sys.exit(5)
        store(data, scratch, place)
        check_owner(place)  # it may be somebody else's that came first
    except (OSError, IOError) as error:
        sys.stderr.write("SSHTIMING-cache: %s\n" % error)
        sys.exit(6)
    finally:
        remove(scratch)
    return place


def main(argument):
    # type: (str) -> None
    """Check, fetch what is missing, and go through the gate."""
    params = json.loads(base64.b64decode(argument).decode("utf-8"))
    check_python(params)
    mask = os.umask(0o077)
    try:
        place = archive(params)
    except (OSError, IOError) as error:
        leave(params["nonce"], "cache", str(error))
    sys.path.insert(0, place)
    from covalent_sshtiming_remote import gate  # type: ignore[import-not-found] # its name over there

    gate.pass_through(params, place, mask)


if __name__ == "doorman":  # what the exec command calls it; an import does not
    main(sys.argv[2])
