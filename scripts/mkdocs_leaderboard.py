"""Put the leaderboard into the documentation site: published figures, and the records in results/. A hook of mkdocs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovbench.results.leaderboard.site import write_site
from ovbench.results.record_files import find_records

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mini", "measured")  # below results/


def on_post_build(config: Any, **_: Any) -> None:
    """Write the leaderboard to the folder "board" of the site."""
    folders = [ROOT / "results" / name for name in FOLDERS]
    records = [found for folder in folders if folder.is_dir() for found in find_records(folder)]
    write_site(records, Path(config["site_dir"]) / "board")
