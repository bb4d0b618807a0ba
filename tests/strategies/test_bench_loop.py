"""The loop benchmark: its sums, its split, and on real images the promises of the loop."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.demo.scanners import KINDS, A, B, generate
from benchmarks.loop import METHODS, Shift, Site, _parts, _row, bench

DATA = Path(__file__).parents[3] / "shared" / "data"


def test_gap_and_forgetting_are_paired_by_seed() -> None:
    """Gap closed and forgetting compare runs of one seed with each other, and the row tells median and range."""
    found = {}
    for method, home, new in (
        ("frozen", (0.9, 0.8), (0.4, 0.5)),
        ("joint", (0.9, 0.8), (0.9, 0.9)),
        ("naive_lora", (0.8, 0.8), (0.9, 0.7)),
    ):
        found["wbc", method] = [
            dict.fromkeys(("ece_home", "ece_new", "brier_home", "brier_new", "cpu_seconds", "peak_mib"), 0.0)
            | {"home": h, "new": n, "n_home": 10.0, "n_new": 5.0}
            for h, n in zip(home, new, strict=True)
        ]
    row = _row(Shift("wbc", Site(Path()), Site(Path()), "", ()), "naive_lora", found)
    assert row["gap_closed_range"] == [0.5, 1.0]
    assert row["forgetting"] == 0.05
    assert row["forgetting_range"] == [0.0, 0.1]
    assert (row["seeds"], row["n_home"]) == (2, 10)


def test_no_patient_is_trained_on_and_measured_on(tmp_path: Path) -> None:
    """Train, develop and judge share no patient, at either site, though patients have several images."""
    start = datetime(2026, 1, 5, tzinfo=UTC)
    home, new = (
        Site(generate(tmp_path / scanner.name, scanner=scanner, patients=30, seed=0, start=start, size=16))
        for scanner in (A, B)
    )
    parts = _parts(Shift("generated", home, new, "", tuple(sorted(KINDS))), seed=1)
    assert len(parts) == 6
    for site in ("home", "new"):
        patients = [{row.patient_id for row in parts[site, part].rows} for part in ("train", "develop", "judge")]
        assert all(patients)
        assert sum(map(len, patients)) == len(set.union(*patients)) == 30


@pytest.mark.bench
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not (DATA / "wbc").is_dir(), reason="the real images are not on this machine")
def test_lora_with_rehearsal_keeps_the_promise_on_white_cells() -> None:
    """From Barcelona to Jiangxi it closes most of the gap and keeps home, where naive fine-tuning forgets."""
    answer = bench(DATA)
    assert [row["method"] for row in answer["rows"]] == list(METHODS)
    ratios = answer["ratios"]
    assert ratios["new_site_gap_closed"] >= 0.9
    assert ratios["old_site_change"] >= -0.02
    assert ratios["naive_old_site_change"] <= -0.1
