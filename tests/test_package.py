"""What is installed or handed out: the wheel's files, its metadata, and what importing costs."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from covalent_sshtiming.cli import main

ROOT = Path(__file__).parents[1]


def built(kind: str, out: Path) -> Path:
    """Return what `python -m build` makes, of a kind."""
    # Without isolation the build needs no registry; hatchling is in the dev extra.
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(ROOT)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return the wheel."""
    return zipfile.ZipFile(built("wheel", tmp_path_factory.mktemp("wheel")))


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running code."""
    report = f"{code}\nimport sys\nprint('loaded:', *{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split()[1:])


def test_the_wheel_has_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel holds py.typed and every source, that of the far side included, and no test."""
    package = ROOT / "covalent_sshtiming"
    expected = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"covalent_sshtiming/py.typed", "covalent_sshtiming/remote/wire.py"} <= names


def test_the_far_side_is_packed_as_it_is(wheel: zipfile.ZipFile) -> None:
    """What would travel from an installed package equals the repository's files byte by byte."""
    for path in (ROOT / "covalent_sshtiming" / "remote").glob("*.py"):
        assert wheel.read(str(path.relative_to(ROOT))) == path.read_bytes()


def test_the_source_has_all_that_the_readme_leads_to(tmp_path: Path) -> None:
    """The source distribution has each file that the README, which the metadata shows, has a link to."""
    with tarfile.open(built("sdist", tmp_path)) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    links = re.findall(r"\]\((?!https:)([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert "docs/settings.md" in links
    assert set(links) - names == set()


def test_the_metadata_names_plugin_command_and_bounds(wheel: zipfile.ZipFile) -> None:
    """The wheel says where Covalent finds the plugin, which command there is, and which FastAPI works."""
    names = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    metadata = email.message_from_bytes(wheel.read(names["METADATA"]))
    entry_points = wheel.read(names["entry_points.txt"]).decode()
    assert metadata["Requires-Python"] == "<3.13,>=3.10"
    assert "fastapi<0.132,>=0.120.1" in metadata.get_all("Requires-Dist", [])
    assert "sshtiming = covalent_sshtiming.sshtiming" in entry_points
    assert "localtiming = covalent_sshtiming.localtiming" in entry_points
    assert "covalent-sshtiming = covalent_sshtiming.cli:main" in entry_points


def test_importing_the_package_loads_neither_covalent_nor_asyncssh() -> None:
    """`import covalent_sshtiming` costs next to nothing."""
    assert loaded_after("import covalent_sshtiming").isdisjoint({"covalent", "asyncssh", "click"})


@pytest.mark.parametrize("arguments", ["--help", "--version", *(f"{verb} --help" for verb in main.commands)])
def test_help_loads_neither_covalent_nor_asyncssh(arguments: str) -> None:
    """The command line explains itself, and each verb, without loading what it would run."""
    code = f"from covalent_sshtiming.cli import main\nmain({arguments.split()!r}, standalone_mode=False)"
    assert loaded_after(code).isdisjoint({"covalent", "asyncssh"})


def test_importing_the_plugin_loads_no_asyncssh() -> None:
    """Covalent's own import, which loads the plugin, does not pay for SSH."""
    assert "asyncssh" not in loaded_after("import covalent_sshtiming.sshtiming")


@pytest.mark.parametrize("module", ["sshtiming", "localtiming", "plugin"])
def test_whichever_module_comes_first_covalent_has_both_executors(module: str) -> None:
    """Importing a plugin module before Covalent leaves both registered, and one class of each."""
    check = f"""
import covalent_sshtiming.{module}
import covalent_sshtiming as ours
from covalent import executor
from covalent_sshtiming import sshtiming, localtiming
assert executor.TimingSSHExecutor is sshtiming.TimingSSHExecutor is ours.TimingSSHExecutor
assert executor.TimingExecutor is localtiming.TimingExecutor is ours.TimingExecutor
"""
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_public_names_are_there() -> None:
    """Every name of `__all__` can be had from the package, and an unknown one is an AttributeError."""
    import covalent_sshtiming

    assert all(getattr(covalent_sshtiming, name) for name in covalent_sshtiming.__all__)
    assert covalent_sshtiming.TimingSSHExecutor.__name__ == "TimingSSHExecutor"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = covalent_sshtiming.no_such_name
