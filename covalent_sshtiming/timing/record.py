"""One task's timing record: its fields, its schema version, and its form as a line of JSON.

The record is flat, in seconds and bytes, unrounded. None says that a figure could not be had,
which is not the same as zero. Every line carries every key, so that tools which guess a column's
type from the first rows guess right. Adding a field keeps the schema; changing what a field
means needs a new number. Imports nothing of ours but the
notebook's table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from covalent_sshtiming.timing.markup import html_table

SCHEMA_NAME = "sshtiming.task/"
SCHEMA = f"{SCHEMA_NAME}1"
MAX_TEXT = 4096
MAX_REAL = 1e15  # no second, core or load goes so far, and sums of such stay finite
_MAX_INT = 2**63 - 1
_SHOWN_SCHEMA = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRecord:
    """What one task cost, where the time went and what the machine was doing meanwhile."""

    schema: str = field(default=SCHEMA, init=False)

    # Which task, and how it ended.
    record_id: str | None = None
    dispatch_id: str | None = None
    node_id: int | None = None
    attempt: int | None = None
    function: str | None = None
    kind: str | None = None  # "electron", or "helper" for the nodes that Covalent adds by itself
    status: str | None = None  # completed, failed, cancelled, killed, timeout or lost
    error_type: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None

    # Where it ran. `host` is the name in the settings, `hostname` the one the machine gives itself.
    ran_locally: bool | None = None
    host: str | None = None
    hostname: str | None = None
    username: str | None = None
    os: str | None = None
    kernel: str | None = None
    cpu_model: str | None = None
    python_version: str | None = None
    plugin_version: str | None = None

    # When, as ISO 8601 in UTC. The first is the near clock's, the other two are the far clock's,
    # so a difference between them means something only together with the offset.
    submitted_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    clock_offset_s: float | None = None
    clock_offset_err_s: float | None = None

    # CPU time. `cpu_s` is the user's function with everything it started: self + children + late.
    # The user/system split is sampled by the kernel's ticks; only its sum is exact.
    cpu_s: float | None = None
    cpu_self_s: float | None = None
    cpu_children_s: float | None = None
    cpu_late_s: float | None = None
    cpu_user_s: float | None = None
    cpu_system_s: float | None = None
    cpu_total_s: float | None = None
    cpu_cgroup_s: float | None = None
    cpu_source: str | None = None  # cgroup2, wait4_subreaper or rusage
    cpu_complete: bool | None = None
    descendants_alive: int | None = None
    threads_alive: int | None = None

    # Context: CPU seconds are not work, and a busy neighbour makes more of them.
    wall_s: float | None = None
    run_delay_s: float | None = None
    cores_available: int | None = None
    cpu_quota_cores: float | None = None
    load_1m_start: float | None = None
    psi_cpu_some_s: float | None = None
    steal_s: float | None = None

    # Memory, I/O and scheduling.
    rss_peak_bytes: int | None = None
    rss_peak_child_bytes: int | None = None
    memory_peak_bytes: int | None = None
    read_chars: int | None = None
    write_chars: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    ctx_voluntary: int | None = None
    ctx_involuntary: int | None = None
    faults_minor: int | None = None
    faults_major: int | None = None
    request_bytes: int | None = None
    result_bytes: int | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None

    # Files that went along, and those that the task left: how many are here, where, and the names of as many
    # as fit, as a JSON list. `fetched_left` counts those that were meant and are not here.
    sent_files: int | None = None
    sent_bytes: int | None = None
    fetched_files: int | None = None
    fetched_bytes: int | None = None
    fetched_left: int | None = None
    fetched_to: str | None = None
    fetched_names: str | None = None
    # GPUs, of tasks that asked for some: which, how busy in the call (0 to 1, the mean of all), the most
    # memory in use on all together. Device-wide figures are the devices' own, with all that runs on them.
    gpu_devices: str | None = None
    gpu_utilization: float | None = None
    gpu_memory_peak_bytes: int | None = None
    gpu_device_wide: bool | None = None

    # The phases in the order they happen; those inside the task's process have CPU time too.
    phase_connect_wall_s: float | None = None
    phase_upload_wall_s: float | None = None
    phase_queue_wall_s: float | None = None
    phase_start_wall_s: float | None = None
    phase_start_cpu_s: float | None = None
    phase_before_wall_s: float | None = None
    phase_before_cpu_s: float | None = None
    phase_load_wall_s: float | None = None
    phase_load_cpu_s: float | None = None
    phase_call_wall_s: float | None = None
    phase_call_cpu_s: float | None = None
    phase_after_wall_s: float | None = None
    phase_after_cpu_s: float | None = None
    phase_dump_wall_s: float | None = None
    phase_dump_cpu_s: float | None = None
    phase_exit_wall_s: float | None = None
    phase_exit_cpu_s: float | None = None
    phase_download_wall_s: float | None = None
    phase_fetch_wall_s: float | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> TimingRecord:
        """Build a record from values that a stranger may have written.

        Keys that are no field are dropped; absent keys and values of a wrong type become None.

        Raises:
            ValueError: if the mapping names a schema other than this one.
        """
        _check_schema(mapping.get("schema", SCHEMA))
        return cls(**{name: sieve(mapping.get(name)) for name, sieve in _SIEVES.items()})

    @classmethod
    def from_json(cls, line: str) -> TimingRecord:
        """Read one line of a log.

        Raises:
            ValueError: if the line is no JSON object, or not one of this schema.
        """
        try:
            mapping = json.loads(line)
        except RecursionError as error:
            raise ValueError("This line is nested too deeply to be a timing record.") from error
        if not isinstance(mapping, dict):
            raise ValueError("This line is not a timing record: it is no JSON object.")
        _check_schema(mapping.get("schema"))
        return cls.from_mapping(mapping)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, each value one that JSON, a log and a terminal can take."""
        values = {name: sieve(getattr(self, name)) for name, sieve in _SIEVES.items()}
        return {"schema": self.schema, **values}

    def to_json(self) -> str:
        """The record as one line of ASCII, without its newline."""
        return json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))

    def sentence(self) -> str:
        """The line of Covalent's how-to, or "" where no CPU time is known."""
        cpu_s = _real(self.cpu_s)
        if cpu_s is None:
            return ""
        return f"Node {self.node_id} in dispatch {printable(self.dispatch_id)} took {cpu_s}s of CPU time."

    def _repr_html_(self) -> str:
        """Return a table of what is known, for a notebook."""
        known = [(name, str(value)) for name, value in self.to_dict().items() if value is not None]
        return html_table(["field", "value"], known)


class OtherSchema(ValueError):
    """A record of ours, written by a version that this one cannot read.

    Attributes:
        schema: what the record says of itself, fit for a terminal.
    """

    def __init__(self, schema: str) -> None:
        self.schema = (printable(schema) or "")[:_SHOWN_SCHEMA]
        super().__init__(_other(schema))


def _check_schema(schema: object) -> None:
    """Accept this schema and later minors of it (`/1.2`), which only add fields."""
    if isinstance(schema, str) and (schema == SCHEMA or schema.startswith(f"{SCHEMA}.")):
        return
    if isinstance(schema, str) and schema.startswith(SCHEMA_NAME):
        raise OtherSchema(schema)
    raise ValueError(_other(schema))


def _other(schema: object) -> str:
    return (
        f"This record's schema is {schema!r:.80}, but this covalent-sshtiming reads {SCHEMA!r}; "
        "read it with the version that wrote it."
    )


def printable(value: object) -> str | None:
    """Return text that cannot steer a terminal, break a line or fill a disk; None for what is no text."""
    if not isinstance(value, str):
        return None
    text = value[:MAX_TEXT]
    return text if text.isprintable() else "".join(filter(str.isprintable, text))


def _real(value: object) -> float | None:
    """A float of a size that one can reckon with; neither NaN nor infinity, which JSON does not know."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_REAL:
        return None
    return float(value)


def _whole(value: object) -> int | None:
    """An integer that fits the 64 bits of every table that may import it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_INT:
        return None
    return int(value)


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


# The annotations above are the one list of fields and types; what is written and what is read
# pass the same sieve.
_BY_TYPE: dict[str, Callable[[object], Any]] = {
    "str": printable,
    "float": _real,
    "int": _whole,
    "bool": _flag,
}
_SIEVES = {f.name: _BY_TYPE[str(f.type).removesuffix(" | None")] for f in fields(TimingRecord) if f.init}
FIELDS = tuple(_SIEVES)
"""The names of all fields but `schema`, in their order."""
