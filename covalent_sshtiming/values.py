"""One value of a setting: whether it is right, its final form, and the sentence that refuses it.

Owns the refusals of single values. Which value counts, and what does not go together, is `settings`'.
"""

from __future__ import annotations

import re
from typing import Any

from covalent_sshtiming import resources
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.options import TYPES, Option


def check_devices(name: str, values: Any, where: str) -> None:
    """Check the values of one variable of `slot_env`; raises ConfigError."""
    try:
        resources.check_values(values)
    except ValueError as error:
        raise refusal(f"slot_env.{name}", where, f"is {values!r:.80}", str(error)) from error
    for value in values:
        _check_characters(f"slot_env.{name}", value, where)


def check_variable(name: str, value: Any, where: str) -> None:
    """Check one variable of a task; raises ConfigError, which never shows the value: it may be a secret."""
    if not isinstance(value, str):
        raise refusal(f"env.{name}", where, f"is of type {type(value).__name__}", "write text in quotes")
    _check_characters(f"env.{name}", value, where)


def checked(option: Option, value: Any, where: str) -> Any:
    """Return the value in its final form, or raise ConfigError."""
    wrong = "has a value of another form" if option.server_only else f"is {value!r:.80}"
    if not isinstance(value, TYPES[option.kind]) or isinstance(value, bool) != (option.kind is bool):
        bare = isinstance(value, str) and option.kind is not list
        quotes = " in quotes" if option.kind is str else ", without quotes" if bare else ""
        raise refusal(option.name, where, wrong, f"write {option.needs}{quotes}")
    if option.kind is str:
        return _checked_text(option, value, where, wrong)
    if option.kind is list:
        if not all(isinstance(item, str) for item in value):
            raise refusal(option.name, where, wrong, f"write {option.needs}")
        return [_checked_text(option, item, where, wrong) for item in value]
    if option.kind in (int, float) and not option.low <= value <= option.high:
        raise refusal(option.name, where, wrong, f"write {option.needs}")
    return float(value) if option.kind is float else value


def _checked_text(option: Option, value: str, where: str, wrong: str) -> str:
    _check_characters(option.name, value, where)
    try:
        return option.check(value)
    except ValueError as error:
        raise refusal(option.name, where, wrong, str(error)) from error


def _check_characters(name: str, value: str, where: str) -> None:
    if re.search(r"[\0\r\n]", value):
        raise refusal(name, where, "contains a line break or a NUL character", "remove it")
    if re.search("[\ud800-\udfff]", value):
        raise refusal(name, where, "contains bytes that are not UTF-8", "write it in UTF-8")


def refusal(name: str, where: str, wrong: str, fix: str) -> ConfigError:
    """Return the sentence that refuses a value: where it stands, what is wrong with it, what to do."""
    return ConfigError(f"{name} ({where}) {wrong}; {fix}.")
