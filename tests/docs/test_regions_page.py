"""docs/regions.md names every region source, and no backbone that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from ovbench.config.published_weights import published
from ovbench.utils.registry import REGIONS

PAGE = (Path(__file__).parents[2] / "docs" / "regions.md").read_text(encoding="utf-8")


def test_every_source_has_its_row_and_no_other():
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)) == REGIONS.names()


def test_the_short_names_on_the_page_exist():
    known = {name for kind in ("clip", "dino") for name in published(kind)}
    named = set(re.findall(r"`((?:metaclip|laion|openai|dino)-\w+)`", PAGE))
    assert named and named <= known
