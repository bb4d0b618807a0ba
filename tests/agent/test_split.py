"""The one split: exact shares, stable for ever, nobody in two parts; pseudonyms that don't link to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cases.pseudonym import patient_key, study_key
from agent.cases.split import SHARES, Split
from agent.errors import HomeostatError

IDS = st.sets(st.text(max_size=20), max_size=120)


@settings(deadline=None)
@given(IDS, st.integers(0, 99))
def test_shares_are_exact_to_a_patient(ids: set[str], seed: int) -> None:
    """Each boundary between parts lies where the shares put it, rounded to a whole patient."""
    parts = [Split.draw(ids, seed).assign(raw) for raw in ids]
    percent, end = 0, 0
    for part, share in SHARES.items():
        percent += share
        end += parts.count(part)
        assert abs(end - percent * len(ids) / 100) <= 0.5


@settings(deadline=None)
@given(IDS, st.lists(st.text(max_size=20), max_size=50), st.integers(0, 9))
def test_a_patient_is_in_one_part_for_ever(ids: set[str], later: list[str], seed: int) -> None:
    """Order and repetition of the ids don't matter, and a split that was written says the same when read."""
    split = Split.draw(ids, seed)
    again = Split.draw([*sorted(ids, reverse=True), *ids], seed)
    for raw in [*ids, *later]:
        assert split.assign(raw) == again.assign(raw) in SHARES
        assert split.trained_on(raw) == (raw in ids and split.assign(raw) == "train")
        assert split.knows(raw) == (raw in ids)


@settings(deadline=None)
@given(IDS.filter(bool), st.data())
def test_patients_with_an_image_in_common_share_a_part(ids: set[str], data: st.DataObject) -> None:
    """Through any chain of groups; everybody is still given a part, and no groups is no change."""
    groups = data.draw(st.lists(st.sets(st.sampled_from(sorted(ids)), min_size=1, max_size=4), max_size=6))
    split = Split.draw(ids, 0, together=groups)
    for group in groups:
        assert len({split.assign(raw) for raw in group}) == 1
    assert all(split.knows(raw) for raw in ids)
    assert Split.draw(ids, 0, together=[{raw} for raw in ids]) == Split.draw(ids, 0)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    """split.json brings every assignment back and holds no patient id."""
    ids = [f"patient-{i}" for i in range(40)]
    split = Split.draw(ids, 3)
    split.write(tmp_path)
    assert Split.read(tmp_path) == split
    assert "patient-" not in (tmp_path / "split.json").read_text()


def test_later_patients_fall_by_the_shares() -> None:
    """Patients whom fit never saw are divided by their hash alone, near the shares."""
    split = Split.draw(["someone"], 0)
    parts = [split.assign(f"later-{i}") for i in range(4000)]
    for part, share in SHARES.items():
        assert abs(parts.count(part) / 40 - share) < 3


def test_another_seed_or_another_hospital_draws_another_split() -> None:
    """The salt depends on both, so that one hospital's hashes can't be looked up in another's base."""
    ids = [f"p{i}" for i in range(50)]
    salts = {Split.draw(ids, 0).salt, Split.draw(ids, 1).salt, Split.draw([*ids, "q"], 0).salt}
    assert len(salts) == 3


@pytest.mark.parametrize("damage", ["missing", "text", "other format", "twice"])
def test_a_damaged_split_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    """A base without a readable split says so, rather than letting trained patients become anchors."""
    Split.draw(["a", "b"], 0).write(tmp_path)
    path = tmp_path / "split.json"
    content = json.loads(path.read_text())
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no json")
    elif damage == "other format":
        path.write_text(json.dumps({**content, "format": 99}))
    else:
        content["patients"]["judge"] += content["patients"]["train"]
        path.write_text(json.dumps(content))
    with pytest.raises(HomeostatError, match=r"split\.json"):
        Split.read(tmp_path)


def test_a_pseudonym_links_to_nothing_else() -> None:
    """It changes with the key, differs from the study's of the same text, and is in no split."""
    assert patient_key(b"k", "A1") == patient_key(b"k", "A1")
    assert len({patient_key(b"k", "A1"), patient_key(b"l", "A1"), study_key(b"k", "A1"), patient_key(b"k", "A2")}) == 4
    split = Split.draw(["A1"], 0)
    assert patient_key(split.salt, "A1") not in split.recorded
