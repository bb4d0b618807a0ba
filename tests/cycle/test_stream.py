"""The stream under every kind of trouble: restarts, silence, late cases, foreign images, broken answers, doubles."""

from __future__ import annotations

import csv
import json
from datetime import timedelta

import numpy as np
import pytest
import smears
from chapters import QUIET, Hand, events, feed, last_event, rows, work_off
from PIL import Image, ImageFilter

from agent.alerting.messages import of_alarm
from agent.cases.intake import Intake
from agent.commands.status import overview
from agent.drift.detect import Detector
from agent.drift.episodes import SCHEMA, close_alarms, heard
from agent.observe import Observer
from agent.trust import suspend_domains
from agent.versions import pointer
from agent.workspace import Workspace
from monitors import QUALITY

SIGNALS = "SELECT tick, monitor, at_case, time, log_e, statistic, threshold, n FROM signals ORDER BY tick, monitor"


@pytest.fixture
def workspace(chapters, tmp_path) -> Workspace:
    return chapters.open("configured", tmp_path / "site")


def write_list(folder, rows_):
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows_[0]))
        writer.writeheader()
        writer.writerows(rows_)
    return folder


def take_days(workspace, folder, counts, first, *, seed=20) -> None:
    """Cases of the home laboratory, counts[i] on the i-th day from `first`."""
    smears.write(folder, smears.HOME, sum(counts), seed, labels=False)
    listed = list(csv.DictReader((folder / "cases.csv").open()))
    days = [day for day, count in enumerate(counts) for _ in range(count)]
    for row, day in zip(listed, days, strict=True):
        row["acquired_at"] = (first + timedelta(days=day)).isoformat()
    Intake(workspace).take(write_list(folder, listed))


def test_a_restart_between_any_two_steps_changes_no_signal(chapters, tmp_path):
    """Monitors go on from the store: the run that died after every step reads the same to the last bit."""
    runs = []
    for name in ("whole", "restarted"):
        workspace = chapters.open("configured", tmp_path / name)
        feed(workspace, smears.HOME, 10, 21)
        feed(workspace, smears.NEW, 25, 22)
        if name == "whole":
            work_off(workspace)
        else:
            while Observer(workspace).step(workspace.now()) + Detector(workspace).step(workspace.now()):
                workspace = Workspace(workspace.root, Hand())
        alarms = rows(workspace, "SELECT monitor, opened_at_case, since_case, score FROM alarms ORDER BY id")
        runs.append((rows(workspace, SIGNALS), alarms))
    assert runs[0] == runs[1]
    assert {row["tick"] for row in runs[0][0]} == {1, 2, 3} and runs[0][1], "five cases wait for a whole tick"


def test_a_feed_that_falls_silent_is_an_alarm(workspace, tmp_path):
    """No case comes any more: nobody is there to complain but the agent. Trust in the answers is not the matter."""
    workspace.now.pass_(days=40)
    rng = np.random.default_rng(5)
    counts = [int(n) for n in rng.integers(2, 5, 40)]
    take_days(workspace, tmp_path / "days", counts, workspace.now().replace(hour=7) - timedelta(days=39))
    work_off(workspace)
    assert "alarm_opened" not in events(workspace), "so far it is a quiet stream"
    observed = rows(workspace, "SELECT count(*) AS n FROM observations WHERE role = 'live'")[0]["n"]
    assert observed == sum(counts)
    silent = 0
    while "alarm_opened" not in events(workspace) and silent < 10:
        silent += 1
        workspace.now.pass_(days=1)
        work_off(workspace)
    alarm = rows(workspace, "SELECT * FROM alarms")[0]
    assert alarm["monitor"] == "volume" and alarm["shift"] is None and alarm["state"] == "open"
    assert pointer.read(workspace.path("live.json")).trust == "normal"
    workspace.now.pass_(days=3)
    work_off(workspace)
    assert len(rows(workspace, "SELECT id FROM alarms")) == 1, "one episode is told once"


def test_a_late_case_of_an_old_day_makes_no_silence(workspace, tmp_path):
    """The days between it and the latest decided day were not silent, and are not decided on again."""
    workspace.now.pass_(days=10)
    first = workspace.now().replace(hour=7) - timedelta(days=10)
    take_days(workspace, tmp_path / "days", [2] * 10, first)
    work_off(workspace)
    workspace.now.pass_(hours=12)
    take_days(workspace, tmp_path / "late", [1], first + timedelta(days=2), seed=23)
    take_days(workspace, tmp_path / "fresh", [2], workspace.now(), seed=24)
    work_off(workspace)
    workspace.now.pass_(days=1)
    take_days(workspace, tmp_path / "next", [2], workspace.now(), seed=25)
    work_off(workspace)
    workspace.now.pass_(days=1)
    work_off(workspace)
    volume = rows(workspace, "SELECT time, n FROM signals WHERE monitor = 'volume' ORDER BY tick")
    assert [row["time"] for row in volume if row["n"] == 0] == []
    assert len(volume) == 13


def foreign(folder, n):
    """Images that are no smears at all: noise, bars, and inverted contrast far beyond any camera's."""
    rng = np.random.default_rng(8)
    (folder / "images").mkdir(parents=True)
    listed = []
    for i in range(n):
        pixels = (
            rng.integers(0, 2, (48, 48, 3)) * 255 if i % 2 else np.tile((np.arange(48) % 12 < 6) * 255, (48, 3, 1)).T
        )
        if i % 2 == 0:
            pixels = np.roll(pixels, i, axis=1) ^ rng.integers(0, 8, pixels.shape)
        Image.fromarray(pixels.reshape(48, 48, 3).astype(np.uint8)).save(folder / f"images/{i}.png")
        listed.append({"file": f"images/{i}.png", "case_id": f"foreign-{i}", "patient_id": f"foreign-{i}"})
    return write_list(folder, listed)


def test_foreign_images_get_no_answer_one_by_one(workspace, tmp_path):
    """A mixed batch: the smears are answered, the others are not, and what they raise is an episode of their own."""
    feed(workspace, smears.HOME, 20, 26)
    Intake(workspace).take(foreign(tmp_path / "foreign", 40))
    feed(workspace, smears.HOME, 10, 27)
    work_off(workspace)
    said = rows(workspace, """SELECT c.case_id, o.abstained FROM observations o JOIN cases c USING (case_id)
                              WHERE o.role = 'live'""")  # fmt: skip
    foreigners = [row["abstained"] for row in said if row["case_id"].startswith("foreign")]
    smears_ = [row["abstained"] for row in said if not row["case_id"].startswith("foreign")]
    assert sum(foreigners) >= 38 and sum(smears_) <= 1
    kinds = [row["shift"] for row in rows(workspace, "SELECT shift FROM alarms")]
    assert kinds.count("far-out") == 1


def test_a_monitor_that_cannot_read_is_passed_over_and_told(workspace):
    """NaN answers: the monitor of the answers says so and reads the other cases; where all are, it is passed over. The
    others read on, and the tick is decided."""
    feed(workspace, smears.HOME, 20, 28)
    observer, detector = Observer(workspace), Detector(workspace)
    observer.step(workspace.now())
    with workspace.store.transaction() as connection:
        connection.execute(
            "UPDATE observations SET scores = :nan WHERE number = 3", {"nan": np.full(3, np.nan, "<f4").tobytes()}
        )
    assert detector.step(workspace.now()) == 1
    heard = {row["monitor"] for row in rows(workspace, "SELECT monitor FROM signals WHERE tick = 1")}
    assert {"embedding", "far-out", "prediction", "family"} <= heard
    read = rows(workspace, "SELECT monitor, n FROM signals WHERE tick = 1 AND monitor IN ('embedding', 'prediction')")
    assert {row["monitor"]: row["n"] for row in read} == {"embedding": 10, "prediction": 9}
    assert events(workspace)[-1] == "monitor_failed"
    observer.step(workspace.now())
    with workspace.store.transaction() as connection:
        nan = {"nan": np.full(3, np.nan, "<f4").tobytes()}
        connection.execute("UPDATE observations SET scores = :nan WHERE number > 10", nan)
    assert detector.step(workspace.now()) == 1
    heard = {row["monitor"] for row in rows(workspace, "SELECT monitor FROM signals WHERE tick = 2")}
    assert {"embedding", "far-out", "family"} <= heard and "prediction" not in heard


def test_the_same_bytes_under_a_second_id_are_observed_once(workspace, tmp_path):
    """Both ids take labels, and they are one case for whatever learns or judges."""
    folder = smears.write(tmp_path / "cases", smears.HOME, 4, 29, labels=False)
    listed = list(csv.DictReader((folder / "cases.csv").open()))
    doubled = [{**row, "case_id": f"again-{row['case_id']}", "label": "monocyte"} for row in listed]
    Intake(workspace).take(write_list(folder, [*listed, *doubled]))
    work_off(workspace)
    assert rows(workspace, "SELECT count(*) AS n FROM observations WHERE role = 'live'")[0]["n"] == 4
    labelled = rows(workspace, "SELECT case_id, value FROM labels WHERE case_id LIKE '%-29-%'")
    assert {row["case_id"] for row in labelled} == {row["case_id"] for row in listed}


def test_a_patients_second_study_follows_the_split_of_the_first(workspace, tmp_path):
    """Years later, with other images: who judges never trains."""
    for study, seed in (("first", 30), ("second", 31)):
        folder = smears.write(tmp_path / study, smears.HOME, 12, seed)
        listed = list(csv.DictReader((folder / "cases.csv").open()))
        for i, row in enumerate(listed):
            row["patient_id"] = f"patient-{i}"
        Intake(workspace).take(write_list(folder, listed))
    work_off(workspace)
    splits = rows(workspace, """SELECT patient_key, count(*) AS studies, count(DISTINCT split) AS splits
                                FROM cases JOIN patients USING (patient_key) WHERE origin = 'feed'
                                GROUP BY patient_key""")  # fmt: skip
    assert len(splits) == 12 and {(row["studies"], row["splits"]) for row in splits} == {(2, 1)}


def test_an_image_that_rots_in_the_workspace_is_set_aside(workspace):
    """The bytes of one pending case are damaged: it is quarantined with a reason, the others are answered."""
    feed(workspace, smears.HOME, 10, 32)
    uri = rows(workspace, "SELECT uri FROM inputs JOIN cases USING (case_id) WHERE state = 'pending'")[4]["uri"]
    file = workspace.path(uri)
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:100])
    since = last_event(workspace)
    work_off(workspace)
    assert "cases_observed" in events(workspace, since=since)
    states = [row["state"] for row in rows(workspace, "SELECT state FROM cases WHERE origin = 'feed'")]
    assert states.count("observed") == 9 and states.count("unreadable") == 1
    assert len(rows(workspace, "SELECT reason FROM quarantine")) == 1


def test_memory_of_the_store_is_the_cases_and_nothing_else(chapters, tmp_path):
    """The monitors' state is bounded: twice the cases leave as much of it."""
    workspace = chapters.open("quiet", tmp_path / "site")
    size = "SELECT sum(length(value)) AS n FROM monitor_state"
    before = rows(workspace, size)[0]["n"]
    feed(workspace, smears.HOME, QUIET, 33)
    work_off(workspace)
    assert rows(workspace, size)[0]["n"] < 2 * before + 100_000


def test_a_new_laboratory_casts_no_doubt_on_the_old_one(workspace):
    """Its cases come between home's and look otherwise: they are answered with caution, and home's as before."""
    for i in range(12):
        feed(workspace, smears.HOME, 5, 60 + i)
        feed(workspace, smears.NEW, 5, 80 + i)
    work_off(workspace)
    alarms = rows(workspace, "SELECT * FROM alarms WHERE shift = 'undetermined'")
    assert [one["stream"] for one in alarms] == ["new"]
    assert pointer.read(workspace.path("live.json")).trust == "caution"
    later = rows(
        workspace,
        """SELECT c.domain, o.trust, count(*) AS n FROM observations o JOIN cases c ON c.case_id = o.case_id
           WHERE o.role = 'live' AND o.number > :at GROUP BY c.domain, o.trust ORDER BY o.trust""",
        at=alarms[0]["opened_at_case"],
    )
    assert [(row["trust"], row["domain"] == "home") for row in later] == [("caution", False), ("normal", True)]
    assert all(row["n"] >= 30 for row in later)
    with workspace.store.read() as connection:
        assert overview(connection)["doubted"] == "new"
    with workspace.store.transaction() as connection:
        suspend_domains(connection, "v0", [later[0]["domain"]], by="homeostat", reason="labels", at=workspace.now())
    feed(workspace, smears.NEW, 5, 99)
    feed(workspace, smears.HOME, 5, 98)
    work_off(workspace)
    last = rows(workspace, "SELECT trust FROM observations WHERE role = 'live' ORDER BY number DESC LIMIT 10")
    assert sorted(row["trust"] for row in last) == ["normal"] * 5 + ["suspended"] * 5
    with workspace.store.read() as connection:
        assert overview(connection)["suspended"] == [later[0]["domain"]]


def soft(workspace, folder, patients, seed) -> None:
    """Cases of the home laboratory whose camera is a little out of focus."""
    smears.write(folder, smears.HOME, patients, seed, labels=False)
    for path in (folder / "images").iterdir():
        Image.open(path).filter(ImageFilter.GaussianBlur(0.5)).save(path)
    Intake(workspace).take(folder)


def test_a_camera_out_of_focus_is_seen_in_the_images_themselves(workspace, tmp_path):
    """Each observed case is described once, and the chart over image quality brings enough evidence on its own."""
    soft(workspace, tmp_path / "soft", 40, 41)
    work_off(workspace)
    described = rows(workspace, "SELECT length(quality) AS n FROM appearances JOIN cases USING (case_id)")
    seen = rows(workspace, "SELECT 1 FROM cases WHERE state = 'observed' AND alias_of IS NULL")
    read = rows(workspace, "SELECT max(log_e - threshold) AS above FROM signals WHERE monitor = 'quality'")
    assert len(described) == len(seen) and {row["n"] for row in described} == {4 * len(QUALITY)}
    assert read[0]["above"] > 0
    assert rows(workspace, "SELECT 1 FROM alarms WHERE stream = 'known' AND shift IS NOT NULL")


def test_a_reference_that_nobody_has_described_is_watched_without_it(workspace, tmp_path):
    """No chart over image quality, no fault, and the other monitors as before."""
    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM appearances")
    soft(workspace, tmp_path / "soft", 10, 42)
    work_off(workspace)
    heard = {row["monitor"] for row in rows(workspace, "SELECT DISTINCT monitor FROM signals")}
    assert "embedding" in heard and "quality" not in heard
    assert "monitor_failed" not in events(workspace)


def with_ages(workspace, folder, patients, seed, ages) -> None:
    """Cases of the home laboratory, with a column `age` or without."""
    smears.write(folder, smears.HOME, patients, seed, labels=False)
    listed = list(csv.DictReader((folder / "cases.csv").open()))
    Intake(workspace).take(write_list(folder, [row | ({"age": str(40 + seed)} if ages else {}) for row in listed]))


def broken(folder, n):
    """Files that are called images and are none, one patient each."""
    for i in range(n):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / f"images/{i}.png").write_bytes(f"no image {i} of {folder.name}".encode())
    names = [f"images/{i}.png" for i in range(n)]
    return write_list(folder, [{"file": name, "case_id": name, "patient_id": name} for name in names])


@pytest.mark.parametrize("beside", [0, 10], ids=["nothing else comes", "between good ones"])
def test_a_feed_that_sends_broken_files_is_told_once(workspace, tmp_path, beside):
    """Nobody could read them, so no image looks different: no shift, no less trust, one alert that names the reason."""
    feed(workspace, smears.HOME, 100, 50)
    work_off(workspace)
    assert "alarm_opened" not in events(workspace), "so far it is a quiet stream"
    for i in range(4):
        Intake(workspace).take(broken(tmp_path / f"broken{i}", 20))
        if beside:
            feed(workspace, smears.HOME, beside, 60 + i)
        work_off(workspace)
    alarms = rows(workspace, "SELECT * FROM alarms")
    assert [(one["monitor"], one["shift"], one["state"]) for one in alarms] == [("schema", None, "open")]
    assert pointer.read(workspace.path("live.json")).trust == "normal"
    assert "'unreadable' at the intake" in of_alarm(alarms[0]).text()


def test_files_of_another_depth_are_told_of(workspace, tmp_path):
    """The same images with a palette: they look as before, and the schema says what has changed."""
    for i, palette in enumerate((False, True)):
        folder = smears.write(tmp_path / str(i), smears.HOME, 50, 45 + i, labels=False)
        for path in (folder / "images").iterdir():
            image = Image.open(path)
            (image.quantize(256) if palette else image).save(path)
        Intake(workspace).take(folder)
        work_off(workspace)
        assert ("alarm_opened" in events(workspace)) == palette
    told = rows(workspace, "SELECT evidence FROM alarms WHERE monitor = 'schema'")
    assert [json.loads(row["evidence"])["column"] for row in told] == ["pixels"]


def test_a_column_that_comes_no_more_is_told_once(workspace, tmp_path):
    """The images are as before and the ages are gone: no shift, no less trust, and one alert that names the column."""
    with_ages(workspace, tmp_path / "whole", 50, 43, ages=True)
    work_off(workspace)
    assert "alarm_opened" not in events(workspace), "so far it is a quiet stream"
    with_ages(workspace, tmp_path / "bare", 60, 44, ages=False)
    work_off(workspace)
    alarms = rows(workspace, "SELECT * FROM alarms")
    assert [(one["monitor"], one["shift"], one["state"]) for one in alarms] == [("schema", None, "open")]
    assert pointer.read(workspace.path("live.json")).trust == "normal"
    assert "another form (age)" in of_alarm(alarms[0]).text()
    with workspace.store.transaction() as connection:
        assert heard(connection, "all", "volume", 1.0) and not heard(connection, "all", "schema", 1.0)
        close_alarms(connection, {SCHEMA}, because="resumed", by="ana", at=workspace.now())
        assert heard(connection, "all", "schema", 1.0)
