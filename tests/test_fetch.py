"""fetch: what a task has left in its working directory comes home, whole, checked and on record."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from covalent._shared_files.exceptions import TaskCancelledError
from covalent._shared_files.schemas.electron import ASSET_FILENAME_MAP as ELECTRON_FILES
from covalent._shared_files.schemas.lattice import ASSET_FILENAME_MAP as LATTICE_FILES
from covalent._shared_files.schemas.result import ASSET_FILENAME_MAP as RESULT_FILES
from support import direct, farside, faults, soaking
from support.farside import FarSide, new_key
from support.faults import through, until
from support.proxy import Proxy

from covalent_sshtiming import errors, reserved
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.fetched import Wanted
from covalent_sshtiming.fetching import Fetching
from covalent_sshtiming.remote import leavings, wire


@pytest.fixture
async def machine(sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a machine whose tasks work in `place / "work"`."""
    async with direct.machine(sshd, place, remote_workdir=str(place / "work")) as reached:
        yield reached


def writes(files: dict[str, bytes], then: str = "") -> Callable[[], str]:
    """Return a function that writes files below its working directory, and then runs a line of code."""

    def function() -> str:
        import os

        for name, content in files.items():
            path = os.fsencode(name)
            os.makedirs(os.path.dirname(path) or b".", exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        exec(then)  # noqa: S102 - the test's own line
        return "done"

    return function


def below(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory by their names, with what is in them."""
    return {
        os.fsdecode(os.path.relpath(path, directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def home(machine: direct.Machine, node: int) -> Path:
    """Return where a node's files go by default."""
    return machine.log.parent / "dispatch" / f"node_{node}"


async def test_what_the_patterns_name_comes_home(machine: direct.Machine) -> None:
    """Files that fit come into node_<id> of the dispatch's results, with their directories; others do not."""
    left = {"a.h5": b"A" * 70_000, "b.h5": b"", "c.txt": b"no", "plots/x.png": b"X", "plots/y.jpg": b"no"}
    left |= {"logs/deep/er/z.log": b"Z", ".h5": b"hidden"}
    wanted = ["*.h5", "plots/*.png", "logs/**"]
    ran = await machine.run(writes(left), node_id=3, options={"fetch": wanted})
    assert (ran.value, ran.stderr) == ("done", "")
    expected = {name: left[name] for name in ("a.h5", "b.h5", "plots/x.png", "logs/deep/er/z.log")}
    assert below(home(machine, 3)) == expected
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((home(machine, 3) / "a.h5").stat().st_mode) == 0o666 & ~mask
    record = machine.records()[-1]
    assert (record["fetched_files"], record["fetched_bytes"], record["fetched_left"]) == (4, 70_002, 0)
    assert record["fetched_to"] == str(home(machine, 3))
    assert json.loads(record["fetched_names"]) == ["a.h5", "b.h5", "plots/x.png", "logs/deep/er/z.log"]
    assert record["phase_fetch_wall_s"] > 0
    assert record["cpu_s"] < 0.05
    assert below(Path(machine.settings["remote_workdir"])) == left  # nothing of the user's is deleted


async def test_a_task_that_asks_for_nothing_has_no_figures(machine: direct.Machine) -> None:
    """Without `fetch` nothing is fetched, no directory is made, and the record's fields are null."""
    await machine.run(writes({"a.h5": b"A"}), node_id=3)
    assert not home(machine, 3).exists()
    record = machine.records()[-1]
    names = ("fetched_files", "fetched_bytes", "fetched_left", "fetched_to", "fetched_names")
    assert [record[name] for name in (*names, "sent_files", "phase_fetch_wall_s")] == [None] * 7


async def test_only_what_the_task_itself_has_left(machine: direct.Machine) -> None:
    """Of what was there before only those come that the task has changed, even if the size is the same."""
    options = {"fetch": ["*.h5"]}
    await machine.run(writes({"old.h5": b"1", "other.h5": b"1"}), node_id=1, options=options)
    await asyncio.sleep(0.1)
    await machine.run(writes({"new.h5": b"2", "other.h5": b"2"}), node_id=2, options=options)
    assert below(home(machine, 1)) == {"old.h5": b"1", "other.h5": b"1"}
    assert below(home(machine, 2)) == {"new.h5": b"2", "other.h5": b"2"}


async def test_odd_names_come_as_they_are(machine: direct.Machine) -> None:
    """A name with a newline, one that is no UTF-8, one like an option: each is a name, here as there."""
    left = {"a\nb.h5": b"1", "\udcff\udc80.h5": b"2", "-rf.h5": b"3", " .h5": b"4", "\x1b[31m.h5": b"5"}
    ran = await machine.run(writes(left), node_id=3, options={"fetch": ["*.h5", "*.none"]})
    assert below(home(machine, 3)) == left
    assert set(json.loads(machine.records()[-1]["fetched_names"])) == set(left)
    assert ran.stderr == "warning: 127.0.0.1: nothing that the task left fits fetch = '*.none'.\n"


async def test_names_are_bytes_there(sshd: SSHServer, place: Path) -> None:
    """In a locale that has no ü, a name with one is the same: sent, fetched, in a pattern."""
    lines = ["export LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"]
    (place / "kühl.txt").write_text("cold")
    options = {"send": [str(place / "kühl.txt")], "fetch": ["kü*"], "setup_commands": lines}

    def renames() -> str:
        import os
        import sys

        os.rename("kühl.txt".encode(), "kühler.txt".encode())
        return sys.getfilesystemencoding()

    async with direct.machine(sshd, place, remote_workdir=str(place / "work")) as machine:
        ran = await machine.run(renames, node_id=3, options=options)
        assert (ran.value, ran.stderr) == ("ascii", "")
        assert below(home(machine, 3)) == {"kühler.txt": b"cold"}


def test_what_cannot_be_read_stays(crowded: FarSide, place: Path) -> None:
    """What may not be read is told of; the rest comes, and the next task begins."""
    (place / "work").mkdir()
    (place / "work").chmod(0o777)
    lock = "os.mkdir('shut'); os.mkdir('listed'); open('listed/b.h5', 'w').close(); os.chmod('a.h5', 0)"
    lock += "; os.chmod('shut', 0); os.chmod('listed', 0o444)"
    told = []
    for function in (writes({"a.h5": b"A", "c.h5": b"C"}, lock), writes({"d.h5": b"D"})):
        with crowded.line() as line:
            submit(line, new_key(), function, place / "work", "**")
            told += [(head.get("name"), head.get("left")) for head, _ in files(line) if "end" not in head]
    stays = [("a.h5", "unreadable"), ("c.h5", None), ("listed", "unreadable"), ("shut", "unreadable")]
    assert told == [*stays, ("d.h5", None)]


async def test_no_link_is_followed(machine: direct.Machine, place: Path) -> None:
    """Links out of the directory, links to directories, whatever is no file: they stay, and are told of."""
    (place / "secret").mkdir()
    (place / "secret" / "key.h5").write_text("not for everybody")
    secret = place / "secret" / "key.h5"
    links = (
        f"os.symlink({str(secret)!r}, 'out.h5'); os.symlink('../secret', 'plots'); os.symlink('real.h5', "
        "'in.h5'); os.mkfifo('pipe.h5'); os.mkdir('dir'); os.symlink('x', 'dan\\ngling.h5')"
    )
    wanted = ["*.h5", "plots/*.h5", "dir"]
    ran = await machine.run(writes({"real.h5": b"R"}, links), node_id=3, options={"fetch": wanted})
    assert ran.value == "done"
    assert below(home(machine, 3)) == {"real.h5": b"R"}
    assert set(ran.stderr.splitlines()) == {
        "warning: 127.0.0.1: 'out.h5' stays there: it is a link, and none is followed.",
        "warning: 127.0.0.1: 'in.h5' stays there: it is a link, and none is followed.",
        "warning: 127.0.0.1: 'dan\\ngling.h5' stays there: it is a link, and none is followed.",
        "warning: 127.0.0.1: 'plots' stays there: it is a link, and none is followed.",
        "warning: 127.0.0.1: 'pipe.h5' stays there: it is no regular file.",
        "warning: 127.0.0.1: 'dir' stays there: it is a directory; add /** to fetch what is in it.",
        "warning: 127.0.0.1: nothing that the task left fits fetch = 'plots/*.h5'.",
    }
    record = machine.records()[-1]
    assert (record["fetched_files"], record["fetched_left"]) == (1, 6)


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("raise ValueError('late')", "failed"),
        ("os.kill(os.getpid(), 9)", "killed"),
        ("os._exit(3)", "failed"),
        ("import time; time.sleep(60)", "timeout"),
        ("os.chdir('/')", "completed"),
        ("os.closerange(3, 100)", "completed"),
    ],
)
async def test_however_it_ends_its_files_come(machine: direct.Machine, then: str, status: str) -> None:
    """A task that fails, dies, is stopped, or goes elsewhere: what it has left until then comes home."""
    options = {"fetch": ["*.h5", "*.none"], "time_limit": 1}
    ran = await machine.run(writes({"a.h5": b"A"}, then), node_id=3, options=options)
    record = machine.records()[-1]
    assert record["status"] == status
    assert below(home(machine, 3)) == {"a.h5": b"A"}
    assert record["fetched_files"] == 1
    assert ("nothing that the task left" in ran.stderr) == (status == "completed")


async def test_a_task_whose_supervisor_was_killed(machine: direct.Machine, place: Path) -> None:
    """Where nobody could look at the task's end, the look is taken when it is found to have died."""
    wait = f"open({str(place / 'there')!r}, 'w').close(); import time; time.sleep(60)"
    running = asyncio.ensure_future(
        machine.run(writes({"a.h5": b"A"}, wait), node_id=3, options={"fetch": ["*.h5"]})
    )
    await until((place / "there").exists)
    (known,) = faults.started(machine)
    faults.kill(int(known["pid"]))
    ran = await running
    assert isinstance(ran.error.__cause__ if ran.error else None, errors.TaskDied)
    assert below(home(machine, 3)) == {"a.h5": b"A"}


async def test_a_cancelled_tasks_files_stay(machine: direct.Machine, place: Path) -> None:
    """Who cancels a task waits for nothing of it: its files are where it has left them, and nowhere else."""
    wait = f"open({str(place / 'there')!r}, 'w').close(); import time; time.sleep(60)"
    task: dict[str, Any] = {"dispatch_id": "cancelled", "node_id": 3}
    running = asyncio.ensure_future(
        machine.run(writes({"a.h5": b"A"}, wait), **task, options={"fetch": ["*.h5"]})
    )
    await until((place / "there").exists)
    await machine.executor().cancel(task, None)
    assert isinstance((await running).error, direct.TaskCancelledError)
    assert not (machine.log.parent / "cancelled").exists()
    assert (place / "work" / "a.h5").read_bytes() == b"A"
    assert machine.records()[-1]["status"] == "cancelled"
    await until(lambda: not list(machine.spool.glob("tasks/*")))


async def test_a_thousand_files(machine: direct.Machine) -> None:
    """1,000 files of all directories come, each with its own content, and nothing of them is left half."""
    left = {f"d{n % 7}/{n:04}.h5": b"%d" % n * (n % 50) for n in range(1000)}
    begun = asyncio.get_running_loop().time()
    ran = await machine.run(writes(left), node_id=3, options={"fetch": ["**/*.h5"]})
    print(f"1,000 files in {asyncio.get_running_loop().time() - begun:.2f} s")
    assert (ran.value, ran.stderr) == ("done", "")
    assert below(home(machine, 3)) == left
    record = machine.records()[-1]
    assert (record["fetched_files"], record["fetched_bytes"]) == (1000, sum(map(len, left.values())))
    names = json.loads(record["fetched_names"])
    assert names == sorted(left)[: len(names)]
    assert len(names) > 100


async def test_a_large_file_holds_nobody_up(sshd: SSHServer, place: Path) -> None:
    """While a file of 24 MiB comes over a slow link, tasks on the same connection go on as ever."""
    async with (
        Proxy(sshd.host, sshd.port) as proxy,
        direct.machine(sshd, place, remote_workdir=str(place), **through(proxy, sshd, place)) as machine,
    ):
        proxy.down.bandwidth = 12e6
        large = machine.run(writes_much(24 << 20), node_id=3, options={"fetch": ["*.h5"]})
        running, ended = asyncio.ensure_future(large), 0
        while not running.done():
            assert (await machine.run(lambda n: n, ended)).value == ended
            ended += 1
        ran = await running
        assert (ran.value, machine.host.connections) == ("done", 1)
        assert (home(machine, 3) / "a.h5").stat().st_size == 24 << 20
        assert ended > 5
        (record,) = [one for one in machine.records() if one["fetched_files"] == 1]
        assert record["phase_fetch_wall_s"] > 1 > record["phase_download_wall_s"]
        assert record["cpu_s"] < 0.1


def writes_much(size: int) -> Callable[[], str]:
    """Return a function that leaves a file with holes of this size."""

    def function() -> str:
        with open("a.h5", "wb") as file:
            file.truncate(size)
        return "done"

    return function


async def test_large_files_take_little_memory(sshd: SSHServer, place: Path) -> None:
    """A file of 64 MiB goes out and comes back byte for byte, and never lies in this process's memory."""
    seen = await soaking.carries(sshd, place, 64 << 20)
    assert [move.whole for move in seen.values()] == [True, True]
    assert max(move.peak for move in seen.values()) < 40 << 20


async def test_many_tasks_files_at_once(machine: direct.Machine) -> None:
    """Tasks that end at the same time all have their files, though only some are read at once there."""
    options = {"fetch": ["*.h5"], "create_unique_workdir": True, "max_parallel": 30}
    work = [machine.run(writes({"a.h5": b"%d" % n}), node_id=n, options=options) for n in range(30)]
    assert [ran.stderr for ran in await asyncio.gather(*work)] == [""] * 30
    assert [below(home(machine, n)) for n in range(30)] == [{"a.h5": b"%d" % n} for n in range(30)]


# ---- caps


async def test_over_the_caps_the_rest_stays_and_is_told_of(machine: direct.Machine) -> None:
    """The first pattern's files come first, as many as may; the others are told of, the result is kept."""
    left = {f"{n:03}.log": b"x" * 100 for n in range(300)} | {"z.h5": b"z" * 1000}
    options = {"fetch": ["*.h5", "*.log"], "fetch_max_files": 4}
    ran = await machine.run(writes(left), node_id=1, options=options)
    assert ran.value == "done"
    assert sorted(below(home(machine, 1))) == ["000.log", "001.log", "002.log", "z.h5"]
    lines = ran.stderr.splitlines()
    assert lines[0] == ("warning: 127.0.0.1: '003.log' stays there: there are more than fetch_max_files = 4.")
    assert lines[20:] == ["warning: and 180 more like these.", "warning: 127.0.0.1: 97 more stay there."]
    assert machine.records()[-1]["fetched_left"] == 297
    options = {"fetch": ["*.h5", "*.log"], "fetch_max_bytes": 250}
    ran = await machine.run(writes(left), node_id=2, options=options)
    assert (ran.value, sorted(below(home(machine, 2)))) == ("done", ["000.log", "001.log"])
    assert ran.stderr.startswith(
        "warning: 127.0.0.1: 'z.h5' stays there: with it they would be over fetch_max_bytes = 250.\n"
    )


# ---- where to


@pytest.mark.parametrize(("to", "prefix"), [("", ""), (".", "node_3/"), ("{place}/dispatch/", "node_3/")])
async def test_covalents_own_files_are_not_replaced(
    machine: direct.Machine, place: Path, to: str, prefix: str
) -> None:
    """Covalent reads pickles in a node's directory: no file of a machine's gets the name of one of those."""
    names = ("function.tobj", "Results.TOBJ", "error.log/x", "sub/function.tobj")
    options = {"fetch": ["**"], "fetch_to": to.format(place=machine.log.parent)}
    ran = await machine.run(writes({prefix + name: b"evil" for name in names}), node_id=3, options=options)
    assert below(home(machine, 3)) == {"sub/function.tobj": b"evil"}
    own = (
        "was not kept here: Covalent has a file of its own there; set fetch_to to another place. It is still"
    )
    assert ran.stderr.count(own) == 3


def test_covalents_own_files_are_known() -> None:
    """Every file that Covalent's object store makes for a dispatch or a node is one of those."""
    assert {*ELECTRON_FILES.values(), *LATTICE_FILES.values(), *RESULT_FILES.values()} <= reserved.NAMES


async def test_fetch_to_is_another_place(machine: direct.Machine, place: Path) -> None:
    """fetch_to names the directory, {dispatch_id} and {node_id} with it; a file of a name is replaced."""
    options = {"fetch": ["a.h5"], "fetch_to": str(place / "out" / "{dispatch_id}-{node_id}")}
    for content in (b"first", b"second"):
        await machine.run(writes({"a.h5": content}), node_id=5, options=options)
    assert below(place / "out") == {"dispatch-5/a.h5": b"second"}
    assert not home(machine, 5).exists()
    await machine.run(writes({"a.h5": b"third"}), node_id=5, options={"fetch": ["a.h5"], "fetch_to": "sub"})
    assert below(machine.log.parent / "dispatch" / "sub") == {"a.h5": b"third"}


async def test_links_here_lead_nowhere(machine: direct.Machine, place: Path) -> None:
    """A link in the results directory is not walked through, nor is one in a file's place written."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "a.h5").write_bytes(b"mine")
    home(machine, 1).parent.mkdir()
    home(machine, 1).symlink_to(outside)
    home(machine, 2).mkdir()
    (home(machine, 2) / "plots").symlink_to(outside)
    (home(machine, 2) / "a.h5").symlink_to(outside / "a.h5")
    left = {"a.h5": b"A", "plots/a.h5": b"P"}
    rans = [await machine.run(writes(left), node_id=n, options={"fetch": ["**/*.h5"]}) for n in (1, 2)]
    assert [ran.value for ran in rans] == ["done", "done"]
    assert below(outside) == {"a.h5": b"mine"}
    assert (home(machine, 2) / "a.h5").read_bytes() == b"A"
    assert not (home(machine, 2) / "a.h5").is_symlink()
    assert rans[1].stderr == (
        f"warning: '{home(machine, 2)}/plots/a.h5' was not kept here: Not a directory (errno 20). It is "
        "still in the task's working directory.\n"
    )
    assert machine.records()[-1]["fetched_left"] == 1


async def test_by_the_local_executor(place: Path) -> None:
    """TimingExecutor has its tasks' files collected in the same way."""
    async with direct.here(place, remote_workdir=str(place / "work")) as machine:
        ran = await machine.run(writes({"a.h5": b"A"}), node_id=3, options={"fetch": ["*.h5"]})
        assert (ran.value, ran.stderr, below(home(machine, 3))) == ("done", "", {"a.h5": b"A"})


# ---- links that break, processes that die


async def test_a_cut_in_mid_file_costs_nothing(sshd: SSHServer, place: Path) -> None:
    """Wherever the link is cut while files come, all of them are there in the end, and nothing else."""
    left = {f"{n}.h5": os.urandom(1 << 10) * 300 for n in range(6)}
    async with (
        Proxy(sshd.host, sshd.port) as proxy,
        direct.machine(
            sshd,
            place,
            **{**through(proxy, sshd, place), "retry_wait_time": 0.1, "remote_workdir": str(place / "work")},
        ) as machine,
    ):
        assert (await machine.run(lambda: "warm")).value == "warm"
        for node, share in enumerate((0.05, 0.4, 0.75)):
            proxy.down.cut_after = proxy.down.count + int(share * 6 * 300 * 1024)
            options = {"fetch": ["*.h5"], "create_unique_workdir": True}
            ran = await machine.run(writes(left), node_id=node, options=options)
            assert (ran.value, ran.stderr) == ("done", "")
            assert below(home(machine, node)) == left
            assert machine.records()[-1]["fetched_files"] == 6
            assert proxy.connections == node + 2


def test_who_attaches_goes_on_where_it_was(place: Path) -> None:
    """An attach says how many files are settled, and is told of the others; else it is told of none."""
    key = new_key()
    with FarSide(place / "far") as far:
        with far.line() as line:
            submit(line, key, writes({f"{n}.h5": b"%d" % n for n in range(4)}), place / "work")
            assert [header.get("name") for header, _ in files(line)] == ["0.h5", "1.h5", "2.h5", "3.h5", None]
        with far.line() as line:
            line.attach(key, files=3)
            (header, body), (last, _) = files(line)
            assert (header["name"], header["size"], body, last) == ("3.h5", 1, b"3", {"end": True, "more": 0})
        (place / "work" / "1.h5").write_text("changed")
        (place / "work" / "2.h5").unlink()
        with far.line() as line:
            line.attach(key, files=1)
            told = [header.get("left", "") for header, _ in files(line)]
            assert told == ["changed", "gone", "", ""]
            line.attach(key)
            assert line.outcome(key).status == "completed"  # which fails for a frame of a file


def test_what_comes_after_its_end_is_not_the_tasks(place: Path) -> None:
    """What somebody puts into the working directory between a task's end and its delivery does not come."""
    key = new_key()
    with FarSide(place / "far") as far:
        with far.line() as line:
            submit(line, key, writes({"a.h5": b"A"}), place / "work")
            farside.until((far.task(key) / "started").exists, "the task to start")
        farside.until((far.task(key) / "outcome").exists, "the task to end")
        (place / "work" / "b.h5").write_text("somebody else's")
        with far.line() as line:
            line.attach(key, files=0)
            assert [header.get("name") for header, _ in files(line)] == ["a.h5", None]


def test_what_was_written_a_moment_before_counts_as_the_tasks(tmp_path: Path) -> None:
    """A file that is written within a tick of its clock before the task may be written again unnoticed."""
    (tmp_path / "old.h5").touch()
    os.utime(tmp_path / "old.h5", (1e9, 1e9))
    (tmp_path / "new.h5").touch()
    directory = noted_in(tmp_path)
    assert [entry.name for entry in leavings.noted(directory).entries] == ["new.h5"]


def noted_in(work: Path) -> str:
    """Have a task begin in a directory, and return its own."""
    directory = work / "task"
    directory.mkdir()
    leavings.remember(str(directory), leavings.Order(str(work), ["*.h5"], 1 << 20, 100))
    return str(directory)


@pytest.mark.parametrize("how", ["rewritten", "shorter", "longer", "replaced"])
def test_what_changes_while_it_is_read_is_left(tmp_path: Path, how: str) -> None:
    """A file that changes on its way is told of as changed, and never passed as whole."""
    path, size = tmp_path / "a.h5", 3 * leavings.PIECE
    path.write_bytes(b"1" * size)
    told = leavings.told(noted_in(tmp_path), 0)
    header, body = next(told)
    assert (header, body) == ({"name": "a.h5", "size": size}, b"1" * leavings.PIECE)
    if how == "replaced":
        path.unlink()
    path.write_bytes(b"2" * {"shorter": 5, "longer": 2 * size}.get(how, size))
    rest = list(told)
    assert rest[-1] == ({"end": True, "more": 0}, b"")
    if how == "replaced":  # the one that it had open is still what it was
        assert "sha256" in rest[-2][0]
    else:
        assert rest[-2] == ({"left": "changed"}, b"")


async def test_two_names_for_one_file_here(tmp_path: Path) -> None:
    """Where the file system here takes two names for one, as some do with upper case, the first one stays."""
    fetching = Fetching(Wanted(tmp_path, "node_1", None, 100, 100))
    fetching.begin(lambda _: None)
    for content in (b"first", b"second"):  # the same name twice, which is all that such a system sees
        about = {"name": "a.h5", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        fetching.take(about, content)
    brought = await fetching.finish()
    assert below(tmp_path) == {"node_1/a.h5": b"first"}
    assert brought.warnings("far", completed=True) == (
        f"warning: '{tmp_path}/node_1/a.h5' was not kept here: the file system here takes its name for "
        "that of another one. It is still in the task's working directory.\n"
    )
    assert brought.record()["fetched_left"] == 1


async def test_what_is_faster_than_the_disk_is_refused(tmp_path: Path) -> None:
    """Who sends on without waiting for what was taken is cut off before it fills the memory."""
    fetching = Fetching(Wanted(tmp_path, "", None, 1 << 40, 100))
    fetching.begin(lambda _: None)
    fetching.take({"name": "a.h5", "size": 1 << 40}, b"")
    with pytest.raises(errors.ProtocolError, match="faster than they are taken"):
        for _ in range(1 + (wire.FILE_WINDOW >> 16)):
            fetching.take({}, bytes(1 << 16))
    await fetching.finish()
    assert below(tmp_path) == {}


async def test_who_is_cancelled_has_it_written_first(tmp_path: Path) -> None:
    """A run that is cancelled while its last files are written ends when they are, with nothing half."""
    fetching = Fetching(Wanted(tmp_path, "", None, 1 << 40, 100))
    fetching.begin(lambda _: None)
    fetching.take({"name": "a.h5", "size": 3 << 20}, b"")
    for _ in range(48):
        fetching.take({}, bytes(1 << 16))
    fetching.take({"sha256": hashlib.sha256(bytes(3 << 20)).hexdigest()}, b"")
    fetching.take({"name": "b.h5", "size": 9}, b"half")
    finishing = asyncio.ensure_future(fetching.finish())
    for _ in range(3):
        await asyncio.sleep(0)
        finishing.cancel()
    assert (await finishing).files == {"a.h5": 3 << 20}
    assert below(tmp_path) == {"a.h5": bytes(3 << 20)}


async def test_what_comes_when_nobody_waits_is_dropped(tmp_path: Path) -> None:
    """Of a task that its cancel let go of nothing is written any more, and nothing of it stays half."""
    fetching = Fetching(Wanted(tmp_path, "", None, 1 << 40, 100))
    fetching.begin(lambda _: None)
    assert fetching.take({"name": "a.h5", "size": 2}, b"a")
    await fetching.finish()
    assert not fetching.take({"sha256": hashlib.sha256(b"ab").hexdigest()}, b"b")
    fetching.begin(lambda _: None)
    assert not fetching.take({"name": "b.h5", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}, b"")
    await fetching.finish()
    assert list(tmp_path.iterdir()) == []


def submit(line: Any, key: str, function: Callable[[], Any], work: Path, pattern: str = "*.h5") -> None:
    """Submit a task that is asked for what it leaves in a directory."""
    line.submit(key, function, spec={"workdir": str(work), "fetch": [[pattern], 1 << 30, 1000]}, files=0)


def files(line: Any) -> list[tuple[dict[str, Any], bytes]]:
    """Return the frames of files that a line is told, up to the outcome; each is taken at once."""
    found: list[tuple[dict[str, Any], bytes]] = []
    taken = 0
    while True:
        frame = line.receive()
        if frame.type == wire.OUTCOME:
            return found
        if frame.type == wire.FILE:
            found.append((frame.header, frame.body))
            taken += wire.file_cost(frame.body)
            line.send(wire.FILE, frame.task, {"taken": taken})


def test_no_more_than_a_window_is_under_way(place: Path) -> None:
    """A client that takes nothing is sent so much and no more; once it takes, the rest comes."""
    key, size = new_key(), 3 * wire.FILE_WINDOW
    with FarSide(place / "far") as far, far.line() as line:
        submit(line, key, writes_much(size), place / "work")
        frame, got = line.receive(), 0
        while frame.type != wire.FILE:
            frame = line.receive()
        with pytest.raises(AssertionError, match="nothing was heard"):
            while True:
                got += len(frame.body)
                frame = line.receive(1.0)
        assert wire.FILE_WINDOW - 2 * wire.MAX_BODY < got <= wire.FILE_WINDOW
        line.send(wire.FILE, frame.task, {"taken": 1 << 62})
        assert got + sum(len(body) for _, body in files(line)) == size


async def test_a_courier_that_is_killed_costs_its_files_only(sshd: SSHServer, place: Path) -> None:
    """Where reading the files breaks off, the result is kept, and a sentence says what is missing."""
    async with (
        Proxy(sshd.host, sshd.port) as proxy,
        direct.machine(
            sshd, place, remote_workdir=str(place / "work"), **through(proxy, sshd, place)
        ) as machine,
    ):
        proxy.down.bandwidth = 10e6
        running = asyncio.ensure_future(
            machine.run(writes_much(40 << 20), node_id=3, options={"fetch": ["*.h5"]})
        )
        await until(lambda: couriers(machine))
        os.kill(couriers(machine)[0], signal.SIGKILL)
        ran = await running
        assert ran.value == "done"
        assert ran.stderr == (
            "warning: 127.0.0.1: not all files came: reading them there broke off. They stay there.\n"
        )
        assert machine.records()[-1]["fetched_files"] == 0
        assert below(home(machine, 3)) == {}
        assert (await machine.run(lambda: "next")).value == "next"


async def test_a_cancel_ends_the_fetching(sshd: SSHServer, place: Path) -> None:
    """A cancel that comes when the task has ended and its files are on the way ends those, as a cancel."""
    async with (
        Proxy(sshd.host, sshd.port) as proxy,
        direct.machine(
            sshd, place, remote_workdir=str(place / "work"), **through(proxy, sshd, place)
        ) as machine,
    ):
        proxy.down.bandwidth = 10e6
        task: dict[str, Any] = {"dispatch_id": "no longer", "node_id": 3}
        running = asyncio.ensure_future(
            machine.run(writes_much(1 << 30), **task, options={"fetch": ["*.h5"]})
        )
        await until(lambda: couriers(machine))
        await machine.executor().cancel(task, None)
        ran = await asyncio.wait_for(running, 5)
        assert isinstance(ran.error, TaskCancelledError)
        assert machine.records()[-1]["status"] == "cancelled"
        assert below(machine.log.parent / "no longer") == {}
        await until(lambda: not couriers(machine))


async def test_a_cancel_does_not_wait_for_its_turn(sshd: SSHServer, place: Path) -> None:
    """A task whose files wait until others' have been read is cancelled at once, and theirs still come."""
    async with (
        Proxy(sshd.host, sshd.port) as proxy,
        direct.machine(
            sshd, place, remote_workdir=str(place / "work"), **through(proxy, sshd, place)
        ) as machine,
    ):
        proxy.down.bandwidth = 10e6
        options = {"fetch": ["*.h5"], "create_unique_workdir": True}
        function = writes_much(5 << 20)  # more than a window, so that no courier is done before
        first = [
            asyncio.ensure_future(machine.run(function, node_id=node, options=options)) for node in range(8)
        ]
        await until(lambda: len(couriers(machine)) == 8)
        task: dict[str, Any] = {"dispatch_id": "no longer", "node_id": 8}
        last = asyncio.ensure_future(machine.run(function, **task, options=options))
        await until(lambda: len(list(machine.spool.glob("tasks/*/outcome"))) == 9)
        await machine.executor().cancel(task, None)
        assert isinstance((await asyncio.wait_for(last, 5)).error, TaskCancelledError)
        assert not any(running.done() for running in first)
        proxy.down.bandwidth = 1e9
        assert [ran.value for ran in await asyncio.gather(*first)] == ["done"] * 8
        assert [list(below(home(machine, node))) for node in range(8)] == [["a.h5"]] * 8


async def test_an_agent_that_is_killed_costs_no_file(sshd: SSHServer, place: Path) -> None:
    """The agent dies with files under way: the next one goes on with the first that is not here yet."""
    async with (
        Proxy(sshd.host, sshd.port) as proxy,
        direct.machine(
            sshd, place, remote_workdir=str(place / "work"), **through(proxy, sshd, place)
        ) as machine,
    ):
        proxy.down.bandwidth = 10e6
        left = {f"{n}.h5": os.urandom(1 << 10) * 1024 for n in range(12)}
        running = asyncio.ensure_future(machine.run(writes(left), node_id=3, options={"fetch": ["*.h5"]}))
        await until((home(machine, 3) / "3.h5").exists)
        (agent,) = machine.agents()
        faults.kill(agent)
        proxy.down.bandwidth = 1e9
        ran = await running
        assert (ran.value, ran.stderr) == ("done", "")
        assert below(home(machine, 3)) == left
        assert machine.records()[-1]["fetched_files"] == 12


def couriers(machine: direct.Machine) -> list[int]:
    """Return the processes there that have a file of a task's open."""
    found: list[int] = []
    for agent in machine.agents():
        for child in psutil.Process(agent).children():
            with contextlib.suppress(psutil.Error):
                if any(one.path.endswith(".h5") for one in child.open_files()):
                    found.append(child.pid)
    return found
