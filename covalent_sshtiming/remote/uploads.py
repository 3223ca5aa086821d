"""Uploads: a request on its way from the wire to the disk.

Owns the claim (`mkdir` of the key), the temporary file and the checks of length and SHA-256;
the request appears under its name only when it is whole. Nothing here holds more of a request
than the frame that has just come.
"""

import errno
import hashlib
import os
from typing import Any, Dict, Optional

from . import places, tasks


class Refused(Exception):
    """The request cannot be stored; `facts` say why, for the client to word."""

    def __init__(self, text: str, path: str, number: int = 0, free: "Optional[int]" = None) -> None:
        super().__init__(text)
        self.facts = {"text": text, "path": path, "errno": number, "free": free}


def refusal(error: OSError, directory: str) -> Refused:
    """Return what to tell the client of an error in a task's directory, which may be gone by now."""
    free = None
    try:
        found = os.statvfs(os.path.dirname(directory))
        free = found.f_bavail * found.f_frsize
    except OSError:
        pass
    return Refused(error.strerror or str(error), directory, error.errno or 0, free)


class Upload:
    """One request that is being received; used by one connection only."""

    def __init__(self, directory: str, head: "Dict[str, Any]") -> None:
        self.directory = directory
        self.head = head
        self._left = int(head["size"])
        self._digest = hashlib.sha256()
        self._path = os.path.join(directory, "%s.%s.tmp" % (places.REQUEST, os.urandom(4).hex()))
        self._file = -1
        try:
            self._check_room()
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            places.write_all(self._file, tasks.head_bytes(head))
        except OSError as error:
            self.abandon()
            raise refusal(error, self.directory) from error

    def _check_room(self) -> None:
        """Refuse now what cannot fit, instead of after minutes of uploading."""
        found = os.statvfs(self.directory)
        free = found.f_bavail * found.f_frsize
        if self._left > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def add(self, data: bytes) -> None:
        """Take the next bytes; raises Refused on a full disk or a body longer than announced."""
        self._left -= len(data)
        self._digest.update(data)
        try:
            if self._left < 0:
                raise OSError(errno.EPROTO, "more bytes than announced", self._path)
            places.write_all(self._file, data)
        except OSError as error:
            self.abandon()
            raise refusal(error, self.directory) from error

    def finish(self, digest: str) -> None:
        """Check the whole and give it its name; raises Refused."""
        try:
            if self._left or digest != self._digest.hexdigest():
                raise OSError(errno.EIO, "length or SHA-256 differs from what was announced", self._path)
            os.close(self._file)
            self._file = -1
            os.rename(self._path, os.path.join(self.directory, places.REQUEST))
        except OSError as error:
            self.abandon()
            raise refusal(error, self.directory) from error

    def abandon(self) -> None:
        """Forget what has come so far, and the claim if it holds nothing else."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        for remove, path in ((os.unlink, self._path), (os.rmdir, self.directory)):
            try:
                remove(path)
            except OSError:
                pass
