"""docs/parity.md says of every case in the repository which kind it is."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")


def maker():
    spec = importlib.util.spec_from_file_location("make_parity_docs", ROOT / "scripts" / "make_parity_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_current():
    assert maker().page(PAGE) == PAGE, "stale: run python scripts/make_parity_docs.py"


def test_every_case_has_a_row_with_its_kind():
    cases = sorted((ROOT / "tests" / "data").glob("*/*/*/case.json"))
    assert len(cases) > 10
    for path in cases:
        kind = {"regression": "regression"}.get(path.parts[-4], "equations" if path.parts[-3] == "reme" else "official")
        assert f"| `{'/'.join(path.parts[-4:-1])}` | {kind} |" in PAGE
