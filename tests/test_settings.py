"""Where a value comes from: argument, machine's table, section, default; and names that are none."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from support.settings import HOST_TABLE, THREE_MACHINES, covalent_conf, refusal

from covalent_sshtiming import settings
from covalent_sshtiming.options import SECTION
from covalent_sshtiming.settings import resolve

# ---- defaults


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


# ---- precedence


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


# ---- names


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


# ---- what is remembered


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
