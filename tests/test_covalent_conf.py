"""covalent.conf as a file: where it is, what is read of it, and what is said of a broken one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.settings import THREE_MACHINES

from covalent_sshtiming import settings
from covalent_sshtiming.errors import ConfigError


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
