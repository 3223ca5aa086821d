"""What SECURITY.md says of requirements is so, and no rule of security is ignored without a reason.

Whether there are new advisories is `make audit`'s to ask, because that needs the network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import toml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (`[a-z].*?) \| (.*) \|$", PAGE.partition("## What it is built on")[2], re.MULTILINE)
PROJECT = toml.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> dict[str, Requirement]:
    """Return what the package and its extra for users require, by name."""
    texts = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["parquet"]]
    return {one.name: one for one in map(Requirement, texts)}


def audited(database: Path) -> subprocess.CompletedProcess[str]:
    """Ask a clone of advisories, as `make audit ADVISORIES=` does."""
    command = [sys.executable, "-m", "tests.advisories", str(database)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_requirement_has_its_row() -> None:
    """The page's table names each requirement with the very bounds of pyproject.toml, and no other."""
    shown = {one.name: one for cell, _ in ROWS for one in map(Requirement, re.findall(r"`(.*?)`", cell))}
    wanted = requirements()
    assert shown.keys() == wanted.keys()
    assert {name: one.specifier for name, one in shown.items()} == {
        name: one.specifier for name, one in wanted.items()
    }


@pytest.mark.parametrize(("cell", "text"), ROWS, ids=[cell.split("`")[1] for cell, _ in ROWS])
def test_the_oldest_version_is_behind_every_advisory(cell: str, text: str) -> None:
    """No version that is allowed has an advisory of which the page says that it is left behind."""
    fixed = [Version(found) for found in re.findall(r"\(before (\d[\d.]*\d)\)", text)]
    assert fixed or "asyncssh>" not in cell
    for one in map(Requirement, re.findall(r"`(.*?)`", cell)):
        assert all(not one.specifier.contains(f"{version}.dev0", prereleases=True) for version in fixed)


def test_the_audit_asks_about_every_oldest_version() -> None:
    """`make audit` looks up each requirement by its lower bound, and none is without one."""
    asked = subprocess.check_output([sys.executable, "-m", "tests.advisories"], cwd=ROOT, text=True).split()
    bounds = {
        one.name: [b.version for b in one.specifier if b.operator == ">="] for one in requirements().values()
    }
    assert [one.split("==") for one in asked] == [[name, *versions] for name, versions in bounds.items()]


@pytest.mark.parametrize(
    ("affected", "word", "code"),
    [
        ("versions: [2.23.1]", "PYSEC-1", 1),
        ("versions: [2.23.0]", "none", 0),
        ("ranges: [{type: ECOSYSTEM, events: [introduced: '0']}]", "PYSEC-1", 1),
        ("ranges: [{type: ECOSYSTEM, events: [introduced: '0', fixed: 2.23.1]}]", "none", 0),
        (
            "ranges: [{type: ECOSYSTEM, events: [introduced: '0', fixed: '2.9', introduced: '2.10']}]",
            "PYSEC-1",
            1,
        ),
        ("ranges: [{type: ECOSYSTEM, events: [introduced: '0', last_affected: 2.23.1]}]", "PYSEC-1", 1),
        ("ranges: [{type: ECOSYSTEM, events: [introduced: '0', last_affected: 2.23.0]}]", "none", 0),
        ("ranges: [{type: GIT, events: [introduced: '0', fixed: c161e26c]}]", "none", 0),
    ],
)
def test_a_clone_of_advisories_tells_the_versions_that_one_is_about(
    tmp_path: Path, affected: str, word: str, code: int
) -> None:
    """`make audit ADVISORIES=` fails by an advisory on the oldest version, and not by one on an older.

    One that nobody has mended yet is about versions that are newer than itself, which it cannot list.
    """
    place = tmp_path / "vulns" / "asyncssh"
    place.mkdir(parents=True)
    (place / "PYSEC-1.yaml").write_text(
        f"id: PYSEC-1\nmodified: 2026-06-06T00:00:00Z\naffected:\n- {affected}\n"
    )
    got = audited(tmp_path)
    assert f"asyncssh==2.23.1: {word} of 1 advisories" in got.stdout
    assert "newest advisory there is of 2026-06-06." in got.stdout
    assert got.returncode == code


def test_a_place_without_advisories_is_no_clean_bill(tmp_path: Path) -> None:
    """`make audit ADVISORIES=` fails on a folder that has none, and says what belongs there."""
    got = audited(tmp_path)
    assert (got.returncode, "clone the Python Packaging" in got.stdout) == (1, True)


def test_every_ignored_rule_of_security_has_its_reason() -> None:
    """Ruff's S rules hold everywhere but where a line, or pyproject.toml, says why not."""
    assert "S" in PROJECT["tool"]["ruff"]["lint"]["select"]
    for path in [
        *ROOT.glob("covalent_sshtiming/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
    ]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"# noqa: [A-Z0-9, ]*\bS\d{3}", line):
                assert re.search(r"# noqa: [A-Z0-9, ]+ - \w", line), f"{path}:{number}"
    for number, line in enumerate((ROOT / "pyproject.toml").read_text().splitlines(), 1):
        if re.match(r'\s*"S\d{3}"', line):
            assert re.search(r",\s*# \w", line), f"pyproject.toml:{number}"
