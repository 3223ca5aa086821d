"""The arrows of ARCHITECTURE.md: which module may import what, and what may travel to the far side."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interpreters import find_interpreter

ROOT = Path(__file__).parents[1] / "covalent_sshtiming"
PACKAGE = "covalent_sshtiming"
FILES = sorted(ROOT.rglob("*.py"))
FAR_FILES = sorted((ROOT / "remote").glob("*.py"))

# The first pattern that fits a module holds; a pattern fits a name and everything below it.
ALLOWED: dict[str, tuple[str, ...]] = {
    "": ("sshtiming", "localtiming", "results", "timing.timings"),
    "early": (),
    "__main__": ("cli",),
    "errors": (),
    "timing.markup": (),
    "timing.record": ("timing.markup",),
    "timing": ("timing", "errors"),
    "forms": ("remote.names",),
    "options": ("forms",),
    "resources": ("errors",),
    "values": ("errors", "options", "resources"),
    "settings": ("errors", "options", "resources", "values"),
    "electron": ("errors",),
    "outcomes": ("errors", "host.task"),
    "sshtiming": ("early", "options", "plugin"),
    "localtiming": ("early", "options", "plugin"),
    "outputs": (),
    "stopping": (),
    "fetched": (),
    "reserved": (),
    "fetching": ("fetched", "reserved", "stopping", "errors", "remote.wire", "remote.names", "remote.below"),
    "sending": ("errors", "remote.names"),
    "reach": (
        "errors",
        "forms",
        "options",
        "resources",
        "settings",
        "electron",
        "sending",
        "host.target",
        "host.task",
    ),
    "results": ("errors",),
    "visit": (
        "errors",
        "settings",
        "outcomes",
        "reach",
        "results",
        "fetched",
        "fetching",
        "options",
        "host.pool",
        "host.host",
        "host.task",
        "timing.log",
        "timing.record",
    ),
    "checking": (
        "errors",
        "settings",
        "sending",
        "outcomes",
        "reach",
        "options",
        "electron",
        "host",
        "remote.wire",
        "remote.checkup",
        "remote.needs",
        "checking",
        "timing.units",
        "timing.record",
    ),
    "plugin": (
        "reach",
        "stopping",
        "outputs",
        "fetched",
        "fetching",
        "sending",
        "early",
        "electron",
        "options",
        "settings",
        "outcomes",
        "errors",
        "host.pool",
        "host.host",  # types of what the pool gives
        "host.task",
        "host.target",
        "timing.log",
        "timing.record",
    ),
    "host.pool": ("errors", "host"),
    "host.host": (
        "errors",
        "remote.wire",
        "host.target",
        "host.trust",
        "host.streams",
        "host.session",
        "host.task",
        "host.bootstrap",
        "host.patience",
        "host.answers",
        "host.upload",
    ),
    "host.target": ("errors",),
    "host.streams": ("errors",),
    "host.sshconfig": ("errors", "host.target"),
    "host.knownhosts": (),
    "host.trust": ("errors", "host.target", "host.sshconfig", "host.streams", "host.knownhosts"),
    "host.keys": ("errors", "host.target", "host.sshconfig"),
    "host": ("errors", "host", "remote.wire"),
    "remote": ("remote",),
    "demo": ("demo", "errors", "forms", "TimingSSHExecutor"),
    "cli": ("__version__", "verbs"),
    "verbs": ("errors", "timing", "settings", "visit", "checking", "verbs", "demo"),
}

# Who may name these packages of others.
OWNERS = {
    "asyncssh": ("host", "demo"),
    "covalent": ("early", "plugin", "electron", "checking.dispatched", "demo"),
    "covalent_dispatcher": ("demo",),
    "covalent_ui": ("demo",),
}

# What the far side's Python has anyway, from 3.8 on; plus what travels with us.
FAR_MODULES = {*sys.stdlib_module_names, "cloudpickle", "covalent_sshtiming_remote"}


def module_name(path: Path) -> str:
    """Return a file's module name within the package; that of the package itself is empty."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, source: str | None = None) -> Iterator[str]:
    """Yield the absolute name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source if source is not None else path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _imported_from(path, node)


def _imported_from(path: Path, node: ast.ImportFrom) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
    for alias in node.names:
        # `from package import module` names the module, `from module import name` only the module.
        whole = f"{base}.{alias.name}"
        yield whole if not base.startswith(PACKAGE) or _is_package(base) else base


def _is_package(name: str) -> bool:
    return (ROOT / Path(*name.split(".")[1:])).is_dir()


def fits(name: str, pattern: str) -> bool:
    """Say whether a module is the pattern's or below it."""
    return name == pattern or (pattern != "" and name.startswith(f"{pattern}."))


def violations(path: Path, source: str | None = None) -> list[str]:
    """Return the imports of a file which the arrows forbid."""
    name = module_name(path)
    allowed = ALLOWED[next((pattern for pattern in ALLOWED if fits(name, pattern)), "errors")]
    found = []
    for imported in imports(path, source):
        top, _, rest = imported.partition(".")
        if top == PACKAGE:
            good = any(fits(rest, one) for one in allowed)
        else:
            good = top not in OWNERS or any(fits(name, owner) for owner in OWNERS[top])
        if not good:
            found.append(imported)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_what_the_arrows_allow(path: Path) -> None:
    """No module imports what its place in the design does not let it know."""
    assert violations(path) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("settings.py", "import covalent"),
        ("settings.py", "from covalent_sshtiming import sshtiming"),
        ("timing/record.py", "from covalent_sshtiming.errors import ConfigError"),
        ("timing/report.py", "import asyncssh"),
        ("host/host.py", "from covalent_sshtiming.host import pool"),
        ("host/trust.py", "def f():\n    from covalent_sshtiming.settings import Settings"),
        ("remote/agent.py", "from ..errors import ConfigError"),
        ("remote/agent.py", "from covalent_sshtiming import host"),
        ("sshtiming.py", "import asyncssh"),
        ("sshtiming.py", "from covalent_sshtiming.host.session import Session"),
        ("brand_new.py", "from covalent_sshtiming import sshtiming"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    """The check itself finds absolute, relative and nested imports that go against an arrow."""
    assert violations(ROOT / name, source) != []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_opens_with_what_it_owns(path: Path) -> None:
    """Every module begins with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FAR_FILES, ids=module_name)
def test_the_far_side_needs_the_standard_library_only(path: Path) -> None:
    """Nothing that travels imports what a bare Python lacks."""
    own = f"{PACKAGE}.remote"
    tops = {name.partition(".")[0] for name in imports(path) if not fits(name, own)}
    assert tops <= FAR_MODULES


@pytest.mark.parametrize("path", FAR_FILES, ids=module_name)
def test_what_travels_parses_on_python_3_6(path: Path) -> None:
    """An old machine can read every file, so that it says "too old" instead of SyntaxError."""
    old = find_interpreter("3.6")
    if old is None:
        ast.parse(path.read_text(), feature_version=(3, 6))
        return
    check = "import ast, sys; ast.parse(open(sys.argv[1], encoding='utf-8').read())"
    ran = subprocess.run([old, "-c", check, path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_doorman_parses_on_python_2_7() -> None:
    """The one file that runs before the version is known can be read by Python 2.7 too."""
    old = find_interpreter("2.7")
    if old is None:
        pytest.skip("no Python 2.7 on this machine")  # few machines have one, and none needs it
    check = "import ast, sys; ast.parse(open(sys.argv[1]).read())"
    doorman = ROOT / "remote" / "doorman.py"
    ran = subprocess.run([old, "-c", check, doorman], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
