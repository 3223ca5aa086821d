"""Dispatched: a check that the running Covalent server makes, in its own environment.

Owns the workflow of one electron that does it. The electron runs our command as a process of its own,
because whatever its executor is, only a process that the server starts has the server's variables; and what
comes back is that command's text, which is read as a stranger's.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from covalent_sshtiming.checking.walk import STEPS, Step
from covalent_sshtiming.errors import ConfigError, ConnectError
from covalent_sshtiming.outcomes import clean

CHECK_SECONDS = 300.0
_POLL_SECONDS = 0.3
_ANSWER_SECONDS = 5.0
_TEXT_MAX = 1 << 20


def sshtiming_check(arguments: Sequence[str], seconds: float) -> tuple[int, str, str]:
    """Run `covalent-sshtiming` with these arguments, by this Python; return (exit code, stdout, stderr).

    This is the electron.
    """
    import subprocess
    import sys

    command = [sys.executable, "-m", "covalent_sshtiming", *arguments]
    try:
        ran = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"the check did not end within {seconds:g} s."
    return ran.returncode, ran.stdout.decode("utf-8", "replace"), ran.stderr.decode("utf-8", "replace")


def steps_of_server(host: str, options: Sequence[str]) -> list[Step]:
    """Return the steps of a check that the Covalent server of this user's configuration makes.

    Args:
        host: as `check` takes it.
        options: NAME=VALUE texts, the same.

    Raises:
        ConnectError: no server answers, or it does not come to an end.
        ConfigError: it answers, and cannot do it; it may lack this package.
    """
    arguments = ["check", "--json", "--in-server"]
    for option in options:
        arguments += ["-o", option]
    code, out, err = _dispatch([*arguments, "--", host])
    try:
        told = json.loads(out[:_TEXT_MAX])
        return [_step(one, name) for one, name in zip(told, STEPS, strict=True)]
    except (ValueError, TypeError, RecursionError) as error:
        said = clean(err.strip() or out.strip(), 600).replace("\n", " ") or "nothing"
        raise ConfigError(
            f"the Covalent server could not run the check (exit code {code}, it said: {said}). Is this "
            "version of covalent-sshtiming installed for its Python too?"
        ) from error


def _step(told: Any, name: str) -> Step:
    """Make a step of what the server's process says of it; raises ValueError for what is another, or none."""
    if not isinstance(told, dict) or told.get("step") != name:
        raise ValueError(f"not the step {name}")
    ok, seconds, error = told.get("ok"), told.get("seconds"), told.get("error")
    return Step(
        step=name,
        ok=ok if isinstance(ok, bool) else None,
        seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
        detail=clean(told.get("detail") or ""),
        error=clean(error, 80) if isinstance(error, str) else None,
    )


def _dispatch(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Send the workflow, wait for its end, and return what its electron did."""
    import covalent
    import requests
    from covalent._shared_files.utils import format_server_url

    electron = covalent.electron(sshtiming_check, executor="local")
    lattice = covalent.lattice(electron, executor="local", workflow_executor="local")
    try:
        # What is left of a killed server still takes connections; a dispatch would wait for ever.
        requests.get(format_server_url(), timeout=_ANSWER_SECONDS)
        with redirect_stdout(io.StringIO()):  # Covalent's own words, which are ours to say
            dispatch_id = covalent.dispatch(lattice)(list(arguments), CHECK_SECONDS)
            status = _wait(covalent, dispatch_id)
            result = covalent.get_result(dispatch_id)
    except requests.exceptions.RequestException as error:
        raise ConnectError(
            f"the Covalent server at {format_server_url()} cannot be had ({type(error).__name__}); start it "
            "with `covalent start`, correct [dispatcher] in covalent.conf, or leave --through-dispatcher out."
        ) from error
    if status != "COMPLETED":
        node = result.get_node_result(0)
        return 1, "", str(node["error"] or node["stderr"] or result.error or status)
    code, out, err = result.result
    return int(code), str(out), str(err)


def _wait(covalent: Any, dispatch_id: str) -> str:
    """Wait for a dispatch's end, and return its status."""
    limit = CHECK_SECONDS + 30.0
    deadline = time.monotonic() + limit
    while True:
        status = str(covalent.get_result(dispatch_id, status_only=True)["status"])
        if status in ("COMPLETED", "FAILED", "CANCELLED"):
            return status
        if time.monotonic() > deadline:
            raise ConnectError(
                f"the Covalent server did not run the check within {limit:g} s (dispatch {dispatch_id} is "
                f"{status}); is it busy, or stuck? Its log says more."
            )
        time.sleep(_POLL_SECONDS)
