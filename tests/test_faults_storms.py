"""Faults by the dozen: the short form of what `make soak` (tests/test_soak.py) does by the hundred."""

from __future__ import annotations

from pathlib import Path

from support import soaking, storms

from covalent_sshtiming.demo.sshserver import SSHServer


async def test_a_cut_anywhere_costs_nothing(sshd: SSHServer, place: Path) -> None:
    """A link cut at any offset, either way, from the connect to the download: the right result, one run."""
    seen = await storms.cuts(sshd, place, each_way=10)
    wrong = [str(cut) for cut in seen if not cut.right or cut.runs != 1]
    assert not wrong
    assert sum(cut.broken for cut in seen) >= 18, "the cuts missed the task's life"


async def test_a_cancel_at_any_moment_ends_the_task(sshd: SSHServer, place: Path) -> None:
    """A task cancelled at a random moment is cancelled or had completed, and nothing of it is left."""
    seen = await storms.cancels(sshd, place, 20, seed=7)
    assert set(seen.ends) <= {"cancelled", "completed"}, seen.ends
    assert seen.ends["cancelled"] >= 10
    assert not seen.alive
    assert not seen.directories


async def test_resets_and_cancels_among_many_tasks_leave_nothing(sshd: SSHServer, place: Path) -> None:
    """Hundreds of tasks with resets and cancels among them: every one ends, on record once, nothing held."""
    seen = await soaking.soak(sshd, place, 300, resets=0.02, stops=0.02)
    assert set(seen.ends) <= {"cancelled", "completed"}, seen.ends
    assert seen.resets > 0
    assert seen.ends["cancelled"] > 0
    assert seen.lines == seen.records == seen.tasks
    assert soaking.grown(seen) == {}


async def test_a_large_transfer_leaves_the_loop_free(sshd: SSHServer, place: Path) -> None:
    """128 MiB go up and come down right, and other coroutines have their turn meanwhile."""
    seen = await soaking.moves(sshd, place, 128 << 20, pieces=1)
    for name, move in seen.items():
        print(f"{name}: {move.seconds:.1f} s, lag p99 {1000 * move.lag_p99_s:.0f} ms")
        assert move.turns > 20
