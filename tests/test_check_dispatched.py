"""`covalent-sshtiming check --through-dispatcher`: the same, by the running Covalent server."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from support.named import Server
from support.verbs import configure, run_verb

from covalent_sshtiming.checking.walk import STEPS
from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.demo.processes import free_port


def test_the_server_checks_in_its_own_environment(
    dispatcher: Dispatcher, any_sshd: Server, tmp_path: Path
) -> None:
    """--through-dispatcher shows what the server finds: its covalent.conf, its variables; failures too."""
    environment = dispatcher.client_environment()
    home = Path(environment.pop("HOME"))
    more: dict[str, Any] = {
        name: value for name, value in environment.items() if name.startswith(("COVALENT_", "XDG_", "TMPDIR"))
    }
    name = any_sshd.host
    ran = run_verb("check", name, "--through-dispatcher", "--json", home=home, cwd=tmp_path, **more)
    assert ran.code == 0, ran.err
    steps = json.loads(ran.out)
    assert [one["step"] for one in steps] == list(STEPS)
    assert all(one["ok"] for one in steps)
    assert steps[0]["detail"] == str(dispatcher.config_file)
    ran = run_verb("check", "127.0.0.1", "--through-dispatcher", "-o", "port=1", home=home, **more)
    assert ran.code == 1
    assert "127.0.0.1: port 1 cannot be reached" in ran.out
    assert ran.out.splitlines()[-1].split() == ["trial", "task", "not", "tried"]


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Without a running server --through-dispatcher says so, and what to do; stdout stays empty."""
    port = free_port("127.0.0.1")
    configure(tmp_path, {"dispatcher": {"address": "127.0.0.1", "port": port}})
    ran = run_verb("check", "gpubox", "--through-dispatcher", "--json", home=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert (
        f"the Covalent server at http://127.0.0.1:{port} cannot be had (ConnectionError); start it" in ran.err
    )
    assert "Traceback" not in ran.err


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    """What is left of a killed server takes connections; it is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        configure(tmp_path, {"dispatcher": {"address": "127.0.0.1", "port": port}})
        ran = run_verb("check", "gpubox", "--through-dispatcher", home=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert f"the Covalent server at http://127.0.0.1:{port} cannot be had (ReadTimeout)" in ran.err
