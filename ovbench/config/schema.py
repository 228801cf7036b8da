"""Types of the settings: protocol, cell and settings files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import AfterValidator, Field

from ovbench.config.corruptions import checked_corruption
from ovbench.utils.errors import UsageError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import STRICT, Items, Typed, partial, validate

Channels = Annotated[Items[float], Field(min_length=3, max_length=3)]
Deviations = Annotated[Items[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
Distances = Annotated[Items[Annotated[int, Field(gt=0)]], Field(min_length=1)]
SCORED = "@predictions"  # end of the method's name in records of label maps, which have no settings
# settings that older records lack, with their defaults
ADDED = {"resize": "opencv-bilinear", "merge": "scores", "corrupt": "", "distractors": "", "tlp_grid": 80}


@pydantic.dataclasses.dataclass(frozen=True, config={**STRICT, "strict": False})
class Protocol:
    """Settings around a method: preparation of the image, and conversion of scores to labels.

    Attributes:
        short_side: Short side of the resized image in pixels, with the aspect ratio kept; 0 does not resize.
        long_side: Upper limit of the long side in pixels.
        crop: Side of the square sliding windows in pixels of the resized image; 0: one window over the whole image.
        stride: Distance of windows in pixels.
        pad: Windows are padded to a multiple of this many pixels; 0: never; -1: of the patch of CLIP.
        mean: Mean of RGB values 0..255; default: from the backbone that gets the windows.
        std: Standard deviation of RGB values 0..255; default: from the same backbone.
        templates: Prompt set in configs/templates.toml.
        vocabulary: Variant of the class names; "" is the canonical one.
        descriptions: Set of class descriptions by name, or a JSON file of them; "": none.
        logit_scale: Factor of the scores before the softmax.
        prob_thd: Pixels whose best probability is below it become background.
        refine: "pamr" refines the scores at the original size, "pamr-windows" the scores of every window before
            merging, "tlp" the merged scores as PEARL does; "" for none.
        pamr_iterations: Iterations of PAMR.
        pamr_dilations: Distances of PAMR's neighbours in pixels.
        tlp_grid: Approximate number of cells per side of the grid of "tlp".
        resize: How images are resized.
        merge: Overlapping windows are merged by the mean of their "scores", or of their "probabilities": the softmax
            over the queries of the scores times ``logit_scale``.
        corrupt: Corruption of the images of a benchmark, NAME:SEVERITY; "": none.
        distractors: Queries that no label has: a list of the benchmark, such as near-50, or a text file; "": none.
    """

    short_side: Annotated[int, Field(ge=0)] = 336
    long_side: Annotated[int, Field(gt=0)] = 2048
    crop: Annotated[int, Field(ge=0)] = 224
    stride: Annotated[int, Field(gt=0)] = 112
    pad: Annotated[int, Field(ge=-1)] = 0
    mean: Channels = (122.771, 116.746, 104.094)
    std: Deviations = (68.501, 66.632, 70.323)
    templates: str = "openai_80"
    vocabulary: str = ""
    descriptions: str = ""
    logit_scale: float = 40.0
    prob_thd: Annotated[float, Field(ge=0, lt=1)] = 0.0
    refine: Literal["", "pamr", "pamr-windows", "tlp"] = ""
    pamr_iterations: Annotated[int, Field(ge=0)] = 10
    pamr_dilations: Distances = (8, 16)
    tlp_grid: Annotated[int, Field(gt=0)] = 80
    resize: Literal["opencv-bilinear", "pil-bicubic"] = "opencv-bilinear"
    merge: Literal["scores", "probabilities"] = "scores"
    corrupt: Annotated[str, AfterValidator(checked_corruption)] = ""
    distractors: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data; new ones only if they are set, so that older cells keep their identity."""
        plain = dataclasses.asdict(self)
        return {key: value for key, value in plain.items() if key not in ADDED or value != ADDED[key]}


@dataclass(frozen=True)
class Cell:
    """A method on a dataset with its settings, fully resolved.

    Attributes:
        method: Name of the method.
        dataset: Name of the dataset.
        params: The method's parameters, a dataclass.
        protocol: Settings around the method.
        backbones: Specs of the backbones by name.
        regions: Name of the region source ("source") and its settings; empty if the method needs no regions.
    """

    method: str
    dataset: str
    params: Any
    protocol: Protocol
    backbones: Mapping[str, str]
    regions: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the cell as plain data, as in a record."""
        plain = {
            "method": self.method,
            "dataset": self.dataset,
            "params": dataclasses.asdict(self.params),
            "protocol": self.protocol.as_dict(),
            "backbones": dict(self.backbones),
            "regions": dict(self.regions),
        }
        return as_in_file(plain)

    def refuse_evaluation_settings(self) -> None:
        """Refuse settings that only an evaluation uses, because they change a benchmark.

        Raises:
            UsageError: With the first of them.
        """
        for name in ("corrupt", "distractors"):
            if value := getattr(self.protocol, name):
                raise UsageError(
                    f'"{name}" changes a benchmark, so only an evaluation can use it', where=f"{name}={value}",
                    fix="remove it, or use ovbench eval",
                )  # fmt: skip

    def digest(self) -> str:
        """Return the hash of the canonical form, equal for equal settings."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def as_in_file(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data with lists for tuples."""
    return json.loads(json.dumps(plain))


class Tables(Typed):
    """The tables of one layer: backbones by name, protocol, parameters of the method, region source."""

    backbones: dict[str, str] = Field(default_factory=dict)
    protocol: partial(Protocol) = Field(default_factory=dict)  # type: ignore[valid-type]
    params: dict[str, Any] = Field(default_factory=dict)
    regions: dict[str, Any] = Field(default_factory=dict)


class BenchmarkTables(Tables):
    """Settings of a method on one dataset, and where they were published."""

    source: str = ""


class MethodFile(BenchmarkTables):
    """A file in configs/methods/, or beside the code of a plug-in."""

    title: str = ""
    paper: str = ""
    keeps: Items[str] = ()
    benchmark: dict[str, BenchmarkTables] = Field(default_factory=dict)


class CommonFile(Tables):
    """The file configs/common.toml with settings for all methods."""

    common: Tables
    benchmark: dict[str, Tables] = Field(default_factory=dict)


def templates(name: str) -> tuple[str, ...]:
    """Return a prompt set; every template has ``{}`` for the class name.

    Raises:
        UsageError: If there is no such set.
    """
    sets = read_toml(shipped("configs", "templates.toml"))
    if name not in sets:
        raise unknown("prompt set", name, sets, where="templates")
    return validate(Items[Annotated[str, Field(pattern=r"\{\}")]], sets[name], f"templates.toml, {name}")
