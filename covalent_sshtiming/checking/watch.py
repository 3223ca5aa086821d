"""Watch: what passes between the streams and the session tells which step is done.

The command begins with an `echo` of a mark. What comes before it on stdout is the login shell's noise; the
mark is taken out again, so that the session hears what it always does.
"""

from __future__ import annotations

from covalent_sshtiming.checking import words
from covalent_sshtiming.checking.walk import Walk
from covalent_sshtiming.errors import ProtocolError
from covalent_sshtiming.host.bootstrap import NOISE_MAX, Preamble
from covalent_sshtiming.host.environment import DONE
from covalent_sshtiming.host.session import Session


class Watch:
    """A receiver that hands all on to a session, and says when shell, environment, Python and version are."""

    def __init__(self, session: Session, walk: Walk) -> None:
        self._mark = f"sshtiming-check-{session.nonce}"
        self._line = f"{self._mark}\n".encode()
        self._session = session
        self._walk = walk
        self._held = b""  # what may be the mark's beginning
        self._noise = b""
        self._preamble: Preamble | None = Preamble(session.nonce)

    def marked(self, command: str) -> str:
        """Return a command that shows the mark first; every login shell has such an `echo`."""
        return f"echo {self._mark}; {command}"

    def received(self, data: bytes) -> None:
        """Pass on stdout without the mark."""
        if not self._walk.is_done("shell"):
            data = self._before_mark(data)
        if data:
            self._listen(data)
            self._session.received(data)

    def _before_mark(self, data: bytes) -> bytes:
        before, found, after = (self._held + data).partition(self._line)
        self._held = b""
        if not found:
            ends = [self._line[:size] for size in range(len(self._line) - 1, 0, -1)]
            self._held = next((end for end in ends if before.endswith(end)), b"")
            before = before[: len(before) - len(self._held)]
        self._noise += before[: NOISE_MAX - len(self._noise)]
        if found:
            self._walk.done("shell", words.of_shell(self._noise))
            if not self._session.target.prepares:
                self._prepared()
        return before + after

    def _prepared(self) -> None:
        self._walk.done("environment", words.of_environment(self._session.target, self._session.said.tool))

    def _listen(self, data: bytes) -> None:
        """Look for the announcement, which a Python makes once it has looked at its own version."""
        if self._preamble is None:
            return
        try:
            found = self._preamble.feed(data)
        except ProtocolError:  # the session says so too
            self._preamble = None
            return
        if found is None:
            return
        self._preamble = None
        self._prepared()  # its mark comes on stderr, so perhaps later
        self._walk.done("python", words.of_python(self._session.target))
        if not str(found[0].get("refused")).startswith("python_"):
            self._walk.done("version", words.of_version(self._session.target))

    def complained(self, data: bytes) -> None:
        """Pass on stderr, which tells how far the preparation is."""
        self._session.complained(data)
        if self._session.said.step == DONE and self._walk.is_done("shell"):
            self._prepared()

    def writable(self, free: bool) -> None:
        """Pass on whether more may be written."""
        self._session.writable(free)

    def lost(self, status: int | None) -> None:
        """Pass on the end, and before it what was held back."""
        if self._held:
            self._session.received(self._held)
        self._session.lost(status)
