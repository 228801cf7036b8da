"""Feed damaged and hostile input to every parser of files, and report what does not end in one sentence.

    python scripts/fuzz.py --seconds 3600                    # all parsers in turn, seeds from 0
    python scripts/fuzz.py --only ledger --seed 17 --count 1    # one case again

Each case is a function of the parser's name and the seed. A parser must return a value or raise an OvbenchError. Cases
run in batches in processes of their own with a limit on memory, so a crash or an allocation is reported with its seed.
The test suite runs a few cases of every parser.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzz_parsers import Parser, parsers

BATCH = 200  # cases of one process
MEMORY = 4 << 30  # bytes of address space that a process may add
ODD = (
    None, True, False, 0, -1, 2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "\x1b[2J",
    "=1+1", "../../x", "x" * 5000, [], {}, [[]], [None], {"": {}}, "/dev/zero", "💥",
)  # fmt: skip

ODD_BYTES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"-1 #", b"1e99", b'"\x1b[', b"\r\n=[", b"[" * 100_000)


def damaged(content: bytes, source: random.Random, encode: Callable[[Any], bytes] | None = None) -> bytes:
    """Return one damaged form of a valid input: bytes, numbers, or nodes of its JSON are changed.

    Args:
        content: The valid input.
        source: Where all choices come from.
        encode: See `Parser`.
    """
    lines = content.split(b"\n") if encode else [content]
    number = source.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        value = None
    if isinstance(value, (dict, list)) and source.random() < 0.7:
        for _ in range(source.choice((1, 1, 1, 2, 4))):
            _change_node(value, source)
        lines[number] = encode(value).rstrip(b"\n") if encode else json.dumps(value).encode()
        return b"\n".join(lines)
    return _damaged_bytes(content, source)


def _change_node(value: Any, source: random.Random) -> None:
    """Replace or remove a random node below a JSON value."""
    while isinstance(value, (dict, list)) and value:
        key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
        child = value[key]
        if isinstance(child, (dict, list)) and child and source.random() < 0.75:
            value = child
            continue
        if source.random() < 0.2:
            del value[key]
        else:
            deep: Any = copy.deepcopy(source.choice(ODD))
            for _ in range(source.choice((0, 0, 0, 0, 400))):
                deep = [deep]
            value[key] = deep
        return


def _damaged_bytes(content: bytes, source: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 8))):
        at, kind = source.randrange(len(data) + 1), source.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + source.choice((1, 4, 64))]
        elif kind == 3:
            data[at:at] = bytes(source.randrange(256) for _ in range(source.choice((1, 4, 64))))
        elif kind == 4:
            data[at:at] = data[source.randrange(len(data) + 1) :][: source.choice((4, 64, 4096))]
        else:
            data[at : at + 4] = source.choice(ODD_BYTES)
    return bytes(data)


def run_case(name: str, parser: Parser, seed: int, folder: Path) -> str:
    """Return why a case fails, "" if its input is read or refused.

    Args:
        name: The parser's name.
        parser: The parser.
        seed: Number of the case.
        folder: An empty folder.
    """
    from ovbench.utils.errors import OvbenchError

    file = parser.example(folder)
    source = random.Random(f"{name} {seed}")
    file.write_bytes(damaged(file.read_bytes(), source, parser.encode))
    try:
        parser.read(file)
    except OvbenchError as error:
        text = str(error)
        return "" if text.isprintable() and len(text) < 20_000 else f"the message cannot be printed: {text[:200]!r}"
    except parser.refusals:
        return ""
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return ""


def _batch(name: str, seeds: range, told: Any) -> None:
    """Run cases in this process; the number of each is told before it starts."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    warnings.simplefilter("ignore")
    parser = parsers()[name]
    for seed in seeds:
        told.send((seed, None))
        with tempfile.TemporaryDirectory() as folder:
            told.send((seed, run_case(name, parser, seed, Path(folder))))


def _failures(name: str, seeds: range) -> list[str]:
    """Run a batch in a process and return its failures."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_batch, args=(name, seeds, sender))
    process.start()
    sender.close()
    failed, started = [], seeds.start
    try:
        while True:
            seed, why = receiver.recv()
            started = seed
            if why:
                failed.append(f"{name}, seed {seed}: {why}")
    except EOFError:
        process.join()
    if process.exitcode:
        failed.append(f"{name}, seed {started}: the process ended with {process.exitcode}")
    return failed


def main() -> int:
    """Run the command line; 0 if every case is read or refused."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60.0, help="time to spend (default 60)")
    options.add_argument("--seed", type=int, default=0, help="first case of every parser")
    options.add_argument("--count", type=int, help="number of cases of each parser, instead of --seconds")
    options.add_argument("--only", action="append", metavar="NAME", help="one parser; repeatable")
    given = options.parse_args()
    names, first, failed, end = given.only or [*parsers()], given.seed, [], time.monotonic() + given.seconds
    last = None if given.count is None else given.seed + given.count
    while (first < last) if last is not None else time.monotonic() < end:
        seeds = range(first, min(first + BATCH, last or first + BATCH))
        for name in names:
            found = _failures(name, seeds)
            print(*found, sep="\n", end="\n" * bool(found), flush=True)
            failed += found
        first = seeds.stop
    print(f"{(first - given.seed) * len(names)} cases of {len(names)} parsers, {len(failed)} failed", file=sys.stderr)
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main())
