"""Run the steps of the Dockerfile without Docker, in a copy of the checkout and a new environment.

python scripts/run_dockerfile.py [--set TORCH_INDEX=URL] [--list]

System packages (apt-get) are not installed. ``pip`` and ``python`` are those of the new environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Step(NamedTuple):
    """An instruction of the file with its text."""

    name: str
    text: str


def steps(text: str) -> list[Step]:
    """Return the instructions of a Dockerfile."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [Step(*line.strip().split(maxsplit=1)) for line in lines]


def commands(found: list[Step], given: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Return the commands that can run without Docker, each with the values of ARG and ENV before it."""
    values: dict[str, str] = {}
    made = []
    for step in found:
        if step.name in ("ARG", "ENV"):
            key, _, value = step.text.partition("=")
            values[key] = given.get(key, value) if step.name == "ARG" else value
        elif step.name == "RUN" and not step.text.startswith("apt-get"):
            made.append((step.text, dict(values)))
    return made


def main() -> int:
    """Run the steps and return the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="ARG=VALUE", help="value of an ARG")
    parser.add_argument("--list", action="store_true", help="print the commands only")
    options = parser.parse_args()
    found = commands(steps((ROOT / "Dockerfile").read_text()), dict(one.split("=", 1) for one in options.set))
    if options.list:
        print(*(command for command, _ in found), sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copy, environment = Path(folder) / "ovbench", Path(folder) / "venv"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
        venv.create(environment, with_pip=True)
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        for command, values in found:
            print(f"+ {command}", flush=True)
            code = subprocess.run(command, shell=True, cwd=copy, env={**os.environ, **values, "PATH": path}).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
