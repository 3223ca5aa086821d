"""What a machine lacks: modules, the Python that was asked for, places that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import direct
from support.endings import cause, failed, seven
from support.environments import make_environment
from support.there import There

from covalent_sshtiming import errors

Machine = direct.Machine[There]


@pytest.fixture(scope="module")
def bare_python(far_directory: Callable[[], There]) -> str:
    """Return the Python of an environment there that has nothing in it, not even pip."""
    return make_environment(far_directory() / "bare", pip=False)


# ---- modules that the machine lacks


async def test_a_module_missing_at_load(machine: Machine, bare_python: str) -> None:
    """A function whose unpickling needs an absent package fails with the ways to bring it there."""
    import numpy as np

    ran = await machine.run(np.sum, [1, 2], options={"python_path": bare_python})
    assert isinstance(cause(ran), errors.RemoteEnvError)
    text = failed(ran)
    assert text.startswith(f"{machine.name}: ")
    assert "needs the module 'numpy'" in text
    assert bare_python in text
    assert "pip install numpy" in text
    assert "ct.DepsPip" in text


async def test_a_module_missing_inside_the_call(machine: Machine, bare_python: str) -> None:
    """A function that imports an absent module while it runs fails with the same sentence."""

    def imports() -> Any:
        import numpy as np

        return np.pi

    ran = await machine.run(imports, options={"python_path": bare_python})
    assert isinstance(cause(ran), errors.RemoteEnvError)
    assert "imports needs the module 'numpy'" in failed(ran)
    assert "ct.DepsModule" in failed(ran)


async def test_covalent_missing(machine: Machine, bare_python: str) -> None:
    """What needs Covalent on the machine says so, and offers the local executor."""
    from covalent._workflow.transport import TransportableObject

    ran = await machine.run(TransportableObject, 1, options={"python_path": bare_python})
    assert "needs the module 'covalent'" in failed(ran)
    assert "pip install covalent" in failed(ran)
    assert 'executor="local"' in failed(ran)


async def test_python_path_that_is_not_there(machine: Machine, far_place: There) -> None:
    """An explicit python_path that does not exist is an error with its name, never a fallback."""
    wrong = str(far_place / "no-such" / "python3")
    ran = await machine.run(seven, options={"python_path": wrong})
    assert isinstance(ran.error, errors.RemoteEnvError)
    assert wrong in str(ran.error)
    assert machine.name in str(ran.error)


# ---- places that cannot be used


async def test_an_unwritable_timing_log(machine: Machine, place: Path, far_place: There) -> None:
    """A timing log that cannot be written is told before the task starts, and the task does not run."""
    note = far_place / "side-effect"
    name = str(note)

    def marks() -> None:
        with open(name, "w"):
            pass

    blocked = place / "a-file"
    blocked.touch()
    ran = await machine.run(marks, options={"timing_filepath": str(blocked / "timing.log")})
    assert isinstance(ran.error, errors.ConfigError)
    assert str(blocked / "timing.log") in str(ran.error)
    assert "nothing was submitted" in str(ran.error)
    assert not note.exists()


async def test_a_spool_that_cannot_be_made(machine: Machine, far_place: There) -> None:
    """A remote_spool where a file is in the way is a TransferError with host, path and cause."""
    blocked = far_place / "not-a-directory"
    blocked.touch()
    ran = await machine.run(seven, options={"remote_spool": str(blocked)})
    assert isinstance(ran.error, errors.TransferError)
    for word in (machine.name, str(blocked), "not a directory"):
        assert word in str(ran.error)


async def test_a_workdir_that_cannot_be_made(machine: Machine, far_place: There) -> None:
    """A remote_workdir where a file is in the way fails the task with its path."""
    blocked = far_place / "no-workdir"
    blocked.touch()
    ran = await machine.run(seven, options={"remote_workdir": str(blocked)})
    assert isinstance(cause(ran), errors.TransferError)
    assert str(blocked) in failed(ran)
