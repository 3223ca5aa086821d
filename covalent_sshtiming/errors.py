"""The errors a user can act on: one root, one class for each thing there is to do.

Every message is a whole sentence that says which host, what happened there and what to do
next; whoever raises one of these writes that sentence. Imports nothing of ours, and nothing of
Covalent's: `sshtiming` translates the classes of a task that has already started into
Covalent's `TaskRuntimeError`, because only that keeps the task's output.
"""

from __future__ import annotations


class SSHTimingError(Exception):
    """Root of everything this package raises on purpose.

    Attributes:
        after_start: whether the user's function may have begun to run before this was raised.
        retriable: whether the same call may succeed by itself a little later.
    """

    after_start = False
    retriable = False


class ConfigError(SSHTimingError):
    """A setting is missing, malformed or unsafe; nothing was sent anywhere."""


class ConnectError(SSHTimingError):
    """The machine refused, did not answer, or dropped the connection at login."""

    retriable = True


class ServerBusy(ConnectError):
    """The SSH server has no connection or session left for us (MaxStartups, MaxSessions)."""


class AuthError(SSHTimingError):
    """Credentials were refused, or could not be read."""


class HostKeyError(SSHTimingError):
    """The machine's host key is not one to trust; the three subclasses say why."""


class HostKeyUnknown(HostKeyError):
    """No known_hosts file has a key for this host."""


class HostKeyChanged(HostKeyError):
    """The host presented another key than the one on record."""


class HostKeyRevoked(HostKeyError):
    """The host presented a key that known_hosts marks as revoked."""


class RemoteEnvError(SSHTimingError):
    """The remote Python is absent, too old, of another version, or lacks a module."""


class TransferError(SSHTimingError):
    """Bytes could not be stored on the far side: disk full, checksum, permission."""


class ProtocolError(SSHTimingError):
    """What came over the wire is not our protocol."""


class ConnectionLostError(SSHTimingError):
    """A submitted task's machine did not come back within `reconnect_timeout`."""

    after_start = True


class TaskError(SSHTimingError):
    """Root of the ways in which a task that was started can end without a result.

    Attributes:
        traceback: the remote traceback as text, or "" where there is none.
    """

    after_start = True

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class TaskFailed(TaskError):
    """The user's function, or one of its hooks, raised."""


class TaskDied(TaskError):
    """The task's process ended without an outcome: a signal, `os._exit`, a reboot."""


class TimeLimitExceeded(TaskError):
    """The task ran longer than `time_limit` seconds and was stopped."""


class ResultTooLarge(TaskError):
    """The pickled result is larger than `max_result_bytes`."""


class ResultError(TaskError):
    """The function returned, but its result cannot be pickled."""
