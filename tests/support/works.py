"""Works: pieces of code whose cost is known, as source texts.

The same text runs as an electron, on whichever Python pickled it, and as a program of its own that
another tool can be wrapped around. All of it parses on Python 3.8. A work burns by its own CPU
clock, since what a number of iterations costs varies by half on a busy machine, and waits for
what it has started by a pipe that closes when that has ended, never by the time that it should take.
"""

from __future__ import annotations

BURN = """
import hashlib, os, signal, subprocess, sys, threading, time

def burn(seconds, clock=time.CLOCK_THREAD_CPUTIME_ID):
    end = time.clock_gettime(clock) + seconds
    while time.clock_gettime(clock) < end:
        pass

def apart(work, *args):
    # Run work in a daemon's way: session of its own, parent gone. Returns a pipe that ends with it.
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(reading)
            work(*args)
        os._exit(0)
    os.close(writing)
    os.wait()
    return reading
"""

NOTHING = "pass\n"


def single_thread(seconds: float) -> str:
    """Return a work that burns in its main thread."""
    return BURN + f"burn({seconds})\n"


# Hashing a large buffer releases the interpreter's lock.
FOUR_THREADS = (
    BURN
    + """
data = bytes(1 << 20)

def work():
    end = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) + 1.0
    while time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) < end:
        hashlib.sha256(data).digest()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
)


def subprocess(seconds: float) -> str:
    """Return a work that waits for a program which burns."""
    return BURN + f"subprocess.run([sys.executable, '-c', {single_thread(seconds)!r}], check=True)\n"


NOT_WAITED_FOR = (
    BURN
    + """
reading, writing = os.pipe()
if os.fork() == 0:
    burn(0.5)
    os._exit(0)
os.close(writing)
os.read(reading, 1)
time.sleep(0.05)
"""
)


def double_fork(seconds: float) -> str:
    """Return a work that waits until a daemon of its making has burnt and ended."""
    return BURN + f"os.read(apart(burn, {seconds}), 1)\ntime.sleep(0.05)\n"


def pool_left_open(seconds: float) -> str:
    """Return a work whose process pool burns, in two shares, and is never shut down."""
    # What the pool's workers run is `exec`, which they find wherever they look.
    return f"""
import builtins, concurrent.futures, multiprocessing
pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
builtins.kept_pool = pool
for share in [pool.submit(exec, {single_thread(seconds / 2)!r}, {{}}) for _ in range(2)]:
    share.result()
"""


SLEEP = "import time\ntime.sleep(1)\n"

SIGCHLD_IGNORED = (
    BURN
    + """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
reading, writing = os.pipe()
if os.fork() == 0:
    burn(1.0)
    os._exit(0)
os.close(writing)
os.read(reading, 1)
time.sleep(0.05)
"""
)


def touch(mebibytes: int) -> str:
    """Return a work that touches memory, page by page, and lets it go."""
    return f"""
data = bytearray({mebibytes} << 20)
for i in range(0, len(data), 4096):
    data[i] = 1
del data
"""


# The orphan says that it has burnt its share, and lives on: the end of the task ends it.
KILLED = (
    BURN
    + """
def orphan(writing):
    burn(0.6)
    os.write(writing, b"x")
    time.sleep(60)

reading, writing = os.pipe()
apart(orphan, writing)
burn(0.4)
os.read(reading, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
)

LARGE_RESULT = "result = bytes(50_000_000)\n"

MATRIX_PRODUCT = """
import numpy
matrix = numpy.random.default_rng(1).random((2000, 2000))
for _ in range(10):
    matrix @ matrix
"""

SORT = """
import random
numbers = [random.random() for _ in range(10_000_000)]
numbers.sort()
"""
