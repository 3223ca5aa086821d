"""Streams: the ways to an agent, each a pair of byte streams and nothing more.

Owns the small interface: `Streams` to write to, `Receiver` to be told. Callbacks, not readers: a
frame costs no task switch. `channel` implements it over SSH. And `Told`, for who watches a login.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Who is told which part of a login is done: jump hosts, credentials, connect, host key, login; in this
# order, though not each of them by each way.
Told = Callable[[str], None]


def nobody(_: str) -> None:
    """Be told, and do nothing."""


class Receiver(Protocol):
    """Who is told what a pair of streams does; every method is called on the event loop."""

    def received(self, data: bytes) -> None:
        """Take bytes from the far program's stdout."""

    def complained(self, data: bytes) -> None:
        """Take bytes from its stderr."""

    def writable(self, free: bool) -> None:
        """Learn whether more may be written just now."""

    def lost(self, status: int | None) -> None:
        """Learn that the streams have ended: an exit status, or None for a lost connection."""


class Streams(Protocol):
    """A way to write to the far program and to let go of it."""

    def write(self, data: bytes) -> None:
        """Queue bytes for its stdin."""

    async def close(self, politely: bool = True) -> None:
        """Let go; without politeness where the other end is known to be gone."""
