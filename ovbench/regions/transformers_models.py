"""Find, download and load segmentation models of the transformers library."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from ovbench.backbones.hub import fetch_file, local_file, require_connection
from ovbench.regions.base import RegionSource
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.extras import install_line

NETWORK = (("config.json",), ("model.safetensors", "pytorch_model.bin"))
WITH_PROCESSOR = (*NETWORK, ("preprocessor_config.json",))

SIZES = {"facebook/sam2-hiera-large": "0.9 GB", "facebook/mask2former-swin-large-coco-panoptic": "0.9 GB"}

Files = tuple[tuple[str, ...], ...]


def missing_files(weights: str, files: Files) -> list[str]:
    """Return the missing files of a model as "FILE of WEIGHTS (SIZE)", and the library if it is missing.

    Args:
        weights: Hub name or folder.
        files: Alternative names of every file.
    """
    absent = [] if find_spec("transformers") else [f"the package transformers ({install_line('regions')})"]
    for names in files:
        if local_file(weights, *names) is None:
            size = f" ({SIZES[weights]})" if weights in SIZES and names in NETWORK[1:] else ""
            absent.append(f"{names[0]} of {weights}{size}")
    return absent


def fetch_files(weights: str, files: Files) -> None:
    """Download the files of a model.

    Args:
        weights: Hub name or folder.
        files: Alternative names of every file.

    Raises:
        InputError: If the library or a file is missing and cannot be downloaded.
    """
    if not find_spec("transformers"):
        raise InputError("this region source needs the package transformers", fix=install_line("regions"))
    absent = missing_files(weights, files)
    if absent and not Path(weights).is_dir():
        from huggingface_hub import constants

        require_connection(constants.ENDPOINT, absent)
    for names in files:
        fetch_file(weights, *names)


def weights_hash(weights: str, files: Files) -> str:
    """Return the sha256 over the hashes of the files in use."""
    from ovbench.backbones.checkpoint import file_sha256

    return hashlib.sha256("".join(file_sha256(fetch_file(weights, *names)) for names in files).encode()).hexdigest()


@dataclass(frozen=True)
class HubRegions(RegionSource):
    """Load weights from the hub, or from a folder with the same files.

    Attributes:
        files: Alternative names of every file that is needed.
        weights: Hub name or folder.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ("weights",)
    concurrent: ClassVar[bool] = False
    files: ClassVar[Files] = NETWORK

    weights: str = ""

    def missing(self) -> list[str]:
        """Return the missing files."""
        return missing_files(self.weights, self.files)

    def fetch(self) -> None:
        """Download the missing files."""
        fetch_files(self.weights, self.files)

    def weights_sha256(self) -> str:
        """Return the sha256 of the files, downloaded if necessary."""
        return weights_hash(self.weights, self.files)


def load_pretrained(cls: type, weights: str) -> Any:
    """Load a model with ``cls.from_pretrained``, in fp32 and eval mode.

    Args:
        cls: Model class of transformers.
        weights: Hub name or folder.

    Returns:
        The frozen model on the CPU.

    Raises:
        InputError: If it cannot be loaded, or a tensor is missing or has another shape.
    """
    try:
        model, report = cls.from_pretrained(weights, dtype="float32", weights_only=True, output_loading_info=True)
    except Exception as error:  # hub, network, configuration and file errors have no common base class
        raise InputError(
            f"cannot load {cls.__name__} from {weights}: {first_line(error)}",
            fix="run once with a connection, or give --set regions.weights=FOLDER with config.json and the weights",
        ) from error
    unfit = [*report["missing_keys"], *report["mismatched_keys"]]
    if unfit:
        raise InputError(
            f"the weights of {weights} do not fit its config.json: {len(unfit)} tensors differ, first {unfit[0]}",
            fix=f"give the folder of a {cls.__name__}",
        )
    return model.eval().requires_grad_(False)
