"""The table of options: each with its kind, default, unit, bounds and one line of documentation.

The fields of `Settings` are the table's rows, and the executors' parameters, the defaults in covalent.conf,
the table in docs/settings.md and every check are read off them. Where a default is None, `~/.ssh/config`
(which only the SSH library reads) or the machine decides.
"""

from __future__ import annotations

import functools
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from covalent_sshtiming.forms import (
    agent_socket,
    conda_environment,
    device,
    far_directory,
    file_pattern,
    host_name,
    jump_hosts,
    local_path,
    one_of,
    user_name,
    variable,
)

_LIMIT = 2**53  # no setting needs more, and up to here every whole number is exact as a float
TYPES: dict[type, Any] = {
    str: str,
    int: int,
    float: (int, float),
    bool: bool,
    dict: Mapping,
    list: (list, tuple),
}
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list of texts in quotes",
}
_KINDS = {"str": str, "int": int, "float": float, "bool": bool, "Mapping": dict, "Sequence": list}


@dataclass(frozen=True)
class Option:
    """One row of the table.

    `kind` is str, int, float, bool, dict or list (of texts); `low` and `high` bound a number; `check`
    returns a text in its final form or raises ValueError with what to write instead; an option that is not
    `ssh_only` belongs to the local executor too; a `refused` one is known from other executors, and its
    `doc` says what to do here. A `server_only` option says where a secret is: whoever may send workflows
    must not choose that, so it is read from covalent.conf only. Its value is never shown, because somebody
    may have written the secret itself there.
    """

    name: str
    kind: type
    default: Any
    doc: str
    unit: str = ""
    low: int = 0
    high: int = _LIMIT
    check: Callable[[str], str] = str
    ssh_only: bool = False
    refused: bool = False
    server_only: bool = False

    @property
    def needs(self) -> str:
        """Say what a value has to be, to follow the word "write"."""
        words = _WORDS[self.kind] + (f" of {self.unit}" if self.unit else "")
        if self.kind not in (int, float) or self.low == -_LIMIT:
            return words
        return words + (f" from {self.low} to {self.high}" if self.high < _LIMIT else f", {self.low} or more")

    def is_set(self, value: Any) -> bool:
        """Tell whether a layer says anything at all with this value."""
        if value == 0:
            return isinstance(value, bool) or self.kind is bool
        return value not in (None, "", {}, [], ())


def _row(default: Any, doc: str, unit: str = "", *, secret: bool = False, **more: Any) -> Any:
    metadata = {"default": default, "doc": doc, "unit": unit, **more}
    return field(metadata=metadata, repr=not secret)  # settings get logged


_ssh = functools.partial(_row, ssh_only=True)


def _secret(doc: str, check: Callable[[str], str] = variable) -> Any:
    return _ssh(None, f"{doc}; in covalent.conf only", check=check, secret=True, server_only=True)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything one task needs to know, resolved and checked; each field is a row of the table.

    `host_label` is the name that the user gave; `hostname` differs from it only where the machine's own
    table names another address. A `time_limit` of None is no limit, a `max_parallel` of 0 all CPUs. The
    local executor's are the same, with "localhost" for both names.
    """

    host_label: str
    hostname: str = _ssh(None, "Name, address or `~/.ssh/config` alias of the machine", check=host_name)
    port: int | None = _ssh(None, "Its SSH server's port; else `~/.ssh/config`, else 22", low=1, high=65535)
    username: str | None = _ssh(
        None, "User there; else `~/.ssh/config`, else who runs the dispatcher", check=user_name
    )
    ssh_key_file: str | None = _ssh(None, "Private key; else as `ssh` would find one", check=local_path)
    ssh_key_passphrase_env: str | None = _secret("Server's environment variable with that key's passphrase")
    ssh_key_passphrase_file: str | None = _secret("File (mode 0600) with that key's passphrase", local_path)
    ssh_certificate_file: str | None = _ssh(
        None, "User certificate for that key; else as `ssh` would find one", check=local_path
    )
    identity_agent: str | None = _ssh(
        None,
        "Key agent's socket, or `none`; else `~/.ssh/config`, else `SSH_AUTH_SOCK`",
        check=agent_socket,
    )
    password_env: str | None = _secret("Server's environment variable with the login's password")
    password_file: str | None = _secret("File (mode 0600) with the login's password", local_path)
    proxy_jump: str | None = _ssh(
        None, "Jump hosts, `[user@]host[:port],...`, or `none`; else `~/.ssh/config`", check=jump_hosts
    )
    host_key_policy: str = _ssh(
        "strict",
        "`strict` refuses unknown host keys, `accept-new` records them, `off` checks nothing and warns",
        check=one_of("strict", "accept-new", "off"),
    )
    known_hosts_file: str | None = _ssh(None, "Host keys to trust; else the usual files", check=local_path)
    transport: str = _ssh(
        "asyncssh",
        "`openssh` has the system's `ssh` log in: two factors, Kerberos, an open ControlMaster",
        check=one_of("asyncssh", "openssh"),
    )
    timing_filepath: str = _row(
        None, "Timing log on the dispatcher's machine; else in its data directory", check=local_path
    )
    python_path: str = _row("", "Python there, a path or a command; else one is looked for, see Environments")
    conda_env: str = _row("", "Conda environment there to activate, by name or path", check=conda_environment)
    setup_commands: Sequence[str] = _row(
        None, "Shell lines to run there before Python starts, see Environments", secret=True
    )
    remote_cache: str = _row("", "Where this package is kept there; else `~/.cache/covalent-sshtiming`")
    remote_spool: str = _row("", "Node-local place for socket, locks and tasks; else the machine chooses")
    remote_workdir: str = _row("covalent-workdir", "Working directory, relative to the home directory there")
    create_unique_workdir: bool = _row(False, "Give each task a working directory of its own below that")
    do_cleanup: bool = _row(True, "Remove a task's directory in the spool when result and record are safe")
    env: Mapping[str, str] = _row(None, "Environment variables of the task; tables add up", secret=True)
    env_from: Sequence[str] = _ssh(
        None,
        "Server's environment variables to pass on to the task; lists add up; in covalent.conf only",
        check=variable,
        secret=True,
        server_only=True,
    )
    max_parallel: int = _row(0, "Tasks at once there; else as many as there are CPUs for them", "tasks")
    cpus_per_task: int = _row(0, "CPUs that each task takes, and has threads for; else one", "CPUs")
    cpu_affinity: bool = _row(False, "Hold each task to the CPUs that it has taken")
    slots_dir: str = _row(
        "", "Directory there by which several users share CPUs and devices", check=far_directory
    )
    gpus_per_task: int = _row(0, "GPUs that each task has to itself", "GPUs")
    gpus: Sequence[str] = _row(
        None,
        "GPUs there to hand out; else those of `CUDA_VISIBLE_DEVICES` there, else all",
        check=device,
    )
    slot_env: Mapping[str, Sequence[str]] = _row(
        None, "Variables, each with values of which a task has one to itself; tables add up"
    )
    isolation: str = _row(
        "fork",
        "`fork` is quick; `spawn` gives each task a fresh interpreter",
        check=one_of("fork", "spawn"),
    )
    connect_timeout: float = _row(20, "Longest wait for a connection", "seconds")
    max_connection_attempts: int = _ssh(5, "Attempts to connect before the task fails", "attempts", low=1)
    retry_wait_time: float = _ssh(5, "Longest wait between two attempts", "seconds")
    retry_connect: bool = _ssh(True, "Try again when connecting fails; `false` is a single attempt")
    reconnect_timeout: float = _ssh(86400, "How long a machine that runs a task may be away", "seconds")
    idle_timeout: float = _row(300, "How long connection and agent outlive the last task", "seconds")
    run_local_on_ssh_fail: bool = _ssh(False, "Run a task here that no connection or login could be had for")
    on_shutdown: str = _row(
        "cancel",
        "When the server stops, `cancel` or `leave` its tasks",
        check=one_of("cancel", "leave"),
    )
    time_limit: float | None = _row(None, "Longest run of a task; -1 is no limit", "seconds", low=-_LIMIT)
    memory_limit: int = _row(
        0, "Most memory of each of a task's processes, of all together where groups count it", "bytes"
    )
    process_limit: int = _row(
        0, "Most processes and threads of a task; without a group, about that many", "processes"
    )
    max_result_bytes: int = _row(8 * 1024**3, "Largest pickled result; the default is 8 GiB", "bytes")
    linger: float = _row(1, "Grace for a task's left-over child processes before KILL", "seconds")
    log_stdout: str = _row("", "File that the task's output is added to as it comes, see below")
    log_stderr: str = _row("", "The same for its error output")
    send: Sequence[str] = _row(
        None, "Files of the server's machine to put into the task's working directory", check=local_path
    )
    send_max_bytes: int = _row(8 * 1024**3, "Most that these may have together; 8 GiB by default", "bytes")
    fetch: Sequence[str] = _row(
        None, "Files that the task leaves in its working directory, to be brought here", check=file_pattern
    )
    fetch_to: str = _row("", "Where to; else `node_<id>` in the dispatch's results directory, see Files")
    fetch_max_bytes: int = _row(8 * 1024**3, "Most that these may have together; 8 GiB by default", "bytes")
    fetch_max_files: int = _row(10_000, "Most files to bring; the rest stays there", "files")


_ROWS = [row for row in fields(Settings) if row.metadata]
SETTINGS = [row.name for row in _ROWS]
FOREIGN = [
    Option("hosts", dict, None, "One table for each machine; in covalent.conf only", ssh_only=True),
    Option("cache_dir", str, "", "Unused; every executor of Covalent has it"),
    Option(
        "poll_freq",
        float,
        0,
        "Ignored: the machine itself tells when a task has ended",
        "seconds",
        ssh_only=True,
    ),
    Option(
        "retries",
        int,
        0,
        "Not in this version: remove it; a task runs once, so dispatch anew what has failed",
        refused=True,
    ),
]
OPTIONS: dict[str, Option] = {
    row.name: Option(row.name, _KINDS[re.split(r"\W", str(row.type))[0]], **row.metadata) for row in _ROWS
} | {option.name: option for option in FOREIGN}


class Plugin(NamedTuple):
    """One executor as its user sees it: the name of its class, that of its section, its options."""

    class_name: str
    section: str
    options: Mapping[str, Option]

    @property
    def arguments(self) -> str:
        """Name the executor's arguments in a sentence."""
        return f"argument of {self.class_name}"

    @property
    def table(self) -> str:
        """Name its section in a sentence."""
        return f"[executors.{self.section}] in covalent.conf"


SSH = Plugin("TimingSSHExecutor", "sshtiming", OPTIONS)
LOCAL = Plugin(
    "TimingExecutor",
    "localtiming",
    {name: option for name, option in OPTIONS.items() if not option.ssh_only},
)
ARGUMENT, SECTION = SSH.arguments, SSH.table


def plugin_defaults(plugin: Plugin = SSH) -> dict[str, Any]:
    """Return what Covalent writes into covalent.conf; TOML has no None, so "", 0 and {} stand for it."""
    options = [plugin.options[name] for name in (*SETTINGS, "hosts") if name in plugin.options]
    return {option.name: option.kind() if option.default is None else option.default for option in options}


def markdown_local() -> str:
    """Return the list in docs/settings.md of what the local executor has of it."""
    return "\n".join(textwrap.wrap(", ".join(f"`{name}`" for name in LOCAL.options), 100)) + "\n"


def markdown_table() -> str:
    """Return the table in docs/settings.md of all options."""
    lines = ["| setting | default | unit | what it does |", "|---|---|---|---|"]
    for option in OPTIONS.values():
        default = f"`{json.dumps(option.default)}`" if option.is_set(option.default) else ""
        lines.append(f"| `{option.name}` | {default} | {option.unit} | {option.doc} |")
    return "\n".join(lines) + "\n"
