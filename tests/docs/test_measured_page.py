"""docs/measured.md names every record of a real benchmark that the repository holds, and says so if there is none."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")


def test_the_page_names_the_records_of_real_benchmarks():
    read = {path: json.loads(path.read_text()) for path in (ROOT / "results").rglob("*.json")}
    datasets = {path: record["cell"]["dataset"] for path, record in read.items() if "cell" in record}
    assert "mini" in datasets.values()
    real = [path.name for path, dataset in datasets.items() if dataset not in ("mini", "mini-bg")]
    assert all(name in PAGE for name in real)
    assert ("No figure in this repository was measured by ovbench on a real benchmark." in PAGE) == (not real)
