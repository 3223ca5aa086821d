"""What SECURITY.md says of requirements is so, and no rule of security is ignored without a reason.

Whether there are new advisories is `make audit`'s to ask, because that needs the network.
"""

from __future__ import annotations

import re
import subprocess
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
    """Return what the package requires, by name."""
    return {one.name: one for one in map(Requirement, PROJECT["project"]["dependencies"])}


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
    """`make audit` looks up each requirement that has a lower bound, whatever its name is made of."""
    (script,) = re.findall(
        r"@sed -n '(.*)' pyproject\.toml > build/oldest\.txt", (ROOT / "Makefile").read_text()
    )
    asked = subprocess.check_output(["sed", "-n", script, ROOT / "pyproject.toml"], text=True).split()
    bounded = {
        one.name: bound.version
        for one in requirements().values()
        for bound in one.specifier
        if bound.operator == ">="
    }
    assert dict(one.split("==") for one in asked) == bounded


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
