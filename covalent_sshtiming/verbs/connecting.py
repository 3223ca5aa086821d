"""What the verbs that go to a machine share: the log that they do without. No verb itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_warnings() -> Iterator[None]:
    """Leave unsaid what the connection would log for a server, because the verb says it to a person."""
    warner = logging.getLogger("covalent_sshtiming.host.host")
    warner.disabled, before = True, warner.disabled
    try:
        yield
    finally:
        warner.disabled = before
