"""Choose settings of methods for the small backbones of mini, on drawings that are not among the 100 scored ones.

    python scripts/choose_mini_settings.py --work /tmp/choose                  all methods
    python scripts/choose_mini_settings.py --work /tmp/choose scclip rfclip

The drawings have the classes of mini and seeds of their own. The search starts from the values of the paper and chooses
one setting after the other: the value with the highest mIoU, the earlier one of equals. It prints Markdown. A command
that was interrupted continues where it was.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FIRST, IMAGES = 1_000_000, 30  # the scored drawings have the numbers 0 to 99


class Search(NamedTuple):
    """The steps of a search: each has the trials of one setting, or of settings that change together.

    The first trial of a step has the value of the paper. Other settings are those of the method for mini.
    """

    benchmark: str
    steps: list[list[dict[str, Any]]]


def values(name: str, *tried: float) -> list[dict[str, Any]]:
    """Return the trials of one setting."""
    return [{name: value} for value in tried]


# The weight of the class token comes first: with too much of it all patches are alike, whatever else is set. It is
# not 0, which would leave the class token out.
CLASS_TOKEN, BETA = values("res_cls", 0.3, 0.1, 0.05), values("beta", 0.4, 0.6, 0.8)
# the detector of SFP weighs the class token by the product, 1.5 in the paper
SFP_TOKEN = [{"res_cls": w, "res_scale": round(1.5 / w, 6)} for w in (0.3, 0.1, 0.05)]
SEARCHES = {
    "scclip": Search("mini", [CLASS_TOKEN, BETA]),
    "sfp": Search("mini", [SFP_TOKEN, BETA]),
    "dihclip": Search("mini", [CLASS_TOKEN, BETA, values("heads", 1, 2)]),
    "rfclip": Search("mini", [values("gamma", 0.25, 0.1), BETA, values("sigma", 5.0, 2.5)]),
    "pearl": Search("mini", [values("alpha_kk", 0.08, 0.3)]),
    "talk2dino": Search("mini-bg", [values("bg_thresh", 0.52, 0.55, 0.58, 0.61)]),
}


def draw(folder: Path) -> None:
    """Write the drawings, their labels, and a card for either benchmark."""
    from PIL import Image

    from ovbench.data.mini.drawing import validation_drawing
    from ovbench.utils.paths import shipped

    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(FIRST, FIRST + IMAGES):
        for kind, array in zip(("images", "labels"), validation_drawing(number), strict=True):
            Image.fromarray(array).save(folder / kind / f"{number}.png")
    for benchmark in ("mini", "mini-bg"):
        card = shipped("datasets", f"{benchmark}.toml").read_text().splitlines()
        left_out = ("image_count", "ids_sha256", "generator", "generated_folder", "split", "source")
        card = [line for line in card if not line.startswith(left_out)]
        text = "\n".join(card).replace("/val/", "/").replace('"mini-bg.txt"', '"unscored-mini-bg.txt"')
        text = text.replace('"mini.txt"', '"unscored-mini.txt"').replace("tables/", "")
        (folder / f"unscored-{benchmark}.toml").write_text(f'like = "{benchmark}"\n{text}\n')
        for names in shipped("datasets", "classes").glob(f"{benchmark}.*txt"):
            shutil.copy(names, folder / f"unscored-{names.name}")
    shutil.copy(shipped("datasets", "tables", "mini-bg.txt"), folder)


def score(method: str, benchmark: str, settings: dict[str, Any], work: Path) -> float:
    """Return the mIoU of a method on the drawings."""
    import ovbench

    card = work / "drawings" / f"unscored-{benchmark}.toml"
    (record,) = ovbench.evaluate(method, str(card), settings=settings, out=work / "runs", quiet=True, device="cpu")
    return record["metrics"]["mIoU"]


def search(method: str, work: Path) -> Iterator[str]:
    """Yield the rows of a method's table."""
    benchmark, steps = SEARCHES[method]
    settings = {name: value for step in steps for name, value in step[0].items()}
    for step in steps:
        scores = [score(method, benchmark, settings | trial, work) for trial in step]
        best = step[max(range(len(step)), key=scores.__getitem__)]
        settings |= best
        tried = ", ".join(f"{_text(trial)}: {100 * miou:.1f}" for trial, miou in zip(step, scores, strict=True))
        yield f"| {method} | {benchmark} | {', '.join(best)} | {tried} | {_text(best)} |"


def _text(trial: dict[str, Any]) -> str:
    return " and ".join(map(str, trial.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all that have a search")
    parser.add_argument("--work", type=Path, required=True, help="folder for drawings and runs")
    arguments = parser.parse_args()
    draw(arguments.work / "drawings")
    print("| method | benchmark | setting | mIoU by value | chosen |\n|---|---|---|---|--:|")
    for method in arguments.methods or SEARCHES:
        for row in search(method, arguments.work):
            print(row, flush=True)


if __name__ == "__main__":
    main()
