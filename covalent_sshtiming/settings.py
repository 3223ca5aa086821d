"""What can be set, where each value comes from, and which values are refused.

Owns the table of options: the fields of `Settings` are its rows, and the executor's parameters, the
defaults in covalent.conf, the README's table and every check are read off them. Imports nothing of
Covalent's, so that the command line sees the same settings as the executor.

A value is looked for in the arguments, then in `[executors.sshtiming.hosts.NAME]`, then in
`[executors.sshtiming]`. None, "", {} and 0 mean "not set"; False is a value. Where nothing is set and the
default is None, `~/.ssh/config` (which only asyncssh reads) or the machine decides.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import toml  # Covalent's own parser: Python 3.10 has no tomllib

from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.forms import (
    agent_socket,
    host_name,
    jump_hosts,
    local_path,
    one_of,
    user_name,
    variable,
)

ARGUMENT = "argument of TimingSSHExecutor"
SECTION = "[executors.sshtiming] in covalent.conf"

_log = logging.getLogger(__name__)
_LIMIT = 2**53  # no setting needs more, and up to here every whole number is exact as a float
_TYPES: dict[type, Any] = {str: str, int: int, float: (int, float), bool: bool, dict: Mapping}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
_KINDS = {"str": str, "int": int, "float": float, "bool": bool, "Mapping": dict}


@dataclass(frozen=True)
class Option:
    """One row of the table.

    `kind` is str, int, float, bool or dict; `low` and `high` bound a number; `check` returns a text in its
    final form or raises ValueError with what to write instead; a `refused` option is known from other
    executors, and its `doc` says what to do here. A `server_only` option says where a secret is: whoever may
    send workflows must not choose that, so it is read from covalent.conf only. Its value is never shown,
    because somebody may have written the secret itself there.
    """

    name: str
    kind: type
    default: Any
    doc: str
    unit: str = ""
    low: int = 0
    high: int = _LIMIT
    check: Callable[[str], str] = str
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
        return value not in (None, "", {})


def _row(default: Any, doc: str, unit: str = "", *, secret: bool = False, **more: Any) -> Any:
    metadata = {"default": default, "doc": doc, "unit": unit, **more}
    return field(metadata=metadata, repr=not secret)  # settings get logged


def _secret(doc: str, check: Callable[[str], str] = variable) -> Any:
    return _row(None, f"{doc}; in covalent.conf only", check=check, secret=True, server_only=True)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything one task needs to know, resolved and checked; each field is a row of the table.

    `host_label` is the name that the user gave; `hostname` differs from it only where the machine's own
    table names another address. A `time_limit` of None is no limit, a `max_parallel` of 0 all CPUs.
    """

    host_label: str
    hostname: str = _row(None, "Name, address or `~/.ssh/config` alias of the machine", check=host_name)
    port: int | None = _row(None, "Its SSH server's port; else `~/.ssh/config`, else 22", low=1, high=65535)
    username: str | None = _row(
        None, "User there; else `~/.ssh/config`, else who runs the dispatcher", check=user_name
    )
    ssh_key_file: str | None = _row(None, "Private key; else as `ssh` would find one", check=local_path)
    ssh_key_passphrase_env: str | None = _secret("Server's environment variable with that key's passphrase")
    ssh_key_passphrase_file: str | None = _secret("File (mode 0600) with that key's passphrase", local_path)
    ssh_certificate_file: str | None = _row(
        None, "User certificate for that key; else as `ssh` would find one", check=local_path
    )
    identity_agent: str | None = _row(
        None,
        "Key agent's socket, or `none`; else `~/.ssh/config`, else `SSH_AUTH_SOCK`",
        check=agent_socket,
    )
    password_env: str | None = _secret("Server's environment variable with the login's password")
    password_file: str | None = _secret("File (mode 0600) with the login's password", local_path)
    proxy_jump: str | None = _row(
        None, "Jump hosts, `[user@]host[:port],...`, or `none`; else `~/.ssh/config`", check=jump_hosts
    )
    host_key_policy: str = _row(
        "strict",
        "`strict` refuses unknown host keys, `accept-new` records them, `off` checks nothing and warns",
        check=one_of("strict", "accept-new", "off"),
    )
    known_hosts_file: str | None = _row(None, "Host keys to trust; else the usual files", check=local_path)
    transport: str = _row(
        "asyncssh",
        "`openssh` has the system's `ssh` log in: two factors, Kerberos, an open ControlMaster",
        check=one_of("asyncssh", "openssh"),
    )
    timing_filepath: str = _row(
        None, "Timing log on the dispatcher's machine; else in its data directory", check=local_path
    )
    python_path: str = _row("", "Python there; else one of the electron's version is looked for")
    remote_cache: str = _row("", "Where this package is kept there; else `~/.cache/covalent-sshtiming`")
    remote_spool: str = _row("", "Node-local place for socket, locks and tasks; else the machine chooses")
    remote_workdir: str = _row("covalent-workdir", "Working directory, relative to the home directory there")
    create_unique_workdir: bool = _row(False, "Give each task a working directory of its own below that")
    do_cleanup: bool = _row(True, "Remove a task's directory in the spool when result and record are safe")
    env: Mapping[str, str] = _row(None, "Environment variables of the task; tables add up", secret=True)
    max_parallel: int = _row(0, "Tasks at once there; else as many as there are CPUs for them", "tasks")
    connect_timeout: float = _row(20, "Longest wait for a connection", "seconds")
    max_connection_attempts: int = _row(5, "Attempts to connect before the task fails", "attempts", low=1)
    retry_wait_time: float = _row(5, "Longest wait between two attempts", "seconds")
    retry_connect: bool = _row(True, "Try again when connecting fails; `false` is a single attempt")
    reconnect_timeout: float = _row(86400, "How long a machine that runs a task may be away", "seconds")
    idle_timeout: float = _row(300, "How long connection and agent outlive the last task", "seconds")
    time_limit: float | None = _row(None, "Longest run of a task; -1 is no limit", "seconds", low=-_LIMIT)
    max_result_bytes: int = _row(8 * 1024**3, "Largest pickled result; the default is 8 GiB", "bytes")
    linger: float = _row(1, "Grace for a task's left-over child processes before KILL", "seconds")
    log_stdout: str = _row("", "File for the task's output; a relative one lies in the results directory")
    log_stderr: str = _row("", "The same for its error output")


_ROWS = [row for row in fields(Settings) if row.metadata]
_SETTINGS = [row.name for row in _ROWS]
_FOREIGN = [
    Option("hosts", dict, None, "One table for each machine; in covalent.conf only"),
    Option("cache_dir", str, "", "Unused; every executor of Covalent has it"),
    Option("poll_freq", float, 0, "Ignored: the machine itself tells when a task has ended", "seconds"),
    Option("retries", int, 0, "Not in this version: a task runs once", refused=True),
    Option("conda_env", str, "", "Not in this version: set python_path to its Python", refused=True),
    Option("run_local_on_ssh_fail", bool, False, 'Not in this version: set executor="local"', refused=True),
]
OPTIONS: dict[str, Option] = {
    row.name: Option(row.name, _KINDS[re.split(r"\W", str(row.type))[0]], **row.metadata) for row in _ROWS
} | {option.name: option for option in _FOREIGN}


class _Layer(NamedTuple):
    """One place where a value may stand, and how an error names it."""

    where: str
    values: Mapping[str, Any]


def plugin_defaults() -> dict[str, Any]:
    """Return what Covalent writes into covalent.conf; TOML has no None, so "", 0 and {} stand for it."""
    options = [OPTIONS[name] for name in (*_SETTINGS, "hosts")]
    return {option.name: option.kind() if option.default is None else option.default for option in options}


def markdown_table() -> str:
    """Return the README's table of all options."""
    lines = ["| setting | default | unit | what it does |", "|---|---|---|---|"]
    for option in OPTIONS.values():
        default = f"`{json.dumps(option.default)}`" if option.is_set(option.default) else ""
        lines.append(f"| `{option.name}` | {default} | {option.unit} | {option.doc} |")
    return "\n".join(lines) + "\n"


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse the first name that is no option, with the nearest one that is."""
    for name in names:
        if name not in OPTIONS or (name == "hosts" and where not in (ARGUMENT, SECTION)):
            known = [*_SETTINGS, "hosts"] if where == SECTION else _SETTINGS
            near = difflib.get_close_matches(name.lower(), known, n=1)
            fix = f"did you mean {near[0]}?" if near else "remove it; the README has a table of the settings."
            raise ConfigError(f"{name} ({where}) is not an option: {fix}")


def absolute_from_caller(path: Any) -> Any:
    """Make a relative path absolute while the caller's directory is still the current one.

    Leaves "", `~` (the server's home) and whatever is no path alone: `resolve` speaks about those.
    """
    text = str(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or text.startswith("~"):
        return text
    return str(Path(text).absolute())


def default_timing_log() -> Path:
    """Return the timing log's place where none is set: in the user's data directory."""
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():  # the XDG rules want a relative one ignored like an empty one
        data = Path.home() / ".local" / "share"
    return data / "covalent-sshtiming" / "timing.log"


def config_path() -> Path:
    """Return where Covalent keeps covalent.conf; its variable is XDG_CONFIG_DIR, not XDG_CONFIG_HOME."""
    directory = os.environ.get("COVALENT_CONFIG_DIR") or os.environ.get("XDG_CONFIG_DIR")
    return Path(directory or Path.home() / ".config" / "covalent") / "covalent.conf"


def load_section(path: Path | None = None) -> dict[str, Any]:
    """Read `[executors.sshtiming]` as the server does; without the file or the section it is empty."""
    path = path or config_path()
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}; correct the file or its permissions.") from error
    except (ValueError, IndexError) as error:  # IndexError: the parser's own, on some broken input
        raise ConfigError(f"{path} cannot be read: {_misspelt(error)}.") from error
    section = _descend(content, ["executors", "sshtiming"])
    if not isinstance(section, Mapping):
        raise _refusal("executors.sshtiming", str(path), "is not a table", "write [executors.sshtiming]")
    return dict(section)


def _misspelt(error: Exception) -> str:
    """Say where a file is no TOML, without the parser's own words, because some show the line's value."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8; save the file in that encoding"
    line = getattr(error, "lineno", None)
    place = f"line {line} is not TOML" if line else "it is not TOML"
    return f"{place}; write `name = value` there, with text in double quotes, or restore the file"


def resolve(arguments: Mapping[str, Any], section: Mapping[str, Any]) -> Settings:
    """Find and check every setting of a task.

    `arguments` is what the executor was given, `section` is `[executors.sshtiming]` with its `hosts`.
    """
    check_names(section, SECTION)
    check_names(arguments, ARGUMENT)
    given, base = _Layer(ARGUMENT, _own_arguments(arguments, section)), _Layer(SECTION, section)
    label = _first("hostname", [given, base])
    if label is None:
        raise ConfigError(f"no hostname: give TimingSSHExecutor(hostname=...) or set it in {SECTION}")
    host = _host_layer(section, label)
    layers = [given, host, base]
    _speak_of_foreign(layers)
    values = {name: _first(name, layers) for name in _SETTINGS}
    values["hostname"] = _first("hostname", [host, given, base])
    values["env"] = _merged_env(layers)
    values["timing_filepath"] = values["timing_filepath"] or str(default_timing_log())
    if not values["retry_connect"]:
        values["max_connection_attempts"] = 1
    if values["time_limit"] is not None and values["time_limit"] <= 0:
        values["time_limit"] = None
    _check_secrets(given, values)
    return Settings(host_label=label, **values)


def _check_secrets(given: _Layer, values: Mapping[str, Any]) -> None:
    """Refuse a secret's place that a client names, that is named twice, or that the rest makes unsafe."""
    for option in OPTIONS.values():
        if option.server_only and option.is_set(given.values.get(option.name)):
            wrong = "is read from the server's covalent.conf only"
            raise _refusal(option.name, given.where, wrong, "move it there")
    for kind in ("ssh_key_passphrase", "password"):
        env, file = f"{kind}_env", f"{kind}_file"
        if values[env] and values[file]:
            raise ConfigError(f"{env} and {file} are both set; remove one of them.")
        name = env if values[env] else file
        if values[name] and values["transport"] == "openssh":
            raise ConfigError(
                f'{name} cannot be used with transport = "openssh", because ssh takes no secret from us; '
                "load the key into a key agent, or remove transport."
            )
    if (values["password_env"] or values["password_file"]) and values["host_key_policy"] == "off":
        raise ConfigError(
            'a password is not sent to a machine that host_key_policy = "off" leaves unchecked; set '
            'host_key_policy to "strict" or "accept-new".'
        )


def _own_arguments(arguments: Mapping[str, Any], section: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop the arguments that only repeat the section.

    Covalent builds `executor="sshtiming"` as Class(**section). Taken for arguments, the section's values
    would beat the machine's own table; `hosts`, which no caller gives, tells such a call from others.
    """
    hosts = arguments.get("hosts")
    if hosts is None:
        return arguments
    if hosts and hosts != section.get("hosts"):
        raise _refusal("hosts", ARGUMENT, "is read from the server's covalent.conf only", "move it there")
    repeated = {name: (value, absolute_from_caller(value)) for name, value in section.items()}
    return {name: value for name, value in arguments.items() if value not in repeated.get(name, ())}


def _host_layer(section: Mapping[str, Any], label: str) -> _Layer:
    """Find the table of one machine, empty where it has none."""
    key = label if re.fullmatch(r"[A-Za-z0-9_-]+", label) else f'"{label}"'
    where = f"[executors.sshtiming.hosts.{key}] in covalent.conf"
    hosts = _first("hosts", [_Layer(SECTION, section)]) or {}
    table = hosts.get(label, {})
    if not isinstance(table, Mapping):
        raise _refusal(f"hosts.{key}", SECTION, "is not a table", f"write {where}")
    if not table and "." in label and _descend(hosts, label.split(".")):
        raise _refusal(f"hosts.{label}", SECTION, "is split at its dots", f"write {where}, with the quotes")
    check_names(table, where)
    return _Layer(where, table)


def _speak_of_foreign(layers: Sequence[_Layer]) -> None:
    """Refuse what this version cannot do, and say of what it ignores that it does."""
    for option in _FOREIGN:
        for where, values in layers:
            if option.refused and values.get(option.name):
                raise ConfigError(f"{option.name} ({where}) is {_inline(option.doc)}.")
    if any(values.get("poll_freq") for _, values in layers):
        _warn_once(f"poll_freq is {_inline(OPTIONS['poll_freq'].doc)}.")


def _inline(doc: str) -> str:
    return doc[0].lower() + doc[1:]


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def _first(name: str, layers: Sequence[_Layer]) -> Any:
    option = OPTIONS[name]
    for where, values in layers:
        if option.is_set(values.get(name)):
            return _checked(option, values[name], where)
    return option.default


def _merged_env(layers: Sequence[_Layer]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for layer in reversed(layers):
        for name, value in (_first("env", [layer]) or {}).items():
            _check_variable(name, value, layer.where)
            merged[name] = value
    return merged


def _check_variable(name: Any, value: Any, where: str) -> None:
    """Check one variable; the message never shows the value, which may be a secret."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        fix = "use letters, digits and _, with no digit in front"
        raise _refusal(f"env[{name!r:.80}]", where, "does not name a variable", fix)
    if not isinstance(value, str):
        raise _refusal(f"env.{name}", where, f"is of type {type(value).__name__}", "write text in quotes")
    _check_characters(f"env.{name}", value, where)


def _checked(option: Option, value: Any, where: str) -> Any:
    """Return the value in its final form, or raise ConfigError."""
    wrong = "has a value of another form" if option.server_only else f"is {value!r:.80}"
    if not isinstance(value, _TYPES[option.kind]) or isinstance(value, bool) != (option.kind is bool):
        quotes = " in quotes" if option.kind is str else ", without quotes" if isinstance(value, str) else ""
        raise _refusal(option.name, where, wrong, f"write {option.needs}{quotes}")
    if option.kind is str:
        _check_characters(option.name, value, where)
        try:
            return option.check(value)
        except ValueError as error:
            raise _refusal(option.name, where, wrong, str(error)) from error
    if option.kind in (int, float) and not option.low <= value <= option.high:
        raise _refusal(option.name, where, wrong, f"write {option.needs}")
    return float(value) if option.kind is float else value


def _check_characters(name: str, value: str, where: str) -> None:
    if re.search(r"[\0\r\n]", value):
        raise _refusal(name, where, "contains a line break or a NUL character", "remove it")


def _refusal(name: str, where: str, wrong: str, fix: str) -> ConfigError:
    return ConfigError(f"{name} ({where}) {wrong}; {fix}.")


def _descend(tree: Any, keys: Iterable[str]) -> Any:
    """Return the value below nested tables, {} where the path ends early."""
    for key in keys:
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    return tree
