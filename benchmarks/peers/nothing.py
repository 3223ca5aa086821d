"""An executor that does nothing: what a workflow costs on it is Covalent's own.

A file for Covalent's directory of executor plugins, where its short name is the file's.
"""

from __future__ import annotations

from typing import Any

from covalent._workflow.transport import TransportableObject
from covalent.executor.base import AsyncBaseExecutor

EXECUTOR_PLUGIN_NAME = "NothingExecutor"
_EXECUTOR_PLUGIN_DEFAULTS: dict[str, Any] = {}


class NothingExecutor(AsyncBaseExecutor):  # type: ignore[misc] # Covalent has no type information
    """Returns the same number for every task."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    async def run(self, function: Any, args: Any, kwargs: Any, task_metadata: Any) -> Any:  # noqa: ARG002 - Covalent's signature
        """Return 5, and run nothing."""
        return TransportableObject(5)
