"""The workflow of Covalent's how-to, as the demo's client runs it.

Run as a script, so that its electron travels by value: the far side does not have this package.
"""

from __future__ import annotations

import json
import sys

import covalent as ct

from covalent_sshtiming import TimingSSHExecutor

hostname, timing_log = sys.argv[1:]
timing_executor = TimingSSHExecutor(hostname=hostname, timing_filepath=timing_log)


@ct.electron(executor=timing_executor)
def e_ser(x):
    """Approximate e by the first x terms of its series."""
    e_est, fact = 1, 1
    for i in range(1, x):
        fact *= i
        e_est += 1 / fact
    return e_est


@ct.lattice
def workflow(x):
    """Run one electron."""
    return e_ser(x)


if __name__ == "__main__":
    dispatch_id = ct.dispatch(workflow)(10)
    result = ct.get_result(dispatch_id, wait=True)
    node = result.get_node_result(0)
    # result.error names the failed nodes; what happened stands in theirs.
    error = node["error"] or node["stderr"] or result.error or ""
    json.dump({"status": str(result.status), "result": result.result, "error": error}, sys.stdout)
