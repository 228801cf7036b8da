"""Find out by the hash of a file which published weights of a region source it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench.config.published_weights import published


def official_regions(regions: Mapping[str, Any], sha256: str | None = None) -> dict[str, Any]:
    """Return region settings in which a file of the user has the name of the published weights that it is.

    Args:
        regions: The region settings of a cell.
        sha256: The hash of the file; None to read the file.

    Returns:
        The settings; unchanged if the file is missing or is not known.
    """
    source, weights = regions.get("source", ""), regions.get("weights", "")
    if not source.startswith("sam") or not weights:
        return dict(regions)
    if sha256 is None:
        path = Path(weights).expanduser()
        if not path.is_file():
            return dict(regions)
        from ovbench.backbones.checkpoint import file_sha256  # torch, which a cell without such a file does not need

        sha256 = file_sha256(path)
    if source.startswith("sam2"):
        return {**regions, "weights": published("hashes").get("sam2", {}).get(sha256, weights)}
    known = published("sam").get(regions.get("model", ""), {}).get("sha256")
    return {**regions, "weights": "" if sha256 == known else weights}
