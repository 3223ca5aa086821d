"""The reading verbs: golden output on a seeded log, and what they say of empty, torn and foreign ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from support import timings
from support.verbs import Ran, environment, run_verb

from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import FIELDS, SCHEMA, TimingRecord

GOLDEN = Path(__file__).parent / "golden" / "verbs"
ONE = "74b88fbe"

# Each file below golden/verbs, and the command that prints it; SSHTIMING_GOLDEN=1 writes them anew.
SHOWN: dict[str, tuple[str, ...]] = {
    "log.txt": ("log",),
    "log.json": ("log", "-n", "3", "--json"),
    "log.csv": ("log", "-n", "3", "--sort", "cpu_s", "--csv"),
    "log-failed.txt": ("log", "--status", "failed", "--host", "build*", "--function", "an*", "--helpers"),
    "log-fields.txt": (
        "log",
        "-n",
        "4",
        "--fields",
        "node_id,function,ctx_voluntary,cpu_complete,started_at",
    ),
    "log-dispatch.txt": ("log", "--dispatch", "f0da37ba", "--node", "39", "--helpers"),
    "show.txt": ("show", ONE),
    "stats.txt": ("stats",),
    "stats-status.txt": ("stats", "--by", "host,status", "--since", "2026-11-20T20:00"),
    "stats.json": ("stats", "--json"),
    "stats.csv": ("stats", "--by", "dispatch,function", "--until", "2026-11-20T10:00", "--csv"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a HOME whose configured log, in the default place, has 2,000 tasks."""
    home = tmp_path_factory.mktemp("home")
    place = home / ".local" / "share" / "covalent-sshtiming"
    place.mkdir(parents=True)
    timings.write(place / "timing.log.jsonl", timings.records())
    return home


def told(*arguments: str, home: Path) -> str:
    """Run a verb that has to succeed and to say nothing on stderr; return its stdout."""
    ran = run_verb(*arguments, home=home)
    assert (ran.err, ran.code) == ("", 0)
    return ran.out


@pytest.mark.parametrize("name", SHOWN)
def test_output_on_the_seeded_log_is_the_golden_one(home: Path, name: str) -> None:
    """Each verb and form prints of 2,000 tasks what it has always printed."""
    out = told(*SHOWN[name], home=home)
    if os.environ.get("SSHTIMING_GOLDEN") == "1":
        (GOLDEN / name).write_text(out, encoding="utf-8")
    assert out == (GOLDEN / name).read_text(encoding="utf-8")


def test_stats_agree_with_the_records(home: Path) -> None:
    """Counts and totals of `stats` are those that adding the records up by hand gives."""
    groups = {group["function"]: group for group in json.loads(told("stats", "--json", home=home))}
    for name, group in groups.items():
        mine = [one for one in timings.records() if one.function == name and one.kind == "electron"]
        cpu = [one.cpu_s for one in mine if one.cpu_s is not None]
        assert group["count"] == len(mine)
        assert group["failed"] == sum(one.status in ("failed", "killed", "timeout", "lost") for one in mine)
        assert group["cpu_s_total"] == pytest.approx(sum(cpu))
        whole = sorted(one.cpu_s for one in mine if one.status == "completed" and one.cpu_s is not None)
        assert whole[(len(whole) - 1) // 2] <= group["cpu_s_median"] <= whole[len(whole) // 2]
        had = sum((one.wall_s or 0) * (one.cores_available or 0) for one in mine if one.cpu_s is not None)
        assert group["efficiency"] == pytest.approx(sum(cpu) / had)
    assert sum(group["cpu_share"] for group in groups.values()) == pytest.approx(1)


def test_csv_and_json_have_the_same_values(home: Path) -> None:
    """A listing's two forms for programs differ in nothing but form."""
    rows = list(csv.DictReader(io.StringIO(told("log", "-n", "50", "--csv", home=home))))
    objects = json.loads(told("log", "-n", "50", "--json", home=home))
    assert rows == [{k: "" if v is None else str(v) for k, v in one.items()} for one in objects]


def test_every_field_of_the_record_is_shown_by_show(home: Path, tmp_path: Path) -> None:
    """`show` leaves no field out that has a value."""
    full = json.loads((GOLDEN.parent / "record-1.jsonl").read_text())
    full |= {"sent_files": 1, "sent_bytes": 1, "fetched_files": 1, "fetched_bytes": 1, "fetched_left": 0}
    full |= {"fetched_to": "/results/node_0", "fetched_names": '["a.h5"]', "phase_fetch_wall_s": 0.1}
    full |= {"gpu_devices": "0,1", "gpu_utilization": 0.5, "gpu_memory_peak_bytes": 1 << 30}
    full |= {"gpu_device_wide": True}
    assert full.keys() >= set(FIELDS)
    TimingLog(tmp_path / "log.jsonl").append(TimingRecord.from_mapping(full))
    out = told("show", full["record_id"][:6], str(tmp_path / "log.jsonl"), home=home)
    named = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert {name for name in FIELDS if not name.startswith("phase_")} <= named
    assert {name[6:-7] for name in FIELDS if name.endswith("_wall_s") and name.startswith("phase_")} <= named
    assert json.loads(told("show", full["record_id"], str(tmp_path / "log.jsonl"), "--json", home=home))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cpu_complete": False, "cpu_s": 1.0}, "The CPU time is a lower bound: processes may have escaped"),
        ({"cpu_s": None}, "How much CPU time the function used is not known."),
        ({"load_1m_start": 9.0, "cores_available": 4}, "oversubscribed: a load of 9.0 on 4 cores"),
        ({"wall_s": 2.0, "run_delay_s": 1.0}, "It was ready to run and had no core for 1.00 s of 2.00 s."),
        (
            {"wall_s": 2.0, "steal_s": 1.0, "cores_available": 4},
            "The hypervisor took 1.00 s of the cores' time",
        ),
        ({"cpu_quota_cores": 1.5, "cores_available": 4}, "It was limited to 1.5 of 4 cores."),
        ({"clock_offset_err_s": 0.2, "started_at": "2026"}, "may be wrong by 200.0 ms; durations are not."),
        ({"clock_offset_s": -90.0, "started_at": "2026"}, "was 90.00 s behind the Covalent server's."),
        ({"status": "failed", "error_type": "KeyError"}, "The function raised KeyError."),
        ({"status": "killed", "exit_signal": 9}, "It was killed by signal 9;"),
        ({"status": "timeout"}, "It ran into its time limit;"),
        ({"descendants_alive": 3}, "3 of its processes were left when it returned, and were ended."),
        ({"threads_alive": 2}, "2 threads were left"),
        ({"ran_locally": True, "host": "build01"}, "build01 could not be reached"),
    ],
)
def test_show_warns_in_words(home: Path, tmp_path: Path, values: dict[str, object], words: str) -> None:
    """What makes figures incomplete, disturbed or uncertain is said above them, and nothing else is."""
    log = TimingLog(tmp_path / "log.jsonl")
    log.append(TimingRecord.from_mapping({"record_id": "a1", "cpu_s": 1.0, **values}))
    out = told("show", "a1", str(log.path), home=home)
    (warning,) = out.split("\n\n")[0].split("! ")[1:]
    assert words in " ".join(warning.split())


def test_show_wants_one_task(home: Path) -> None:
    """An id that fits several tasks, or none, ends with exit 1 and the reason."""
    many, none = run_verb("show", "7", home=home), run_verb("show", "zz", home=home)
    assert (many.code, many.out, none.code, none.out) == (1, "", 1, "")
    assert "135 tasks have ids that begin with '7': 7" in many.err
    assert "Give more of it." in many.err
    assert "no task has an id that begins with 'zz' in " in none.err
    assert "timing.log.jsonl" in none.err


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
    conf = tmp_path / ".config" / "covalent" / "covalent.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(
        f'[executors.sshtiming]\ntiming_filepath = "{tmp_path}/all.log"\n'
        f'[executors.sshtiming.hosts.gpu]\ntiming_filepath = "~/gpu.jsonl"\n'
        f'[executors.sshtiming.hosts.build]\ntiming_filepath = "{tmp_path}/none.jsonl"\n'
    )
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("log", "--since", "yesterday"), "'yesterday' is no time: write an age such as 30m, 2h or 7d"),
        (("log", "-n", "-5"), "Invalid value for '-n': -5 is not in the range x>=0."),
        (
            ("log", "--fields", " ,"),
            "--fields is empty: write names of fields, with commas between, or `all`.",
        ),
        (("log", "--fields", "cpu_z"), "'cpu_z' is no field of a record: did you mean cpu_s?"),
        (("log", "--json", "--csv"), "only one of --json and --csv at a time."),
        (("log", "-f", "--sort", "cpu_s"), "-f goes with neither --sort nor --csv."),
        (("stats", "--by", "colour"), "--by 'colour': write some of function, host, dispatch, status"),
        (("log", "--status", "good"), "'good' is not one of 'completed'"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """What cannot be meant is refused with what to write, before any file is looked for."""
    ran = run_verb(*arguments, home=tmp_path)
    assert (ran.out, ran.code) == ("", 2)
    assert words in " ".join(ran.err.split())


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("verb", ["log", "stats", "show"])
def test_narrow_terminals_lose_columns_and_break_no_line(home: Path, verb: str, width: int) -> None:
    """No line is wider than the terminal, and stderr names what had no room."""
    ran = run_verb(verb, *[ONE] * (verb == "show"), home=home, COLUMNS=str(width))
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= width
    assert ran.err.startswith("No room for: ") == (verb == "log" or (verb == "stats" and width < 100))
    assert "status" in ran.out or verb == "stats"


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log whose functions have long names and wide ones."""
    names = ("größte_lücke", "数学函数", "f🎉", "a" * 200, "ok")
    one = next(one for one in timings.records() if one.status == "completed")
    made = [replace(one, record_id=f"{n:08x}", function=name, cpu_s=0.25) for n, name in enumerate(names)]
    return timings.write(tmp_path_factory.mktemp("long") / "long.jsonl", made)


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


@pytest.mark.parametrize("verb", ["show", "report", "export"])
def test_figures_beyond_all_sense_stop_no_verb(tmp_path: Path, verb: str) -> None:
    """A machine that tells of endless seconds, or of the calendar's last day, spoils no listing."""
    figures = {name: 1e308 for name in FIELDS if name.endswith("_s")}
    last = "9999-12-31T23:59:59.999999Z"
    times = {"submitted_at": last, "started_at": last, "finished_at": last}
    mad = json.dumps({"schema": SCHEMA, "record_id": "f" * 32, "kind": "electron", **times, **figures})
    sound = timings.records(1)[0].to_json()
    (tmp_path / "log.jsonl").write_text(f"{mad}\n{sound}\n")
    words = {"show": ["f" * 32], "report": ["-o", "r.html"], "export": ["-o", "r.json"]}
    ran = run_verb(verb, *words[verb], "log.jsonl", home=tmp_path)
    assert ran.code == 0, ran.err


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


@contextmanager
def following(*arguments: str, home: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `log -f` for as long as the block lasts."""
    command = [sys.executable, "-m", "covalent_sshtiming", "log", "-f", *arguments]
    pipe = subprocess.PIPE
    shell = environment(home, PYTHONUNBUFFERED="1", **more)
    with subprocess.Popen(command, env=shell, cwd=home, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_follow_shows_what_comes(tmp_path: Path) -> None:
    """`log -f` prints the newest, oldest first, then each new one, across a rotation."""
    made = [one for one in timings.records(60) if one.kind == "electron"]
    log = TimingLog(tmp_path / "log.jsonl")
    for one in made[:3]:
        log.append(one)
    with following("-n", "2", "--json", "log.jsonl", home=tmp_path) as process:
        assert process.stdout
        shown = [json.loads(process.stdout.readline())["record_id"] for _ in range(2)]
        log.append(made[3])
        shown.append(json.loads(process.stdout.readline())["record_id"])
        run_verb("rotate", "log.jsonl", home=tmp_path)
        log.append(made[4])
        shown.append(json.loads(process.stdout.readline())["record_id"])
    assert shown == [one.record_id for one in made[1:5]]


def test_follow_fits_a_narrow_terminal_and_ends_by_ctrl_c(long_names: Path) -> None:
    """`log -f` keeps to the terminal's width, names what has no room, and Ctrl-C is its quiet end."""
    with following("long.jsonl", home=long_names.parent, COLUMNS="40") as process:
        assert process.stdout
        assert process.stderr
        lines = [process.stdout.readline().rstrip("\n") for _ in range(6)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == "No room for: id, when (UTC), host, wall, eff., peak\n"
    assert lines[0].split() == ["function", "status", "CPU"]
    assert max(map(cell_len, lines)) <= 40
    assert all(line.endswith("completed  250.0 ms") for line in lines[1:])


def test_follow_waits_for_a_log(tmp_path: Path) -> None:
    """`log -f` on a log that is not there yet says so, and shows the first task when it has ended."""
    one = timings.records(1)[0]
    with following("new.log", home=tmp_path) as process:
        assert process.stdout
        assert process.stderr
        assert process.stderr.readline() == "Waiting for tasks in new.log.\n"
        TimingLog(tmp_path / "new.log").append(one)
        assert process.stdout.readline().split()[:2] == ["id", "when"]
        assert (one.function or "-") in process.stdout.readline()


def test_rotating_loses_no_line(tmp_path: Path) -> None:
    """While eight threads write, rotations leave each record in exactly one of the files."""
    log = TimingLog(tmp_path / "timing.log")
    rotated = threading.Event()
    written: dict[int, int] = {}

    def write(name: int) -> None:
        number = 0
        while number < 60 or not rotated.is_set():  # so each rotation finds something
            log.append(
                TimingRecord(record_id=f"{name}-{number}", kind="electron", cpu_s=1.0, dispatch_id="d")
            )
            number += 1
            time.sleep(0.002)
        written[name] = number

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    try:
        moved = [run_verb("rotate", "timing.log", *["--gzip"] * one, home=tmp_path) for one in (0, 1)]
    finally:
        rotated.set()
        for thread in threads:
            thread.join()
    assert [ran.code for ran in moved] == [0, 0]
    every = told("log", "timing.log.jsonl*", "-n", "0", "--fields", "record_id", "--json", home=tmp_path)
    assert sorted(one["record_id"] for one in json.loads(every)) == sorted(
        f"{name}-{number}" for name in range(8) for number in range(written[name])
    )
    names = [name for ran in moved for name in ran.out.split()]
    assert all((tmp_path / name).is_file() for name in names)
    assert sum(name.endswith(".gz") for name in names) >= 1


def test_rotate_says_why_not(tmp_path: Path) -> None:
    """Nothing to rotate is exit 1, and so is a lock that somebody keeps."""
    import fcntl

    ran = run_verb("rotate", "timing.jsonl", home=tmp_path)
    assert (ran.out, ran.code) == ("", 1)
    assert "nothing to rotate: no records in timing.jsonl." in ran.err
    (tmp_path / "timing.jsonl").write_text("{}\n")
    with (tmp_path / "timing.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran = run_verb("rotate", "timing.jsonl", home=tmp_path)
    assert (ran.out, ran.code) == ("", 1)
    assert "was not rotated, because no lock on it could be had in 5 s. Try again;" in ran.err
