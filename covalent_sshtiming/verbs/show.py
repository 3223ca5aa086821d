"""`covalent-sshtiming show`: one task with its phases as bars, every figure, and what to keep in mind."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from covalent_sshtiming.verbs import shared
from covalent_sshtiming.verbs.tables import console, speaks_utf8

if TYPE_CHECKING:
    from rich.console import Console

    from covalent_sshtiming.timing.record import TimingRecord

_EXAMPLES = """
\b
Examples:
  covalent-sshtiming show 74b88fbe
  covalent-sshtiming show 74b88fbe --json | jq .cpu_s
"""
# The record's fields by theme; phases have a table of their own. A test holds that none is missing.
_THEMES = (
    ("Task", ("record_id", "dispatch_id", "node_id", "attempt", "function", "kind", "status")),
    ("", ("error_type", "exit_code", "exit_signal")),
    ("Machine", ("host", "hostname", "username", "ran_locally", "os", "kernel", "cpu_model")),
    ("", ("python_version", "plugin_version")),
    ("When (UTC)", ("submitted_at", "started_at", "finished_at", "clock_offset_s", "clock_offset_err_s")),
    ("CPU time", ("cpu_s", "cpu_self_s", "cpu_children_s", "cpu_late_s", "cpu_user_s", "cpu_system_s")),
    ("", ("cpu_total_s", "cpu_cgroup_s", "cpu_source", "cpu_complete", "descendants_alive", "threads_alive")),
    ("Context", ("wall_s", "run_delay_s", "cores_available", "cpu_quota_cores", "load_1m_start")),
    ("", ("psi_cpu_some_s", "steal_s")),
    (
        "Memory",
        ("rss_peak_bytes", "rss_peak_child_bytes", "memory_peak_bytes", "faults_minor", "faults_major"),
    ),
    ("GPUs", ("gpu_devices", "gpu_utilization", "gpu_memory_peak_bytes", "gpu_device_wide")),
    ("Input, output", ("read_chars", "write_chars", "read_bytes", "write_bytes", "request_bytes")),
    ("", ("result_bytes", "stdout_bytes", "stderr_bytes", "ctx_voluntary", "ctx_involuntary")),
    ("Files", ("sent_files", "sent_bytes", "fetched_files", "fetched_bytes", "fetched_left")),
    ("", ("fetched_to", "fetched_names")),
)
_ROOM_FOR_CPU = 50  # columns, below which the bars need that of the phases' CPU time
_UNITS = {
    "attempt": "",
    "cores_available": "cores",
    "cpu_quota_cores": "cores",
    "descendants_alive": "processes",
    "threads_alive": "threads",
    "faults_minor": "page faults",
    "faults_major": "page faults",
    "ctx_voluntary": "switches",
    "ctx_involuntary": "switches",
    "sent_files": "",
    "fetched_files": "",
    "fetched_left": "",
    "load_1m_start": "waiting or running",
}


@click.command(epilog=_EXAMPLES, short_help="One task: phases, figures, what to keep in mind.")
@click.argument("identity", metavar="ID")
@shared.files_argument
@click.option("--json", "as_json", is_flag=True, help="The record as one object.")
def show(*, identity: str, files: tuple[str, ...], as_json: bool) -> None:
    """Show the task whose record id begins with ID; `log` lists them.

    Fields of which nothing is known are left out of the table, and null in --json.
    """
    log = shared.open_log(files)
    with shared.reading():
        found = log.find(identity)
    shared.speak_of_left_out(log)
    if not found:
        raise click.ClickException(
            f"no task has an id that begins with {identity!r} in {', '.join(map(str, log.files))}."
        )
    if len(found) > 1:
        some = ", ".join((record.record_id or "")[: len(identity) + 8] for record in found[:4])
        raise click.ClickException(
            f"{len(found)} tasks have ids that begin with {identity!r}: {some}, ... Give more of it."
        )
    if as_json:
        click.echo(found[0].to_json())
    else:
        _print(console(), found[0])


def _print(out: Console, record: TimingRecord) -> None:
    from rich.text import Text

    from covalent_sshtiming.timing.remarks import remarks

    width = min(out.width, 100)
    title = f"{record.function or 'a task'} on {record.host or 'a machine'}, {record.status or 'ended'}"
    out.print(Text(title, "bold"))
    for remark in remarks(record):
        for number, line in enumerate(textwrap.wrap(remark, width - 2)):
            out.print(Text(f"{'  ' if number else '! '}{line}", "yellow"))
    _print_phases(out, record, width)
    values, heading = record.to_dict(), ""
    for title, names in _THEMES:
        heading = title or heading
        for name in (name for name in names if values[name] is not None):
            if heading:
                out.print()
                out.print(Text(heading, "bold"))
                heading = ""
            out.print(Text(f"  {name:<22}{_worded(name, values[name])}", overflow="fold"), width=width)


def phases(record: TimingRecord) -> list[tuple[str, float | None, float | None]]:
    """Return each phase of which something is known: its name, wall seconds, CPU seconds."""
    names = [name[len("phase_") : -len("_wall_s")] for name in record.to_dict() if name.endswith("_wall_s")]
    every = (
        (name, getattr(record, f"phase_{name}_wall_s"), getattr(record, f"phase_{name}_cpu_s", None))
        for name in names
    )
    return [phase for phase in every if phase[1] is not None or phase[2] is not None]


def _print_phases(out: Console, record: TimingRecord, width: int) -> None:
    """Print a bar for each phase, where it begins and ends in the whole."""
    from rich.text import Text

    from covalent_sshtiming.timing.units import duration

    known = phases(record)
    whole = sum(wall or 0.0 for _, wall, _ in known)
    if not known or not whole:
        return
    mark = "█" if speaks_utf8(out) else "#"
    with_cpu = width >= _ROOM_FOR_CPU
    room = max(1, width - (36 if with_cpu else 25))

    def front(name: str, wall: str, cpu: str) -> str:
        return f"{name:<10}{wall:>10}" + (f"{cpu:>11}" if with_cpu else "")

    out.print()
    out.print(Text(front("Phase", "wall", "CPU"), "bold"))
    before = 0.0
    for name, wall, cpu in known:
        start, end = (round(room * part / whole) for part in (before, before + (wall or 0.0)))
        start = min(start, room - 1)
        bar = " " * start + mark * max(1, end - start)
        out.print(Text(f"{front(name, duration(wall), duration(cpu))}   {bar}", no_wrap=True))
        before += wall or 0.0
    out.print(Text(f"{'in all':<10}{duration(whole):>10}"))


def _worded(name: str, value: Any) -> str:
    from covalent_sshtiming.timing import units

    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_at"):
        return f"{units.moment(value)}{value[19:].rstrip('Z')}"
    if name.endswith("_s") and isinstance(value, float):
        return units.duration(value)
    if name.endswith(("_bytes", "_chars")):
        return units.size(value)
    return f"{value} {_UNITS.get(name, '')}".rstrip()
