"""The oldest versions that our requirements allow, and what advisories say of them: behind `make audit`.

Alone it prints them as `name==version`, for pip-audit. With the path of a clone of the Python Packaging
Authority's advisory database it looks each up there, which needs no network: `make audit ADVISORIES=PATH`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import toml
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def oldest(project: dict[str, Any]) -> dict[str, str]:
    """Return, by name, the lower bound of each requirement of `project` and of its extras for users."""
    extras = project["optional-dependencies"]
    texts = [
        *project["dependencies"],
        *(text for name in extras if name not in {"dev", "fuzz"} for text in extras[name]),
    ]
    bounds = {canonicalize_name(one.name): one.specifier for one in map(Requirement, texts)}
    return {
        name: bound.version
        for name, specifier in bounds.items()
        for bound in specifier
        if bound.operator == ">="
    }


def advisories(database: Path, name: str) -> list[dict[str, Any]]:
    """Return all advisories on the package `name` that `database` has."""
    return [yaml.safe_load(path.read_text()) for path in sorted(database.glob(f"vulns/{name}/*.yaml"))]


def hits(advisory: dict[str, Any], version: Version) -> bool:
    """Say whether `advisory` is about `version`: lists it, or has a range that it is in.

    It lists what there was on its day; where nothing mends it, all that came after is in its range.
    """
    return any(
        version in map(Version, package.get("versions", []))
        or any(
            _within(one["events"], version) for one in package.get("ranges", []) if one["type"] == "ECOSYSTEM"
        )
        for package in advisory["affected"]
    )


def _within(events: list[dict[str, str]], version: Version) -> bool:
    """Say whether the last event up to `version` is one that lets it in."""
    past = [
        (Version(at), kind)
        for event in events
        for kind, at in event.items()
        if Version(at) < version or (Version(at) == version and kind != "last_affected")
    ]
    return bool(past) and max(past)[1] == "introduced"


def newest(database: Path) -> str:
    """Return the day on which the newest advisory of `database` was written, empty if it has none."""
    days = (
        re.search(r"^modified: .?([\d-]{10})", path.read_text(), re.MULTILINE)
        for path in database.glob("vulns/*/*.yaml")
    )
    return max((day[1] for day in days if day), default="")


def audit(database: Path, versions: dict[str, str]) -> bool:
    """Print what `database` says of each of `versions`; return whether it has advisories, none on those."""
    until = newest(database)
    if not until:
        print(f"No vulns/*/*.yaml in {database}: clone the Python Packaging Authority's advisory database.")
        return False
    clean = True
    for name, version in versions.items():
        known = advisories(database, name)
        found = [one["id"] for one in known if hits(one, Version(version))]
        print(f"{name}=={version}: {', '.join(found) or 'none'} of {len(known)} advisories")
        clean = clean and not found
    print(f"The newest advisory there is of {until}.")
    return clean


if __name__ == "__main__":
    asked = oldest(toml.loads((ROOT / "pyproject.toml").read_text())["project"])
    if len(sys.argv) == 1:
        print("\n".join(f"{name}=={version}" for name, version in asked.items()))
    else:
        sys.exit(not audit(Path(sys.argv[1]), asked))
