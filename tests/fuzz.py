"""Coverage-guided fuzzing of every parser of the near side: `make fuzz`.

Each parser of `support.parsers` is fuzzed by atheris (libFuzzer) in a process of its own, from sound seeds
and the corpus of earlier runs; then the corpus is replayed under `coverage`, which tells how far it came.
A crash is kept as a file, and replayed by `python -m tests.fuzz --replay PARSER FILE`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PLACE = ROOT / "build" / "fuzz"
LENGTH_MAX = 8192  # bytes of an input; long ones are slow, and the bounds have tests of their own
MEMORY_MAX = 1024  # MiB, over which libFuzzer calls it a finding
TOKENS = ["{M}", "{H}", "\\x0a", "NaN", "1e999", "parts", "status", "completed", "error", "record", "class"]
TOKENS += ["name", "size", "sha256", "left", "../", "+\\x0a"]
# What each parser is for; where a module has more than that, how much of these functions counts.
TARGETS = {
    "decoder": ("covalent_sshtiming/remote/wire.py",),
    "preamble": ("covalent_sshtiming/host/bootstrap.py",),
    "result": ("covalent_sshtiming/electron.py",),
    "outcome": ("covalent_sshtiming/outcomes.py", "covalent_sshtiming/timing/record.py"),
    "output": ("covalent_sshtiming/host/task.py",),
    "files": (
        "covalent_sshtiming/fetching.py",
        "covalent_sshtiming/fetched.py",
        "covalent_sshtiming/remote/names.py",
    ),
}


def fuzz_one(name: str, seconds: int) -> None:
    """Fuzz one parser; never returns, because libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["covalent_sshtiming"]):
        from support import parsers
    from support.unpickling import nothing_unpickled

    corpus = PLACE / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    golden = json.loads((TESTS / "golden" / "frames.json").read_text())
    for number, seed in enumerate(parsers.seeds(name, golden)):
        (corpus / f"seed-{number}").write_bytes(seed)
    tokens = PLACE / name / "tokens"
    tokens.write_text("".join(f'"{token}"\n' for token in TOKENS))
    parser = parsers.PARSERS[name]

    def one(data: bytes) -> None:
        with nothing_unpickled():
            parser(data)

    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={LENGTH_MAX}",
        f"-rss_limit_mb={MEMORY_MAX}",
        "-timeout=10",
    ]
    files = [f"-artifact_prefix={PLACE / name}/", f"-dict={tokens}", str(corpus)]
    atheris.Setup([sys.argv[0], "-print_final_stats=1", *limits, *files], one)
    atheris.Fuzz()


def replay(name: str, files: list[Path]) -> None:
    """Run inputs through a parser."""
    from support import parsers

    for file in files:
        parsers.PARSERS[name](file.read_bytes())


def reached(name: str) -> list[str]:
    """Replay a parser's corpus, and return for each of its modules how much of what can be reached was."""
    data = PLACE / name / "coverage"
    source = [str(ROOT / module) for module in TARGETS[name]]
    corpus = sorted((PLACE / name / "corpus").iterdir())
    cover = [sys.executable, "-m", "coverage"]
    listed = PLACE / name / "inputs"
    listed.write_text("\n".join(map(str, corpus)))
    run = ["run", "--branch", f"--include={','.join(source)}", f"--data-file={data}"]
    subprocess.run([*cover, *run, "-m", "tests.fuzz", "--replay", name, f"@{listed}"], check=True, cwd=ROOT)
    report = PLACE / name / "coverage.json"
    subprocess.run([*cover, "json", "-q", f"--data-file={data}", "-o", str(report)], check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(report.read_text())["files"]
    lines = []
    for module, facts in found.items():
        for function, part in facts["functions"].items():
            summary = part["summary"]
            if function and summary["covered_lines"]:  # what the parser never enters is not its business
                covered = f"{summary['covered_lines']}/{summary['num_statements']} lines"
                branches = f"{summary['covered_branches']}/{summary['num_branches']} branches"
                missing = (
                    f", not line {', '.join(map(str, part['missing_lines']))}"
                    if part["missing_lines"]
                    else ""
                )
                lines.append(f"    {module}:{function}: {covered}, {branches}{missing}")
    return lines


def report_on(name: str, seconds: int) -> bool:
    """Fuzz one parser in a process of its own and print what came of it; False for a finding."""
    command = [sys.executable, "-m", "tests.fuzz", "--one", name, str(seconds)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, errors="replace")
    log = PLACE / name / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(ran.stdout + ran.stderr)
    examples = re.search(r"number_of_executed_units: (\d+)", ran.stderr)
    edges = re.findall(r"cov: (\d+) ft: (\d+)", ran.stderr)
    crashes = sorted(str(path) for path in (PLACE / name).glob("*-*") if path.is_file())
    count = examples[1] if examples else "no"
    cov = f"{edges[-1][0]} edges, {edges[-1][1]} features" if edges else "no coverage"
    print(f"{name}: {count} examples in {seconds} s, {cov}, {len(crashes)} crashes", flush=True)
    if ran.returncode or crashes:
        print(f"  status {ran.returncode}, see {log}; inputs: {' '.join(crashes) or 'none'}")
        return False
    print("\n".join(reached(name)), flush=True)
    return True


def main() -> None:
    """Fuzz all parsers, or do one step of that for one of them."""
    arguments = argparse.ArgumentParser(fromfile_prefix_chars="@")
    arguments.add_argument("--one", metavar="PARSER")
    arguments.add_argument("--replay", metavar="PARSER")
    arguments.add_argument("rest", nargs="*")
    given = arguments.parse_args()
    sys.path.insert(0, str(TESTS))
    if given.replay:
        replay(given.replay, [Path(name) for name in given.rest])
    elif given.one:
        fuzz_one(given.one, int(given.rest[0]))
    else:
        seconds, names = int(given.rest[0]), given.rest[1:] or list(TARGETS)
        sound = [report_on(name, seconds) for name in names]
        sys.exit(not all(sound))


if __name__ == "__main__":
    main()
