"""Where things are on the far machine, and the few safe ways to touch them.

Owns the node-local spool (`agents/`, `clients/`, `slots/`, `tasks/`), the names inside a task
directory, and the rules that keep other users out: directories 0700, owner and type checked,
files created exclusively, contents published whole: by rename, by link, or into a file that is locked.
Never touches a user's working directory.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import sys
from typing import Any, Dict, List, Optional, Tuple

SOCKET_PATH_MAX = 100  # bytes; sun_path is 104 on macOS, 108 on Linux
KEEP_SECONDS = 7 * 24 * 3600  # undelivered outcomes stay this long
LARGE = 16 << 20  # bytes of a file that takes milliseconds to remove
KEY_LENGTH = 32  # hex digits of a task's key

REQUEST = "request"
LOCK = "lock"
CANCEL = "cancel"
STDOUT = "stdout"
STDERR = "stderr"
RESULT = "result"
OUTCOME = "outcome"
FETCH = "fetch"
FILES = "files"


class UnsafePlace(OSError):
    """A directory of ours exists, but somebody else could read, write or swap it."""


class Unready(Exception):
    """What a task was sent could not be put into its working directory, so it has not begun."""


def spool_base(explicit: str = "") -> str:
    """Return the spool directory, made if need be; raises OSError with the path in it.

    An explicit one is used or fails; otherwise /var/tmp, else the temporary directory.
    """
    if explicit:
        return private_directory(os.path.expanduser(explicit))
    failure: "Optional[OSError]" = None
    for root in _roots():
        try:
            base = private_directory(os.path.join(root, "covalent-sshtiming-%d" % os.getuid()))
            probe_writable(base)
            return base
        except OSError as error:
            failure = failure or error
    assert failure is not None  # noqa: S101 - the loop ran
    raise failure


def _roots() -> "List[str]":
    """Return where a spool may be: node-local, and the longest-lived first."""
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    return ["/var/tmp", *map(os.path.abspath, named), "/tmp"]


def private_directory(path: str) -> str:
    """Make `path` (its last component only) as 0700, or check that it is ours alone."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafePlace(errno.ENOTDIR, "not a directory", path)
    if found.st_uid != os.getuid():
        raise UnsafePlace(errno.EPERM, "belongs to user id %d" % found.st_uid, path)
    if found.st_mode & 0o077:
        raise UnsafePlace(errno.EPERM, "can be read or written by others (chmod 700 it)", path)
    return path


def probe_writable(base: str) -> None:
    """Raise OSError if no file can be made in `base`."""
    name = os.path.join(base, ".probe-" + os.urandom(8).hex())
    create(name)
    os.unlink(name)


def rooms(base: str) -> None:
    """Make the rooms of the spool."""
    for name in ("agents", "clients", "slots", "tasks"):
        private_directory(os.path.join(base, name))


def agent_id(place: str, flavor: str) -> str:
    """Name the agent of this interpreter, environment flavor and archive; the flavor comes first."""
    text = "\0".join((sys.executable or "", sys.prefix, place))
    return "".join(
        hashlib.sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:8] for part in (flavor, text)
    )


def same_flavor(agent: Any, other: str) -> bool:
    """Tell whether two agents' names are of one flavor, so that a task of one can run in the other."""
    return isinstance(agent, str) and agent[:8] == other[:8]


def socket_path(base: str, agent: str) -> str:
    """Return the agent's socket; raises OSError where the path is too long for one."""
    path = os.path.join(base, "agents", agent + ".sock")
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, "too long for a socket; set a shorter remote_spool", path)
    return path


def is_key(text: Any) -> bool:
    """Tell whether `text` is a task's key, and so safe as a directory's name."""
    return isinstance(text, str) and len(text) == KEY_LENGTH and not text.strip("0123456789abcdef")


def create(path: str, content: bytes = b"") -> bool:
    """Create `path` with `content`; False if it exists already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return False
    try:
        if content:
            write_all(handle, content)
    except OSError:
        os.unlink(path)  # a torn file says something that is not so
        raise
    finally:
        os.close(handle)
    return True


def write_all(handle: int, data: bytes) -> None:
    """Write every byte of `data` to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def discard(path: str) -> None:
    """Remove a file that nobody needs any more; one that is gone already, or cannot go, is let be."""
    try:
        os.unlink(path)
    except OSError:
        pass


def give_way(path: str) -> None:
    """Let go of the blanks that a file of ours was padded with, which keeps room on a full disk."""
    content = (read(path) or b"").rstrip()
    if content:
        os.truncate(path, len(content))


def replace(path: str, content: bytes) -> None:
    """Put `content` at `path` whole, over whatever was there."""
    temporary = "%s.%s.tmp" % (path, os.urandom(4).hex())
    create(temporary, content)
    os.rename(temporary, path)


def publish(path: str, content: bytes) -> bool:
    """Put `content` at `path` whole, unless something is there already; tell whether it was us."""
    temporary = "%s.%s.tmp" % (path, os.urandom(4).hex())
    create(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def open_file(path: str) -> int:
    """Return a descriptor to read a file by; raises OSError for a link, and for what might never be read."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnsafePlace(errno.EINVAL, "not a regular file", path)
    return handle


def read(path: str, limit: int = 1 << 20) -> "Optional[bytes]":
    """Return a small file's content, or None where there is none."""
    try:
        handle = open_file(path)
    except FileNotFoundError:
        return None
    try:
        # Of no more than there is: Python takes the memory for all that it may read.
        return os.read(handle, min(limit, os.fstat(handle).st_size))
    finally:
        os.close(handle)


def read_json(path: str) -> "Optional[Dict[str, Any]]":
    """Return a small JSON object, or None where there is none or it is torn."""
    content = read(path)
    try:
        value = json.loads(content.decode("utf-8")) if content else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def try_lock(path: str, must_exist: bool = False, regular: bool = False) -> "Optional[int]":
    """Return a descriptor that holds an exclusive lock on `path`, or None if another does.

    Where it must exist, the disk may be read-only. May refuse what is no regular file.
    """
    flags = (os.O_RDONLY if must_exist else os.O_RDWR | os.O_CREAT) | os.O_NOFOLLOW | os.O_NONBLOCK
    return lock(os.open(path, flags, 0o600), regular)


def lock(handle: int, regular: bool = False) -> "Optional[int]":
    """Lock an open file and return its descriptor, or None if another holds the lock.

    Closes the descriptor where it does not return it. May refuse what is no regular file.
    """
    try:
        if regular and not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    return handle


def is_locked(path: str) -> bool:
    """Tell whether some process holds the lock on `path`."""
    return look_at_lock(path)[0]


def look_at_lock(path: str) -> "Tuple[bool, bool]":
    """Return whether some process holds the lock on `path`, and else whether that file has any content.

    Both are of one moment, because nobody else can take the lock while we look.
    """
    try:
        handle = try_lock(path, must_exist=True)
    except FileNotFoundError:
        return False, False
    if handle is None:
        return True, False
    try:
        found = os.fstat(handle)
        return False, stat.S_ISREG(found.st_mode) and found.st_size > 0
    finally:
        os.close(handle)


def mark(handle: int, content: bytes) -> bool:
    """Fill an empty file that we have locked, whole or not at all; False for one with content, which stays.

    Its size is set first: that is in the file system's journal within seconds, as a name would be, and so it
    is there after a loss of power, by which the content may be gone.
    """
    if os.fstat(handle).st_size:
        return False
    try:
        os.ftruncate(handle, len(content))
        write_all(handle, content)
    except OSError:
        os.ftruncate(handle, 0)  # it says something by not being empty
        raise
    return True


def hold_large(path: str) -> "List[int]":
    """Return descriptors of the files in a task directory whose removal would take long, as far as it can."""
    held: "List[int]" = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_size >= LARGE:
                    held.append(open_file(entry.path))
    except OSError:  # gone meanwhile, or no descriptor left: the removal says what is wrong
        pass
    return held


def remove_tree(path: str) -> None:
    """Remove a task directory: flat, ours, and never followed through a link."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        try:
            os.unlink(os.path.join(path, name))
        except FileNotFoundError:
            pass
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass


def machine() -> "Tuple[str, str]":
    """Return (machine id, boot id); either is "" where the platform has none."""
    ids: "List[str]" = []
    for names in (("/etc/machine-id", "/var/lib/dbus/machine-id"), ("/proc/sys/kernel/random/boot_id",)):
        found = ""
        for name in names:
            try:
                with open(name) as file:
                    found = found or file.read(64).strip()
            except OSError:
                pass
        ids.append(found)
    return ids[0], ids[1]
