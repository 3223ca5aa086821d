"""What the settings promise: where a value comes from, what is refused, and with which sentence."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import toml

from covalent_sshtiming import options, settings
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.options import ARGUMENT, LOCAL, OPTIONS, SECTION, Settings
from covalent_sshtiming.reach import target_of
from covalent_sshtiming.settings import resolve

HOST_TABLE = "[executors.sshtiming.hosts.build01] in covalent.conf"
NO_PATTERN = (
    "write a path relative to the task's working directory, without . or .. in it, and without / at its end, "
    "such as *.h5, plots/*.png or logs/**."
)


def refusal(arguments: Mapping[str, Any], section: Mapping[str, Any] | None = None) -> str:
    """Return the sentence with which these settings are refused."""
    with pytest.raises(ConfigError) as caught:
        resolve(arguments, section or {})
    return str(caught.value)


def covalent_conf(text: str) -> dict[str, Any]:
    """Return the plugin's section as Covalent holds it: our defaults below the user's own lines."""
    section: dict[str, Any] = toml.loads(text)["executors"]["sshtiming"]
    return {**options.plugin_defaults(), **section}


# ---------------------------------------------------------------- the table


def test_every_field_is_an_option_and_has_a_line_of_documentation() -> None:
    """Settings and table are one thing: each field but the label is an option with its doc."""
    assert {row.name for row in fields(Settings)} - {"host_label"} <= OPTIONS.keys()
    assert all(name == option.name and option.doc for name, option in OPTIONS.items())


def test_the_names_of_covalent_ssh_plugin_are_all_known() -> None:
    """Whoever comes from covalent-ssh-plugin finds each of its options by its name."""
    settings.check_names(
        [
            "username", "hostname", "ssh_key_file", "cache_dir", "python_path", "conda_env", "remote_cache",
            "run_local_on_ssh_fail", "remote_workdir", "create_unique_workdir", "poll_freq", "do_cleanup",
            "retry_connect", "max_connection_attempts", "retry_wait_time",
        ],
        ARGUMENT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "trip",
    [lambda table: toml.loads(toml.dumps(table)), lambda table: json.loads(json.dumps(table))],
    ids=["toml", "json"],
)
def test_plugin_defaults_survive_a_round_trip(trip: Callable[[Any], Any]) -> None:
    """Covalent can write the defaults to TOML and JSON and gets every one of them back."""
    defaults = options.plugin_defaults()
    assert trip(defaults) == defaults
    assert type(defaults) is dict


def test_plugin_defaults_are_fresh_each_time() -> None:
    """Covalent merges into the dict that it gets, so nobody else may hold it or a table in it."""
    options.plugin_defaults()["env"]["A"] = "changed"
    assert options.plugin_defaults()["env"] == {}


def test_plugin_defaults_change_nothing() -> None:
    """A covalent.conf that holds nothing but our defaults resolves like none at all."""
    assert resolve({"hostname": "m"}, options.plugin_defaults()) == resolve({"hostname": "m"}, {})


def test_what_does_nothing_is_not_offered_in_covalent_conf() -> None:
    """Ignored and refused options stay out of a user's covalent.conf."""
    offered = options.plugin_defaults().keys()
    nothing = {"cache_dir", "poll_freq", "retries"}
    assert OPTIONS.keys() - offered == nothing


def test_the_table_of_settings_has_a_row_for_every_option() -> None:
    """The documents' table names each option once, in four columns, with default and unit."""
    lines = options.markdown_table().splitlines()
    assert len(lines) == len(OPTIONS) + 2
    assert {line.count("|") for line in lines} == {5}
    assert "| `connect_timeout` | `20` | seconds | Longest wait for a connection |" in lines
    assert '| `remote_workdir` | `"covalent-workdir"` |' in options.markdown_table()
    assert "| `do_cleanup` | `true` |" in options.markdown_table()


def test_importing_the_settings_loads_neither_covalent_nor_asyncssh() -> None:
    """The command line can read the settings without paying for Covalent."""
    code = "import sys, covalent_sshtiming.settings; print({'covalent', 'asyncssh'} & sys.modules.keys())"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    loaded = subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": path}, text=True)
    assert loaded == "set()\n"


# ---------------------------------------------------------------- defaults


def test_defaults_of_a_bare_hostname() -> None:
    """With a hostname alone everything else has its documented default, of its documented type."""
    found = resolve({"hostname": "build01"}, {})
    assert (found.host_label, found.hostname) == ("build01", "build01")
    assert (found.remote_workdir, found.create_unique_workdir, found.do_cleanup) == (
        "covalent-workdir",
        False,
        True,
    )
    assert (found.connect_timeout, found.retry_wait_time, found.linger) == (20.0, 5.0, 1.0)
    assert (found.reconnect_timeout, found.idle_timeout) == (86400.0, 300.0)
    assert (found.max_parallel, found.max_connection_attempts) == (0, 5)
    assert found.max_result_bytes == 8 * 2**30
    assert (found.env, found.time_limit, found.log_stdout, found.python_path) == ({}, None, "", "")


@pytest.mark.parametrize("name", ["port", "username", "ssh_key_file", "known_hosts_file"])
@pytest.mark.parametrize("unset", [None, "", 0, {}])
def test_what_the_ssh_config_may_fill_stays_none(name: str, unset: object) -> None:
    """Nothing said about a connection means None, so that ~/.ssh/config is asked."""
    assert getattr(resolve({"hostname": "m", name: unset}, {name: unset}), name) is None


def test_settings_are_frozen_and_show_no_environment() -> None:
    """Settings cannot be changed after the check, and their repr leaks no variable."""
    found = resolve({"hostname": "m", "env": {"TOKEN": "s3cret"}}, {})
    assert "s3cret" not in repr(found)
    with pytest.raises(FrozenInstanceError):
        found.hostname = "other"  # type: ignore[misc]  # the very thing that has to fail


def test_numbers_of_seconds_are_floats() -> None:
    """A whole number of seconds, as TOML gives it, arrives as the float that the type promises."""
    assert isinstance(resolve({"hostname": "m", "connect_timeout": 7}, {}).connect_timeout, float)


@pytest.mark.parametrize(("given", "limit"), [(None, None), (0, None), (-1, None), (0.5, 0.5), (60, 60.0)])
def test_a_time_limit_of_nothing_or_less_is_none(given: float | None, limit: float | None) -> None:
    """Covalent's own default of -1 means no limit, like 0 and like nothing."""
    assert resolve({"hostname": "m", "time_limit": given}, {}).time_limit == limit


def test_an_argument_can_lift_the_time_limit_of_the_section() -> None:
    """-1 is a value, so an electron can be freed from the limit in covalent.conf; 0 says nothing."""
    section = {"hostname": "m", "time_limit": 60}
    assert resolve({"time_limit": -1}, section).time_limit is None
    assert resolve({"time_limit": 0}, section).time_limit == 60


def test_without_retry_connect_there_is_one_attempt() -> None:
    """retry_connect = false overrules the number of attempts."""
    found = resolve({"hostname": "m", "retry_connect": False, "max_connection_attempts": 9}, {})
    assert found.max_connection_attempts == 1


# ---------------------------------------------------------------- precedence


def test_argument_then_host_table_then_section_then_default() -> None:
    """Each layer gives way to the one before it, option by option."""
    section = {
        "username": "section",
        "port": 1,
        "remote_cache": "/section",
        "hosts": {"build01": {"username": "host", "port": 2}},
    }
    found = resolve({"hostname": "build01", "username": "argument"}, section)
    assert (found.username, found.port, found.remote_cache, found.linger) == ("argument", 2, "/section", 1.0)


@pytest.mark.parametrize(
    ("argument", "host", "section", "expected"),
    [
        (None, None, None, True),
        (None, None, False, False),
        (None, True, False, True),
        (None, False, True, False),
        (False, True, True, False),
        (True, False, False, True),
    ],
)
def test_false_is_a_value_at_every_level(
    argument: bool | None, host: bool | None, section: bool | None, expected: bool
) -> None:
    """For a switch only None says nothing; False beats what stands further out."""
    table = {"do_cleanup": section, "hosts": {"m": {"do_cleanup": host}}}
    assert resolve({"hostname": "m", "do_cleanup": argument}, table).do_cleanup is expected


@pytest.mark.parametrize("unset", [None, "", 0])
def test_an_empty_argument_leaves_the_value_to_the_server(unset: object) -> None:
    """What a client leaves empty is taken from the server's covalent.conf."""
    section = {"hostname": "m", "username": "ada", "port": 2200, "max_parallel": 3}
    found = resolve(dict.fromkeys(section, unset), section)
    assert (found.hostname, found.username, found.port, found.max_parallel) == ("m", "ada", 2200, 3)


def test_environments_of_all_layers_add_up() -> None:
    """Variables of argument, host and section merge; the nearer layer wins for a name they share."""
    section = {
        "env": {"A": "section", "B": "section", "C": "section"},
        "hosts": {"m": {"env": {"B": "host", "C": "host", "EMPTY": ""}}},
    }
    found = resolve({"hostname": "m", "env": {"C": "argument"}}, section)
    assert found.env == {"A": "section", "B": "host", "C": "argument", "EMPTY": ""}


THREE_MACHINES = """
[executors.sshtiming]
username = "ada"

[executors.sshtiming.hosts.laptop]
hostname = "192.0.2.7"
max_parallel = 2

[executors.sshtiming.hosts."big.example.org"]
port = 2222
username = "root"
do_cleanup = false

[executors.sshtiming.hosts.cluster]
hostname = "login.example.org"
remote_spool = "/scratch/spool"
env = {OMP_NUM_THREADS = "4"}
"""


def test_three_machines_from_three_tables() -> None:
    """One covalent.conf describes three machines, and the hostname given picks the table."""
    section = covalent_conf(THREE_MACHINES)
    laptop, big, cluster = (
        resolve({"hostname": name}, section) for name in ("laptop", "big.example.org", "cluster")
    )
    assert (laptop.host_label, laptop.hostname, laptop.username) == ("laptop", "192.0.2.7", "ada")
    assert (laptop.max_parallel, laptop.port, laptop.do_cleanup) == (2, None, True)
    assert (big.host_label, big.hostname) == ("big.example.org", "big.example.org")
    assert (big.port, big.username, big.do_cleanup) == (2222, "root", False)
    assert (cluster.hostname, cluster.remote_spool) == ("login.example.org", "/scratch/spool")
    assert cluster.env == {"OMP_NUM_THREADS": "4"}


def test_the_section_may_name_the_machine_whose_table_counts() -> None:
    """executor="sshtiming" with a hostname in the section finds that machine's table too."""
    found = resolve({}, {"hostname": "m", "hosts": {"m": {"port": 2200, "hostname": "192.0.2.1"}}})
    assert (found.host_label, found.hostname, found.port) == ("m", "192.0.2.1", 2200)


def test_an_executor_built_from_the_section_does_not_hide_the_host_table() -> None:
    """Covalent's Class(**section) repeats the section as arguments; the host's table still beats it."""
    section = covalent_conf(
        '[executors.sshtiming]\nhostname = "m"\nport = 22\n'
        "[executors.sshtiming.hosts.m]\nport = 2200\nconnect_timeout = 60\nretry_connect = false"
    )
    found = resolve(section, section)
    assert (found.port, found.connect_timeout, found.max_connection_attempts) == (2200, 60.0, 1)


def test_a_relative_log_in_the_section_is_refused_even_when_the_executor_repeats_it() -> None:
    """A path that __init__ made absolute on the server's side is still the section's relative one."""
    section = {"hostname": "m", "timing_filepath": "cpu.log", "hosts": {}}
    arguments = {**section, "timing_filepath": settings.absolute_from_caller("cpu.log")}
    assert refusal(arguments, section).startswith(f"timing_filepath ({SECTION}) is 'cpu.log'; ")


def test_hosts_cannot_be_an_argument() -> None:
    """Machines' tables belong to the server, and an argument says so."""
    assert refusal({"hostname": "m", "hosts": {"m": {"port": 1}}}) == (
        "hosts (argument of TimingSSHExecutor) is read from the server's covalent.conf only; move it there."
    )


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("user_name", "username"),
        ("USERNAME", "username"),
        ("host", "hostname"),
        ("key_file", "ssh_key_file"),
        ("timing_file", "timing_filepath"),
        ("workdir", "remote_workdir"),
    ],
)
def test_an_unknown_option_suggests_the_nearest(name: str, nearest: str) -> None:
    """A misspelt option is refused with the name that was probably meant."""
    assert refusal({"hostname": "m", name: "x"}) == (
        f"{name} (argument of TimingSSHExecutor) is not an option: did you mean {nearest}?"
    )


def test_an_option_like_no_other_points_to_the_table() -> None:
    """Where nothing is near, the sentence says where the options are listed."""
    assert refusal({}, {"qqq": 1}) == (
        "qqq ([executors.sshtiming] in covalent.conf) is not an option: "
        "remove it; docs/settings.md of this package's source has a table of the settings."
    )


@pytest.mark.parametrize("name", ["prot", "hosts"])
def test_an_unknown_option_of_a_machine_names_its_table(name: str) -> None:
    """A mistake in one machine's table is placed there; tables do not nest."""
    sentence = refusal({"hostname": "build01"}, {"hosts": {"build01": {name: 22}}})
    assert sentence.startswith(f"{name} ({HOST_TABLE}) is not an option: did you mean ")


def test_another_machines_mistake_does_not_stop_this_one() -> None:
    """Only the table that is used is checked."""
    assert resolve({"hostname": "m"}, {"hosts": {"other": {"prot": 1}}}).hostname == "m"


def test_an_unquoted_dotted_name_is_explained() -> None:
    """TOML splits hosts.build01.example.org at its dots; nobody has to find that out alone."""
    section = covalent_conf("[executors.sshtiming.hosts.build01.example.org]\nport = 2222")
    assert refusal({"hostname": "build01.example.org"}, section) == (
        "hosts.build01.example.org ([executors.sshtiming] in covalent.conf) is split at its dots; "
        'write [executors.sshtiming.hosts."build01.example.org"] in covalent.conf, with the quotes.'
    )


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"hosts": 3}, f"hosts ({SECTION}) is 3; write a table."),
        ({"hosts": {"build01": 3}}, f"hosts.build01 ({SECTION}) is not a table; write {HOST_TABLE}."),
    ],
)
def test_hosts_that_are_no_tables_are_refused(section: dict[str, Any], sentence: str) -> None:
    """A machine is described by a table, and hosts is a table of those."""
    assert refusal({"hostname": "build01"}, section) == sentence


# ---------------------------------------------------------------- values


def test_no_hostname() -> None:
    """Without a machine the sentence says both ways of naming one."""
    assert refusal({}) == (
        "no hostname: give TimingSSHExecutor(hostname=...) "
        "or set it in [executors.sshtiming] in covalent.conf"
    )


@pytest.mark.parametrize(
    "hostname", ["-oProxyCommand=x", "ada@m", "a b", "m/x", "\t", "m;x", "$(x)", "`x`", "a|b", "a,b", "[a]:1"]
)
def test_a_hostname_that_is_none_is_refused(hostname: str) -> None:
    """An option in disguise, a user, a space or a path is no host name, nor is a list of them."""
    fix = "write a name, an address or an alias of ~/.ssh/config; a user goes into username."
    assert refusal({"hostname": hostname}) == f"hostname ({ARGUMENT}) is {hostname!r}; {fix}"
    table = {"hosts": {"build01": {"hostname": hostname}}}
    assert refusal({"hostname": "build01"}, table) == f"hostname ({HOST_TABLE}) is {hostname!r}; {fix}"


@pytest.mark.parametrize(
    "hostname", ["m", "build01.example.org", "192.0.2.1", "::1", "fe80::1%eth0", "a_b", "bücher"]
)
def test_names_addresses_and_aliases_are_hostnames(hostname: str) -> None:
    """Whatever may stand after Host in ~/.ssh/config or is an address is accepted as it is."""
    assert resolve({"hostname": hostname}, {}).hostname == hostname


@pytest.mark.parametrize("hostile", ["a\0b", "a\nb", "a\r", "\n"])
@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.kind is str and name in
                                  {row.name for row in fields(Settings)}])  # fmt: skip
def test_no_text_may_break_a_line(name: str, hostile: str) -> None:
    """A NUL or a line break is refused in every text, before anything is made of it."""
    sentence = refusal({"hostname": "m", name: hostile})
    assert sentence == f"{name} ({ARGUMENT}) contains a line break or a NUL character; remove it."


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("port", "22", "is '22'; write a whole number from 1 to 65535, without quotes."),
        ("port", 22.0, "is 22.0; write a whole number from 1 to 65535."),
        ("port", True, "is True; write a whole number from 1 to 65535."),
        ("port", 65536, "is 65536; write a whole number from 1 to 65535."),
        ("port", -1, "is -1; write a whole number from 1 to 65535."),
        ("username", 1000, "is 1000; write text in quotes."),
        ("username", ["ada"], "is ['ada']; write text in quotes."),
        ("python_path", {"a": 1}, "is {'a': 1}; write text in quotes."),
        ("do_cleanup", "yes", "is 'yes'; write true or false, without quotes."),
        ("do_cleanup", 0, "is 0; write true or false."),
        ("create_unique_workdir", 1, "is 1; write true or false."),
        ("connect_timeout", -0.5, "is -0.5; write a number of seconds, 0 or more."),
        ("connect_timeout", False, "is False; write a number of seconds, 0 or more."),
        ("connect_timeout", "20", "is '20'; write a number of seconds, 0 or more, without quotes."),
        ("idle_timeout", float("inf"), "is inf; write a number of seconds, 0 or more."),
        ("linger", float("nan"), "is nan; write a number of seconds, 0 or more."),
        ("reconnect_timeout", 10**400, "is 1" + 79 * "0" + "; write a number of seconds, 0 or more."),
        ("time_limit", float("-inf"), "is -inf; write a number of seconds."),
        ("max_parallel", -2, "is -2; write a whole number of tasks, 0 or more."),
        ("max_connection_attempts", -1, "is -1; write a whole number of attempts, 1 or more."),
        ("max_result_bytes", 1e9, "is 1000000000.0; write a whole number of bytes, 0 or more."),
        ("max_parallel", "2", "is '2'; write a whole number of tasks, 0 or more, without quotes."),
        ("env", "A=1", "is 'A=1'; write a table, without quotes."),
        ("fetch", "*.h5", "is '*.h5'; write a list of texts in quotes."),
        ("fetch", [1], "is [1]; write a list of texts in quotes."),
        ("fetch", ["a\nb"], "contains a line break or a NUL character; remove it."),
        ("fetch", ["ok", "../x"], f"is ['ok', '../x']; {NO_PATTERN}"),
        ("fetch", ["/etc/passwd"], f"is ['/etc/passwd']; {NO_PATTERN}"),
        ("fetch", ["plots/"], f"is ['plots/']; {NO_PATTERN}"),
        ("fetch", ["./a"], f"is ['./a']; {NO_PATTERN}"),
        ("fetch_max_files", -1, "is -1; write a whole number of files, 0 or more."),
    ],
)
def test_a_value_of_the_wrong_kind_or_size_is_refused(name: str, value: object, sentence: str) -> None:
    """The sentence has the setting, its place, its value and what to write, in each place alike."""
    assert refusal({"hostname": "build01", name: value}) == f"{name} ({ARGUMENT}) {sentence}"
    assert refusal({"hostname": "build01"}, {name: value}) == f"{name} ({SECTION}) {sentence}"
    table = {"hosts": {"build01": {name: value}}}
    assert refusal({"hostname": "build01"}, table) == f"{name} ({HOST_TABLE}) {sentence}"


def test_files_are_lists_that_the_nearest_layer_gives() -> None:
    """`send` and `fetch` do not add up; a path to send is absolute or below the server's home."""
    section = {"hostname": "m", "fetch": ["*.a"], "send": ["~/x"], "hosts": {"m": {"fetch": ["*.b", "c"]}}}
    found = resolve({"hostname": "m"}, section)
    assert (found.fetch, found.send) == (("*.b", "c"), (str(Path.home() / "x"),))
    assert resolve({"hostname": "m", "fetch": ["d"]}, section).fetch == ("d",)
    assert resolve({"hostname": "other"}, {}).fetch == ()
    assert refusal({"hostname": "m"}, {"send": ["x/*.csv"]}) == (
        f"send ({SECTION}) is ['x/*.csv']; write an absolute path, or one that begins with ~/."
    )


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "Ä", "A\n", "$(x)"])
def test_a_variable_needs_a_variables_name(name: str) -> None:
    """Names that no shell would take are refused, hostile ones among them."""
    fix = "use letters, digits and _, with no digit in front."
    sentence = refusal({"hostname": "m", "env": {name: "x"}})
    assert sentence == f"env[{name!r}] ({ARGUMENT}) does not name a variable; {fix}"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (4, "is of type int; write text in quotes."),
        (None, "is of type NoneType; write text in quotes."),
        ("s3cret\nx", "contains a line break or a NUL character; remove it."),
        ("s3cret\0", "contains a line break or a NUL character; remove it."),
    ],
)
def test_a_variable_is_text_and_never_shown(value: object, wrong: str) -> None:
    """A value of env that is refused is described, not quoted: it may be a secret."""
    assert refusal({"hostname": "m"}, {"env": {"TOKEN": value}}) == f"env.TOKEN ({SECTION}) {wrong}"


# ---------------------------------------------------------------- options of others


def test_hosts_misspelt_is_told_as_hosts() -> None:
    """A table named `host` in the section was meant as `hosts`."""
    assert refusal({"hostname": "m"}, {"host": {}}).endswith("is not an option: did you mean hosts?")


def test_retries_say_what_to_do_instead() -> None:
    """Nothing is run twice by itself, so a number of retries is refused; 0 is what Covalent always sends."""
    text = refusal({"hostname": "m", "retries": 2})
    assert "remove it; a task runs once, so dispatch anew what has failed." in text
    assert resolve({"hostname": "m", "retries": 0}, {}).hostname == "m"


def test_an_environment_is_part_of_the_target() -> None:
    """setup_commands and conda_env come from the first layer that has them, and make targets differ."""
    section = {"setup_commands": ["module load cuda"], "conda_env": "science"}
    found = resolve({"hostname": "m"}, section)
    assert (found.setup_commands, found.conda_env) == (("module load cuda",), "science")
    assert "cuda" not in repr(found)
    other = resolve({"hostname": "m", "setup_commands": ["a", "b"]}, section)
    assert other.setup_commands == ("a", "b")
    targets = [target_of(one, "3.11", local=False) for one in (found, other, resolve({"hostname": "m"}, {}))]
    assert len(set(targets)) == len({target.flavor for target in targets}) == 3
    assert targets[0] == target_of(resolve({"hostname": "m"}, section), "3.11", local=False)
    assert "cuda" not in repr(targets)


def test_set_up_commands_have_bounds() -> None:
    """They are a list of single lines, and short enough for a command line."""
    assert refusal({"hostname": "m", "setup_commands": "module load x"}) == (
        f"setup_commands ({ARGUMENT}) is 'module load x'; write a list of texts in quotes."
    )
    assert refusal({"hostname": "m", "setup_commands": ["a\nb"]}) == (
        f"setup_commands ({ARGUMENT}) contains a line break or a NUL character; remove it."
    )
    assert refusal({"hostname": "m", "setup_commands": ["é" * 2000, "x" * 97]}) == (
        "setup_commands are 4097 bytes together, 4096 is the most; put them into a file on that machine, and "
        "`source` it."
    )
    assert resolve({"hostname": "m", "setup_commands": ["é" * 2000, "x" * 96, ""]}, {}).setup_commands


@pytest.mark.parametrize("name", ["science", "/opt/envs/my env", "~/envs/größe_2.1", "envs/a+b@c"])
def test_a_conda_environment_has_a_name_or_a_path(name: str) -> None:
    """Names and paths stay as they are."""
    assert resolve({"hostname": "m", "conda_env": name}, {}).conda_env == name


@pytest.mark.parametrize("name", ["-n", "a'b", 'a"b', "a$(x)", "a;b", "a`b`", "a\\b", "a|b", "a*", "$HOME/x"])
def test_a_conda_environment_has_no_sign_of_a_shells(name: str) -> None:
    """A name is written into a script by conda, so what a shell would read there is refused."""
    assert refusal({"hostname": "m", "conda_env": name}) == (
        f"conda_env ({ARGUMENT}) is {name!r}; write a name or a path: letters, digits, spaces and "
        "./~@%+=,:_- with no - in front."
    )


def test_the_local_executors_own_python_gives_way() -> None:
    """Where an environment is made, our own interpreter is not what its user means."""
    own = "{}.{}".format(*sys.version_info)
    assert target_of(resolve({}, {}, LOCAL), own, local=True).python_path == sys.executable
    for made in ({"conda_env": "science"}, {"setup_commands": ["true"]}):
        assert target_of(resolve(made, {}, LOCAL), own, local=True).python_path == ""


def test_the_local_executor_knows_nothing_of_ssh() -> None:
    """Its options are the table's without SSH's own, and a refusal speaks of its own class and section."""
    assert not {"hostname", "port", "ssh_key_file", "hosts"} & options.plugin_defaults(LOCAL).keys()
    with pytest.raises(ConfigError) as caught:
        resolve({"hostname": "m"}, {}, LOCAL)
    assert str(caught.value) == (
        "hostname (argument of TimingExecutor) is not an option: remove it; docs/settings.md of this "
        "package's source has a table of the settings."
    )
    with pytest.raises(ConfigError, match=r"^port \(\[executors.localtiming\] in covalent.conf\) is not"):
        resolve({}, {"port": 22}, LOCAL)


def test_the_local_executor_reads_its_own_section() -> None:
    """Arguments come before its section, and the section before the defaults."""
    found = resolve({"time_limit": 5}, {"time_limit": 7, "linger": 3}, LOCAL)
    assert (found.host_label, found.hostname, found.time_limit, found.linger) == (
        "localhost",
        "localhost",
        5,
        3,
    )


def test_the_local_sections_own_log_has_to_be_absolute() -> None:
    """`executor="localtiming"` hands the section over as arguments; its relative path is still refused."""
    section = {**options.plugin_defaults(LOCAL), "timing_filepath": "cpu.log"}
    handed_over = {**section, "timing_filepath": str(Path("cpu.log").absolute())}
    with pytest.raises(ConfigError, match=r"timing_filepath \(\[executors.localtiming\].*absolute path"):
        resolve(handed_over, section, LOCAL)


def test_a_task_that_runs_here_takes_this_machines_places() -> None:
    """What belongs to a machine comes from the local section, what belongs to the task stays."""
    environment = {"python_path": "/there/python", "conda_env": "there", "setup_commands": ["there"]}
    there = resolve({"hostname": "m", "time_limit": 9, **environment}, {})
    here = settings.run_here(there, {"remote_workdir": "elsewhere"})
    assert (here.python_path, here.remote_workdir, here.time_limit) == ("", "elsewhere", 9)
    assert (here.conda_env, here.setup_commands) == ("", ())
    assert here.host_label == "m (run on localhost)"


def test_refused_options_left_empty_are_harmless() -> None:
    """Moving over with the old plugin's defaults in place works."""
    found = resolve({"hostname": "m"}, {"conda_env": "", "run_local_on_ssh_fail": False, "cache_dir": "/c"})
    assert found.hostname == "m"


def test_poll_freq_is_ignored_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """poll_freq costs one warning a process, not one a task."""
    settings._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="covalent_sshtiming.settings"):
        resolve({"hostname": "m", "poll_freq": 15}, {})
        resolve({"hostname": "m"}, {"poll_freq": 30})
    assert [record.getMessage() for record in caplog.records] == [
        "poll_freq is ignored: the machine itself tells when a task has ended."
    ]


# ---------------------------------------------------------------- paths

PATHS = ["ssh_key_file", "known_hosts_file", "timing_filepath"]


@pytest.mark.parametrize("name", PATHS)
def test_a_tilde_is_the_servers_home(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ in a local path is expanded when the task runs, in arguments as in covalent.conf."""
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = str(tmp_path / "x")
    assert getattr(resolve({"hostname": "m"}, {name: "~/x"}), name) == expected
    assert getattr(resolve({"hostname": "m", name: "~/x"}, {}), name) == expected


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("path", ["x", "./x", "../x", "~no-such-user/x"])
def test_a_relative_path_in_covalent_conf_is_refused(name: str, path: str) -> None:
    """The server's directory is nobody's choice, so a path relative to it is an error."""
    fix = "write an absolute path, or one that begins with ~/."
    assert refusal({"hostname": "m"}, {name: path}) == f"{name} ({SECTION}) is {path!r}; {fix}"


def test_an_argument_is_relative_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """absolute_from_caller keeps the caller's directory for a later look from elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert settings.absolute_from_caller("./cpu.log") == str(tmp_path / "cpu.log")
    assert settings.absolute_from_caller(Path("a") / "b") == str(tmp_path / "a" / "b")


@pytest.mark.parametrize("path", ["", "~/cpu.log", "/var/log/cpu.log", None, 5])
def test_what_is_not_relative_is_left_alone(path: object) -> None:
    """Nothing set, the server's home, an absolute path and nonsense pass through __init__ unchanged."""
    assert settings.absolute_from_caller(path) == path


@pytest.mark.parametrize("xdg", [None, "", "relative"])
def test_the_default_log_is_in_the_data_directory(
    xdg: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a usable XDG_DATA_HOME the log is below ~/.local/share."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if xdg is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", xdg)
    expected = tmp_path / ".local/share/covalent-sshtiming/timing.log"
    assert settings.default_timing_log() == expected
    assert resolve({"hostname": "m"}, {}).timing_filepath == str(expected)


def test_the_default_log_follows_xdg_data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_DATA_HOME moves the default log."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert settings.default_timing_log() == tmp_path / "covalent-sshtiming/timing.log"


# ---------------------------------------------------------------- ways in

SECRETS = [name for name, option in OPTIONS.items() if option.server_only and option.kind is str]


def test_the_places_of_secrets_are_four() -> None:
    """No setting is a secret; four of them say where one is."""
    assert SECRETS == ["ssh_key_passphrase_env", "ssh_key_passphrase_file", "password_env", "password_file"]


@pytest.mark.parametrize("name", SECRETS)
def test_who_sends_a_workflow_does_not_choose_a_secret(name: str) -> None:
    """An argument could have any variable or file of the server's sent to any machine; so it is refused."""
    value = "/some/file" if name.endswith("file") else "SOME_VARIABLE"
    assert refusal({"hostname": "m", name: value}) == (
        f"{name} ({ARGUMENT}) is read from the server's covalent.conf only; move it there."
    )
    assert vars(resolve({"hostname": "m"}, {name: value}))[name] == value
    section = {"hostname": "m", name: value}
    assert vars(resolve({**section, "hosts": {}}, section))[name] == value  # as Covalent builds it by name


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ({"known_hosts_file": "/mine"}, "strict"),
        ({"host_key_policy": "accept-new"}, "strict"),
        ({"proxy_jump": "mine"}, "accept-new"),
        ({"port": 2222}, "accept-new"),
    ],
)
def test_who_sends_a_workflow_does_not_choose_where_a_password_goes(
    arguments: dict[str, Any], policy: str
) -> None:
    """An argument by which another machine could pass for the right one is refused beside a password."""
    section = {"hosts": {"m": {"password_file": "/secret", "host_key_policy": policy}}}
    (name,) = arguments
    assert refusal({"hostname": "m", **arguments}, section) == (
        f"{name} ({ARGUMENT}) decides which machine is handed the password of covalent.conf; move it there."
    )
    safe = {"hostname": "m", "host_key_policy": "strict", "proxy_jump": "j", "port": 1}
    assert resolve(safe, section).port == 1
    section["hosts"]["m"].pop("password_file")
    assert resolve({"hostname": "m", **arguments}, section).hostname == "m"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("secret", ["correct horse", "hunter2!", 42])
def test_a_secret_in_the_place_of_its_name_is_not_shown(name: str, secret: object) -> None:
    """Whoever writes the secret itself into covalent.conf reads what to write, and not the secret."""
    text = refusal({"hostname": "m"}, {name: secret})
    assert text.startswith(f"{name} ({SECTION}) has a value of another form; write ")
    assert str(secret) not in text


def test_variables_are_passed_on_from_the_servers_environment() -> None:
    """`env_from` takes values from the environment as it is; lists add up, and `env` stands above."""
    section = {"env_from": ["A", "B"], "hosts": {"m": {"env_from": ["C", "A"]}}}
    found = resolve({"hostname": "m", "env": {"B": "own"}}, section)
    assert found.env_from == ("C", "A", "B")
    environment = {"A": "a\nb", "B": "near", "C": "$(c)", "D": "d"}
    assert settings.passed_on(found, environment) == {"A": "a\nb", "B": "own", "C": "$(c)"}
    assert "env_from" not in repr(found)
    with pytest.raises(ConfigError) as caught:
        settings.passed_on(found, {"B": "near"})
    assert str(caught.value) == (
        "env_from names C, A, which the Covalent server's environment does not have; set it before the "
        "server starts, or take it out of env_from in covalent.conf."
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("TOKEN", "write a list of texts in quotes"),
        ([1], "write a list of texts in quotes"),
        (["hunter2!"], "write the name of an environment variable of the server's, not the secret itself"),
        ({"hunter2!": "TOKEN"}, "write a list of texts in quotes"),
    ],
)
def test_env_from_is_a_list_of_names(value: object, sentence: str) -> None:
    """What is no list of names is refused, without showing what was written there."""
    text = refusal({"hostname": "m"}, {"env_from": value})
    assert text == f"env_from ({SECTION}) has a value of another form; {sentence}."


def test_who_sends_a_workflow_does_not_choose_variables() -> None:
    """An argument could have any variable of the server's sent to any machine; so it is refused."""
    assert refusal({"hostname": "m", "env_from": ["TOKEN"]}) == (
        f"env_from ({ARGUMENT}) is read from the server's covalent.conf only; move it there."
    )
    section = {"hostname": "m", "env_from": ["TOKEN"]}
    assert resolve({**section, "hosts": {}}, section).env_from == ("TOKEN",)  # as Covalent builds it by name


def test_secrets_are_not_in_the_text_of_settings() -> None:
    """Not even where a secret is appears in a log of settings."""
    assert "VARIABLE" not in repr(resolve({"hostname": "m"}, {"password_env": "VARIABLE"}))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"password_env": "A", "password_file": "/b"},
            "password_env and password_file are both set; remove one of them.",
        ),
        (
            {"password_file": "/b", "host_key_policy": "off"},
            (
                'a password is not sent to a machine that host_key_policy = "off" leaves unchecked; set '
                'host_key_policy to "strict" or "accept-new".'
            ),
        ),
        (
            {"ssh_key_passphrase_env": "A", "transport": "openssh"},
            (
                'ssh_key_passphrase_env cannot be used with transport = "openssh", because ssh takes no '
                "secret from us; load the key into a key agent, or remove transport."
            ),
        ),
        (
            {"host_key_policy": "no"},
            f'host_key_policy ({SECTION}) is \'no\'; write one of "strict", "accept-new", "off".',
        ),
        (
            {"transport": "ssh"},
            f'transport ({SECTION}) is \'ssh\'; write one of "asyncssh", "openssh".',
        ),
    ],
)
def test_ways_in_that_do_not_go_together(section: dict[str, Any], sentence: str) -> None:
    """What contradicts itself, or would be unsafe, is refused before anything is sent."""
    assert refusal({"hostname": "m"}, section) == sentence


@pytest.mark.parametrize("jump", ["bastion", "ada@bastion:2222", "a, b@c", "[::1]:22", "none"])
def test_jump_hosts(jump: str) -> None:
    """Jump hosts are written as ssh -J takes them."""
    assert resolve({"hostname": "m", "proxy_jump": jump}, {}).proxy_jump == jump.replace(" ", "")


@pytest.mark.parametrize("jump", ["-J", "a b", "a:x", "a;b", "u@", "a,,b", "$(x)@a", "ssh://a"])
def test_what_is_no_jump_host_is_refused(jump: str) -> None:
    """An option in disguise or a shell's signs are no jump host."""
    assert "write [user@]host[:port]" in refusal({"hostname": "m", "proxy_jump": jump})


@pytest.mark.parametrize("user", ["-l", "a b", "a;b", "$(x)", "`x`"])
def test_what_is_no_user_is_refused(user: str) -> None:
    """A user name stands in commands of the ssh configuration, so it has no sign of a shell's."""
    assert "write a user name" in refusal({"hostname": "m", "username": user})


# ---------------------------------------------------------------- covalent.conf


@pytest.mark.parametrize("content", [None, "", "[sdk]\n", "[executors]\nlocal = {}\n"])
def test_without_file_or_section_nothing_is_set(content: str | None, tmp_path: Path) -> None:
    """No covalent.conf, or none that speaks of us, is an empty section."""
    path = tmp_path / "covalent.conf"
    if content is not None:
        path.write_text(content)
    assert settings.load_section(path) == {}


def test_the_section_is_read_from_covalents_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line sees what the server sees, machines included."""
    monkeypatch.setenv("COVALENT_CONFIG_DIR", str(tmp_path))
    (tmp_path / "covalent.conf").write_text(THREE_MACHINES)
    section = settings.load_section()
    assert section["username"] == "ada"
    assert list(section["hosts"]) == ["laptop", "big.example.org", "cluster"]


_TOML = "; write `name = value` there, with text in double quotes, or restore the file."


_TWICE = " a table or a name that the file has already; change that one, and remove this one."


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = ", "line 1 is not TOML" + _TOML),
        (b"[dispatcher]\nport = 1\nkey = ~/secret\n", "line 3 is not TOML" + _TOML),
        (b"[executors\n", "line 1 is not TOML" + _TOML),
        (b".=", "it is not TOML" + _TOML),
        (b"\xff\xfe", "byte 0 is not UTF-8; save the file in that encoding."),
        (b"[a]\nb = 1\n[a]\nb = 2\n", "line 3 is" + _TWICE),
        (b"[a]\nb = 1\nb = 2\n", "line 3 is" + _TWICE),
    ],
)
def test_a_broken_file_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    """A covalent.conf that cannot be parsed is an error with path and line, and no value of the line's."""
    path = tmp_path / "covalent.conf"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        settings.load_section(path)
    assert str(caught.value) == f"{path} cannot be read: {told}"


def test_a_directory_in_its_place_is_named(tmp_path: Path) -> None:
    """What the system refuses to read is reported the same way."""
    with pytest.raises(ConfigError, match=r"cannot be read: .*; correct the file or its permissions\.$"):
        settings.load_section(tmp_path)


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """executors.sshtiming has to be a table."""
    path = tmp_path / "covalent.conf"
    path.write_text("[executors]\nsshtiming = 3\n")
    with pytest.raises(ConfigError) as caught:
        settings.load_section(path)
    assert str(caught.value) == f"executors.sshtiming ({path}) is not a table; write [executors.sshtiming]."


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"COVALENT_CONFIG_DIR": "/c"},
        {"XDG_CONFIG_DIR": "/x"},
        {"COVALENT_CONFIG_DIR": "/c", "XDG_CONFIG_DIR": "/x"},
    ],
    ids=["neither", "covalent", "xdg", "both"],
)
def test_covalent_conf_is_where_covalent_has_it(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our idea of the file's place agrees with Covalent's own code under every variable that it reads."""
    for name in ("COVALENT_CONFIG_DIR", "XDG_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(settings.config_path()) == covalents_own_config_file()


def covalents_own_config_file() -> str:
    """Ask Covalent's module of defaults alone: importing covalent would write to the user's files."""
    covalent = importlib.util.find_spec("covalent")
    assert covalent is not None
    assert covalent.origin is not None
    place = Path(covalent.origin).parent / "_shared_files" / "defaults.py"
    spec = importlib.util.spec_from_file_location("covalents_defaults", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.get_default_sdk_config()["config_file"])


# ---------------------------------------------------------------- what is remembered


def test_equal_values_of_other_types_are_checked_anew() -> None:
    """That `true` was accepted a moment ago does not let a 1 pass in its place."""
    assert resolve({"hostname": "m", "do_cleanup": True}, {}).do_cleanup is True
    assert "do_cleanup" in refusal({"hostname": "m", "do_cleanup": 1})


def test_a_configuration_that_changes_in_place_is_read_anew() -> None:
    """Covalent hands out its own tables, and changes them in place: the next task sees it."""
    section: dict[str, Any] = {"hostname": "build01", "hosts": {"build01": {"port": 2222}}}
    assert resolve({}, section).port == 2222
    section["hosts"]["build01"]["port"] = 2223
    assert resolve({}, section).port == 2223
