"""Scripts of clients that dispatch workflows and print what came home, as JSON on the last line."""

from __future__ import annotations

HOW_TO = """
import covalent as ct
from covalent_sshtiming import TimingSSHExecutor          # also ct.executor.TimingSSHExecutor

timing_log = "./cpu_timing.log"
timing_executor = TimingSSHExecutor(hostname="build01", timing_filepath=timing_log)

@ct.electron(executor=timing_executor)                    # also executor="sshtiming", all from covalent.conf
def e_ser(x):
    e_est, fact = 1, 1
    for i in range(1, x):
        fact *= i
        e_est += 1 / fact
    return e_est

@ct.lattice
def workflow(x):
    return e_ser(x)

dispatch_id = ct.dispatch(workflow)(10)
result = ct.get_result(dispatch_id, wait=True)
for line in open(timing_log):
    print(line)

import json
json_lines = open(timing_log + ".jsonl").readlines()
print(json.dumps([dispatch_id, str(result.status), result.result, json_lines]))
"""

# What both scripts below begin with: a lattice of one electron, and a workflow's end in plain JSON.
PRELUDE = """
import hashlib, json, os, sys, time
import covalent as ct
from covalent_sshtiming import TimingSSHExecutor

def alone(function, executor, *args):
    electron = ct.electron(function, executor=executor)
    return ct.dispatch(ct.lattice(lambda *values: electron(*values)))(*args)

def end(dispatch_id):
    result = ct.get_result(dispatch_id, wait=True)
    node = result.get_node_result(0)
    return {
        "id": dispatch_id,
        "status": str(result.status),
        "node": str(node["status"]),
        "error": node["error"] or "",
        "stdout": node["stdout"] or "",
        "stderr": node["stderr"] or "",
        "whole": result.error or "",
    }
"""

VALUES = (
    PRELUDE
    + """
here, log = sys.argv[1:]
os.chdir(here)
fan = TimingSSHExecutor(hostname="fan", timing_filepath=log)
plain = TimingSSHExecutor(hostname="left", timing_filepath=log)
scientific = ct.executor.TimingSSHExecutor(hostname="numpy", timing_filepath=log)
other = TimingSSHExecutor(hostname="right", timing_filepath=log)

@ct.electron(executor=fan)
def square(x):
    return x * x

@ct.lattice
def fan_out(count):
    return [square(x) for x in range(count)]

@ct.electron(executor="sshtiming")
def by_name(x):
    return x + 1

@ct.electron(executor=plain)
def nothing():
    return None

@ct.electron(executor=scientific)
def array():
    import numpy
    return numpy.arange(6.0).reshape(2, 3)

@ct.electron(executor=plain)
def blob():
    return bytes(range(256)) * (50 * 4096)

@ct.electron(executor=plain)
def digest(data):
    import hashlib
    return hashlib.sha256(data).hexdigest()

@ct.electron(executor=plain)
def adder(n):
    def add(x):
        return x + n
    return add

@ct.electron(executor=plain)
def table(numbers):
    return {"sum": sum(numbers["of"]), "of": numbers["of"]}

@ct.electron(executor=plain)
def whereabouts():
    import os
    return os.getcwd()

@ct.electron(executor=other)
def elsewhere():
    import os
    return os.getcwd()

with open("seed.txt", "w") as seed:
    seed.write("seed of ")

@ct.electron(executor=TimingSSHExecutor(
    hostname="numpy", timing_filepath=log, send=["seed.txt"], fetch=["*.out"], create_unique_workdir=True
))
def grows(name):
    with open("seed.txt") as seed, open(f"{name}.out", "w") as out:
        return out.write(seed.read() + name)

@ct.electron(executor=plain)
def poor():
    import importlib.util
    return [name for name in ("covalent", "cloudpickle") if importlib.util.find_spec(name)]

@ct.lattice
def large():
    data = blob()
    digest(data)
    return data

@ct.lattice
def kinds():
    return [
        by_name(1), nothing(), array(), adder(3), table({"of": [1, 2]}), whereabouts(), elsewhere(), poor(),
        grows("a"), grows("b"),
    ]

fan_id = ct.dispatch(fan_out)(20)
squares = ct.get_result(fan_id, wait=True).result
large_id, kinds_id = ct.dispatch(large)(), ct.dispatch(kinds)()
result = ct.get_result(kinds_id, wait=True)
named, none, matrix, add, sums, left, right, packages, *grown = result.result
large = ct.get_result(large_id, wait=True)
data = large.result
summed = next(node["output"] for node in large.get_all_node_results() if node["node_name"] == "digest")
print(json.dumps({
    "fan_id": fan_id, "squares": squares, "kinds_id": kinds_id,
    "by_name": named, "none": none, "matrix": [type(matrix).__module__, matrix.tolist()],
    "blob": len(data), "digests": [summed.get_deserialized(), hashlib.sha256(data).hexdigest()],
    "closure": add(4), "table": sums, "left": left, "right": right, "packages": packages, "grown": grown,
}))
"""
)

FAILURES = (
    PRELUDE
    + """
log, = sys.argv[1:]
on = lambda host: TimingSSHExecutor(hostname=host, timing_filepath=log)

def raises():
    raise ValueError("no such flavour")

def prints_and_raises():
    import sys
    print("to standard output")
    print("to standard error", file=sys.stderr)
    raise KeyError("spoon")

def exits():
    import sys
    print("before the exit")
    sys.exit(3)

def vanishes():
    import os
    os._exit(0)

def fine():
    return 1

functions = [raises, prints_and_raises, exits, vanishes]
dispatches = {function.__name__: alone(function, on("build01")) for function in functions}
dispatches |= {host: alone(fine, on(host)) for host in ("nobody", "locked", "unresolved.invalid")}
print(json.dumps({name: end(dispatch_id) for name, dispatch_id in dispatches.items()}))
"""
)

CANCEL = (
    PRELUDE
    + """
log, marker, go = sys.argv[1:]
there = TimingSSHExecutor(hostname="build01", timing_filepath=log, max_parallel=1)

@ct.electron(executor=there)
def sleeps(marker):
    import os, subprocess, time
    child = subprocess.Popen(["sleep", "600"])
    name = f"{marker}.{os.getpid()}"
    with open(name + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(name + ".new", marker)
    time.sleep(600)

@ct.electron(executor=there)
def follows(value):
    open(marker + ".ran", "w").close()
    return value

@ct.lattice
def workflow(marker):
    sleeps(marker)
    return follows(sleeps(marker))

def statuses(dispatch_id):
    result = ct.get_result(dispatch_id, wait=True)
    nodes = [(node["node_name"], str(node["status"])) for node in result.get_all_node_results()]
    return {"id": dispatch_id, "status": str(result.status), "nodes": nodes}

running = ct.dispatch(workflow)(marker)
deadline = time.monotonic() + 30
while not os.path.exists(go) and time.monotonic() < deadline:
    time.sleep(0.05)
fresh = ct.dispatch(workflow)(marker)
for dispatch_id in (fresh, running):
    ct.cancel(dispatch_id)
print(json.dumps({"running": statuses(running), "fresh": statuses(fresh)}))
"""
)
