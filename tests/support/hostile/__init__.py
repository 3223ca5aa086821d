"""A hostile machine: an SSH server that lets anybody in by key, and then misbehaves as the user name says.

    with hostile_server(directory, canary) as server:
        ... username="endless_noise" ...

Each misbehaviour is a coroutine that has the session's streams; its name is the user name that asks for it.
The server is a process of its own, so that what it sends is not counted as our memory.
"""

from support.hostile import ends, files, frames

__all__ = ["ends", "files", "frames"]  # imported, they are in the table of `far`
