"""Figures as words: durations, sizes, shares, times of day; each short enough for a column."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

NOTHING = "-"
_MINUTE = 60.0
_HOUR = 3600.0
_DAY = 86400.0
_LAST_YEAR = 9998  # a time in the calendar's last year may be rounded to one beyond it
_AGES = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(seconds: float | None) -> str:
    """Return seconds with three figures or so and a unit; "-" for what is not known."""
    if seconds is None:
        return NOTHING
    size = abs(seconds)
    for limit, factor, form, unit in (
        (1e-9, 1, ".0f", "s"),
        (1e-3, 1e6, ".0f", "µs"),
        (1.0, 1e3, ".1f", "ms"),
        (_MINUTE * 2, 1, ".2f", "s"),
        (_HOUR * 2, 1 / _MINUTE, ".1f", "min"),
        (_DAY * 2, 1 / _HOUR, ".1f", "h"),
    ):
        if size < limit:
            return f"{seconds * factor:{form}} {unit}"
    return f"{seconds / _DAY:.1f} d"


def size(count: float | None) -> str:
    """Return bytes with a binary unit; "-" for what is not known."""
    if count is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def share(part: float | None) -> str:
    """Return a part of one in per cent; "-" for what is not known."""
    return NOTHING if part is None else f"{100 * part:.0f}%" if part >= 0.1 else f"{100 * part:.1f}%"


def change(part: float | None) -> str:
    """Return a relative change in per cent, with its sign."""
    return NOTHING if part is None else f"{100 * part:+.1f}%"


def moment(text: str | None) -> str:
    """Return a record's time of day without its fraction: still UTC."""
    return NOTHING if text is None else text[:19].replace("T", " ")


def seconds_of(text: str | None) -> float | None:
    """Return a record's time of day as seconds since the epoch; None for what is none."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if parsed.year > _LAST_YEAR:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()


def instant(text: str, now: datetime) -> str:
    """Return what a person means by `2h`, `3d`, `2026-11-20` or a whole ISO time, as the record writes it.

    An age counts back from `now`; a time without an offset is UTC.

    Raises:
        ValueError: for anything else, with what to write instead.
    """
    text = text.strip()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :]
    try:
        if unit in _AGES and not number.startswith("-"):
            meant = now - timedelta(seconds=float(number) * _AGES[unit])
        else:
            meant = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if meant.tzinfo is None:
            meant = meant.replace(tzinfo=timezone.utc)
        return as_written(meant)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} is no time: write an age such as 30m, 2h or 7d, or a UTC time such as 2026-11-20 or "
            "2026-11-20T08:30"
        ) from error


def as_written(when: datetime) -> str:
    """Return a time as records write it."""
    return when.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
