"""Where fetched files go here, what they never replace, and how they are written beside the event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from covalent._shared_files.schemas.electron import ASSET_FILENAME_MAP as ELECTRON_FILES
from covalent._shared_files.schemas.lattice import ASSET_FILENAME_MAP as LATTICE_FILES
from covalent._shared_files.schemas.result import ASSET_FILENAME_MAP as RESULT_FILES
from support import direct
from support.fetching import below, home, writes

from covalent_sshtiming import errors, reserved
from covalent_sshtiming.demo.sshserver import SSHServer
from covalent_sshtiming.fetched import Wanted
from covalent_sshtiming.fetching import Fetching
from covalent_sshtiming.remote import wire


@pytest.fixture
async def machine(sshd: SSHServer, place: Path) -> AsyncIterator[direct.Machine]:
    """Return a machine whose tasks work in `place / "work"`."""
    async with direct.machine(sshd, place, remote_workdir=str(place / "work")) as reached:
        yield reached


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
