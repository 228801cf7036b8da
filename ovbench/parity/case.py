"""Read a parity case: a folder with ``case.json``, ``inputs.npz``, ``expected.npz`` and usually weights."""

from __future__ import annotations

import difflib
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovbench.data.integrity import BROKEN_ARRAYS
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json
from ovbench.utils.typed import STRICT, NotBelowZero, OpenTyped, Typed, validate

LARGEST = 1 << 29  # bytes of the arrays in one file; those of the recorded cases take less than a hundredth


Agreement = Annotated[float, Field(gt=0, le=1)]


class Noted(Typed):
    """A table of case.json. The recorder may leave notes under other keys, but not under misspelled ones."""

    model_config = ConfigDict(**{**STRICT, "extra": "allow"}, frozen=True)

    @model_validator(mode="after")
    def _no_misspelled_key(self) -> Noted:
        for key in self.__pydantic_extra__ or ():
            absent = set(type(self).model_fields) - self.model_fields_set  # beside the right key, it is a note
            close = difflib.get_close_matches(key, absent, n=1, cutoff=0.8)
            if close and not key.startswith("atol_"):
                raise ValueError(f'has the unknown key "{key}"; did you mean "{close[0]}"?')
        return self


class StageFields(Noted):
    """A stage in case.json; ``atol_VARIANT`` is the tolerance of a variant."""

    __pydantic_extra__: dict[str, Any]
    meaning: str = ""
    atol: NotBelowZero = 0
    rtol: NotBelowZero = 0
    min_agreement: Agreement | None = None

    @model_validator(mode="after")
    def _variants(self) -> StageFields:
        for key, value in self.__pydantic_extra__.items():
            if key.startswith("atol_") and not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise ValueError(f'has no tolerance in "{key}", but {value!r}')
        return self


class LabelFields(Noted):
    """The label map in case.json."""

    array: str = "labels"
    min_agreement: Agreement = 1.0


class VariantArray(Noted):
    """An array of expected.npz that another reading of the method gives, with the stage that it is like."""

    like: str
    atol: NotBelowZero = 0
    rtol: NotBelowZero = 0


class Variant(Noted):
    """Another reading of the method, with its arrays by name and its label map."""

    arrays: dict[str, VariantArray] = Field(default_factory=dict)
    labels: str


class Observed(OpenTyped):
    """What was observed while recording; without a window, all of them."""

    window: Annotated[int, Field(ge=0)] | None = None


class CaseFile(Noted):
    """The file case.json."""

    format: Literal[1]
    method: str
    case: str
    models: dict[str, dict[str, Any]] | None = None
    params: dict[str, Any]
    classes: list[list[str]] | None = None
    stages: dict[str, StageFields]
    labels: LabelFields = LabelFields()
    variants: dict[str, Variant] = Field(default_factory=dict)
    observed: Observed = Observed()


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
    """A case without its expected values, which are read only after the method has run.

    Attributes:
        folder: Folder of the case.
        method: Name of the method.
        name: Name of the case.
        models: Architecture of each model.
        params: Settings of the run, by their official names.
        classes: Synonyms of each class.
        stages: The recorded stages.
        labels: The recorded label map.
        inputs: Arrays that the method reads.
        weights: Tensors, with the names "MODEL.KEY".
        file: The content of case.json.
    """

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
    file: CaseFile

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
            self._require(stage.name, arrays)
        for variant in self.file.variants.values():
            for name in (*variant.arrays, variant.labels):
                self._require(name, arrays)
        return arrays

    def _require(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        if name not in arrays:
            raise InputError(f'no array "{name}" in expected.npz', where=str(self.folder))

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
    file = validate(CaseFile, read_json(path), str(path), fix="give a folder with a recorded case")
    weights = folder / "weights.safetensors"
    stages = (Stage(name, s.meaning, s.atol, s.rtol, s.min_agreement) for name, s in file.stages.items())
    try:
        return Case(
            folder=folder,
            method=file.method,
            name=file.case,
            models=file.models or {},
            params=file.params,
            classes=file.classes or [],
            stages=tuple(stage for stage in stages if stage.name != file.labels.array),
            labels=Stage(file.labels.array, "label map", 0, 0, file.labels.min_agreement),
            inputs=_arrays(folder / "inputs.npz"),
            weights=load_file(weights) if weights.is_file() else {},
            file=file,
        )
    except SafetensorError as error:
        raise InputError(f"damaged weights: {error}", where=str(weights)) from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:  # a member never has more bytes than its directory states
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST:
            raise InputError(f"the arrays take {size >> 20} MiB unpacked, more than {LARGEST >> 20}", where=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except BROKEN_ARRAYS as error:
        raise InputError(f"cannot read the arrays: {error}", where=str(path)) from error
