"""The verb `check` from a HOME of our own, whose covalent.conf calls the machine gpubox."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from covalent_sshtiming.checking.walk import STEPS
from covalent_sshtiming.cli import main
from covalent_sshtiming.demo.sshserver import SSHServer
from support import direct
from support.verbs import Ran, configure, run_verb


class Near:
    """Our side: a HOME whose covalent.conf calls the machine gpubox."""

    def __init__(self, home: Path, server: SSHServer) -> None:
        self.home = home
        self.spool = home / "spool"
        self.server = server
        self.table: dict[str, Any] = {
            "remote_spool": str(self.spool),
            "idle_timeout": 5,
            **server.settings(),
            "hosts": {"gpubox": {"hostname": server.host}},
        }

    def configure(self) -> None:
        """Write covalent.conf."""
        configure(self.home, {"executors": {"sshtiming": self.table}})

    def check(self, *arguments: str, **more: Any) -> Ran:
        """Run the verb in a process of its own; further keywords are environment variables."""
        self.configure()
        return run_verb("check", "gpubox", *arguments, home=self.home, **more)

    def check_here(self, *arguments: str) -> Ran:
        """Run the verb in this process, which is quicker."""
        self.configure()
        others = ("COVALENT_CONFIG_DIR", "XDG_CONFIG_DIR", "SSH_AUTH_SOCK")
        env = {"HOME": str(self.home), **dict.fromkeys(others)}
        ran = CliRunner().invoke(main, ["check", *arguments], env=env)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return Ran(ran.stdout, ran.stderr, ran.exit_code)

    def steps(self, *options: str, name: str = "gpubox") -> tuple[int, list[dict[str, Any]]]:
        """Return the exit code, and what --json prints."""
        arguments = [word for option in options for word in ("-o", option)]
        ran = self.check_here("--json", *arguments, "--", name)
        assert ran.err == ""
        steps: list[dict[str, Any]] = json.loads(ran.out)
        assert [one["step"] for one in steps] == list(STEPS)
        return ran.code, steps

    def failure(self, *options: str, name: str = "gpubox") -> tuple[str, str, str]:
        """Return the step that failed, its error's class and sentence; none after it may have been tried."""
        code, steps = self.steps(*options, name=name)
        assert code == 1
        states = [one["ok"] for one in steps]
        at = states.index(False)
        assert states == [True] * at + [False] + [None] * (len(STEPS) - at - 1)
        failed = steps[at]
        assert failed["seconds"] >= 0
        return failed["step"], failed["error"], failed["detail"]


@contextmanager
def near(server: SSHServer) -> Iterator[Near]:
    """Reach a server from a HOME of one's own; its agents are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chk-", dir="/tmp", ignore_cleanup_errors=True) as name:
        here = Near(Path(name), server)
        try:
            yield here
        finally:
            direct.end_agents(here.spool)
