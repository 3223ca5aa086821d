"""`covalent-sshtiming check` on a good machine: its steps, its forms, its usage."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support import direct, readme
from support.checking import Near, near
from support.interpreters import OWN
from support.keys import make_key
from support.login import authorize
from support.named import Server
from support.there import There
from support.verbs import configure, run_verb

from covalent_sshtiming.checking.walk import STEPS
from covalent_sshtiming.demo.processes import free_port
from covalent_sshtiming.demo.sshserver import SSHServer


@pytest.fixture
def box(sshd: SSHServer) -> Iterator[Near]:
    """Return the way to a machine that is good as long as nobody breaks it."""
    with near(sshd) as here:
        yield here


def test_a_good_machine_passes_each_step(box: Near) -> None:
    """Every step is ok with its time; a Python without cloudpickle will do, because that comes along."""
    ran = box.check("--json")
    assert (ran.code, ran.err) == (0, "")
    steps = json.loads(ran.out)
    assert [one["step"] for one in steps] == list(STEPS)
    assert all(one["ok"] is True and one["error"] is None for one in steps)
    assert all(one["seconds"] >= 0 for one in steps)
    told = {one["step"]: one["detail"] for one in steps}
    assert told["settings"] == f"{box.home}/.config/covalent/covalent.conf; gpubox is 127.0.0.1"
    assert told["resolve"].endswith(f"@127.0.0.1 port {box.server.port}: 127.0.0.1")
    assert told["jump hosts"] == "none"
    assert told["credentials"] == str(box.server.key_file)
    assert told["host key"] == "on record"
    assert told["shell"] == "prints nothing of its own"
    assert told["python"] == "on the login shell's PATH"
    assert told["version"] == f"{OWN}, as here"
    for place in ("cache ", f"spool {box.spool}: ", "workdir "):
        assert place in told["disk"]
    assert told["disk"].count("iB free") == 3
    assert f"Python {OWN}." in told["modules"]
    assert " came along; " in told["modules"]
    assert "give or take" in told["clock"]
    assert f"; at most {len(os.sched_getaffinity(0))} tasks at once" in told["cores"]
    assert " of CPU in " in told["trial task"]
    assert not list(box.spool.glob("tasks/*"))


def test_a_machine_with_a_shell_of_its_own_passes(any_sshd: Server, far_place: There, tmp_path: Path) -> None:
    """The same holds for any good machine, whatever it is called, its shell prints and its PATH has."""
    spool = far_place / "spool"
    table = {
        **any_sshd.settings(),
        "remote_spool": str(spool),
        "hosts": {"gpubox": {"hostname": any_sshd.host}},
    }
    configure(tmp_path, {"executors": {"sshtiming": table}})
    try:
        ran = run_verb("check", "gpubox", "--json", home=tmp_path)
        assert ran.code == 0, ran.out
        steps = json.loads(ran.out)
        assert [(one["step"], one["ok"]) for one in steps] == [(step, True) for step in STEPS]
        told = {one["step"]: one["detail"] for one in steps}
        assert f"{any_sshd.username}@{any_sshd.host} port {any_sshd.port}: " in told["resolve"]
        assert told["version"] == f"{OWN}, as here"
        assert f"spool {spool}: " in told["disk"]
        assert not list(spool.glob("tasks/*"))
    finally:
        direct.end_agents(spool)


def test_lines_are_for_people(box: Near) -> None:
    """Without --json each step has a line: its name, how it went, its time; no escape sequence in a pipe."""
    ran = box.check("-o", "max_parallel=3", FORCE_COLOR="")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert len(lines) == len(STEPS)
    for line, step in zip(lines, STEPS, strict=True):
        assert line.startswith(f"{step:<12} ok  ")
        assert line[24:].split()[1] in ("µs", "ms", "s")
    assert "at most 3 tasks at once" in ran.out
    assert "\x1b" not in ran.out


def test_a_narrow_terminal_has_the_details_below(box: Near) -> None:
    """Where there is no room beside the times, details stand under their steps, and no line is wider."""
    ran = box.check("-o", f"port={free_port('127.0.0.1')}", COLUMNS="44")
    assert ran.code == 1
    assert max(map(len, ran.out.splitlines())) <= 44
    text = " ".join(ran.out.split())
    assert (
        "is the machine up, and sshd? If so, correct hostname or port. host key not tried login not" in text
    )
    wide = box.check("-o", f"port={free_port('127.0.0.1')}", COLUMNS="90").out
    assert max(map(len, wide.splitlines())) <= 90
    assert any(line.startswith(" " * 30) for line in wide.splitlines())


def test_the_systems_ssh_is_watched_too(box: Near) -> None:
    """With transport = "openssh" the same steps are told, as far as ssh tells of them."""
    code, steps = box.steps("transport=openssh")
    assert code == 0
    told = {one["step"]: one["detail"] for one in steps}
    assert told["settings"].endswith(", by the system's ssh")
    assert told["resolve"] == "left to ssh"
    other = make_key(box.home / "other")
    step, error, text = box.failure("transport=openssh", f"ssh_key_file={other}")
    assert (step, error) == ("login", "AuthError")
    assert "Permission denied" in text


def test_an_alias_of_the_ssh_configuration_will_do(box: Near) -> None:
    """HOST may be what ~/.ssh/config calls a machine; user and port before it and behind it count."""
    (box.home / ".ssh").mkdir()
    (box.home / ".ssh" / "config").write_text("Host nick\n  Hostname 127.0.0.1\n")
    del box.table["port"], box.table["username"]
    name = f"{box.server.username}@nick:{box.server.port}"
    code, steps = box.steps(name=name)
    assert code == 0
    assert steps[1]["detail"] == f"{box.server.username}@127.0.0.1 port {box.server.port}: 127.0.0.1"


def test_a_jump_host_is_on_the_way(box: Near, gate: SSHServer) -> None:
    """Behind a jump host nobody here looks the name up; where the jump host fails, it is named."""
    authorize(gate, box.server)
    known = box.home / "known"
    known.write_text(box.server.known_hosts_file.read_text())
    way = ("host_key_policy=accept-new", f"known_hosts_file={known}", f"proxy_jump=127.0.0.1:{gate.port}")
    ran = box.check("--json", *(word for option in way for word in ("-o", option)))
    assert ran.code == 0, ran.out
    told = {one["step"]: one["detail"] for one in json.loads(ran.out)}
    assert told["resolve"].endswith(f" port {box.server.port}: by jump host")
    assert told["jump hosts"] == "127.0.0.1"
    step, error, text = box.failure(*way[:2], f"proxy_jump=127.0.0.1:{free_port('127.0.0.1')}")
    assert (step, error) == ("jump hosts", "ConnectError")
    assert text.startswith("gpubox: jump host 127.0.0.1: port ")


def test_the_readme_shows_what_is_printed(box: Near) -> None:
    """The page's check of a machine without the Python that is asked for is as printed."""
    words = readme.typed("covalent-sshtiming check gpubox")
    ran = box.check(*words[3:])
    assert (ran.err, ran.code) == ("", 1)
    out = ran.out.replace(str(box.server.key_file), "/home/ada/.ssh/id_ed25519")
    out = out.replace(str(box.home), "/home/ada").replace(f" {box.server.username}@", " ada@")
    assert readme.shape(out) == readme.shape(readme.shown(" ".join(words))).replace(
        "Python 3.11", f"Python {OWN}"
    )


def test_forms_for_programs(box: Near) -> None:
    """--csv has what --json has; only one of them at a time."""
    options = ("-o", f"port={free_port('127.0.0.1')}")
    (rows, objects) = (box.check_here(form, *options, "gpubox").out for form in ("--csv", "--json"))
    steps = list(csv.DictReader(io.StringIO(rows)))
    assert [(one["step"], one["error"]) for one in steps] == [
        (one["step"], one["error"] or "") for one in json.loads(objects)
    ]
    assert {one["ok"] for one in steps} == {"true", "false", ""}
    assert box.check_here("--csv", "--json", "gpubox").code == 2


@pytest.mark.parametrize(
    "arguments", [[], ["a", "b"], ["a", "-o", "port"], ["a", "-o", "=1"], ["a", "--port"]]
)
def test_wrong_usage_is_2(arguments: Sequence[str], tmp_path: Path) -> None:
    """What is no usage of the verb ends with code 2, and nobody is called."""
    ran = run_verb("check", *arguments, home=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: " in ran.err


def test_help_has_an_example(tmp_path: Path) -> None:
    """--help shows how it is used."""
    ran = run_verb("check", "--help", home=tmp_path)
    assert ran.code == 0
    assert "covalent-sshtiming check gpubox --through-dispatcher\n" in ran.out
    assert "--in-server" not in ran.out
