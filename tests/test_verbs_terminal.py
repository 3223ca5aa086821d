"""The reading verbs' tables on terminals: narrow ones, colours, wide, hostile and missing signs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.cells import cell_len
from support import timings
from support.timings import ONE
from support.verbs import environment, run_verb, told

from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import TimingRecord


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a HOME whose configured log, in the default place, has 2,000 tasks."""
    return timings.home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log whose functions have long names and wide ones."""
    return timings.long_names(tmp_path_factory.mktemp("long"))


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("verb", ["log", "stats", "show"])
def test_narrow_terminals_lose_columns_and_break_no_line(home: Path, verb: str, width: int) -> None:
    """No line is wider than the terminal, and stderr names what had no room."""
    ran = run_verb(verb, *[ONE] * (verb == "show"), home=home, COLUMNS=str(width))
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= width
    assert ran.err.startswith("No room for: ") == (verb == "log" or (verb == "stats" and width < 100))
    assert "status" in ran.out or verb == "stats"


@pytest.mark.parametrize(
    "verb", ["log", "stats", "stats --by dispatch,function,host,status", "compare long.jsonl"], ids=str
)
def test_a_long_name_costs_no_figure(long_names: Path, verb: str) -> None:
    """In a narrow terminal names are shortened, as wide as they are to see, and figures stay whole."""
    ran = run_verb(*verb.split(), "long.jsonl", home=long_names.parent, COLUMNS="40")
    lines = ran.out.splitlines()[2:]
    assert len(lines) == 5
    assert max(map(cell_len, lines)) <= 40
    assert all(("+0.0%" if verb.startswith("compare") else "250.0 ms") in line for line in lines)


def test_asked_for_fields_that_do_not_fit_are_named(home: Path) -> None:
    """Of --fields the first stay, and stderr names the others."""
    ran = run_verb("log", "-n", "1", "--fields", "all", home=home, COLUMNS="40")
    assert ran.out.splitlines()[2].startswith("74b88fbe   f0da37ba-")
    assert ran.err.startswith("No room for: node_id, attempt, ")


def test_bars_are_whole_in_a_narrow_terminal(home: Path) -> None:
    """At 40 columns each phase still has its name, its time and its bar on one line."""
    out = run_verb("show", ONE, home=home, COLUMNS="40").out
    bars = [line for line in out.splitlines() if "█" in line]
    assert [line.split()[0] for line in bars][:3] == ["connect", "upload", "queue"]
    assert len(bars) == 11
    assert max(map(len, bars)) <= 40


def test_a_log_of_sentences_shows_what_sentences_say(home: Path, tmp_path: Path) -> None:
    """Where only sentences were kept, `log` has dispatch, node and CPU time, and no empty columns."""
    sentences = [one.sentence() for one in timings.records(20) if one.cpu_s is not None]
    (tmp_path / "cpu.log").write_text("".join(f"{one}\n" for one in sentences))
    lines = told("log", "-n", "2", str(tmp_path / "cpu.log"), home=home).splitlines()
    assert lines[0].split() == ["dispatch", "node", "CPU"]
    assert re.findall(r"Node (\S+) in dispatch (\S+)", sentences[-1]) == [tuple(lines[2].split()[1::-1])]


def on_a_terminal(*arguments: str, home: Path, **more: str) -> str:
    """Run a verb with a terminal of 120 columns as its stdout; return what came there."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "covalent_sshtiming", *arguments]
    shell = environment(home, TERM="xterm-256color", COLUMNS="120", **more)
    parts: list[bytes] = []

    def drain() -> None:
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # the last one who had it has gone
            return

    reader = threading.Thread(target=drain)
    with subprocess.Popen(command, env=shell, cwd=home, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        reader.start()
        process.wait(60)
    reader.join(10)
    os.close(ours)
    return b"".join(parts).decode()


@pytest.mark.parametrize("verb", [("log",), ("stats",), ("show", ONE)], ids=lambda verb: verb[0])
def test_colours_are_for_terminals_that_want_them(home: Path, verb: tuple[str, ...]) -> None:
    """A terminal gets bold heads, with NO_COLOR no colour; a pipe never gets a control character."""
    assert "\x1b[" in on_a_terminal(*verb, home=home)
    plain = on_a_terminal(*verb, home=home, NO_COLOR="1")
    colours = [
        code for code in ("\x1b[3", "\x1b[9", "\x1b[1;3") if f"{code}" in plain and "\x1b[3m" not in plain
    ]
    assert colours == []
    assert "\x1b" not in told(*verb, home=home)


@pytest.mark.parametrize("verb", ["log", "stats", "log --json", "show 00000000", "compare long.jsonl"])
def test_a_terminal_without_all_signs_is_no_obstacle(long_names: Path, verb: str) -> None:
    """Where stdout is not UTF-8 a table does with the signs that there are, and --json escapes the others."""
    command = [sys.executable, "-m", "covalent_sshtiming", *verb.split(), "long.jsonl"]
    shell = environment(long_names.parent, PYTHONUTF8="0", PYTHONIOENCODING="latin-1")
    ran = subprocess.run(command, env=shell, cwd=long_names.parent, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    out = ran.stdout.decode("latin-1")
    if verb.endswith("--json"):
        assert {one["function"] for one in json.loads(out)} > {"数学函数", "größte_lücke"}
    else:
        assert "größte_lücke" in out


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """A function's name is neither markup nor an emoji nor a control sequence in a table."""
    name = "[bold red]:smile:[/] </script>\x1b[31m"
    TimingLog(tmp_path / "log.jsonl").append(TimingRecord(record_id="a", function=name, kind="electron"))
    for verb in (("log",), ("stats",), ("show", "a")):
        assert "[bold red]:smile:[/] </script>[31m" in told(*verb, "log.jsonl", home=tmp_path)
