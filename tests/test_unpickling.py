"""The dispatcher never unpickles a byte that came over the wire.

A guard in a process of its own, because an audit hook cannot be taken out again, makes every unpickling fail;
then tasks of several kinds run under it. That the guard would notice is shown as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.clients import dispatch_script

from covalent_sshtiming.demo.dispatcher import dispatcher as private_dispatcher
from covalent_sshtiming.demo.processes import private_environment
from covalent_sshtiming.demo.sshserver import SSHServer

# Guards the process that imports it, once armed: against a class being looked up, by an audit event that C
# and Python code both raise, and against data that needs no class, by taking the functions away.
GUARD = """
import pickle, sys

armed = False
noticed = []

class Unpickled(BaseException):
    pass

def watch(event, args):
    if armed and event == "pickle.find_class":
        noticed.append(f"{args[0]}.{args[1]}")
        raise Unpickled(noticed[-1])

sys.addaudithook(watch)

def refuse(*args, **kwargs):
    noticed.append("a call")
    raise Unpickled("a call")

def arm():
    global armed
    import _pickle, cloudpickle
    armed = True
    for module in (pickle, _pickle, cloudpickle):
        module.loads = module.load = refuse
    for module in (pickle, _pickle):
        module.Unpickler = refuse
"""

# Runs tasks under the guard, as the dispatcher would, and prints how each of them ended.
NEAR_SIDE = """
import asyncio, json, os, sys, types
from pathlib import Path

import cloudpickle
from support import direct
import guard

settings, place, marker = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
server = types.SimpleNamespace(host=settings.pop("hostname"), settings=lambda: settings)

class Trap:
    def __reduce__(self):
        return os.mkdir, (marker,)

class Own:
    def __init__(self, value):
        self.value = value

class Trapped(Exception):
    def __reduce__(self):
        return os.mkdir, (marker,)

def trap():
    return Trap()

def own():
    return [Own(1), {"two": Own(2)}]

def plain():
    return 7

def large():
    return [Own(n) for n in range(20000)]

def closure():
    return lambda x: x + 1

def raises():
    raise Trapped("caught", Trap())

def dies():
    os._exit(1)

def unpicklable():
    return (n for n in ())

def argument(value):
    return value

def kinds():
    hook = direct.hook(own, retval="value")
    return {
        "trap": (trap,),
        "own": (own,),
        "plain": (plain,),
        "large": (large,),
        "closure": (closure,),
        "raises": (raises,),
        "dies": (dies,),
        "unpicklable": (unpicklable,),
        "argument": (argument, Own(1)),
        "hooks": (argument, dict(before=[hook], after=[hook])),
    }

async def main():
    told = {}
    async with direct.machine(server, place) as machine:
        await machine.run(plain)
        calls = kinds()
        calls = {name: [direct.transportable(call[0]), *call[1:]] for name, call in calls.items()}
        guard.arm()
        for name, (function, *rest) in calls.items():
            hooks = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            ran = await machine.run(function, *rest, **hooks)
            told[name] = type(ran.error).__name__ if ran.error else ran.result.object_string[:60]
            last = ran.result or last
    try:
        last.get_deserialized()
    except guard.Unpickled:
        told["guard"] = "works"
    return {"told": told, "trapped": os.path.exists(marker), "noticed": guard.noticed}

print(json.dumps(asyncio.run(main())))
"""

# Comes with every Python that the guarded server starts; guards the server and its forks from the moment that
# the report exists, because modules of its own unpickle while they are imported.
SITE = """
import os, sys

report = os.environ.get("GUARD_REPORT", "")

def watch(event, args):
    if event == "pickle.find_class" and os.path.exists(report):
        with open(report, "a") as file:
            file.write(f"{args[0]}.{args[1]}\\n")
        raise RuntimeError("unpickled in the server")

if any(word.endswith("covalent_server.py") for word in sys.orig_argv):
    sys.addaudithook(watch)
"""

WORKFLOW = """
import json, os, sys
import covalent as ct
from covalent_sshtiming import TimingSSHExecutor

log, report = sys.argv[1:]
executor = TimingSSHExecutor(timing_filepath=log)

class Own:
    def __init__(self, value):
        self.value = value

@ct.electron(executor=executor)
def make(value):
    return [Own(value)]

@ct.electron(executor=executor, call_before=[ct.DepsCall(lambda: Own(2), retval_keyword="more")])
def add(made, more=None):
    return Own(made[0].value + more.value)

@ct.electron(executor=executor)
def fail():
    raise ValueError(Own(3))

@ct.lattice(executor=executor, workflow_executor=executor)
def good(value):
    return add(make(value))

@ct.lattice(executor=executor, workflow_executor=executor)
def bad():
    return fail()

@ct.electron(executor="local")
def near(own):
    return own

@ct.lattice(executor="local", workflow_executor="local")
def unpickles(own):
    return near(own)

ids = [ct.dispatch(good)(1), ct.dispatch(bad)()]
done, failed = [ct.get_result(one, wait=True) for one in ids]
noticed = open(report).read()
local = ct.get_result(ct.dispatch(unpickles)(Own(1)), wait=True)
print(json.dumps([str(done.status), done.result.value, str(failed.status), noticed, str(local.status)]))
"""


def paths(*more: Path) -> str:
    """Return a PYTHONPATH with this project, its tests' helpers and more in front."""
    tests = Path(__file__).parent
    own = [*more, tests.parent, tests]
    return os.pathsep.join([*map(str, own), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def near_side(sshd: SSHServer, short_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what tasks of every kind came to under the guard."""
    directory = tmp_path_factory.mktemp("near")
    (directory / "guard.py").write_text(GUARD)
    script = directory / "near_side.py"
    script.write_text(NEAR_SIDE)
    settings = json.dumps({"hostname": sshd.host, **sshd.settings()})
    place = short_tmp / "unpickling"
    done = subprocess.run(
        [sys.executable, script, settings, place, directory / "trapped"],
        env={**private_environment(directory / "home"), "PYTHONPATH": paths(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_guard_notices(near_side: dict[str, Any]) -> None:
    """Unpickling a result under the guard fails, so a run that passes under it has unpickled nothing."""
    assert near_side["told"]["guard"] == "works"


def test_nothing_is_unpickled_before_a_client_asks(near_side: dict[str, Any]) -> None:
    """Results, failures, hooks and arguments of every kind pass through without a single unpickling."""
    assert near_side["noticed"] == ["a call"]  # the one that shows that the guard works
    kinds = {name: end for name, end in near_side["told"].items() if name != "guard"}
    failures = {name for name, end in kinds.items() if end == "TaskEnded"}
    assert failures == {"raises", "dies", "unpicklable"}
    assert kinds["plain"] == "7"
    assert set(kinds) - failures == {"trap", "own", "plain", "large", "closure", "argument", "hooks"}


def test_a_result_that_acts_when_unpickled_does_not_act(near_side: dict[str, Any]) -> None:
    """A result, or an exception, whose unpickling makes a directory leaves none in the dispatcher."""
    assert near_side["trapped"] is False


def test_a_real_server_unpickles_nothing(sshd: SSHServer, short_tmp: Path, tmp_path: Path) -> None:
    """A Covalent server in which no class can be unpickled runs workflows that use our executor."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    report = tmp_path / "report"
    executors = {
        "sshtiming": {
            "hostname": sshd.host,
            **sshd.settings(),
            "remote_spool": str(short_tmp / "guarded"),
            "python_path": sys.executable,
        }
    }
    environment = {"PYTHONPATH": paths(site), "GUARD_REPORT": str(report)}
    with private_dispatcher(tmp_path / "home", executors=executors, environment=environment) as server:
        report.touch()
        *ours, noticed, local = dispatch_script(server, WORKFLOW, str(tmp_path / "timing.log"), str(report))
    assert ours == ["COMPLETED", 3, "FAILED"]
    assert noticed == ""
    # Covalent's local executor does unpickle there, which shows that the guard is on duty.
    assert local == "FAILED"
    assert report.read_text()
