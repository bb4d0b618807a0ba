"""The page of an alarm, made of its record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agent.report.alarm import AlarmRecord, page, sentences
from monitors import CBPE

ROW = {"id": 3, "monitor": "embedding", "shift": "acquisition", "state": "open", "opened_at_case": 40,
       "since_case": 31, "closed_because": None}  # fmt: skip
COST = {"before": 0.921, "now": 0.812, "low": 0.743, "high": 0.881, "patients": 60}
RECORD = AlarmRecord(
    row=ROW,
    evidence={"estimated": {"CBPE": COST}},
    readings={},
    live=[],
    seen=(np.zeros((0, 2)), np.zeros((0, 2))),
    cases=60,
)


def test_the_page_says_what_the_change_may_cost_and_what_that_assumes() -> None:
    """Accuracy at approval, now, its band, and the assumption in words; nothing of it where nothing was estimated."""
    text = page(RECORD)
    table = text[text.index("What it may cost") :]
    assert all(part in table for part in (">92%<", ">81%<", ">74% to 88%<", CBPE.assumption, "approve nothing"))
    assert any("0.81 (0.74 to 0.88) against 0.92" in sentence for sentence in sentences(RECORD))

    far = sentences(replace(RECORD, evidence={"distance": 1.42}))
    assert "The mean of its images lies 1.4 standard deviations from the reference's." in far

    without = replace(RECORD, evidence={"estimated": {}})
    assert "What it may cost" not in page(without)
    assert page(replace(RECORD, evidence={})) == page(without)
