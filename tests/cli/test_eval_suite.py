"""`ovbench eval --suite` on mini."""

import json

import pytest

ROWS = """
datasets = ["mini"]
[shared]
method = "corrclip"
settings = { regions = "slic" }
[[row]]
label = "complete"
[[row]]
label = "no scope"
settings = { scope = false }
"""


@pytest.mark.slow
def test_a_suite_gives_a_table_with_its_labels_and_a_record_a_row(ovbench, tmp_path):
    suite = tmp_path / "own.toml"
    suite.write_text(ROWS)
    page = tmp_path / "pages" / "own.md"
    done = ovbench("eval", "--suite", suite, "--limit", 1, "--out", tmp_path / "runs", "--page", page)
    assert done.code == 0
    lines = page.read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == ["| row", "| complete", "| no scope"]
    assert "regions: slic" in page.read_text() and "clip: mini" in page.read_text()
    assert "complete" in done.out and "scope" in done.out and "planned: no scope: corrclip on mini" in done.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*.json")]
    assert sorted(record["cell"]["params"]["scope"] for record in records) == [False, True]
    assert {record["cell"]["regions"]["source"] for record in records} == {"slic"}


def test_what_can_be_asked_wrongly(ovbench):
    for arguments, words in (
        (("--suite", "corrclip-tabel2"), 'did you mean "corrclip-table2"'),
        (("--suite", "corrclip-table2", "-m", "clip"), "a suite names its own methods"),
        (("-d", "mini"), "nothing to evaluate"),
        (("-d", "mini", "-m", "clip", "--page", "x.md"), "give --suite"),
        (("--suite", "corrclip-table5", "-d", "mini", "--set", "similarity=q-q"), "have the same settings"),
    ):
        failed = ovbench("eval", *arguments)
        assert failed.code in (2, 3) and words in failed.err


def test_suites_and_region_sources_are_listed(ovbench):
    suites = ovbench("list", "suites", "--json").json()
    assert {"corrclip-table2", "corrclip-table5"} <= {row["suite"] for row in suites} and all(
        r["title"] for r in suites
    )
    sources = {row["regions"]: row["missing"] for row in ovbench("list", "regions", "--json").json()}
    assert sources["slic"] == "" and "sam_vit_h_4b8939.pth" in sources["sam"]
