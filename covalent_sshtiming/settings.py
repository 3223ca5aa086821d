"""What can be set, where each value comes from, and which values are refused.

Owns the layers and the sentences of refusal; the table itself is in `options`. Imports nothing of
Covalent's, so that the command line sees the same settings as the executor.

A value is looked for in the arguments, then in `[executors.sshtiming.hosts.NAME]`, then in
`[executors.sshtiming]`. None, "", {} and 0 mean "not set"; False is a value. Where nothing is set and the
default is None, `~/.ssh/config` (which only asyncssh reads) or the machine decides.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import toml  # Covalent's own parser: Python 3.10 has no tomllib

from covalent_sshtiming import resources
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.options import (
    ARGUMENT,
    FOREIGN,
    LOCAL,
    OPTIONS,
    SECTION,
    SETTINGS,
    SSH,
    Plugin,
    Settings,
)
from covalent_sshtiming.values import check_devices, check_variable, checked, refusal

LOCALHOST = "localhost"
# What belongs to a machine and not to a task: where a task runs here instead, these are this machine's.
_MACHINE = (
    "hostname",
    "python_path",
    "conda_env",
    "setup_commands",
    "remote_cache",
    "remote_spool",
    "remote_workdir",
    "max_parallel",
    "slots_dir",
    "gpus",
    "slot_env",
)
_SETUP_MAX = 4096  # bytes of all set-up commands, which travel in the command line

_log = logging.getLogger(__name__)


class _Layer(NamedTuple):
    """One place where a value may stand, and how an error names it."""

    where: str
    values: Mapping[str, Any]


def check_names(names: Iterable[str], where: str, plugin: Plugin = SSH) -> None:
    """Refuse the first name that is no option, with the nearest one that is."""
    for name in names:
        if name not in plugin.options or (name == "hosts" and where not in (ARGUMENT, SECTION)):
            known = [row for row in SETTINGS if row in plugin.options] + ["hosts"] * (where == SECTION)
            near = difflib.get_close_matches(name.lower(), known, n=1)
            table = "docs/settings.md of this package's source has a table of the settings."
            fix = f"did you mean {near[0]}?" if near else f"remove it; {table}"
            raise ConfigError(f"{name} ({where}) is not an option: {fix}")


def absolute_from_caller(path: Any) -> Any:
    """Make a relative path absolute while the caller's directory is still the current one; of a list, each.

    Leaves "", `~` (the server's home) and whatever is no path alone: `resolve` speaks about those.
    """
    if isinstance(path, (list, tuple)):
        return [absolute_from_caller(one) for one in path]
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
        raise refusal("executors.sshtiming", str(path), "is not a table", "write [executors.sshtiming]")
    return dict(section)


def _misspelt(error: Exception) -> str:
    """Say where a file is no TOML, without the parser's own words, because some show the line's value."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8; save the file in that encoding"
    line = getattr(error, "lineno", None)
    if any(words in str(error) for words in ("already exists", "Duplicate")):
        place = f"line {line} is" if line else "it has"
        return f"{place} a table or a name that the file has already; change that one, and remove this one"
    place = f"line {line} is not TOML" if line else "it is not TOML"
    return f"{place}; write `name = value` there, with text in double quotes, or restore the file"


# What was found last, by all that it was found from, spelt out: 1 and True are equal, and not the same
# setting. The electrons of a fan-out differ in none of it. Settings are not written to by anybody.
_found: OrderedDict[str, Settings] = OrderedDict()
_FOUND_MAX = 16


def resolve(arguments: Mapping[str, Any], section: Mapping[str, Any], plugin: Plugin = SSH) -> Settings:
    """Find and check every setting of a task.

    `arguments` is what the executor was given, `section` is its table in covalent.conf, with its `hosts`.
    """
    homes = [os.environ.get(name) for name in ("HOME", "XDG_DATA_HOME")]
    asked = repr((arguments, section, plugin.section, homes))
    if asked not in _found:
        _found[asked] = _resolve(arguments, section, plugin)
        if len(_found) > _FOUND_MAX:
            _found.popitem(last=False)
    return _found[asked]


def _resolve(arguments: Mapping[str, Any], section: Mapping[str, Any], plugin: Plugin) -> Settings:
    check_names(section, plugin.table, plugin)
    check_names(arguments, plugin.arguments, plugin)
    given = _Layer(plugin.arguments, _own_arguments(arguments, section, plugin))
    base = _Layer(plugin.table, section)
    if plugin is LOCAL:
        layers = [given, base]
        values = _values(layers)
        values["hostname"] = label = LOCALHOST
    else:
        label = _label(given, base)
        host = _host_layer(section, label)
        layers = [given, host, base]
        values = _values(layers)
        values["hostname"] = _first("hostname", [host, given, base])
        _check_secrets(given, values)
    return Settings(host_label=label, **values)


def _label(given: _Layer, base: _Layer) -> str:
    label = _first("hostname", [given, base])
    if label is None:
        raise ConfigError(f"no hostname: give TimingSSHExecutor(hostname=...) or set it in {SECTION}")
    return str(label)


def _values(layers: Sequence[_Layer]) -> dict[str, Any]:
    """Find every setting in these layers, and put those right that have more than one way to be said."""
    _speak_of_foreign(layers)
    values = {name: _first(name, layers) for name in SETTINGS}
    values["env"] = _merged("env", layers, check_variable)
    values["slot_env"] = _merged("slot_env", layers, check_devices)
    values["env_from"] = tuple(
        dict.fromkeys(name for layer in layers for name in _first("env_from", [layer]) or ())
    )
    for name in ("send", "fetch"):
        values[name] = tuple(values[name] or ())
    values["setup_commands"] = _checked_setup(values["setup_commands"] or ())
    values["timing_filepath"] = values["timing_filepath"] or str(default_timing_log())
    if not values["retry_connect"]:
        values["max_connection_attempts"] = 1
    if values["time_limit"] is not None and values["time_limit"] <= 0:
        values["time_limit"] = None
    resources.check(values)
    return values


def _checked_setup(commands: Sequence[str]) -> tuple[str, ...]:
    size = sum(len(command.encode()) for command in commands)
    if size > _SETUP_MAX:
        raise ConfigError(
            f"setup_commands are {size} bytes together, {_SETUP_MAX} is the most; put them into a file on "
            "that machine, and `source` it."
        )
    return tuple(commands)


def run_here(found: Settings, section: Mapping[str, Any]) -> Settings:
    """Return the settings of a task that runs on this machine instead of its own.

    What belongs to a machine comes from `section`, the local executor's; the rest stays the task's.
    """
    machine = resolve({}, section, LOCAL)
    return replace(
        found,
        host_label=f"{found.host_label} (run on {LOCALHOST})",
        **{name: getattr(machine, name) for name in _MACHINE},
    )


def _check_secrets(given: _Layer, values: Mapping[str, Any]) -> None:
    """Refuse a secret's place that a client names, that is named twice, or that the rest makes unsafe."""
    for option in OPTIONS.values():
        if option.server_only and option.is_set(given.values.get(option.name)):
            wrong = "is read from the server's covalent.conf only"
            raise refusal(option.name, given.where, wrong, "move it there")
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
    if values["password_env"] or values["password_file"]:
        _check_password(given, values["host_key_policy"])


def _check_password(given: _Layer, policy: str) -> None:
    """Refuse what would let another machine than the right one have the password."""
    if policy == "off":
        raise ConfigError(
            'a password is not sent to a machine that host_key_policy = "off" leaves unchecked; set '
            'host_key_policy to "strict" or "accept-new".'
        )
    # With strict the keys on record decide; with accept-new whoever is met first under a name.
    deciding = ["known_hosts_file"]
    if policy != "strict":
        deciding += ["host_key_policy", "proxy_jump", "port"]
    for name in deciding:
        if OPTIONS[name].is_set(given.values.get(name)):
            wrong = "decides which machine is handed the password of covalent.conf"
            raise refusal(name, given.where, wrong, "move it there")


def _own_arguments(
    arguments: Mapping[str, Any], section: Mapping[str, Any], plugin: Plugin
) -> Mapping[str, Any]:
    """Drop the arguments that only repeat the section.

    Covalent builds `executor="sshtiming"` as Class(**section). Taken for arguments, the section's values
    would beat the machine's own table; `hosts`, which no caller gives, tells such a call from others.
    The local executor has no such tables, and may lose every repetition.
    """
    hosts = arguments.get("hosts")
    if hosts is None and plugin is SSH:
        return arguments
    if hosts and hosts != section.get("hosts"):
        raise refusal("hosts", ARGUMENT, "is read from the server's covalent.conf only", "move it there")
    repeated = {name: (value, absolute_from_caller(value)) for name, value in section.items()}
    return {name: value for name, value in arguments.items() if value not in repeated.get(name, ())}


def _host_layer(section: Mapping[str, Any], label: str) -> _Layer:
    """Find the table of one machine, empty where it has none."""
    key = label if re.fullmatch(r"[A-Za-z0-9_-]+", label) else f'"{label}"'
    where = f"[executors.sshtiming.hosts.{key}] in covalent.conf"
    hosts = _first("hosts", [_Layer(SECTION, section)]) or {}
    table = hosts.get(label, {})
    if not isinstance(table, Mapping):
        raise refusal(f"hosts.{key}", SECTION, "is not a table", f"write {where}")
    if not table and "." in label and _descend(hosts, label.split(".")):
        raise refusal(f"hosts.{label}", SECTION, "is split at its dots", f"write {where}, with the quotes")
    check_names(table, where)
    return _Layer(where, table)


def _speak_of_foreign(layers: Sequence[_Layer]) -> None:
    """Refuse what this version cannot do, and say of what it ignores that it does."""
    for option in FOREIGN:
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
            return checked(option, values[name], where)
    return option.default


def _merged(option: str, layers: Sequence[_Layer], check: Callable[[str, Any, str], None]) -> dict[str, Any]:
    """Add up the tables of variables that these layers have; of one variable the first layer's counts."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        for name, value in (_first(option, [layer]) or {}).items():
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                fix = "use letters, digits and _, with no digit in front"
                raise refusal(f"{option}[{name!r:.80}]", layer.where, "does not name a variable", fix)
            check(name, value, layer.where)
            merged[name] = value
    return merged


def passed_on(found: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a task: those of `env_from`, as this process has them now, and those of `env`.

    What `env` sets stands above. Raises ConfigError for a name that `environment` does not have.
    """
    missing = [name for name in found.env_from if name not in environment]
    if missing:
        raise ConfigError(
            f"env_from names {', '.join(missing)}, which the Covalent server's environment does not have; "
            "set it before the server starts, or take it out of env_from in covalent.conf."
        )
    return {**{name: environment[name] for name in found.env_from}, **found.env}


def _descend(tree: Any, keys: Iterable[str]) -> Any:
    """Return the value below nested tables, {} where the path ends early."""
    for key in keys:
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    return tree
