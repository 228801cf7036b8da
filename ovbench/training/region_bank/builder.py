"""Build a bank: rows of chunks of images, then stores, index and manifests in the official format.

A chunk of images is one file in the folder ``parts``, so a repeated build resumes, and shards divide the chunks. The
rows of a finished bank stay as they are; a build with more images appends to them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ovbench.backbones.base import Loaded
from ovbench.backbones.build import load_backbone, missing_weights
from ovbench.backbones.hub import require_connection
from ovbench.data.decode import read_image_file
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.methods.base import Backbones
from ovbench.methods.support.backbone import read_store
from ovbench.regions.provider import Regions, open_regions
from ovbench.training.reference_set.chunks import ImageChunk, SourceImage
from ovbench.training.region_bank.build_state import BankSources, BuildState, images_by_stem
from ovbench.training.region_bank.rows import RegionRows, RowMaker
from ovbench.training.region_bank.settings import BankPlan
from ovbench.training.region_bank.write_bank import BankContent, BankImages, write_bank
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import replacing


def build_bank(
    sources: BankSources, plan: BankPlan, device: str = "cpu", processes: ProcessGroup | None = None
) -> dict[str, Any] | None:
    """Build a bank, or resume a build.

    Args:
        sources: Inputs and output.
        plan: The settings.
        device: Device of the networks.
        processes: The processes of the build, which divide the chunks of images.

    Returns:
        The note of the bank, in rank 0; None in other processes, and for a shard.

    Raises:
        InputError: If images or weights are missing; checked before any network is loaded.
    """
    processes = processes or ProcessGroup()
    images = images_by_stem(sources.images, sources.limit)
    loaded = _load(plan)
    state = BuildState(sources, images, plan, loaded)
    missing = state.missing()
    mine = processes.take(sources.shard.take(missing) if sources.shard else missing)
    if mine:
        _make_rows(state, plan, loaded, mine, device, show=processes.is_main)
    processes.barrier()
    if sources.shard or not processes.is_main:
        return None
    note = _finish(state, plan)
    shutil.rmtree(state.folder, ignore_errors=True)
    return note


def _finish(state: BuildState, plan: BankPlan) -> dict[str, Any]:
    """Append the rows of all chunks to the bank."""
    before, stores = state.images, state.stores()
    stems, counts, without = list(before.stems), list(before.counts), list(before.without)
    blocks = {role: [read_store(path)[: before.rows]] if before.rows else [] for role, path in stores.items()}
    failed: dict[str, str] = {}
    for chunk in state.chunks:
        images, rows = read_chunk(state.path(chunk))
        for image in images:
            if "failed" in image:
                failed[image["stem"]] = image["failed"]
            elif image["rows"]:
                stems.append(image["stem"])
                counts.append(image["rows"])
            else:
                without.append(image["stem"])
        for role, tensor in rows.items():
            blocks[role].append(tensor)
    content = BankContent(
        state.identity, state.names, BankImages(tuple(stems), tuple(counts), tuple(without)), blocks, failed
    )
    return write_bank(state.base, content, plan.build.index, before.rows)


def _load(plan: BankPlan) -> dict[str, Loaded]:
    """Load the encoders, or report all missing ones at once."""
    wanted = {"clip": plan.cell.backbones["clip"], "dino": plan.cell.backbones["dino"], "vfm": plan.vfm}
    if plan.auxiliary:
        wanted["auxiliary"] = plan.auxiliary
    if absent := missing_weights(wanted):
        from huggingface_hub import constants

        require_connection(constants.ENDPOINT, absent)
    return {role: load_backbone(role, spec) for role, spec in wanted.items()}


def _make_rows(
    state: BuildState, plan: BankPlan, loaded: dict[str, Loaded], chunks: Sequence[ImageChunk], device: str, show: bool
) -> None:
    networks = Backbones(**{role: one.vision for role, one in loaded.items()})
    maker = RowMaker(networks, plan.cell.protocol, plan.cell.params, plan.left_out, device)
    regions = open_regions(plan.cell.regions, device)
    regions.expect({one.id: one.path for chunk in state.chunks for one in chunk.images}, ())
    total, hidden = sum(len(chunk.images) for chunk in chunks), None if show else True
    with tqdm(total=total, desc="rows", unit="image", disable=hidden) as bar:
        for chunk in chunks:
            write_chunk(state.path(chunk), chunk, maker, regions, bar.update)


def write_chunk(path: Path, chunk: ImageChunk, maker: RowMaker, regions: Regions, advance: Any) -> None:
    """Write the rows of some images; an image that fails is noted and does not stop the build."""
    rows: list[RegionRows] = []
    images: list[dict[str, Any]] = []
    for image in chunk.images:
        found = _rows_of(image, maker, regions)
        if isinstance(found, str):
            images.append({"stem": image.id, "failed": found})
        else:
            images.append({"stem": image.id, "rows": len(found.ids)})
            rows.append(found)
        advance(1)
    tensors = {"keys": [one.keys for one in rows], "main": [one.values for one in rows]}
    if len(maker.steps) > 1:
        tensors["auxiliary"] = [one.auxiliary for one in rows if one.auxiliary is not None]
    stored = {name: torch.cat(found).half().cpu() for name, found in tensors.items() if found}
    with replacing(path) as temporary:
        save_file(stored, temporary, {"images": json.dumps(images)})


def _rows_of(image: SourceImage, maker: RowMaker, regions: Regions) -> RegionRows | str:
    try:
        pixels: np.ndarray = read_image_file(image.path, None, None).pixels
        rows = maker.rows(pixels, regions(pixels, image.path))
    except InputError as error:
        return first_line(error)
    finite = all(bool(one.isfinite().all()) for one in (rows.keys, rows.values))
    return rows if finite else "its rows are NaN or infinite"


def read_chunk(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return the images and the rows of a chunk.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["images"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"cannot read a file of rows: {first_line(error)}", where=str(path), fix="delete it and repeat the build"
        ) from None
