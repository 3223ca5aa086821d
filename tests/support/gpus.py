"""A machine with GPUs that is none: an `nvidia-smi` on the PATH and a `pynvml`, both a few lines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Its devices are 50 % busy and have 1000 bytes in use, unless the file beside it says otherwise.
PYNVML = """
import os

class NVMLError(Exception):
    pass

class _Told:
    pass

def nvmlInit():
    pass

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetHandleByUUID(uuid):
    return uuid

def _state(handle):
    try:
        with open(os.path.join(os.path.dirname(__file__), str(handle))) as file:
            busy, used = file.read().split()
    except FileNotFoundError:
        busy, used = 50, 1000
    return int(busy), int(used)

def nvmlDeviceGetUtilizationRates(handle):
    told = _Told()
    told.gpu = _state(handle)[0]
    return told

def nvmlDeviceGetMemoryInfo(handle):
    told = _Told()
    told.used = _state(handle)[1]
    open(os.path.join(os.path.dirname(__file__), "asked"), "w").close()
    return told
"""


class GPUs:
    """So many devices below a directory; `environment` is what a far side needs to see them."""

    def __init__(self, place: Path, count: int, *, nvml: bool = True) -> None:
        self.modules = place / "modules"
        self.modules.mkdir(parents=True)
        if nvml:
            (self.modules / "pynvml.py").write_text(PYNVML)
        self.calls = place / "calls"
        self.program = place / "bin" / "nvidia-smi"
        self.program.parent.mkdir()
        self.answers("".join(f"echo {index}, GPU-{index}{index}{index}{index}\n" for index in range(count)))

    def answers(self, script: str) -> None:
        """Have nvidia-smi run this, after it has noted that it was called."""
        self.program.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n{script}')
        self.program.chmod(0o755)

    @property
    def asked(self) -> Path:
        """A file that is there as soon as NVML has been asked for the first time."""
        return self.modules / "asked"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which a far side finds it."""
        path = f"{self.program.parent}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "PYTHONPATH": str(self.modules)}

    def now(self, device: str, busy: int, used: int) -> None:
        """Have a device be so busy, in percent, and use so many bytes."""
        temporary = self.modules / f"{device}.tmp"
        temporary.write_text(f"{busy} {used}")
        temporary.rename(self.modules / device)
