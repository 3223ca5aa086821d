"""A lattice of independent electrons on a named executor; prints the seconds from dispatch to result.

Run as a client of a Covalent server: `workflow.py EXECUTOR ELECTRONS`.
"""

from __future__ import annotations

import json
import sys
import time

import covalent as ct

NAME, COUNT = sys.argv[1], int(sys.argv[2])


@ct.electron(executor=NAME)
def five():  # type: ignore[no-untyped-def] # noqa: D103 - as users write them
    return 5


@ct.lattice(executor=NAME, workflow_executor="local")
def fan_out(count):  # type: ignore[no-untyped-def] # noqa: D103 - the same
    for _ in range(count):
        five()
    return 5


start = time.perf_counter()
dispatch = ct.dispatch(fan_out)(COUNT)
result = ct.get_result(dispatch, wait=True)
seconds = time.perf_counter() - start
if str(result.status) != "COMPLETED":
    sys.exit(f"{dispatch} is {result.status}: {result.error}")
print(json.dumps(seconds))
