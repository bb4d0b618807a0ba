"""The benchmark of drift detectors: charts that don't look ahead, run lengths that are what they say, a fair table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import HomeostatError
from benchmarks.drift import HORIZON, ONSET, PRODUCT, RUN_LENGTHS, TRIALS, UNION, answered, own, play, ratios, table
from benchmarks.drift.charts import CHARTS, WINDOW, Cases, cusum
from benchmarks.drift.figure import TITLES, draw
from benchmarks.drift.lengths import delay, first_of, first_passage, run_length, threshold_for, together
from benchmarks.drift.promised import kept, realised
from benchmarks.drift.scalars import ALPHA, DELTA, HEIGHT, HELD, adwin, distance, kswin_of, page_hinkley
from benchmarks.drift.watch import TICK
from benchmarks.drift.worlds import SHIFTS, World

WORLD = World(seed=3, dim=12)
REFERENCE = WORLD.stream(160, 1)


def cases(n: int, shift: str | None = None, onset: int = 0) -> Cases:
    streams = [WORLD.stream(n, (5, i), shift, onset) for i in range(2)]
    x, score = np.stack([s.x for s in streams], axis=1), np.stack([s.score for s in streams], axis=1)
    return Cases(REFERENCE, x, score, seed=0)


@pytest.mark.parametrize("name", sorted(CHARTS))
def test_a_chart_does_not_look_ahead(name: str) -> None:
    """What it says after so many cases doesn't depend on what comes then: else its delay would be a fiction."""
    whole, first = cases(WINDOW + 4 * TICK, "mean", WINDOW + 2 * TICK), WINDOW + 2 * TICK
    part = Cases(REFERENCE, whole.x[:first], whole.score[:first], seed=0)
    found = CHARTS[name](whole)
    assert found.shape == (WINDOW + 4 * TICK, 2)
    assert not np.isnan(found).any()
    assert np.allclose(found[:first], CHARTS[name](part))


def test_all_charts_are_compared() -> None:
    """Those of the field, the yardstick's two, and the product's."""
    assert {"mewma", "neighbours", PRODUCT, "kernel_window", "kolmogorov_smirnov", "page_hinkley"} <= {*CHARTS}
    assert {"river_adwin", "river_kswin", "river_page_hinkley", "kernel", *TRIALS.values()} <= {*CHARTS}


def test_rivers_detectors_alarm_where_river_does() -> None:
    """At river's own settings the first alarm is where the detector itself has it; KSWIN's p-values are the same."""
    from river.drift import ADWIN, KSWIN, PageHinkley

    def first(detector, values) -> float:
        for t, value in enumerate(values.tolist(), 1):
            detector.update(value)
            if detector.drift_detected:
                return t
        return np.inf

    seen = cases(500, "cov", 250)
    seen.z[250:] *= 1.5
    numbers = distance(seen)
    assert ((numbers >= 0) & (numbers <= 1)).all()
    wanted = [first(ADWIN(delta=DELTA), one) for one in numbers.T]
    assert first_passage(adwin(seen), -np.log(DELTA)).tolist() == wanted and np.isfinite(wanted).all()
    wanted = [first(PageHinkley(threshold=HEIGHT), one) for one in numbers.T]
    assert first_passage(page_hinkley(seen), HEIGHT).tolist() == wanted and np.isfinite(wanted).all()
    wanted = [first(KSWIN(alpha=ALPHA, seed=5), one) for one in numbers.T]
    found = kswin_of(numbers, 5)
    assert first_passage(found, -np.log(ALPHA)).tolist() == wanted and np.isfinite(wanted).all()
    assert (found[: HELD - 1] == 0).all()


def test_menelaus_is_played_where_it_is_installed() -> None:
    """It is in the table where it can be imported, and a gross change is found at the end of a batch."""
    seen = cases(800, "mean", 400)
    seen.x[400:] += 2.0
    alarms = first_passage(CHARTS["menelaus_hdddm"](seen), 1.0)
    assert np.isfinite(alarms).all() and (alarms % 100 == 0).all()


def test_the_windowed_distance_is_kolmogorovs() -> None:
    """The largest over dimensions, as scipy has it for one window."""
    from scipy.stats import ks_2samp

    seen = cases(WINDOW, "mean", 50)
    wanted = max(ks_2samp(seen.known[:, i], seen.z[:, 1, i]).statistic for i in range(12))
    assert CHARTS["kolmogorov_smirnov"](seen)[-1, 1] == pytest.approx(wanted)


@pytest.mark.parametrize("shift", [kind for kind in SHIFTS if kind != "ramp"])
def test_the_oracle_knows_the_change(shift: str) -> None:
    """Its steps are negative on average before the change and positive after it, by the sign of a divergence."""
    stream = WORLD.stream(3000, 9, shift, 1500)
    ratio = WORLD.log_ratio(stream.x, shift)
    assert ratio[:1500].mean() < 0 < ratio[1500:].mean()
    assert (cusum(ratio[:, None]) >= 0).all()


def test_a_ramp_has_no_oracle_and_a_shift_is_one_of_five() -> None:
    """Each is one sentence."""
    with pytest.raises(ValueError, match="no oracle for 'ramp'"):
        WORLD.log_ratio(REFERENCE.x, "ramp")
    with pytest.raises(ValueError, match="a shift is one of mean, cov"):
        WORLD.stream(10, 0, "slip")
    with pytest.raises(ValueError, match="12 dimensions"):
        World(dim=4)


def test_the_same_seed_gives_the_same_stream_up_to_the_change() -> None:
    """Delays of different changes are compared on the same cases before it."""
    quiet, moved = WORLD.stream(40, 2), WORLD.stream(40, 2, "mean", 30)
    assert np.array_equal(quiet.x[:30], moved.x[:30]) and not np.allclose(quiet.x[30:], moved.x[30:])


@given(st.integers(0, 1000), st.sampled_from([20.0, 60.0]))
@settings(max_examples=20, deadline=None)
def test_a_threshold_keeps_the_run_length_it_is_set_for(seed: int, wanted: float) -> None:
    """On the streams that it is set on; the next lower reading of the statistic would not."""
    charts = [np.random.default_rng((seed, i)).exponential(size=(400, 3)) for i in range(3)]
    threshold = threshold_for(charts, wanted)
    assert run_length(charts, threshold) >= wanted
    readings = np.unique(np.concatenate([chart.ravel() for chart in charts]))
    lower = readings[readings < threshold - 1e-6].max()
    assert run_length(charts, lower) < wanted


def test_a_window_that_is_not_full_yet_does_not_spoil_the_threshold() -> None:
    """Before its first reading a chart is at minus infinity; the threshold is as it would be without that."""
    charts = [np.random.default_rng(i).exponential(size=(400, 3)) for i in range(3)]
    late = [np.vstack([np.full((50, 3), -np.inf), chart[50:]]) for chart in charts]
    assert 60 <= run_length(late, threshold_for(late, 60.0)) < 90


@given(st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_charts_that_decide_together_have_one_run_length_together(seed: int) -> None:
    """A second chart is not for free: the union is as seldom wrong as each alone would be."""
    rng = np.random.default_rng(seed)
    quiet = {name: [rng.exponential(size=(300, 40)) for _ in range(3)] for name in ("one", "other")}
    thresholds = together(quiet, 40.0)
    assert 40 <= run_length(first_of(quiet, thresholds), 1.0) <= 50
    assert all(run_length(charts, thresholds[name]) > 40 for name, charts in quiet.items())


def test_the_picture_has_a_panel_per_change_and_a_line_per_detector(tmp_path: Path) -> None:
    """An SVG that is the same for the same table."""
    rows = [{"detector": name, "run_length": length, **dict.fromkeys(SHIFTS, 40.0)}
            for length in RUN_LENGTHS for name in (PRODUCT, UNION, "mewma")]  # fmt: skip
    rows += [{"detector": "oracle", "run_length": length, "mean": 9.0} for length in RUN_LENGTHS]
    for name in ("one.svg", "two.svg"):
        draw(rows, tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert all(f"<!-- {says} -->" in text for says in (*TITLES.values(), "Homeostat", "MEWMA"))


def test_a_delay_counts_from_the_change_and_a_silent_stream_as_the_horizon() -> None:
    """A stream that alarmed before the change is no evidence of how soon it would have been seen."""
    chart = np.zeros((30, 3))
    chart[14, 0] = chart[5, 1] = 1.0
    assert first_passage(chart, 1.0).tolist() == [15, 6, np.inf]
    assert delay([chart], 1.0, onset=10, horizon=20) == (12.5, 0.5)


def test_the_table_has_every_detector_at_one_run_length() -> None:
    """The oracle is below, never and always frame it, and the ratios are of the product to the union."""
    names = ("mewma", "neighbours", "answers", "page_hinkley")
    charts = play([0], lambda what, done, of: None, names=names, length=1500)
    rows = table(charts, 1000)
    of = {row["detector"]: row for row in rows}
    assert [*of] == [*names, UNION, "union + answers", "oracle", "always", "never"]
    for name in (*names, UNION):
        assert 1000 <= of[name]["realised"] <= 1400
        assert all(of["oracle"][shift] < of[name][shift] for shift in ("mean", "cov", "subpop"))
    assert of["answers"]["prevalence"] < of[UNION]["prevalence"]
    assert of["never"]["mean"] == HORIZON and of["always"]["mean"] == 1
    assert ratios(rows) == {}, "the product did not play"
    assert [(row["detector"], row["run_length"]) for row in own(charts, 64)] == [
        ("neighbours, as it comes", 1000), ("neighbours, as it comes", 5000)]  # fmt: skip
    planted = [{"detector": name, "run_length": RUN_LENGTHS[0], **dict.fromkeys(SHIFTS, value)}
               for name, value in ((PRODUCT, 50.0), (UNION, 100.0), ("oracle", 10.0))]  # fmt: skip
    assert ratios(planted)["1000.geometric_mean.to_union"] == pytest.approx(0.5)
    assert ratios(planted)["1000.prevalence.to_oracle"] == 5
    for trial, value in (("kernel", 45.0), ("classifier", 60.0)):
        planted.append({"detector": TRIALS[trial], "run_length": RUN_LENGTHS[0], **dict.fromkeys(SHIFTS, value)})
    assert ratios(planted)["1000.geometric_mean.with_kernel"] == pytest.approx(0.9)
    assert ratios(planted)["1000.mean.with_classifier"] == pytest.approx(1.2)


def test_a_detector_at_its_own_threshold_says_what_it_realises() -> None:
    """One that always alarmed before the change has no delay, and one that never did has no run length."""
    eager, deaf = np.full((400, 2), 9.0), np.zeros((400, 2))
    charts = {name: {shift: [chart] for shift in ("none", *SHIFTS)}
              for name, chart in (("river_adwin", eager), ("river_kswin", deaf))}  # fmt: skip
    of = {row["detector"]: row for row in own(charts, 64)}
    assert (of["river_adwin, as it comes"]["realised"], of["river_adwin, as it comes"]["mean"]) == (1.0, None)
    assert (of["river_kswin, as it comes"]["realised"], of["river_kswin, as it comes"]["mean_alarmed"]) == (None, 0.0)


def test_the_promise_is_of_each_reference_alone() -> None:
    """One that alarms after twice the promised time, one after half of it: their mean, one of two with 0.7, and by how
    much all of that errs."""
    found = kept(np.array([[2.0, 0.4], [0.5, 0.1]]))
    assert (found["promise.mean"], found["promise.share_over_0.7"]) == (1.25, 0.5)
    assert found["promise.mean_error"] == pytest.approx(0.75) and found["promise.error_of_one"] == pytest.approx(0.2)
    assert 0.3 < found["promise.share_error"] < 0.6
    assert kept(np.array([[1.0, 0.2]] * 20))["promise.share_error"] > 0, "twenty of twenty are no certainty"


def test_a_promise_is_played_until_it_breaks() -> None:
    """A run length of three decisions: streams end with their alarm, and the error is of so many alarms."""
    ratio, error = realised(World(3, dim=12), 0, 3, 4)
    assert 0.3 <= ratio <= 24 and error == pytest.approx(ratio / 2)


def test_the_product_watches_streams_that_somebody_else_made(tmp_path: Path) -> None:
    """One reference, the promised run length in cases, the index of each alarm; a gross change is found soon."""
    stream = WORLD.stream(300, 4)
    x = stream.x.copy()
    x[150:] += 3.0
    np.savez(tmp_path / "gross.npz", ref_x=REFERENCE.x, ref_score=REFERENCE.score, ref_label=REFERENCE.label, x=x,
             score=stream.score, run_length=3650)  # fmt: skip
    (row,) = answered(tmp_path)
    assert (row["file"], row["method"], row["shift"]) == ("gross.npz", "homeostat", "far-out")
    assert row["alarms"] and 150 <= row["alarms"][0] < 250


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ref_x": None}, "ref_x"),
        ({"x": np.full((30, 12), np.nan)}, "NaN"),
        ({"x": np.zeros((30, 5))}, "cases by features"),
        ({"score": np.zeros(7)}, "one score a case"),
        ({"run_length": 0}, "run_length is the cases to a false alarm, 1 or more, not 0"),
    ],
)
def test_what_is_no_stream_is_said_in_a_sentence(tmp_path: Path, changed: dict[str, object], says: str) -> None:
    """Whatever is wrong with the file, its name and the reason."""
    arrays = {"ref_x": REFERENCE.x, "ref_score": REFERENCE.score, "x": REFERENCE.x[:30],
              "score": REFERENCE.score[:30], "run_length": 1000} | changed  # fmt: skip
    np.savez(tmp_path / "odd.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(HomeostatError, match=rf"odd.npz is no stream: .*{says}"):
        next(answered(tmp_path))


def test_a_broken_file_and_an_empty_folder_are_said_in_a_sentence(tmp_path: Path) -> None:
    """A copy that was cut off is no archive any more."""
    with pytest.raises(HomeostatError, match=r"holds no stream: \*.npz with ref_x"):
        next(answered(tmp_path))
    np.savez(tmp_path / "cut.npz", ref_x=REFERENCE.x)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:500])
    with pytest.raises(HomeostatError, match=r"cut.npz is no stream"):
        next(answered(tmp_path))


def test_the_onset_lies_where_every_chart_has_warmed_up() -> None:
    """A window that is not full yet at the change would be a handicap of the benchmark's own making."""
    assert ONSET >= 2 * WINDOW
