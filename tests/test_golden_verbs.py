"""What each reading verb says of each kind of log, word for word; SSHTIMING_GOLDEN=1 writes it anew."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import timings

from covalent_sshtiming.cli import main

GOLDEN = Path(__file__).parent / "golden" / "verbs"
HALVES = ("..2026-11-20T16:00", "2026-11-20T16:00..")
SHOWN_LINES, SHOWN_TEXT = 24, 8000
OTHERS = ("COVALENT_CONFIG_DIR", "XDG_CONFIG_DIR", "XDG_DATA_HOME", "COLUMNS")

# In this order, because the last one takes the log away. Each verb that reads is in it, a test says.
VERBS: tuple[tuple[str, ...], ...] = (
    ("path",),
    ("log", "-n", "3"),
    ("log", "-n", "1", "--json"),
    ("show", "74b88fbe"),
    ("stats",),
    ("stats", "--by", "status", "--csv"),
    ("compare", *HALVES),
    ("report", "-o", "out.html"),
    ("export",),
    ("export", "-o", "out.json"),
    ("export", "-o", "out.parquet"),
    ("rotate",),
)
NO_READERS = {"check", "jobs", "demo"}


def seeded(place: Path) -> None:
    """Write 2,000 tasks."""
    timings.write(place / "timing.log.jsonl", timings.records())


def empty(place: Path) -> None:
    """Write nothing."""
    (place / "timing.log.jsonl").touch()


def torn(place: Path) -> None:
    """Write 60 tasks, with half a line among them and another one at the end."""
    lines = [f"{one.to_json()}\n" for one in timings.records()[-60:]]
    lines[20:20] = ['{"schema":"sshtiming.task/1","cpu\n']
    (place / "timing.log.jsonl").write_text("".join(lines) + '{"schema":"sshtiming')


def foreign(place: Path) -> None:
    """Write what another program logs, and a record of a later version."""
    (place / "timing.log.jsonl").write_text('{"level":"info"}\nx,y,z\n{"schema":"sshtiming.task/9"}\n')


def sentences(place: Path) -> None:
    """Write sentences only, as the how-to's executor does."""
    said = [one.sentence() for one in timings.records(60)]
    (place / "timing.log").write_text("".join(f"{line}\n" for line in said if line))


def absent(_place: Path) -> None:
    """Write no log at all."""


def many(place: Path) -> None:
    """Write 100,000 tasks: the 2,000 over and over, under ids of their own."""
    timings.write_many(place / "timing.log.jsonl", 100_000, timings.records())


def transcript(home: Path, verbs: tuple[tuple[str, ...], ...]) -> str:
    """Run verbs one after the other on the configured log; return what a person would see of it.

    Words on stderr have "! " before them. Of a long output there are the first lines, and a sum of all.
    """
    parts = []
    for verb in verbs:
        ran = CliRunner().invoke(main, verb, env={"HOME": str(home), **dict.fromkeys(OTHERS)})
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        said = "".join(f"! {line}\n" for line in ran.stderr.splitlines())
        ended = f"exit {ran.exit_code}\n" if ran.exit_code else ""
        parts.append(f"$ covalent-sshtiming {' '.join(verb)}\n{shortened(ran.stdout)}{said}{ended}")
    text = "\n".join(parts).replace(str(home), "/home/ada")
    return re.sub(r"\d{8}T\d{6}Z", "20261121T090000Z", re.sub(" +$", "", text, flags=re.MULTILINE))


def shortened(out: str) -> str:
    """Return the first lines of an output, none of them very long, and what the rest comes to."""
    lines = out.splitlines()
    whole = hashlib.sha256(out.encode()).hexdigest()[:16]
    sum_ = (
        f"... {len(lines)} lines, sha256 {whole}...\n" if len(lines) > SHOWN_LINES or len(out) > 8000 else ""
    )
    kept = lines[: 2 if sum_ else None]
    return "".join(f"{line if len(line) < 500 else f'{line[:300]}...'}\n" for line in kept) + sum_


def check_golden(name: str, text: str) -> None:
    """Compare with a golden file, or write it."""
    if os.environ.get("SSHTIMING_GOLDEN") == "1":
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], None]) -> Path:
    """Return a HOME with a log in its default place, and be in a directory for files."""
    place = tmp_path / ".local" / "share" / "covalent-sshtiming"
    place.mkdir(parents=True)
    kind(place)
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path


@pytest.mark.parametrize(
    "kind", [seeded, empty, torn, foreign, sentences, absent], ids=lambda kind: kind.__name__
)
def test_verbs_on_each_kind_of_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], None]
) -> None:
    """Each verb says of a log of 2,000 tasks, an empty, torn or foreign one what it has always said."""
    home = placed(tmp_path, monkeypatch, kind)
    check_golden(f"on-{kind.__name__}.txt", transcript(home, VERBS))


def test_verbs_on_100_000_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verb, in one form, says of 100,000 tasks what it has always said."""
    home = placed(tmp_path, monkeypatch, many)
    forms = {verb[0]: verb for verb in reversed(VERBS)} | {"show": ("show", f"{98_765:032x}")}
    verbs = tuple(forms[name] for name in dict.fromkeys(verb[0] for verb in VERBS))
    check_golden("on-many.txt", transcript(home, verbs))


def test_each_verb_that_reads_is_tried() -> None:
    """No verb that reads a log is left out of the golden ones."""
    assert {verb[0] for verb in VERBS} == set(main.commands) - NO_READERS
