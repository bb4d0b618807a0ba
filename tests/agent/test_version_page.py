"""A version's page: what its axes say, the curve over labelled patients and the unseen domains among them."""

from __future__ import annotations

from agent.report.version import VersionRecord, page

ROW = {"id": "v3", "state": "candidate", "parent": "v2", "recipe": "linear_probe", "created_at": "2025-06-01T08:00:00Z",
       "approved_by": None, "digest": None, "plan_digest": None, "measures": None}  # fmt: skip
POINT = {"patients": 8, "cases": 21, "gained_on_develop": 0.012, "quality": 0.6, "learnt": {"vale": 0.512}}
LABEL = {"labelled_patients": 40, "gained_on_develop": 0.2, "curve_of": [8, 16]}
WORST = {"worst_domain": {"domain": "vale", "quality": 0.7}, "n": 9,
         "corrupted": {"before": {"noise": 0.5}, "after": {"noise": 0.6}}}  # fmt: skip
UNSEEN = {"domain": "hill <b>", "n": 31, "quality": 0.611, "before": 0.722, "live_learnt": True}


def shown(**axes) -> str:
    return page(VersionRecord(row=ROW, verdicts=[], lineage=["v3", "v2"], facts={"axes": axes}, events=[]))


def test_the_curve_is_a_table_and_a_line_that_ends_with_all_patients() -> None:
    """A point that failed has its reason in the table and none in the line."""
    lost = {"patients": 16, "cases": 40, "gained_on_develop": None, "learnt": {}, "failed": "it diverged"}
    text = shown(label_efficiency={**LABEL, "curve": [POINT, lost]})
    table = text[text.index("From fewer labels") :]
    assert all(part in table for part in (">21<", ">+0.012<", "vale 0.512", ">failed<", "it diverged"))
    assert "from 2 numbers of labelled patients" in table and table.count("<circle") == 3
    assert "curve: +0.012 from 8, failed from 16" in text


def test_an_unseen_domain_stands_beside_what_the_live_version_says_there() -> None:
    """With whether that has learnt it; names from the data are only text."""
    text = shown(robustness={**WORST, "unseen": [UNSEEN], "unseen_of": ["hill <b>"], "unseen_skipped": {}})
    table = text[text.index("At a domain that it has not seen") :]
    assert all(part in table for part in (">31<", ">0.611<", ">0.722<", "has learnt it", "hill &lt;b&gt;"))
    assert "<b>" not in text


def test_what_was_not_asked_is_not_on_the_page() -> None:
    """Nor what was asked and came to nothing; the sentence of the axis says why."""
    label = {"labelled_patients": 40, "gained_on_develop": 0.2}
    skipped = {"unseen": [], "unseen_of": [], "unseen_skipped": {"vale": "without it there is nothing"}}
    for text in (
        shown(label_efficiency=label, robustness=WORST),
        shown(label_efficiency={**label, "curve": [], "curve_of": []}, robustness={**WORST, **skipped}),
    ):
        assert "From fewer labels" not in text and "At a domain" not in text
    assert "vale not left out: without it there is nothing" in text and "too few for a curve" in text
