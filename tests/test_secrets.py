"""What is secret, or the user's own, is found in no place where it need not be.

Each secret is a random word. A real dispatcher runs workflows with all of them, everything logs at its most
talkative, and then every file and every process that could hold one is searched for each, plain and encoded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.clients import dispatch_script
from support.keys import make_key, public

from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.dispatcher import dispatcher as private_dispatcher
from covalent_sshtiming.demo.sshserver import SSHServer

# Comes with every Python that the server starts; makes the server's own process as talkative as it can be.
SITE = """
import os, sys

if any(word.endswith("covalent_server.py") for word in sys.orig_argv):
    import logging
    import asyncssh
    file = logging.FileHandler(os.environ["TALK_LOG"])
    logging.getLogger().addHandler(file)
    logging.getLogger().setLevel(logging.DEBUG)
    for name in ("asyncssh", "asyncio", "covalent_sshtiming"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    asyncssh.set_debug_level(2)  # at 3 it would dump packets
"""

WORKFLOW = """
import json, sys
import covalent as ct
from covalent_sshtiming import TimingSSHExecutor

given = json.load(open(sys.argv[1]))
executor = TimingSSHExecutor(hostname="vault", timing_filepath=given["log"])

@ct.electron(executor=executor)
def work(argument, here, go, result):
    import hashlib, os, sys, time
    print(argument)
    sys.stderr.write(argument)
    open(here, "w").close()
    while not os.path.exists(go):
        time.sleep(0.02)
    variables = os.environ["PASSED_ON"] + os.environ["SET"]
    return result[::-1] + hashlib.sha256(variables.encode()).hexdigest()

@ct.electron(executor=executor)
def fail(argument):
    raise ValueError(argument)

@ct.electron(executor=TimingSSHExecutor(hostname="wrong", timing_filepath=given["log"]))
def never():
    pass

@ct.electron(executor="sshtiming")
def by_name(argument):
    return argument

ids = [
    ct.dispatch(ct.lattice(lambda *values: work(*values)))(
        given["argument"], given["here"], given["go"], given["result"][::-1]
    ),
    ct.dispatch(ct.lattice(lambda value: fail(value)))(given["argument"]),
    ct.dispatch(ct.lattice(lambda: never()))(),
    ct.dispatch(ct.lattice(lambda value: by_name(value)))(given["argument"]),
]
ends = [ct.get_result(one, wait=True) for one in ids]
print(json.dumps({
    "dicts": [executor.to_dict(), vars(executor).__repr__(), repr(executor)],
    "status": [str(end.status) for end in ends],
    "result": ends[0].result,
    "output": ends[0].get_node_result(0)["stdout"],
    "errors": [str(end.get_node_result(0)["error"]) for end in ends],
}))
"""


def forms(word: str) -> set[bytes]:
    """Return the ways in which a word may lie in a file: plain, in hexadecimal, in base64 at any offset."""
    found = {word.encode(), word.encode().hex().encode()}
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + word.encode())
        found.add(text[4:-4])
    return found


@dataclass
class Canaries:
    """The words, by what they stand for."""

    words: dict[str, str] = field(default_factory=dict)

    def word(self, name: str) -> str:
        """Return a new word."""
        return self.words.setdefault(name, f"canary{secrets.token_hex(16)}")

    def found_in(self, data: bytes, *names: str) -> list[str]:
        """Return which of them lie in some bytes."""
        return [name for name in names or self.words if any(form in data for form in forms(self.words[name]))]


@dataclass
class Run:
    """What is left of a dispatcher's run."""

    canaries: Canaries
    home: Path
    log: Path
    told: dict[str, Any]
    processes: list[tuple[str, list[str]]]
    spool: Path
    talk: bytes
    allowed: set[Path]


SECRETS = ("passphrase", "wrong", "password", "key", "passed_on")  # only their own places may hold these
# The others (argument, result, what `env` sets) Covalent stores; nothing of ours writes them down.


@pytest.fixture(scope="module")
def run(sshd: SSHServer, short_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run all workflows, look at every process in the middle of one, and return what there was."""
    canaries, place = Canaries(), tmp_path_factory.mktemp("secrets")
    home, site, spool = place / "home", place / "site", short_tmp / "secrets"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    key = make_key(place / "locked", passphrase=canaries.word("passphrase"))
    authorized = sshd.key_file.with_name("authorized_keys")
    before = authorized.read_text()
    authorized.write_text(before + public(key))
    canaries.words["key"] = key.read_text().splitlines()[3]  # a line of its base64
    (place / "password").touch(mode=0o600)
    (place / "password").write_text(canaries.word("password"))
    common = {**sshd.settings(), "hostname": sshd.host, "ssh_key_file": str(key), "remote_spool": str(spool)}
    vault = {
        "ssh_key_passphrase_env": "VAULT_PASSPHRASE",
        "password_file": str(place / "password"),
        "env_from": ["PASSED_ON"],
        "env": {"SET": canaries.word("set")},
    }
    section = {
        **common,
        **vault,
        "hosts": {
            "vault": {"hostname": sshd.host},
            "wrong": {"hostname": sshd.host, "ssh_key_passphrase_env": "WRONG_PASSPHRASE"},
        },
    }
    environment = {
        "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[1])]),
        "TALK_LOG": str(place / "talk.log"),
        "COVALENT_LOG_LEVEL": "debug",
        "VAULT_PASSPHRASE": canaries.word("passphrase"),
        "WRONG_PASSPHRASE": canaries.word("wrong"),
        "PASSED_ON": canaries.word("passed_on"),
    }
    given = {
        "log": str(place / "timing.log"),
        "argument": canaries.word("argument"),
        "result": canaries.word("result"),
        "here": str(place / "here"),
        "go": str(place / "go"),
    }
    (place / "given.json").write_text(json.dumps(given))
    try:
        with private_dispatcher(home, executors={"sshtiming": section}, environment=environment) as server:
            told, processes = _watched(server, canaries, place)
    finally:
        authorized.write_text(before)
    yield Run(
        canaries,
        home,
        place / "timing.log",
        told,
        processes,
        spool,
        (place / "talk.log").read_bytes(),
        {home / ".config/covalent/covalent.conf"},
    )
    shutil.rmtree(spool, ignore_errors=True)


def _watched(
    server: Dispatcher, canaries: Canaries, place: Path
) -> tuple[dict[str, Any], list[tuple[str, list[str]]]]:
    """Run the client, and look at all processes while its first task waits."""
    found: list[tuple[str, list[str]]] = []

    def look() -> None:
        deadline = time.monotonic() + 60
        while not (place / "here").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        found.extend(_processes(server, canaries))
        (place / "go").touch()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        told = dispatch_script(server, WORKFLOW, str(place / "given.json"))
    finally:
        watcher.join()
    return told, found


def _processes(server: Dispatcher, canaries: Canaries) -> list[tuple[str, list[str]]]:
    """Return of each process what it shows; the server and its keeper have what they were started with."""
    own = psutil.Process(server.pid)
    keepers = {own.pid, *(process.pid for process in (*own.parents(), *own.children(recursive=True)))}
    found = []
    for process in psutil.process_iter():
        shown = b""
        for name in ("cmdline",) if process.pid in keepers else ("cmdline", "environ"):
            try:
                shown += Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:
                continue
        found.append((shown[:2000].decode("utf-8", "replace"), canaries.found_in(shown)))
    return found


def test_the_workflows_did_what_they_should(run: Run) -> None:
    """Every word was used: otherwise not finding it would say nothing."""
    words = run.canaries.words
    digest = hashlib.sha256(f"{words['passed_on']}{words['set']}".encode()).hexdigest()
    assert run.told["status"] == ["COMPLETED", "FAILED", "FAILED", "COMPLETED"]
    assert run.told["result"] == words["result"] + digest
    assert words["argument"] in run.told["output"]
    assert "the passphrase does not open the key" in run.told["errors"][2]


def test_no_executor_has_a_secret(run: Run) -> None:
    """Neither its dictionary, nor its attributes, nor its text."""
    for text in run.told["dicts"]:
        assert run.canaries.found_in(json.dumps(text).encode()) == []


def test_no_file_of_the_servers_has_a_secret(run: Run) -> None:
    """The dispatch database, its object store, every log and every client's home are searched."""
    count = 0
    for path in run.home.rglob("*"):
        if path.is_file() and path not in run.allowed:
            count += 1
            assert run.canaries.found_in(path.read_bytes(), *SECRETS) == [], path
    assert any(path.suffix in (".db", ".sqlite") for path in run.home.rglob("*"))
    assert count > 10


def test_no_log_at_debug_has_anything(run: Run) -> None:
    """Neither ours, nor asyncssh's, nor Covalent's names a secret, an argument, a result or output."""
    assert b"connect.started host=" in run.talk
    assert b"[conn=" in run.talk  # asyncssh's
    assert run.canaries.found_in(run.talk) == []


def test_no_record_has_anything(run: Run) -> None:
    """The timing log and its records have none of the words."""
    data = run.log.read_bytes() + run.log.with_name("timing.log.jsonl").read_bytes()
    assert len(data.splitlines()) >= 4
    assert run.canaries.found_in(data) == []


def test_no_process_shows_anything(run: Run) -> None:
    """In the middle of a task no command line and no environment, here or there, has any of the words."""
    assert len(run.processes) > 5
    assert any("doorman" in shown for shown, _ in run.processes)
    assert [(shown, found) for shown, found in run.processes if found] == []


def test_nothing_is_left_on_the_machine(run: Run) -> None:
    """When the tasks have ended, the spool has none of the words either."""
    for path in run.spool.rglob("*"):
        if path.is_file():
            assert run.canaries.found_in(path.read_bytes()) == [], path
