"""fetch: what a task has left in its working directory comes home, whole, checked and on record."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import direct, faults, soaking
from support.faults import until
from support.fetching import below, home, writes, writes_much

from covalent_sshtiming import errors
from covalent_sshtiming.demo.sshserver import SSHServer


@pytest.fixture
async def machine(sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a machine whose tasks work in `place / "work"`."""
    async with direct.machine(sshd, place, remote_workdir=str(place / "work")) as reached:
        yield reached


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
    async with faults.linked(sshd, place, remote_workdir=str(place)) as (machine, proxy):
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


async def test_by_the_local_executor(place: Path) -> None:
    """TimingExecutor has its tasks' files collected in the same way."""
    async with direct.here(place, remote_workdir=str(place / "work")) as machine:
        ran = await machine.run(writes({"a.h5": b"A"}), node_id=3, options={"fetch": ["*.h5"]})
        assert (ran.value, ran.stderr, below(home(machine, 3))) == ("done", "", {"a.h5": b"A"})
