"""Kill commands at random instants, complete them, and compare the results with those of undisturbed runs.

    nice -n 15 python scripts/kill_runs.py --kills 100               # in turn over all commands
    nice -n 15 python scripts/kill_runs.py --only bank --kills 5 --seed 3

A command runs in a forked process with all modules loaded, gets one to three SIGKILLs, and is then repeated until it
ends. Its files must be those of an undisturbed run, byte for byte, except times. Only Linux; one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
LIMIT = ("--limit", "3")
TIMES = {
    "time", "seconds", "started", "run", "modified", "counted",
}  # fmt: skip  # keys of JSON files


class Command(NamedTuple):
    """A command that can be resumed.

    Attributes:
        steps: Its arguments, one tuple per process; "{out}", "{cache}" and "{shared}" are folders.
        killed: Number of the step that is killed; later ones run once at the end.
        kept: Patterns of the files of the result, below the folder of the case.
        fresh_cache: Whether it starts with an empty cache instead of a drawn mini.
        most: Most kills; a task of a sweep has failed when three of its workers were killed.
    """

    steps: tuple[tuple[str, ...], ...]
    killed: int = 0
    kept: tuple[str, ...] = ("out/**/*",)
    fresh_cache: bool = False
    most: int = 3


COMMANDS = {
    "eval": Command((("eval", "-m", "maskclip", "-m", "clip", "-d", "mini", *LIMIT, "--out", "{out}"),)),
    "eval-saved": Command((
        ("eval", "-m", "clip", "-d", "mini", *LIMIT, "--save-predictions", "png", "--show", "2", "--metrics",
         "boundary,calibration", "--out", "{out}"),
    )),
    "mini": Command((("data", "verify", "mini"),), kept=("cache/generated/**/*",), fresh_cache=True),
    "masks": Command((
        ("masks", "build", "-d", "mini", "--regions", "felzenszwalb", *LIMIT, "--workers", "1"),
    ), kept=("cache/regions/**/*",)),
    "reference": Command((
        ("reference", "build", "--images", "{shared}/train/images/train", "--captions",
         "{shared}/train/captions_train.json", "--out", "{out}", "--like", "mini", "--set", "synonyms=off", "--set",
         "ambiguous=off", "--set", "filter=none", *LIMIT, "--part-size", "1", "--workers", "1"),
    )),
    "bank": Command((
        ("bank", "build", "--images", "{shared}/train/images/train", "--out", "{out}/x", "--like", "mini", *LIMIT,
         "--part-size", "1"),
    )),
    "train": Command((
        ("train", "talk2dino", "--images", "{shared}/train/images/train", "--captions",
         "{shared}/train/captions_train.json", "--out", "{out}", "--recipe", "mini", "--set", "side=64", "--set",
         "epochs=4", "--set", "batch=4", "--workers", "0"),
    )),
    "prepare": Command((
        ("data", "prepare", "pc459", "--source", "{shared}/raw", "--data-root", "{out}", "--workers", "1"),
    )),
    "sweep": Command((
        ("sweep", "plan", "-m", "clip", "-m", "maskclip", "-d", "mini", "--limit", "4", "--out", "{out}"),
        ("sweep", "work", "{out}", "--stale", "1"),
    ), killed=1, kept=("out/*.json",), most=2),
    "merge": Command((
        ("eval", "-m", "clip", "-d", "mini", "--limit", "4", "--shard", "1/2", "--out", "{out}/a"),
        ("eval", "-m", "clip", "-d", "mini", "--limit", "4", "--shard", "2/2", "--out", "{out}/b"),
        ("merge", "{shards}", "--out", "{out}/merged"),
    ), killed=2, kept=("out/merged/**/*",)),
    "segment": Command((
        ("segment", "{shared}/train/images/train", "-c", "sky", "-c", "grass", "-m", "clip", "--like", "mini", "--save",
         "overlay", "--save", "labels", "--save", "masks", "--save", "coco", "--save", "scores", "--save", "confidence",
         "--existing", "skip", "--out", "{out}"),
    )),
}  # fmt: skip


class Case(NamedTuple):
    """One folder in which a command runs."""

    command: Command
    folder: Path
    shared: Path

    def prepare(self) -> None:
        """Create its folders; a drawn mini and the query vectors are copied from the shared cache."""
        (self.folder / "out").mkdir(parents=True)
        cache = self.folder / "cache"
        cache.mkdir()
        if not self.command.fresh_cache:
            for name in ("generated", "text"):
                if (self.shared / "cache" / name).is_dir():
                    shutil.copytree(self.shared / "cache" / name, cache / name)

    def start(self, step: int) -> int:
        """Run a step in a forked process and return its process id."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ["OVBENCH_CACHE"] = str(self.folder / "cache")
            os.chdir(self.folder)
            sys.argv = ["ovbench", *self._arguments(step)]
            from ovbench.__main__ import main

            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        finally:
            sys.stdout.flush()
            os._exit(code)

    def finish(self, step: int) -> float:
        """Run a step to its end and return its seconds; SystemExit if it fails."""
        start = time.monotonic()
        _, status = os.waitpid(self.start(step), 0)
        if code := os.waitstatus_to_exitcode(status):
            tail = (self.folder / "log.txt").read_text(errors="replace")[-3000:]
            raise SystemExit(f"exit code {code} of {' '.join(self._arguments(step))}\n{tail}")
        return time.monotonic() - start

    def _arguments(self, step: int) -> Iterator[str]:
        for text in self.command.steps[step]:
            if text == "{shards}":
                yield from (str(path.parent) for path in sorted((self.folder / "out").glob("[ab]/*/shard-*.json")))
            else:
                yield text.format(out="out", cache="cache", shared=self.shared)


def result_of(folder: Path, kept: tuple[str, ...]) -> dict[str, str]:
    """Return the hash of every file of a result without times; drafts of the killed are files too, locks are not."""
    paths = (path for pattern in kept for path in folder.glob(pattern))
    return {
        str(path.relative_to(folder)): hashlib.sha256(_without_times(path)).hexdigest()
        for path in paths if path.is_file() and not path.name.endswith(".lock")
    }  # fmt: skip


def _without_times(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_cleaned(json.loads(data)), sort_keys=True).encode()
    if path.suffix == ".jsonl" and data[8:9] == b" ":  # a ledger: sound lines in any order
        lines = [json.loads(line.partition(b" ")[2]) for line in data.splitlines()]
        return "\n".join(sorted(json.dumps(_cleaned(line), sort_keys=True) for line in lines)).encode()
    if path.name == "checkpoint.pt":
        return _checkpoint(data)
    return data


def _checkpoint(data: bytes) -> bytes:
    import torch

    return repr(_cleaned(torch.load(io.BytesIO(data), weights_only=True))).encode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(one) for key, one in value.items() if key not in TIMES}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value


def disturb(case: Case, seconds: float, kills: int, source: random.Random) -> int:
    """Kill the command some times, then complete it; return how often it was alive when it was killed."""
    step, alive = case.command.killed, 0
    for earlier in range(step):
        case.finish(earlier)
    for _ in range(kills):
        pid = case.start(step)
        time.sleep(source.uniform(0, seconds))
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        alive += os.WIFSIGNALED(status)
    for later in range(step, len(case.command.steps)):
        case.finish(later)
    return alive


def prepare_shared(folder: Path) -> None:
    """Write the inputs of all commands: mini, images with captions, and a small benchmark as it is published."""
    import raw_benchmarks

    from ovbench.data.mini.write import write_training

    write_training(folder / "train", 4)
    raw_benchmarks.pascal_context_459(folder / "raw")
    first = Case(COMMANDS["eval"], folder / "first", folder)
    first.prepare()
    first.finish(0)
    (folder / "first" / "cache").rename(folder / "cache")


def run(names: list[str], kills: int, seed: int, folder: Path, told: Callable[[str], object] = print) -> int:
    """Disturb the commands in turn until there were enough kills; return the number of results that differ."""
    shared = folder / "shared"
    prepare_shared(shared)
    source, whole, counts = random.Random(seed), {}, {name: [0, 0, 0] for name in names}
    while sum(count[0] for count in counts.values()) < kills:
        for name in names:
            command = COMMANDS[name]
            if name not in whole:
                case = Case(command, folder / f"{name}-whole", shared)
                case.prepare()
                seconds = [case.finish(step) for step in range(len(command.steps))][command.killed]
                whole[name] = result_of(case.folder, command.kept), seconds
            expected, seconds = whole[name]
            case = Case(command, folder / f"{name}-{counts[name][1]}", shared)
            case.prepare()
            counts[name][0] += disturb(case, seconds, min(source.choice((1, 1, 2, 3)), command.most), source)
            counts[name][1] += 1
            if different := _differences(expected, result_of(case.folder, command.kept)):
                counts[name][2] += 1
                told(f"{name}: {different} ({case.folder})")
            else:
                shutil.rmtree(case.folder)
    for name, (killed, completed, wrong) in counts.items():
        told(f"{name:12} {killed:4} kills {completed:4} completed {wrong:4} different")
    killed, completed, wrong = (sum(column) for column in zip(*counts.values(), strict=True))
    told(f"{'all':12} {killed:4} kills {completed:4} completed {wrong:4} different")
    return wrong


def _differences(expected: dict[str, str], found: dict[str, str]) -> str:
    """Return the names that are missing, new or of other content; "" if there are none."""
    if not expected:
        return "the undisturbed run has no files"
    texts = []
    for what, names in (
        ("missing", expected.keys() - found.keys()), ("new", found.keys() - expected.keys()),
        ("changed", {name for name in expected.keys() & found.keys() if expected[name] != found[name]}),
    ):  # fmt: skip
        if names:
            texts.append(f"{what}: {', '.join(sorted(names)[:5])}")
    return "; ".join(texts)


def load_all() -> None:
    """Import all modules, so that kills meet work instead of imports."""
    import torch

    torch.set_num_threads(1)
    for path in sorted((ROOT / "ovbench").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith(("__main__", "register")):
            with suppress(ImportError):
                importlib.import_module(name)


def main() -> int:
    """Run the command line; 0 if every result is that of an undisturbed run."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=100, help="number of SIGKILLs that meet a running command")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", action="append", choices=COMMANDS, help="one command; repeatable")
    given = options.parse_args()
    load_all()
    with tempfile.TemporaryDirectory(prefix="kill_runs-") as folder:
        wrong = run(given.only or [*COMMANDS], given.kills, given.seed, Path(folder))
        if wrong and not os.environ.get("CI"):
            shutil.copytree(folder, f"{folder}-kept", symlinks=True)
            print(f"different results are kept in {folder}-kept", file=sys.stderr)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
