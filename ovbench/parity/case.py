"""Read a parity case: a folder with ``case.json``, ``inputs.npz``, ``expected.npz`` and usually weights."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovbench.utils.errors import InputError

FORMAT = 1
LARGEST = 1 << 29  # bytes of the arrays in one file; those of the recorded cases take less than a hundredth


@dataclass(frozen=True)
class Stage:
    """A recorded quantity with its tolerance ``|ours - expected| <= atol + rtol * |expected|``, or a label map."""

    name: str
    meaning: str
    atol: float
    rtol: float
    min_agreement: float | None = None

    def window(self) -> int | None:
        """Return the number of the stage's window, from its name (``..._w2``) or description ("window 2: ...")."""
        found = re.search(r"_w(\d+)$", self.name) or re.search(r"\bwindow (\d+)\b", self.meaning)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Case:
    """A case without its expected values, which are read only after the method has run."""

    folder: Path
    method: str
    name: str
    models: dict[str, dict[str, Any]]
    params: dict[str, Any]
    classes: list[list[str]]
    stages: tuple[Stage, ...]
    labels: Stage
    inputs: dict[str, np.ndarray]
    weights: dict[str, Tensor]
    raw: dict[str, Any]

    def class_index(self) -> list[int]:
        """Return the class of each query, in flattened order."""
        return [number for number, queries in enumerate(self.classes) for _ in queries]

    def expected(self) -> dict[str, np.ndarray]:
        """Return the expected values by stage.

        Raises:
            InputError: If a stage is missing or the file cannot be read.
        """
        arrays = _arrays(self.folder / "expected.npz")
        for stage in (*self.stages, self.labels):
            if stage.name not in arrays:
                raise InputError(f'no array "{stage.name}" in expected.npz', where=str(self.folder))
        return arrays

    def model_weights(self, model: str) -> dict[str, Tensor]:
        """Return the state dict of one model, with the official keys, in fp32."""
        prefix = f"{model}."
        return {k.removeprefix(prefix): v.float() for k, v in self.weights.items() if k.startswith(prefix)}


def read_case(folder: str | Path) -> Case:
    """Read a case from its folder.

    Raises:
        InputError: If a file is missing or damaged, or the case has another format.
    """
    folder = Path(folder)
    path = folder / "case.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f'cannot read "{path}"', fix="give a folder with a case.json") from error
    except ValueError as error:
        raise InputError(f"malformed JSON: {error}", where=str(path)) from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        version = raw.get("format") if isinstance(raw, dict) else None
        raise InputError(f"case format {version}, expected {FORMAT}", where=str(path))
    weights = folder / "weights.safetensors"
    try:
        stages = tuple(_stage(name, info) for name, info in raw["stages"].items())
        labels = raw.get("labels") or {}
        return Case(
            folder=folder,
            method=raw["method"],
            name=raw["case"],
            models=raw.get("models") or {},
            params=raw["params"],
            classes=[list(queries) for queries in raw.get("classes") or []],
            stages=tuple(s for s in stages if s.name != labels.get("array")),
            labels=Stage(labels.get("array", "labels"), "label map", 0, 0, labels.get("min_agreement", 1.0)),
            inputs=_arrays(folder / "inputs.npz"),
            weights=load_file(weights) if weights.is_file() else {},
            raw=raw,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the case lacks or misuses the field {error}", where=str(path)) from error
    except SafetensorError as error:
        raise InputError(f"damaged weights: {error}", where=str(weights)) from error


def _stage(name: str, info: dict[str, Any]) -> Stage:
    return Stage(name, info.get("meaning", ""), info.get("atol", 0), info.get("rtol", 0), info.get("min_agreement"))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:  # a member never has more bytes than its directory states
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST:
            raise InputError(f"the arrays take {size >> 20} MiB unpacked, more than {LARGEST >> 20}", where=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the arrays: {error}", where=str(path)) from error
