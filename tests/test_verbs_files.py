"""Which files the reading verbs read, and what they say of empty, torn and foreign ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from support import timings
from support.verbs import Ran, configure, run_verb, told

from covalent_sshtiming.timing.log import TimingLog


@pytest.mark.parametrize("verb", [("log",), ("stats",), ("show", "a")], ids=lambda verb: verb[0])
def test_no_log_says_where_it_looked(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """Where nothing was ever logged a verb names the place, prints no data, and exits with 1."""
    place = tmp_path / ".local" / "share" / "covalent-sshtiming" / "timing.log.jsonl"
    ran = run_verb(*verb, home=tmp_path)
    assert (ran.out, ran.code) == ("", 1)
    assert f"no timing log: there is no {place}. A log appears when the first task has ended" in ran.err
    named = run_verb(*verb, "other.log", home=tmp_path)
    assert (named.out, named.code) == ("", 1)
    assert "no timing log: there is no other.log.jsonl." in named.err


@pytest.mark.parametrize(("form", "nothing"), [((), ""), (("--json",), "[]\n"), (("--csv",), "")])
@pytest.mark.parametrize("verb", ["log", "stats"])
def test_empty_log_is_said(tmp_path: Path, verb: str, form: tuple[str, ...], nothing: str) -> None:
    """A log without a task is no error: the listing is empty, and stderr says which files were read."""
    (tmp_path / "empty.jsonl").touch()
    ran = run_verb(verb, "empty.jsonl", *form, home=tmp_path)
    assert ran == Ran(nothing, "No task to show in empty.jsonl.\n", 0)


def test_torn_and_foreign_lines_are_counted_on_stderr(tmp_path: Path) -> None:
    """Half a line and lines of others' cost nothing but themselves, and stderr says how many they are."""
    made = timings.records(50)
    path = timings.write(tmp_path / "torn.jsonl", made)
    with path.open("ab") as file:
        file.write(b'{"schema":"sshtiming.task/1","cpu\nhello\n\xff\xfe{}\n{"schema":"sshtiming')
    ran = run_verb("stats", "--by", "status", "--helpers", "--json", "torn.jsonl", home=tmp_path)
    assert (ran.err, ran.code) == ("Left out: 3 lines that are no record.\n", 0)
    assert sum(group["count"] for group in json.loads(ran.out)) == 50
    (tmp_path / "foreign.jsonl").write_text('{"level":"info"}\nx,y,z\n')
    foreign = run_verb("log", "foreign.jsonl", home=tmp_path)
    assert (foreign.out, foreign.code) == ("", 0)
    assert foreign.err == "Left out: 2 lines that are no record.\nNo task to show in foreign.jsonl.\n"


@pytest.mark.parametrize("verb", ["show zz foreign.jsonl", "compare foreign.jsonl one.jsonl"])
def test_bad_lines_are_counted_also_where_there_is_nothing(tmp_path: Path, verb: str) -> None:
    """`show` and `compare` that find no task say that there were lines which are no record."""
    timings.write(tmp_path / "one.jsonl", timings.records(2)[:1])
    (tmp_path / "foreign.jsonl").write_text('{"level":"info"}\nx,y,z\n')
    ran = run_verb(*verb.split(), home=tmp_path)
    assert (ran.out, ran.code) == ("", 1)
    assert ran.err.startswith("Left out: 2 lines that are no record.\nError: no task ")


def test_records_of_another_version_are_told_from_rubbish(tmp_path: Path) -> None:
    """A record of a later schema is left out by its name; one of a later minor of ours is read."""
    one = json.loads(timings.records(2)[0].to_json())
    schemas = ("sshtiming.task/1.3", "sshtiming.task/2", "sshtiming.task/10\x1b[31m", "sshtiming.task/2")
    lines = [json.dumps({**one, "schema": schema, "record_id": f"{n}"}) for n, schema in enumerate(schemas)]
    (tmp_path / "mixed.jsonl").write_text("\n".join([*lines, "rubbish", ""]))
    ran = run_verb("log", "mixed.jsonl", "--json", home=tmp_path)
    assert ([row["record_id"] for row in json.loads(ran.out)], ran.code) == (["0"], 0)
    assert ran.err == (
        "Left out: 1 line that is no record.\n"
        "Left out: 3 records that another version wrote (sshtiming.task/2, sshtiming.task/10[31m); "
        "only that version reads them.\n"
    )


def test_sentences_shards_gzip_and_globs_are_read(tmp_path: Path) -> None:
    """A log is the same whether whole, in shards, packed or named by a glob; sentences as far as they go."""
    made = timings.records(60)
    timings.write(tmp_path / "a.log.jsonl", made[:20])
    timings.write(tmp_path / "a.log.jsonl.node7.123.jsonl", made[20:40])
    (tmp_path / "a.log").write_text("".join(f"{one.sentence()}\n" for one in made[:40]))
    packed = gzip.compress("".join(f"{one.to_json()}\n" for one in made[40:]).encode())
    (tmp_path / "a.log.jsonl.20261120T000000Z.gz").write_bytes(packed)

    def count(*names: str) -> int:
        return sum(
            one["count"] for one in json.loads(told("stats", "--helpers", "--json", *names, home=tmp_path))
        )

    assert count("a.log") == count("a.log.jsonl") == 40
    assert count("a.log*") == count("a.log", "a.log.jsonl.20261120T000000Z.gz") == 60
    (tmp_path / "a.log").rename(tmp_path / "b.log")
    sentences = json.loads(told("log", "b.log", "-n", "0", "--json", home=tmp_path))
    assert {(one["dispatch_id"], one["node_id"], one["cpu_s"]) for one in sentences} == {
        (one.dispatch_id, one.node_id, one.cpu_s) for one in made[:40] if one.cpu_s is not None
    }


@pytest.mark.parametrize("packed", [(), ("--gzip",)], ids=["plain", "gzip"])
def test_a_rotated_log_is_read_once(tmp_path: Path, packed: tuple[str, ...]) -> None:
    """A glob over all files of a log, or a shell's list of them, counts each task once."""
    made = [one for one in timings.records(60) if one.kind == "electron" and one.cpu_s is not None]
    log = TimingLog(tmp_path / "timing.log")
    for one in made[:20]:
        log.append(one)
    assert run_verb("rotate", "timing.log", *packed, home=tmp_path).code == 0
    for one in made[20:40]:
        log.append(one)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 4
    for asked in (["timing.log*"], names):
        (group,) = json.loads(
            told("stats", "--by", "status", "--status", "completed", "--json", *asked, home=tmp_path)
        )
        assert group["count"] == sum(one.status == "completed" for one in made[:40])
    (sentences,) = [name for name in names if ".jsonl" not in name and name != "timing.log"]
    rows = json.loads(told("log", sentences, "-n", "0", "--json", home=tmp_path))
    assert {row["record_id"] for row in rows} == {one.record_id for one in made[:20]}


def test_damaged_gzip_is_read_up_to_the_damage(tmp_path: Path) -> None:
    """A packed log that was cut off gives the records before that, and one bad line."""
    text = "".join(f"{one.to_json()}\n" for one in timings.records(400)).encode()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(text)[:30_000])
    ran = run_verb("stats", "--by", "status", "--json", "cut.jsonl.gz", home=tmp_path)
    assert ran.code == 0
    assert ran.err == "Left out: 1 line that is no record.\n"
    assert 10 < sum(one["count"] for one in json.loads(ran.out)) < 400


def test_logs_of_covalent_conf_are_the_default(tmp_path: Path) -> None:
    """Without FILE the section's log and those of single machines are read, as far as they are there."""
    made = timings.records(30)
    logs = {"gpu": "~/gpu.jsonl", "build": f"{tmp_path}/none.jsonl"}
    hosts = {name: {"timing_filepath": path} for name, path in logs.items()}
    section = {"timing_filepath": f"{tmp_path}/all.log", "hosts": hosts}
    configure(tmp_path, {"executors": {"sshtiming": section}})
    timings.write(tmp_path / "all.log.jsonl", made[:10])
    timings.write(tmp_path / "gpu.jsonl", made[10:])
    groups = json.loads(told("stats", "--by", "status", "--helpers", "--json", home=tmp_path))
    assert sum(group["count"] for group in groups) == 30
    ran = run_verb("path", home=tmp_path)
    assert ran.out.splitlines() == [str(tmp_path / name) for name in ("all.log", "gpu.jsonl", "none.jsonl")]
    assert "all.log.jsonl has " in ran.err
    assert "Nothing is there yet." in ran.err
    listed = json.loads(told("path", "--json", home=tmp_path))
    rows = list(csv.DictReader(io.StringIO(told("path", "--csv", home=tmp_path))))
    assert [one["file"] for one in rows] == [one["file"] for one in listed]
    assert {one["file"]: one["bytes"] is None for one in listed} == {
        str(tmp_path / "all.log"): True,
        str(tmp_path / "all.log.jsonl"): False,
        str(tmp_path / "gpu.jsonl"): False,
        str(tmp_path / "none.jsonl"): True,
    }
