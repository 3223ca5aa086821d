"""What a record's figures warn of, in words: what is incomplete, disturbed or uncertain. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from covalent_sshtiming.timing.record import TimingRecord
from covalent_sshtiming.timing.units import duration

_UNCERTAIN_CLOCK_S = 0.05
_WRONG_CLOCK_S = 1.0
_MUCH = 0.1  # of the wall time
_STOLEN = 0.01

_ENDS = {
    "failed": "The function raised {error}.",
    "cancelled": "It was cancelled; the figures are those up to then.",
    "killed": "It was killed{signal}; the figures are those up to then.",
    "timeout": "It ran into its time limit; the figures are those up to then.",
    "lost": "The machine was lost before it told what the task cost.",
}


def remarks(record: TimingRecord) -> list[str]:
    """Return a sentence for each thing to keep in mind when reading this record."""
    return [*_on_its_end(record), *_on_cpu(record), *_on_neighbours(record), *_on_clocks(record)]


def _on_its_end(record: TimingRecord) -> Iterator[str]:
    words = _ENDS.get(record.status or "")
    if words:
        signal = f" by signal {record.exit_signal}" if record.exit_signal else ""
        yield words.format(error=record.error_type or "an error", signal=signal)
    if record.ran_locally and record.host and record.host != "localhost":
        yield f"{record.host} could not be reached, so it ran on the Covalent server's machine."


def _on_cpu(record: TimingRecord) -> Iterator[str]:
    if record.cpu_s is None:
        yield "How much CPU time the function used is not known."
    elif record.cpu_complete is False:
        yield "The CPU time is a lower bound: processes may have escaped the count (cpu_complete is false)."
    if record.descendants_alive:
        yield f"{record.descendants_alive} of its processes were left when it returned, and were ended."
    if record.threads_alive:
        yield f"{record.threads_alive} threads were left when it returned; what they did then is not counted."


def _on_neighbours(record: TimingRecord) -> Iterator[str]:
    wall, cores, load = record.wall_s, record.cores_available, record.load_1m_start
    if load is not None and cores and load > cores:
        yield (
            f"The machine was oversubscribed: a load of {load:.1f} on {cores} cores when it began. The same "
            "work takes more CPU time there than on an idle machine."
        )
    if wall and record.run_delay_s and record.run_delay_s > _MUCH * wall:
        yield f"It was ready to run and had no core for {duration(record.run_delay_s)} of {duration(wall)}."
    if wall and cores and record.steal_s and record.steal_s > _STOLEN * wall * cores:
        yield f"The hypervisor took {duration(record.steal_s)} of the cores' time away."
    if cores and record.cpu_quota_cores and record.cpu_quota_cores < cores:
        yield f"It was limited to {record.cpu_quota_cores:g} of {cores} cores."


def _on_clocks(record: TimingRecord) -> Iterator[str]:
    if record.started_at is None:
        return
    offset, error = record.clock_offset_s, record.clock_offset_err_s
    if error is not None and error > _UNCERTAIN_CLOCK_S:
        yield f"Its times of day may be wrong by {duration(error)}; durations are not."
    if offset is not None and abs(offset) > _WRONG_CLOCK_S:
        way = "ahead of" if offset > 0 else "behind"
        yield f"Its clock was {duration(abs(offset))} {way} the Covalent server's."
