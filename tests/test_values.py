"""Which values are right, and the sentences that refuse the others: kinds, sizes, forms, paths."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from support.settings import HOST_TABLE, refusal

from covalent_sshtiming import settings
from covalent_sshtiming.options import ARGUMENT, OPTIONS, SECTION, Settings
from covalent_sshtiming.reach import target_of
from covalent_sshtiming.settings import resolve

NO_PATTERN = (
    "write a path relative to the task's working directory, without . or .. in it, and without / at its end, "
    "such as *.h5, plots/*.png or logs/**."
)


# ---- kinds and sizes


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


# ---- environments


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


# ---- paths


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


# ---- users and jump hosts


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
