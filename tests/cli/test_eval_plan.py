"""``eval --plan``: what would run, from the files alone."""

from __future__ import annotations

import os

import pytest

from ovbench.evaluation.forecast import duration

SMALL = ("short_side=56", "crop=56", "stride=56", "templates=identity_1")
WORDS = ("eval", "-m", "clip", "-d", "mini", "--device", "cpu", *(word for one in SMALL for word in ("--set", one)))


@pytest.mark.slow
def test_a_plan_knows_windows_earlier_counts_and_their_cost(ovbench, own_mini, tmp_path):
    out = ("--out", tmp_path / "runs", "--json")
    first = ovbench(*WORDS, "--limit", 2, "--plan", *out)
    assert first.code == 0 and not (tmp_path / "runs").exists()
    (cell,) = first.json()
    assert (cell["images"], cell["counted"], cell["missing"], cell["seconds"]) == (2, 0, [], None)
    assert cell["windows"] > 2
    done = ovbench(*WORDS, "--limit", 2, *out)
    assert "in all: 1 cell, 2 images, 2 to count; no earlier run" in done.err and done.code == 0
    record = done.json()
    (cell,) = ovbench(*WORDS, "--limit", 3, "--plan", *out).json()
    assert (cell["images"], cell["counted"], cell["other"]) == (3, 2, "")
    time = record["time"]["seconds"]
    assert cell["seconds"] == pytest.approx(sum(time[n] for n in ("read", "regions", "label", "count")) / 2, abs=1e-3)
    assert cell["memory_bytes"] == record["time"]["peak_memory"]["host_bytes"]
    text = ovbench(*WORDS, "--limit", 3, "--plan", *out[:2]).out
    assert "planned: clip on mini, 3 images" in text and "2 of 3 images counted " in text
    label = sorted((own_mini / "labels").rglob("*.png"))[0] if (own_mini / "labels").is_dir() else None
    changed = label or sorted(own_mini.rglob("*.png"))[0]
    changed.write_bytes(changed.read_bytes() + b"\0")
    os.utime(changed, (1, 1))
    (cell,) = ovbench(*WORDS, "--limit", 3, "--plan", *out).json()
    assert cell["counted"] + cell["changed"] == 2 and cell["changed"] == 1
    other = ovbench(*WORDS, "--limit", 3, "--plan", *out, "--precision", "bf16").json()[0]
    assert (other["counted"], other["other"]) == (0, "execution.precision")
    assert "planned" not in ovbench(*WORDS, "--limit", 2, "--quiet", *out).err


def test_a_plan_names_weights_that_are_missing(ovbench, monkeypatch, tmp_path, own_mini):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    done = ovbench("eval", "-m", "corrclip", "-d", "mini", "--limit", 1, "--set", "regions=sam2-32", "--plan",
                   "--out", tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    assert "missing: " in done.out and "sam2" in done.out and list(tmp_path.glob("*.json")) == []


def test_times_are_short():
    assert [duration(seconds) for seconds in (0.2, 89, 91, 5000, 86400)] == ["1 s", "89 s", "2 min", "83 min", "24.0 h"]
