"""GPUs and other devices: each task has its own, whatever dies.

There is no GPU here: `nvidia-smi` is a few lines of tests/support/gpus.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import direct, farside
from support.farside import FarSide, new_key
from support.faults import until
from support.gpus import GPUs
from support.there import alive, begun

from covalent_sshtiming.remote import gpus, needs, places, slots
from covalent_sshtiming.remote.needs import Devices, Never

MINE = "CUDA_VISIBLE_DEVICES"


# ---- handing out


async def test_a_task_has_gpus_of_its_own(four_gpus: GPUs, place: Path) -> None:
    """Each task is told as many as it asked for; one that asks for none is told nothing, and nobody asked."""

    def told(seconds: float) -> tuple[str | None, str | None]:
        import os
        import time

        time.sleep(seconds)
        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")

    async with direct.here(place, max_parallel=4) as far:
        assert (await far.run(told, 0.0)).value == (None, None)
        assert not four_gpus.calls.exists()
        ran = await asyncio.gather(*(far.run(told, 0.3, options={"gpus_per_task": 2}) for _ in range(2)))
        assert sorted(one.value for one in ran) == [("0,1", "PCI_BUS_ID"), ("2,3", "PCI_BUS_ID")]
        spawned = {"gpus_per_task": 1, "isolation": "spawn", "env": {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}}
        assert (await far.run(told, 0.0, options=spawned)).value == ("0", "FASTEST_FIRST")
        devices = [record["gpu_devices"] for record in far.records()]
    assert (devices[0], sorted(devices[1:3]), devices[3]) == (None, ["0,1", "2,3"], "0")
    assert four_gpus.calls.read_text() == "--query-gpu=index,uuid --format=csv,noheader\n"


async def test_putting_a_list_together_takes_no_gpu(four_gpus: GPUs, place: Path) -> None:
    """What Covalent adds to a workflow by itself holds a slot only, whatever the settings say."""

    def told(*_: object) -> tuple[str | None, str | None]:
        import os

        return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("BOARD")

    told.__name__ = "_auto_list_node"
    async with direct.here(place, gpus_per_task=4, cpus_per_task=99, slot_env={"BOARD": ["0"]}) as far:
        assert (await far.run(told)).value == (None, None)
    assert not four_gpus.calls.exists()


async def test_other_devices_are_given_by_slot_env(place: Path) -> None:
    """Each task has one value of each variable, which no other task has at the same time."""

    def told() -> tuple[str, str]:
        import os
        import time

        time.sleep(0.2)
        return os.environ["ROCR_VISIBLE_DEVICES"], os.environ["BOARD"]

    table = {"ROCR_VISIBLE_DEVICES": ["0,1", "2,3"], "BOARD": ["/dev/b0", "größte=1", "c"]}
    async with direct.here(place, max_parallel=4, slot_env=table) as far:
        ran = await asyncio.gather(*(far.run(told) for _ in range(2)))
    assert sorted(one.value for one in ran) == [("0,1", "/dev/b0"), ("2,3", "größte=1")]


def hold(place: str, way: str) -> str:
    """Hold this task's devices for a while, end in some way; note each, and whether anybody else had it."""
    import fcntl
    import os
    import signal
    import time

    devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    for device in devices:
        handle = os.open(f"{place}/{device}", os.O_RDWR | os.O_CREAT)
        for _ in range(100):  # a worker dies a moment after its supervisor, and that frees its devices
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                word = "alone"
                break
            except BlockingIOError:
                word = "shared"
                time.sleep(0.02)
        with open(f"{place}/log", "a") as log:
            log.write(f"{device} {word}\n")
    time.sleep(0.1)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "exit":
        os._exit(3)
    if way == "child" and os.fork() == 0:
        time.sleep(60)
    if way == "raise":
        raise ValueError(way)
    return ",".join(devices)


@contextmanager
def killing(far: FarSide, dice: random.Random) -> Iterator[list[int]]:
    """Kill a supervisor of a running task now and then; yield those that were killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.3):
            running = [path for path in begun(far.spool) if places.is_locked(str(path))]
            # What is being written, or has just been removed, is nobody to kill.
            pids = [known["pid"] for path in running if (known := places.read_json(str(path)))]
            if pids:
                pid = dice.choice(pids)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("count", [24, pytest.param(100, marks=pytest.mark.soak)])
def test_a_gpu_is_never_two_tasks(four_gpus: GPUs, place: Path, count: int) -> None:
    """Tasks that return, raise, crash or lose their supervisor, and a killed agent: no GPU is given twice."""
    place = place / "held"
    place.mkdir()
    dice = random.Random(count)
    ways = ["return", "kill", "exit", "child", "raise"]
    keys = [new_key() for _ in range(count)]
    with FarSide(place) as far, killing(far, dice) as killed:
        with far.line() as line:
            for number, key in enumerate(keys):
                many = 3 if number % 8 == 7 else 1
                head = {"dispatch_id": str(many), "max_parallel": 8, "gpus_per_task": many}
                line.submit(key, hold, str(place), ways[number % 5], **head)
            farside.until(lambda: len(list(far.spool.glob("tasks/*/outcome"))) > count // 3, "a third to end")
            far.kill_agent()
        with far.line() as line:
            for key in keys:
                line.attach(key)
            ends = [told.status for told in line.outcomes(keys)]
        found = Counter((place / "log").read_text().split("\n"))
    print(f"{count} tasks: {Counter(ends)}, {len(killed)} supervisors and an agent killed; {found}")
    assert set(found) == {"0 alone", "1 alone", "2 alone", "3 alone", ""}
    assert {"completed", "failed", "killed"} == set(ends)
    assert ends.count("completed") >= count // 5


def let_go(share: slots.Share) -> None:
    """Let all that was taken go, as a supervisor does at its end."""
    for handle in share.handles:
        os.close(handle)


def known(uuids: dict[str, str], why: str = "") -> gpus.Finder:
    """Return a finder that knows these GPUs."""

    class Known(gpus.Finder):
        def found(self) -> dict[str, str] | None:
            return uuids

    finder = Known(selectors.DefaultSelector())
    finder.why = why
    return finder


def test_who_wants_several_is_not_overtaken(place: Path) -> None:
    """What is given back to a task that waits for two devices goes to nobody behind it."""
    (place / "slots").mkdir()
    held = slots.Slots(str(place), range(8), known({"0": "GPU-a", "1": "GPU-b"}))
    one, two = (needs.of({"gpus_per_task": number}) for number in (1, 2))
    first, second = held.take("first", one), held.take("second", one)
    assert first is not None
    assert second is not None
    for round_of in ("first", "second"):
        held.begin_round()
        assert held.take("both", two) is None
        assert held.take("third", one) is None
        let_go({"first": first, "second": second}[round_of])
        held.free(round_of)
    held.begin_round()
    both = held.take("both", two)
    assert both is not None
    assert both.environment[MINE] == "0,1"
    let_go(both)


def test_one_gpu_has_one_lock_by_whatever_name(place: Path) -> None:
    """A GPU that one task knows by its index and another by its UUID, or its beginning, is the same."""
    (place / "slots").mkdir()
    held = slots.Slots(str(place), range(8), known({"0": "GPU-abc", "1": "GPU-def"}))
    first = held.take("first", needs.of({"gpus_per_task": 1, "gpus": ["GPU-abc"]}))
    assert first is not None
    assert held.take("second", needs.of({"gpus_per_task": 1, "gpus": ["0", "GPU-a"]})) is None
    other = held.take("third", needs.of({"gpus_per_task": 1, "gpus": ["GPU-a", "1"]}))
    assert other is not None
    assert (first.gpus, other.gpus) == (["GPU-abc"], ["1"])
    for share in (first, other):
        let_go(share)


@pytest.mark.parametrize("name", ["7", "GPU-ab7"])
def test_a_gpu_that_is_not_there_is_not_handed_out(place: Path, name: str) -> None:
    """One that gpus lists and nvidia-smi does not is an error; a part of one (MIG) is not in its list."""
    (place / "slots").mkdir()
    held = slots.Slots(str(place), range(8), known({"0": "GPU-abc", "1": "GPU-def"}))
    with pytest.raises(needs.Never) as raised:
        held.take("first", needs.of({"gpus_per_task": 1, "gpus": ["0", name]}))
    assert (
        str(raised.value)
        == f"cannot have GPU {name}, which gpus lists and nvidia-smi there does not; correct gpus"
    )
    part = held.take("second", needs.of({"gpus_per_task": 1, "gpus": ["MIG-7"]}))
    assert part is not None
    let_go(part)


def test_a_devices_lock_is_a_file_in_its_room(place: Path) -> None:
    """No name of a variable or a device leads out of the directory of locks."""
    room = place / "slots"
    room.mkdir()
    held = slots.Slots(str(place), range(8), known({}))
    odd = [("../A", "x"), ("A", "../../x"), ("A", "x" * 300), ("A", "\0\udcff")]
    for number, (name, value) in enumerate(odd):
        share = held.take(str(number), needs.of({"slot_env": {name: [value]}}))
        assert share is not None
        let_go(share)
    assert len(list(room.iterdir())) == 4 + 4
    assert {path.name for path in place.iterdir()} == {"slots"}


# ---- which there are


@pytest.mark.parametrize(
    ("listed", "outside", "expected"),
    [
        ((), None, ["0", "1"]),
        ((), "1", ["1"]),
        ((), "GPU-a,MIG-x,-1,0", ["GPU-a", "MIG-x"]),
        ((), "3, 2", ["3", "2"]),
        (("1",), "0", ["1"]),
    ],
)
def test_gpus_to_hand_out(
    listed: tuple[str, ...], outside: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that `gpus` lists, else those of CUDA_VISIBLE_DEVICES as CUDA reads it, else all there are."""
    monkeypatch.delenv(MINE, raising=False)
    if outside is not None:
        monkeypatch.setenv(MINE, outside)
    found = gpus.candidates(Devices(MINE, listed, 1), {"0": "GPU-a", "1": "GPU-b"}, "")
    assert list(found.values()) == expected


@pytest.mark.parametrize(
    ("listed", "outside", "uuids", "text"),
    [
        (
            (),
            None,
            {"0": "GPU-a"},
            "needs 3 GPUs (gpus_per_task), and nvidia-smi there lists 1; ask",
        ),
        (("0", "1"), None, {}, "needs 3 GPUs (gpus_per_task), and gpus lists 2; ask for fewer"),
        ((), "", {"0": "a"}, "needs 3 GPUs (gpus_per_task), and CUDA_VISIBLE_DEVICES there lists none; ask"),
        ((), "NoDevFiles", {"0": "a"}, "and CUDA_VISIBLE_DEVICES there lists none; ask for fewer"),
        (("0", "GPU-a", "GPU-b"), None, {"0": "GPU-a", "1": "GPU-b"}, "and gpus lists 2; ask for fewer"),
        ((), None, {}, "and none is known there: it broke; list them in gpus, or see to that"),
    ],
)
def test_too_few_gpus_are_refused(
    listed: tuple[str, ...],
    outside: str | None,
    uuids: dict[str, str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text says how many there are, and who says so."""
    monkeypatch.delenv(MINE, raising=False)
    if outside is not None:
        monkeypatch.setenv(MINE, outside)
    with pytest.raises(Never) as refused:
        gpus.candidates(Devices(MINE, listed, 3), uuids, "it broke")
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'NVIDIA-SMI has failed'; exit 9\n", "nvidia-smi exited 9: NVIDIA-SMI has failed"),
        ("exit 0\n", "nvidia-smi exited 0: no word"),
        ("echo 'No devices were found'\n", "nvidia-smi exited 0: No devices were found"),
        ("echo 'x, GPU-a'; echo '1'; echo '2,'\n", "nvidia-smi exited 0: x, GPU-a 1 2,"),
        ("exec sleep 60\n", "nvidia-smi did not answer within 0.5 s"),
        ("sleep 60 &\necho 0, GPU-a\n", "nvidia-smi did not answer within 0.5 s"),
        ("exec >&- 2>&-\nexec sleep 60\n", "nvidia-smi did not answer within 0.5 s"),
        ("exec yes\n", "nvidia-smi said over 65536 bytes"),
        ("kill -9 $PPID\n", "nobody could ask nvidia-smi"),
    ],
    ids=[
        "fails",
        "says nothing",
        "has none",
        "talks nonsense",
        "hangs",
        "leaves a child",
        "hangs in silence",
        "floods",
        "kills who asks",
    ],
)
def test_an_nvidia_smi_that_finds_none_is_quoted(four_gpus: GPUs, script: str, why: str) -> None:
    """Whatever goes wrong is said; it is asked aside, and again after a while."""
    four_gpus.answers(script)
    selector = selectors.DefaultSelector()
    finder = gpus.Finder(selector, patience=0.5)
    assert finder.found() is None
    found = answer(finder, selector)
    assert (found, finder.why) == ({}, why)
    four_gpus.answers("echo 0, GPU-a\n")
    assert finder.found() == {}
    finder._until = 0.0
    assert finder.found() is None
    assert answer(finder, selector) == {"0": "GPU-a"}
    assert len(four_gpus.calls.read_text().splitlines()) == 2
    collect_children()


def answer(finder: gpus.Finder, selector: selectors.BaseSelector) -> dict[str, str] | None:
    """Wait for what the finder is told, as the agent's loop does."""
    deadline = time.monotonic() + 10
    while finder.found() is None and time.monotonic() < deadline:
        for key, _ in selector.select(0.05):
            key.data(None)
    return finder.found()


def collect_children() -> None:
    """Wait for processes aside, which are the agent's to wait for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def test_who_waits_for_nvidia_smi_holds_up_nobody(four_gpus: GPUs, place: Path) -> None:
    """While it hangs, tasks that need no GPU run, one that does can be cancelled; it ends with the agent."""
    four_gpus.answers("echo $$ > $0.pid\nexec sleep 60\n")
    note = Path(f"{four_gpus.program}.pid")
    async with direct.here(place) as far:
        waiting = asyncio.ensure_future(
            far.run(lambda: 1, dispatch_id="d", node_id=2, options={"gpus_per_task": 1})
        )
        await until(lambda: note.exists() and note.read_text().strip())
        assert (await far.run(lambda: 2)).value == 2
        await far.executor().cancel({"dispatch_id": "d", "node_id": 2}, None)
        assert isinstance((await waiting).error, direct.TaskCancelledError)
        assert alive(int(note.read_text()))
        os.kill(far.agents().pop(), signal.SIGKILL)
        await until(lambda: not alive(int(note.read_text())))


async def test_a_machine_without_gpus_refuses(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that needs one does not wait for ever where there is no nvidia-smi."""
    monkeypatch.delenv(MINE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere:/bin")
    async with direct.here(place, gpus_per_task=1) as far:
        ran = await far.run(lambda: 1)
    assert str(ran.error) == (
        "localhost: <lambda> needs 1 GPU (gpus_per_task), and none is known there: nvidia-smi cannot be run: "
        "No such file or directory; list them in gpus, or see to that."
    )
