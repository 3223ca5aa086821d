"""The reading verbs: golden output on a seeded log, their forms, their words, and wrong usage."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from support import timings
from support.timings import ONE
from support.verbs import run_verb, told

from covalent_sshtiming.timing.log import TimingLog
from covalent_sshtiming.timing.record import FIELDS, SCHEMA, TimingRecord


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a HOME whose configured log, in the default place, has 2,000 tasks."""
    return timings.home(tmp_path_factory.mktemp("home"))


GOLDEN = Path(__file__).parent / "golden" / "verbs"

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
