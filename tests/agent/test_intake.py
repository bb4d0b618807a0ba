"""The intake: idempotent by content, one part per patient, nothing lost, every refusal with its reason beside it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taking import make_workspace, rows, write_dicom, write_folder, write_list, write_png

from agent.cases.intake import Intake
from agent.cases.labels import UNKNOWN, keep_unknown
from agent.cases.split import Split
from agent.errors import HomeostatError
from agent.store import journal
from agent.workspace import Workspace, get_setting

COUNTS = ("accepted", "duplicates", "quarantined", "labels", "unknown_classes", "conflicts", "wrong_labels")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def counts(*numbers: int) -> dict[str, int]:
    return dict(zip(COUNTS, (*numbers, *[0] * (len(COUNTS) - len(numbers))), strict=True))


def events(workspace: Workspace) -> list[dict[str, object]]:
    return [json.loads(str(row["body"])) for row in rows(workspace, "SELECT body FROM journal ORDER BY seq")]


def test_cases_are_stored_with_their_bytes(workspace: Workspace, tmp_path: Path) -> None:
    """Each case has its patient, its facts and an object named by its digest that holds the very bytes."""
    folder = write_folder(tmp_path / "in", 3)
    assert Intake(workspace).take(folder) == counts(3, 0, 0, 3)
    found = rows(
        workspace, "SELECT * FROM cases JOIN inputs USING (case_id) JOIN patients USING (patient_key) ORDER BY seq"
    )
    assert [row["case_id"] for row in found] == ["case-0", "case-1", "case-2"]
    for i, row in enumerate(found):
        assert (row["state"], row["origin"], row["alias_of"], row["media_type"]) == (
            "pending",
            "feed",
            None,
            "image/png",
        )
        assert workspace.path(str(row["uri"])).read_bytes() == (folder / f"images/{i}.png").read_bytes()
        assert row["split"] == Split.read(workspace.base).assign(f"p{i}")
    assert not list(workspace.path("objects", "incoming").iterdir())
    assert {row["arm"] for row in rows(workspace, "SELECT arm FROM labels")} == {"with_case"}


def test_the_same_folder_twice_brings_nothing_new(workspace: Workspace, tmp_path: Path) -> None:
    """Accepted cases become duplicates, refusals are there once, and the journal does not grow."""
    folder = write_folder(tmp_path / "in", 3)
    (folder / "images/1.png").write_bytes(b"broken")
    assert Intake(workspace).take(folder) == counts(2, 0, 1, 2)
    before = {
        table: rows(workspace, f"SELECT * FROM {table}") for table in ("cases", "labels", "quarantine", "journal")
    }
    assert Intake(workspace).take(folder) == counts(0, 2, 1)
    assert before == {table: rows(workspace, f"SELECT * FROM {table}") for table in before}


def test_the_same_bytes_under_another_id_are_an_alias(workspace: Workspace, tmp_path: Path) -> None:
    """Both ids are kept and take labels, the case is observed once, and both patients are in one part."""
    folder = write_folder(tmp_path / "in", 1)
    others = [f"other-{i}" for i in range(20)]
    write_list(
        tmp_path / "in",
        [{"file": "images/0.png", "case_id": n, "patient_id": n, "label": ""} for n in ["case-0", *others]],
    )
    assert Intake(workspace).take(folder) == counts(1, 20)
    found = rows(workspace, "SELECT alias_of, state, split FROM cases JOIN patients USING (patient_key) ORDER BY seq")
    assert [row["alias_of"] for row in found] == [None] + ["case-0"] * 20
    assert [row["state"] for row in found] == ["pending"] + ["observed"] * 20
    assert len({row["split"] for row in found}) == 1
    write_list(
        tmp_path / "in", [{"file": "images/0.png", "case_id": "other-3", "patient_id": "other-3", "label": "benign"}]
    )
    assert Intake(workspace).take(folder)["labels"] == 1
    assert rows(workspace, "SELECT case_id FROM labels") == [{"case_id": "case-0"}]


def test_a_patient_of_fit_keeps_its_part_whatever_its_bytes(tmp_path: Path) -> None:
    """Who was trained on stays in train, even when first seen through the bytes of somebody else."""
    ids = [f"p{i}" for i in range(10)]
    split = Split.draw(ids, 0)
    trained = next(raw for raw in ids if split.trained_on(raw))
    judged = next(raw for raw in ids if split.assign(raw) == "judge")
    workspace = make_workspace(tmp_path / "ws", split)
    write_png(tmp_path / "in" / "x.png", 1)
    write_list(tmp_path / "in", [{"file": "x.png", "case_id": raw, "patient_id": raw} for raw in (judged, trained)])
    Intake(workspace).take(tmp_path / "in")
    found = rows(workspace, "SELECT case_id, split FROM cases JOIN patients USING (patient_key)")
    assert {row["case_id"]: row["split"] for row in found} == {judged: "judge", trained: "train"}


def test_an_id_never_gets_other_bytes(workspace: Workspace, tmp_path: Path) -> None:
    """The later image is quarantined, in the same call or in another one; the case keeps its own."""
    Intake(workspace).take(write_folder(tmp_path / "a", 1))
    assert Intake(workspace).take(write_folder(tmp_path / "b", 1, first_seed=7)) == counts(0, 0, 1)
    (row,) = rows(workspace, "SELECT * FROM quarantine")
    assert "belongs to another image" in str(row["reason"])
    assert workspace.path("quarantine", str(row["name"])).read_bytes() == (tmp_path / "b/images/0.png").read_bytes()
    assert len(rows(workspace, "SELECT * FROM inputs")) == 1


def test_what_cannot_be_read_is_quarantined_with_its_reason_beside_it(workspace: Workspace, tmp_path: Path) -> None:
    """Empty, cut short, NaN, one pixel, no image, not there: each has NAME.reason.json, and the rest goes on."""
    root = write_folder(tmp_path / "in", 1)
    whole = (root / "images/0.png").read_bytes()
    (root / "empty.png").write_bytes(b"")
    (root / "short.png").write_bytes(whole[: len(whole) // 2])
    np.save(root / "nan.npy", np.full((9, 9), np.nan))
    write_png(root / "one.png", 5, size=1)
    (root / "Jane Canary (!).png").write_bytes(b"text")
    names = ["empty.png", "short.png", "nan.npy", "one.png", "Jane Canary (!).png", "gone.png", "images/0.png"]
    write_list(root, [{"file": name, "patient_id": f"canary-{i}"} for i, name in enumerate(names)])
    sentences: list[str] = []
    assert Intake(workspace, tell=sentences.append).take(root) == counts(1, 0, 6)
    found = rows(workspace, "SELECT * FROM quarantine")
    assert len(found) == len(sentences) == 6
    for row in found:
        name, reason = str(row["name"]), str(row["reason"])
        assert name == Path(name).name and " " not in name
        beside = json.loads(workspace.path("quarantine", f"{name}.reason.json").read_text())
        assert reason in (beside["reason"], *beside.get("lines", []))
        assert reason.startswith("line ") and "anary" not in reason
        assert workspace.path("quarantine", name).exists() == ("not there" not in reason)
    assert {str(row["reason"]).split(": ")[1][:18] for row in found} >= {"the file is empty", "the image has NaN "}


def test_files_of_one_name_are_kept_apart_in_quarantine(workspace: Workspace, tmp_path: Path) -> None:
    """Two broken files called x.png both stay, and feeding them again adds nothing."""
    for folder in "ab":
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "x.png").write_bytes(folder.encode())
    for _ in range(2):
        assert Intake(workspace).take(tmp_path / "in") == counts(0, 0, 2)
        kept = [path for path in workspace.path("quarantine").iterdir() if not path.name.endswith(".reason.json")]
        assert sorted(path.read_bytes() for path in kept) == [b"a", b"b"]


def test_an_unknown_class_costs_the_label_and_a_conflict_is_journaled(workspace: Workspace, tmp_path: Path) -> None:
    """The case stays; the first label stays; the journal counts both and names cases by number only."""
    folder = write_folder(tmp_path / "in", 2)
    Intake(workspace).take(folder)
    listed = [{"file": f"images/{i}.png", "case_id": f"case-{i}", "label": "malignant"} for i in range(2)]
    write_png(folder / "images/2.png", 2)
    listed.append({"file": "images/2.png", "case_id": "case-2", "label": "martian"})
    write_list(folder, listed)
    assert Intake(workspace).take(folder) == counts(1, 2, 0, 0, 1, 2)
    assert {row["value"] for row in rows(workspace, "SELECT value FROM labels")} == {"benign"}
    last = events(workspace)[-1]
    assert (last["unknown_classes"], last["conflicts"], last["conflicting"]) == (1, 2, [1, 2])
    assert "case-" not in json.dumps(events(workspace))


def test_patients_are_counted_once_by_what_became_of_them(workspace: Workspace, tmp_path: Path) -> None:
    """Two images of one patient are one arrival; refusals are counted by their kind; the same folder brings none."""
    root = write_folder(tmp_path / "in", 3)
    for name in ("broken.png", "worse.png", "other.png"):
        (root / "images" / name).write_bytes(f"no image: {name}".encode())
    listed = [("0.png", "ann"), ("1.png", "ann"), ("2.png", "ben"), ("broken.png", "cid"), ("worse.png", "cid"),
              ("other.png", "dan"), ("gone.png", "eve"), ("gone too.png", "eve")]  # fmt: skip
    write_list(root, [{"file": f"images/{name}", "patient_id": patient} for name, patient in listed])
    Intake(workspace).take(root)
    taken, refused = [event["patients"] for event in events(workspace) if "patients" in event][::-1]
    assert (taken, refused) == ({"taken": 2, "unreadable": 2}, {"line of the list": 2})
    before = len(events(workspace))
    Intake(workspace).take(root)
    assert len(events(workspace)) == before


def test_the_pixels_as_they_were_sent_are_a_fact(workspace: Workspace, tmp_path: Path) -> None:
    """What is kept of an image's depth and kind; a column of that name is the site's own."""
    write_png(tmp_path / "in" / "a.png", 1)
    write_dicom(tmp_path / "in" / "b.dcm", np.full((9, 9), 7, np.uint16), BitsStored=12)
    write_list(
        tmp_path / "in", [{"file": "a.png", "sex": "F", "pixels": ""}, {"file": "b.dcm", "sex": "M", "pixels": ""}]
    )
    Intake(workspace).take(tmp_path / "in")
    facts = [json.loads(str(row["facts"])) for row in rows(workspace, "SELECT facts FROM cases ORDER BY seq")]
    assert facts == [{"pixels": "mode L", "sex": "F"}, {"pixels": "12 bit, MONOCHROME2", "sex": "M"}]


def test_a_class_that_nobody_knows_is_told_of_once_and_never_named_in_the_journal(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Labels with two names that the model has not, then again one of them and a third."""
    for folder, names in (("a", ["martian", "venusian", "martian"]), ("b", ["martian", "benign", "jovian"])):
        for i, _ in enumerate(names):
            write_png(tmp_path / folder / f"{i}.png", len(folder + names[0]) * 10 + i + ord(folder))
        write_list(
            tmp_path / folder,
            [{"file": f"{i}.png", "case_id": f"{folder}{i}", "label": name} for i, name in enumerate(names)],
        )
        Intake(workspace).take(tmp_path / folder)
    told = rows(workspace, "SELECT body FROM journal WHERE event = 'class_unknown'")
    assert [json.loads(str(row["body"])) for row in told] == [{"names": 2}, {"names": 1}]
    with workspace.store.read() as connection:
        assert get_setting(connection, UNKNOWN) == ["martian", "venusian", "jovian"]
    assert "jovian" not in json.dumps(events(workspace))


def test_a_wrong_column_is_told_of_and_not_kept_whole(workspace: Workspace) -> None:
    """A label that is another one for each patient: twenty names, cut short, are enough for people to see it."""
    with workspace.store.transaction() as connection:
        for start in (0, 15, 30):
            names = {f"{i} " + 200 * "x" for i in range(start, start + 15)}
            keep_unknown(connection, names, by="intake", at=workspace.now())
        kept = get_setting(connection, UNKNOWN)
    assert len(kept) == 20 and max(map(len, kept)) == 100
    assert len(rows(workspace, "SELECT 1 FROM journal WHERE event = 'class_unknown'")) == 2


def test_labels_can_be_left_aside(workspace: Workspace, tmp_path: Path) -> None:
    """`--no-labels` takes the cases only, and a later feed with labels joins them."""
    folder = write_folder(tmp_path / "in", 2)
    assert Intake(workspace).take(folder, labels=False) == counts(2)
    assert Intake(workspace).take(folder) == counts(0, 2, 0, 2)


def test_patients_are_pseudonyms_and_the_key_is_private(workspace: Workspace, tmp_path: Path) -> None:
    """No raw id, name or study is anywhere in the database; the key's file is for its owner only."""
    tags = {"PatientID": "CANARY-1", "PatientName": "Canary^Jane", "StudyInstanceUID": "1.2.777.1", "PatientSex": "F"}
    for i in range(2):
        write_dicom(tmp_path / "in" / f"{i}.dcm", np.full((8, 8), i, np.uint8), **tags)
    Intake(workspace).take(tmp_path / "in")
    assert len(rows(workspace, "SELECT * FROM patients")) == 1
    with workspace.store.read() as connection:
        dump = "\n".join(connection.iterdump())
    assert "anary" not in dump.lower() and "1.2.777.1" not in dump
    assert stat.S_IMODE(workspace.path("key").stat().st_mode) == 0o600
    assert rows(workspace, "SELECT count(DISTINCT study_key) AS n FROM cases") == [{"n": 1}]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12), st.data())
def test_any_order_of_feeding_keeps_the_invariants(
    tmp_path_factory: pytest.TempPathFactory, cases: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Cases (id, image, patient) in any order: ids and bytes are unique, and an alias has its original's bytes."""
    root = tmp_path_factory.mktemp("any")
    workspace = make_workspace(root / "ws")
    for image in range(4):
        write_png(root / "in" / f"{image}.png", image)
    first: dict[int, int] = {}
    for case, image, _ in cases:
        first.setdefault(case, image)
    while cases:
        cut = data.draw(st.integers(1, len(cases)))
        some, cases = cases[:cut], cases[cut:]
        named = [
            {"file": f"{image}.png", "case_id": f"c{case}", "patient_id": f"p{patient}"}
            for case, image, patient in some
        ]
        write_list(root / "in", named)
        Intake(workspace).take(root / "in")
    found = rows(
        workspace,
        "SELECT c.case_id, c.alias_of, i.digest, o.digest AS original FROM cases c "
        "JOIN inputs i USING (case_id) LEFT JOIN inputs o ON o.case_id = c.alias_of",
    )
    assert {row["case_id"] for row in found} == {f"c{case}" for case in first}
    originals = [row for row in found if row["alias_of"] is None]
    assert len({row["digest"] for row in originals}) == len(originals) == len(set(first.values()))
    for row in found:
        assert row["alias_of"] is None or row["digest"] == row["original"]
    with workspace.store.read() as connection:
        assert journal.verify(connection) == []


def test_a_batch_is_one_transaction(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress goes from batch to batch, and each is one event."""
    from agent.cases import intake

    monkeypatch.setattr(intake, "CASES_AT_ONCE", 2)
    seen: list[tuple[str, int, int]] = []
    Intake(workspace, progress=lambda *said: seen.append(said)).take(write_folder(tmp_path / "in", 5))
    assert [done for _, done, of in seen if of == 5] == [2, 4, 5]
    assert [event["accepted"] for event in events(workspace)] == [2, 2, 1]


def test_a_base_without_a_split_is_refused_before_anything_is_kept(workspace: Workspace, tmp_path: Path) -> None:
    """Nobody's part could be told."""
    (workspace.base / "split.json").unlink()
    with pytest.raises(HomeostatError, match=r"split\.json"):
        Intake(workspace).take(write_folder(tmp_path / "in", 1))
    assert rows(workspace, "SELECT * FROM cases") == []
    assert list(workspace.path("objects").iterdir()) == []


def test_a_disk_that_cannot_be_written_is_one_sentence(workspace: Workspace, tmp_path: Path) -> None:
    """And what was taken in before is kept."""
    Intake(workspace).take(write_folder(tmp_path / "a", 1))
    incoming = workspace.path("objects", "incoming")
    incoming.rmdir()
    incoming.write_text("in the way of the folder")
    with pytest.raises(HomeostatError, match="can't be written"):
        Intake(workspace).take(write_folder(tmp_path / "b", 1, first_seed=3))
    assert len(rows(workspace, "SELECT * FROM cases")) == 1
