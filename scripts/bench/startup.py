"""Measure how long `ovbench eval` takes until its first image is in the ledger, against `import torch`, in one run.

Writes results/benchmarks/startup.json: CPU seconds of child processes, the smallest of some repetitions, with
their spread, and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import machine, spread

from ovbench.utils.files import write_json
from ovbench.utils.provenance import versions

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "--help": ("--help",),
    "gate --help": ("gate", "--help"),
    "list methods": ("list", "methods"),
    "list datasets": ("list", "datasets"),
    "list regions": ("list", "regions"),
    "list backbones": ("list", "backbones"),
    "list suites": ("list", "suites"),
    "show clip mini": ("show", "clip", "mini"),
    "show corrclip voc21": ("show", "corrclip", "voc21"),
    "table": ("table", "--runs", "tests/historic"),
    "compare": ("compare", *(str(path) for path in sorted((ROOT / "tests" / "historic").glob("*.json")))),
    "unknown option": ("eval", "--mthod", "clip"),
    "unknown method": ("eval", "-m", "clipp", "-d", "mini"),
    "unknown setting": ("eval", "-m", "clip", "-d", "mini", "--set", "lenght=1"),
}

UNTIL_THE_FIRST_IMAGE = """
import os
from ovbench.__main__ import main
from ovbench.evaluation.ledger import LedgerWriter

add = LedgerWriter.add
LedgerWriter.add = lambda self, entry: (add(self, entry), os._exit(0))
main()
"""


def seconds(*command: str) -> float:
    """Return the CPU seconds of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "startup.json")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = str(ROOT)
    ovbench = (sys.executable, "-m", "ovbench")
    with tempfile.TemporaryDirectory() as folder:
        cell = ("eval", "-m", "clip", "-d", "mini", "--limit", "1", "--device", "cpu")
        one = (*ovbench, *cell, "--fresh", "--out", folder)
        first = (sys.executable, "-c", UNTIL_THE_FIRST_IMAGE, *one[len(ovbench) :])
        programs = {"import torch": (sys.executable, "-c", "import torch"), "eval, first image": first}
        programs["eval, a record of one image"] = one
        programs |= {name: (*ovbench, *words) for name, words in COMMANDS.items()}
        seconds(*one)  # mini is drawn and its text vectors are cached
        rounds = [{name: seconds(*program) for name, program in programs.items()} for _ in range(arguments.repeat)]
    best = {name: min(each[name] for each in rounds) for name in programs}
    result = {
        "machine": machine(),
        "versions": versions(),
        "repetitions": arguments.repeat,
        "cpu_seconds": {name: round(value, 2) for name, value in best.items()},
        "spread": {name: spread([each[name] for each in rounds]) for name in programs},
        "relative_to_import_torch": {name: round(value / best["import torch"], 2) for name, value in best.items()},
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
