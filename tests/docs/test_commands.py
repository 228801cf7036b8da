"""Every command in README and docs runs as printed, or CANNOT says why it does not and how it ends instead."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
from PIL import Image
from report_runs import random_counts, write_run

from ovbench.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "cli.md"),
]
RUNS = {"leaderboard", "check", "eval", "gate", "masks", "reference", "report", "segment", "train"}  # a network
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
NAMES = ["sky", "grass", "road"]


class Cannot(NamedTuple):
    """Commands that cannot do their work in a test. ``says``: how they end here; empty: only their words are parsed."""

    words: str
    why: str
    says: str = ""


BENCHMARKS = "voc|pc|coco-|cityscapes|ade"
CANNOT = (
    Cannot(r"gate --baseline results/", "takes minutes; continuous integration runs this line"),
    Cannot(r"--suite reme-table2", "builds ReME's reference sets, which takes minutes"),
    Cannot(r"--suite lposs-components", "solves a system for every row and image, which takes minutes"),
    Cannot(r"--suite corrclipv2-bank", "builds the bank of mini, which takes minutes"),
    Cannot(r"ovbench bank build --images train2017", "needs images", "'train2017' does not exist"),
    Cannot(r"-m venv|pip install|-m pytest", "installs the package; continuous integration runs this line"),
    Cannot(r"^pre-commit|^ruff|^mypy|^mkdocs|^docker |^git |^python -m build|^find photos", "another program"),
    Cannot(r"^python -c .*write_training", "draws 16,000 images"),
    Cannot(r"^python scripts/", "writes into the repository"),
    Cannot(r"torchrun", "starts several processes"),
    Cannot(r"^ovbench sweep (start|watch|work)", "starts workers or waits for them: tests/cli/test_sweep.py"),
    Cannot(r"ovbench train .*coco/", "needs COCO", "coco/train2014' does not exist"),
    Cannot(r"ovbench train .*--recipe mini", "trains for an hour"),
    Cannot(r"ovbench describe", "needs a language model"),
    Cannot(r"ovbench power", "the drawn runs have five images", "fewer than 10 images"),
    Cannot(r"--method mine ", "needs an installed plug-in", 'unknown method "mine"'),
    Cannot(r"clip_segmentor\.py", "needs another repository", "clip_segmentor.py"),
    Cannot(r"(psi|clip|dinov2|reference)=(FILE|SET)", "a placeholder", "FILE|SET|no images and labels of"),
    Cannot(r"ovbench score --dataset ade150", "needs maps of the benchmark", 'no folder "results/ade"'),
    Cannot(r"ovbench segment photo", "needs weights and photographs", "no image file|no class list"),
    Cannot(r"--device cuda", "needs two GPUs", "cuda"),
    Cannot(r"ovbench reference build --images train2017", "needs images and a captioner", "'train2017' does not exist"),
    Cannot(r"s3://bucket", "needs a bucket: tests/cli/test_object_store.py"),
    Cannot(r"ovbench data prepare", "needs a download", "downloads"),
    Cannot(r"--subset ade150-", "needs the benchmark's images", "ade150"),
    Cannot(r"ovbench merge shards/", "needs the shards of a real benchmark", "no ledger in the folder"),
    Cannot(
        rf"ovbench (eval|data|masks|sweep plan) .*\b({BENCHMARKS})", "needs the benchmark's images",
        "no images and labels of",
    ),
    Cannot(r"ovbench data verify mess", "needs the images of a group", "no images and labels of mess-"),
    Cannot(r"ovbench eval .*-d mess", "needs the images of a group", "no benchmark of the group mess"),
)  # fmt: skip


def blocks(text: str, *languages: str) -> list[str]:
    return [block for _, language, block in FENCED.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """The commands of a page in order: those of lines joined by a backslash or by ``&&`` one by one, no comments."""
    lines = "\n".join(blocks(text, "", "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    parts = (part for line in lines for part in re.split(r"\s+&&\s+", line))
    return [shlex.join(words) for words in (shlex.split(part, comments=True) for part in parts) if words]


def parse(words: list[str]) -> click.Context:
    """The context that click makes of a command without running it; click.UsageError where the words do not fit.

    Folders that do not exist here fit, and a URL needs no library of its store.
    """
    words = [word.replace("s3://", "memory://") for word in words]
    command, context = cli, click.Context(cli, info_name="ovbench")
    while isinstance(command, click.Group):
        if not words:
            raise click.UsageError("Missing command")
        if command.invoke_without_command and words[0].startswith("-"):
            break
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f'no command "{name}"'
    try:
        return command.make_context(command.name, list(words), parent=context)
    except click.BadParameter as error:
        if "does not exist" not in error.message:
            raise
        return click.Context(command, parent=context)


def ovbench_words(command: str) -> list[str]:
    """The words behind the program's name; none if the command is another program's."""
    words = shlex.split(command)
    names = [n for n, word in enumerate(words) if Path(word).name == "ovbench"]
    return words[names[0] + 1 :] if names and (names[0] == 0 or words[names[0] - 1] == "-m") else []


def runs(page: Path) -> bool:
    """Whether a command of the page runs a network or writes a site; index.md does so in the quick tests too."""
    wanted = [command for command in commands(page.read_text(encoding="utf-8"))
              if not any(re.search(cannot.words, command) for cannot in CANNOT)]  # fmt: skip
    return page.name != "index.md" and any(words[0] in RUNS for words in map(ovbench_words, wanted) if words)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the pages speak of: the checkout's documents and cases, two runs, a method, a card, a psi."""
    for name in ("docs", "tests", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for number, name in enumerate(("first", "second")):
        counts = random_counts(np.random.default_rng(number), 5, len(NAMES))
        write_run(tmp_path / "runs", counts, NAMES, name=name)
    (tmp_path / "path" / "to").mkdir(parents=True)
    method = blocks((ROOT / "docs" / "add-method.md").read_text(encoding="utf-8"), "python")[0]
    (tmp_path / "path" / "to" / "mine.py").write_text(method)
    psi = next((ROOT / "ovbench" / "assets" / "mini").rglob("psi*.safetensors"))
    for folder in ("runs/psi", "psi-one"):
        (tmp_path / folder).mkdir()
        shutil.copy(psi, tmp_path / folder / "psi.safetensors")
    (tmp_path / "data").mkdir()
    for folder in ("images", "labels"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        picture = np.zeros((32, 48, 3) if folder == "images" else (32, 48), np.uint8)
        picture[16:] = 1
        Image.fromarray(picture).save(tmp_path / "photos" / folder / "a.png")
    (tmp_path / "photos" / "classes.txt").write_text("sky\ngrass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OVBENCH_DATA", str(tmp_path / "data"))
    for command, images in (("EVAL", 1), ("MASKS_BUILD", 1), ("REFERENCE_BUILD", 4)):
        monkeypatch.setenv(f"OVBENCH_{command}_LIMIT", str(images))  # the words stay as printed
    monkeypatch.setenv("OVBENCH_EVAL_SETTINGS", "short_side=112")
    monkeypatch.setenv("OVBENCH_GATE_SETTINGS", "short_side=64 crop=64 stride=64")  # of twelve images
    monkeypatch.setattr("ovbench.evaluation.observed.IMAGES", 1)
    return tmp_path


def expanded(words: list[str], folder: Path) -> list[str]:
    """What a shell makes of the words; an existing data root in the place of ``/data``."""
    made = []
    for word in words:
        if word == "/data":
            word = str(folder / "data")
        found = sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else []
        made += found or [word.replace("~", str(folder), 1) if word.startswith("~") else word]
    return made


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if runs(page) else []) for page in PAGES]
)
def test_commands_run_as_printed(page, here, ovbench, request):
    text = page.read_text(encoding="utf-8")
    if "ovbench cache rm" in text:  # not from the cache of other tests that run now
        request.getfixturevalue("own_mini")
    for command in commands(text):
        words = ovbench_words(command)
        reason = next((cannot for cannot in CANNOT if re.search(cannot.words, command)), None)
        if reason is not None and not reason.says:
            if words:
                parse(words)
            continue
        assert words, f"{page.name}: what is `{command}`?"
        *words, redirected = words if ">" in words else [*words, None]
        words = words[:-1] if redirected else words
        done = ovbench(*expanded(words, here))
        if reason is None:
            assert done.code == 0, f"{page.name}: `{command}`\n{done.err}"
        else:
            assert done.code in (2, 3) and re.search(reason.says, done.err), f"{page.name}: `{command}`\n{done.err}"


def test_every_reason_has_a_command():
    used = [command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]
    assert len(used) > 60
    assert len([page for page in PAGES if runs(page)]) > 10
    assert [cannot.words for cannot in CANNOT if not any(re.search(cannot.words, command) for command in used)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_exist(page):
    """`ovbench ...` within a sentence: the command and its options; arguments may be left out there."""
    for found in re.findall(r"`ovbench ([a-z][^`]*)`", FENCED.sub("", page.read_text(encoding="utf-8"))):
        try:
            parse(shlex.split(found.replace("\n", " ")))
        except click.MissingParameter:
            continue
        except click.UsageError as error:
            assert re.match("Option '.*' requires an argument|Missing command", error.message), found


def messages(path: Path) -> list[str]:
    """The texts of a module that are no docstrings; a value in an f-string reads X."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    bodies = [node.body for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    other = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    other |= {id(part) for node in joined for part in node.values}
    texts = ["".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values) for node in joined]
    plain = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in other)
    return texts + [node.value for node in plain if isinstance(node.value, str)]


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """The messages of every module of the package."""
    return {path.relative_to(ROOT).as_posix(): messages(path) for path in (ROOT / "ovbench").rglob("*.py")}


@pytest.mark.slow
def test_commands_that_messages_recommend_exist(texts):
    advice = {
        (path, found.rstrip(" ."))
        for path, written in texts.items()
        for text in written
        for found in re.findall(r"\bovbench ([a-z][^`;,()\"\n]*)", text)
        if found.split()[0] in COMMANDS
    }
    assert len(advice) > 15 and ("ovbench/data/find.py", "data prepare X --source X") in advice
    for path, found in sorted(advice):
        words = shlex.split(re.sub(r" first$|\{\w+\}", "", found))  # "run ovbench eval first"
        try:
            parse(words)
        except (click.MissingParameter, click.exceptions.Exit):
            pass
        except click.UsageError as error:
            assert re.match("Option '.*' requires an argument|Missing command", error.message), (path, found)


@pytest.mark.slow
def test_options_that_messages_name_exist(texts):
    def options(command: click.Command) -> set[str]:
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        own = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        return own.union(*map(options, inner))

    context = click.Context(cli)
    known = options(cli).union(*(options(cli.get_command(context, name)) for name in COMMANDS), {"--help"})
    written = [text for path in texts if "third_party_worker" not in path for text in texts[path] if " " in text]
    named = {option for text in written for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert len(named) > 30
    assert named - known == {"--array", "--standalone"}  # of sbatch and torchrun


def test_the_method_in_the_readme_is_the_one_in_the_package():
    source = (ROOT / "ovbench" / "methods" / "clip.py").read_text(encoding="utf-8")
    written = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    shown = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert [block.rstrip() for block in shown] == [ast.get_source_segment(source, written)]


@pytest.mark.slow
def test_the_card_in_the_readme_is_run(tmp_path, ovbench):
    from PIL import Image

    card = next(b for b in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "toml") if "[[layout]]" in b)
    (tmp_path / "card.toml").write_text(card)
    (tmp_path / "classes.txt").write_text("grass\nroad\n")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.open(ROOT / "docs" / "images" / "scene.jpg").resize((80, 96)).save(tmp_path / "images" / "a.jpg")
    Image.fromarray(np.tile(np.uint8([0, 1]), (96, 40))).save(tmp_path / "labels" / "a.png")
    done = ovbench(
        *["eval", "--method", "clip", "--dataset", tmp_path / "card.toml", "--data-root", tmp_path],
        *["--out", tmp_path / "runs", "--weights", "clip=mini"],
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "cli.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
