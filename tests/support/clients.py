"""Running a client of a private Covalent server, from source text."""

from __future__ import annotations

import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

from covalent_sshtiming.demo.dispatcher import Dispatcher

_numbers = itertools.count()


def dispatch_script(
    dispatcher: Dispatcher, source: str, *arguments: str, cwd: Path | None = None, timeout: float = 120
) -> Any:
    """Run source text as a client, as `__main__`, and return the JSON on the last line that it prints."""
    script = dispatcher.home / f"script-{next(_numbers)}.py"
    script.write_text(textwrap.dedent(source))
    client = dispatcher.run_client(script, *arguments, cwd=cwd, timeout=timeout)
    lines = client.stdout.splitlines()
    assert client.returncode == 0, f"{client.stderr}\nserver: {dispatcher.process.tail(40)}"
    assert lines, f"the script printed nothing; its stderr: {client.stderr}"
    return json.loads(lines[-1])
