"""What the README and its pages show of the verbs is what they print, of the seeded log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import timings
from support.readme import ALL, PAGES, ROOT
from support.verbs import environment

from covalent_sshtiming.cli import main

MARKED = re.compile(r"(<!-- verbs\b[^>]*-->\n)(.*?)(<!-- /verbs -->)", re.DOTALL)
WIDTH = "108"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a HOME with the seeded log in its default place, and a directory `work` to be in."""
    home = tmp_path / "home"
    place = home / ".local" / "share" / "covalent-sshtiming"
    place.mkdir(parents=True)
    (home / "work").mkdir()
    timings.write(place / "timing.log.jsonl", timings.records())
    return home


def printed(command: str, home: Path) -> str:
    """Run a line of a page's in a shell; return what a terminal would have shown."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-c", command],
        env=environment(home, COLUMNS=WIDTH, PATH=path),
        cwd=home / "work",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        check=False,
    )
    lines = [line.rstrip() for line in ran.stdout.replace(str(home), "/home/ada").splitlines()]
    return re.sub(r"\.\d{8}T\d{6}Z", ".20261121T090000Z", "\n".join(lines))


@pytest.mark.parametrize("name", ["README.md", "docs/reading.md"])
def test_the_readme_shows_what_the_verbs_print(name: str, home: Path) -> None:
    """Each `$` line of a page's section, run on the seeded log, prints what stands below it."""
    marked = MARKED.search(PAGES[name])
    assert marked

    def again(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", block[1], re.MULTILINE)
        shown = [f"$ {command}\n{printed(command, home)}\n" for command in commands]
        return f"```console\n{''.join(shown)}```"

    now = re.sub(r"```console\n(.*?)```", again, marked[2], flags=re.DOTALL)
    if os.environ.get("SSHTIMING_GOLDEN") == "1":
        (ROOT / name).write_text(PAGES[name].replace(marked[2], now), encoding="utf-8")
        return
    assert marked[2] == now


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_verb_is_documented(name: str) -> None:
    """Each verb is in the README's table and in a line to type, and its help explains it with an example."""
    table = re.findall(r"^\| (`.*?) \|", ALL, re.MULTILINE)
    assert any(re.search(rf"`{name}\b", cell) for cell in table)
    assert re.search(rf"covalent-sshtiming {name}\b", ALL)
    command = main.commands[name]
    text = command.get_help(click.Context(command, info_name=f"covalent-sshtiming {name}"))
    assert len((command.help or "").split()) > 8
    assert re.search(rf"^  covalent-sshtiming {name}\b|^    covalent-sshtiming {name}\b", text, re.MULTILINE)
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert [one.name for one in options if not (one.help or one.hidden)] == []


def test_the_help_of_all_says_each_verb_in_a_line() -> None:
    """`--help` has the verbs in the order of the README's table, each with a whole sentence."""
    lines = main.get_help(click.Context(main, info_name="covalent-sshtiming", terminal_width=80)).splitlines()
    listed = [line.split(maxsplit=1) for line in lines[lines.index("Commands:") + 1 :]]
    table = ALL.partition("| verb | what it shows |")[2].partition("\n\n")[0]
    assert [name for name, _ in listed] == re.findall(r"`(\w+)(?: [A-Z ]+)?`", table)
    assert all(sentence.endswith(".") and not sentence.endswith("...") for _, sentence in listed)


def test_the_python_of_the_section_runs(tmp_path: Path) -> None:
    """The README's lines for Python read the seeded log."""
    (source,) = [text for text in re.findall(r"```python\n(.*?)```", ALL, re.DOTALL) if "read_log" in text]
    place = tmp_path / ".local" / "share" / "covalent-sshtiming"
    place.mkdir(parents=True)
    timings.write(place / "timing.log.jsonl", timings.records())
    ran = subprocess.run(
        [sys.executable, "-c", source], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    most = max(timings.records(), key=lambda one: one.cpu_s or 0)
    assert (ran.stdout, ran.stderr) == (f"{most.function} {most.cpu_s} 0\n", "")
