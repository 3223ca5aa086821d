"""The table of options, as Covalent and the README have it; other executors' options, and the local one's."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import toml
from support.settings import refusal

from covalent_sshtiming import options, settings
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.options import ARGUMENT, LOCAL, OPTIONS, Settings
from covalent_sshtiming.reach import target_of
from covalent_sshtiming.settings import resolve

# ---- the table


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


# ---- options of others


def test_hosts_misspelt_is_told_as_hosts() -> None:
    """A table named `host` in the section was meant as `hosts`."""
    assert refusal({"hostname": "m"}, {"host": {}}).endswith("is not an option: did you mean hosts?")


def test_retries_say_what_to_do_instead() -> None:
    """Nothing is run twice by itself, so a number of retries is refused; 0 is what Covalent always sends."""
    text = refusal({"hostname": "m", "retries": 2})
    assert "remove it; a task runs once, so dispatch anew what has failed." in text
    assert resolve({"hostname": "m", "retries": 0}, {}).hostname == "m"


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
