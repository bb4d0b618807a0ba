"""What kind of change is it? Asked once an alarm has said that there is one.

In the causal terms of Castro, Walker and Glocker (2020), by the argument of Roschewitz and others (2025,
arXiv:2411.07940): estimate the prevalence of the new cases, weigh the reference to it, and test again. What is then no
longer different was a change of prevalence; what still is, was a change of images or of patients. What else there may
be only labels of the new cases tell (`labelled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitors.attribution_by_labels import CLEAR, FEWEST, Labelled, agree, annotation, look_and_mix, manifestation
from monitors.chart import first_of_each
from monitors.embedding import COMPONENTS, PATIENTS_PER_COMPONENT
from monitors.far_out import FarOut
from monitors.hotelling import hotelling
from monitors.predictions import free, sum_to_one
from monitors.prevalence import LEAST, prevalence
from monitors.protocols import Batch, Float, Int, Reference, Shift
from monitors.whitening import Whitener

ALPHA = 0.01  # of each test
SHAPE = 0.01  # p-value above which cases are taken to be spread as another mix would spread them
MOSTLY = 0.5  # share of far-out cases from which on nothing else is asked
ENOUGH = 60  # new patients for a change of prevalence only: with few, all else is unseen; twice as many for a part
PART = 0.6  # share of changed cases below which they are another group of patients, and not another way of imaging
MOVED = 0.25  # change of the mean, in standard deviations, below which the spread has changed and not the place
USUAL = 0.95  # share of the known cases that say where they usually are


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The kind of change, its driver (`embedding`, `far-out`, `prediction`, `labels`, or a fact's name), and what it
    rests on.

    p_before, p_after: of the test that cases look like the reference, as it is and weighed to the new prevalence;
    p_answers: that the model answers as before; facts: {fact: p that it is distributed as before}.
    prevalence [c]: of the new cases, estimated; n: new patients, `labelled` of them with a label. part: share of the
    cases that changed, 0..1, None where that was not asked. confidence: mean probability of the model's answer, in the
    reference and now.
    distance: of the new cases' mean from the reference's, in its standard deviations along the way there; None where
    part is.
    """

    shift: Shift
    driver: str
    n: int
    labelled: int
    p_before: float
    p_after: float
    prevalence: tuple[float, ...]
    was: tuple[float, ...]
    part: float | None
    distance: float | None
    confidence: tuple[float, float]
    facts: Mapping[str, float]
    p_answers: float
    says: str


def attribute(
    reference: Reference,
    cases: Batch,
    labels: Int | None = None,
    new_domain: bool = False,
    by_sensor: bool = True,
    alpha: float = ALPHA,
    new_labels: Int | None = None,
    of_classes: bool = True,
) -> Attribution:
    """Names the change between `reference` and `cases`, those since the onset.

    Each patient counts once, and cases with NaN not at all.

    labels: class of each calibration case, -1 where unknown; without any, the model's probabilities stand for them,
    which is exact where it is calibrated. new_domain: the cases are of sites or scanners that the reference has none
    of. by_sensor: the embeddings are a sensor's that was made to tell kinds of images apart; else no case is called far
    out. new_labels [m]: class of each of `cases`, -1 where unknown; only with them is a change called manifestation,
    annotation or mixed (see `attribution_by_labels`). of_classes: each case is of one class, and outputs say of which;
    where they are of findings that don't exclude each other, or shares of a mask, there is no mix of classes to
    estimate: `prevalence` is their mean, the
    reference is not weighed, labels are not read, and no change is called prevalence. Raises ValueError where a part of
    the reference is too small for the tests (two cases).
    """
    new_labels = np.full(len(cases), -1) if new_labels is None else new_labels
    whole = np.flatnonzero(np.isfinite(cases.embedding).all(axis=1) & np.isfinite(cases.outputs).all(axis=1))
    whole = whole[first_of_each(cases.unit[whole])]
    known, new, new_labels = reference.calibrate, taken(cases, whole), new_labels[whole]
    first = first_of_each(known.unit)
    labels = np.full(len(known), -1) if labels is None else labels
    known, labels = taken(known, first), labels[first]
    outlook = FarOut()
    outlook.fit(reference)
    if of_classes:
        was, now = prevalence(known.outputs, labels, new.outputs)
    else:
        was, now, new_labels = known.outputs.mean(axis=0), new.outputs.mean(axis=0), np.full(len(new), -1)
    told: dict[str, Any] = {"n": len(new), "was": tuple(was.tolist()), "prevalence": tuple(now.tolist())}
    exclusive = sum_to_one(known.outputs)
    sure, sure_now = (_confidence(side.outputs, exclusive) for side in (known, new))
    told |= {"confidence": (sure, sure_now), "facts": {}}
    told |= {"p_before": 1.0, "p_after": 1.0, "p_answers": 1.0, "labelled": int((new_labels >= 0).sum())}
    told |= {"part": None, "distance": None}
    if len(new) < FEWEST:
        says = f"{len(new)} patients are too few to name a change"
        return Attribution(shift=Shift.UNDETERMINED, driver="", says=says, **told)
    far = float(outlook.far(new.embedding).mean())
    if by_sensor and far >= MOSTLY:
        says = f"{far:.0%} of the cases are unlike anything in the reference"
        return Attribution(shift=Shift.FAR_OUT, driver=outlook.name, says=says, **told)

    see = features(reference, outlook)
    seen, before = see(new), see(known)
    both = Labelled(before=before, said_before=known.outputs, was=labels, seen=seen, said=new.outputs, now=new_labels)
    weights = _weights(known.outputs, labels, was, now) if of_classes else np.ones(len(known))
    told["facts"] = facts = _facts(known, new)
    told["p_before"] = p_before = hotelling(before, seen)
    told["p_after"] = p_after = hotelling(before, seen, weights)
    own = free(known.outputs)
    told["p_answers"] = p_answers = hotelling(known.outputs[:, :own], new.outputs[:, :own]) if own else 1.0
    least = min(facts, key=facts.__getitem__) if facts else ""
    fact = least if facts and facts[least] * len(facts) < alpha else ""
    if p_after < alpha or (new_domain and p_before < alpha):
        part, distance = changed_part(before[:, :-1], seen[:, :-1], weights) or (None, None)
        told |= {"part": part, "distance": distance}
        some = part is not None and part < PART and len(new) >= 2 * ENOUGH
        patients = fact in DEMOGRAPHIC or (some and not fact and not new_domain)
        shift = Shift.POPULATION if patients else Shift.ACQUISITION
        what = "another group of patients" if patients else "another look of the images"
        share = "" if part is None else f", in about {part:.0%} of the cases"
        remains = "it remains with the reference weighed to the new prevalence " if of_classes else ""
        says = f"{what}{share}: {remains}(p {p_after:.1g})"
        driver = fact or ("embedding" if part is not None else outlook.name)
        better = None if fact in DEMOGRAPHIC else look_and_mix(both, alpha)
        if better and (better[0] == Shift.MIXED or not new_domain):  # a new scanner says why its images look otherwise
            (shift, says), driver = better, "labels"
        return Attribution(shift=shift, driver=driver, says=says, **told)
    as_before = min(p_before, p_answers, p_after) > CLEAR and len(new) >= ENOUGH and not fact
    asked = [] if fact in DEMOGRAPHIC else [manifestation, annotation] if as_before else [manifestation]
    if found := [answer for ask in asked if (answer := ask(both, alpha))]:
        shift, says = next((answer for answer in found if answer[0] != Shift.UNDETERMINED), found[0])
        return Attribution(shift=shift, driver="labels", says=says, **told)
    other_mix = of_classes and min(p_before, p_answers) < alpha and p_after > CLEAR and len(new) >= ENOUGH
    if other_mix and _is_a_mix(both, weights, was, now) and agree(both, alpha):
        most = int(np.argmax(np.abs(now - was)))
        says = (
            f"the classes come in another mix (class {most}: {was[most]:.0%} before, {now[most]:.0%} now); with the "
            f"reference weighed to it nothing else differs (p {p_after:.1g})"
        )
        return Attribution(shift=Shift.PREVALENCE, driver="prediction", says=says, **told)
    if fact:
        shift = Shift.POPULATION if fact in DEMOGRAPHIC else Shift.ACQUISITION
        says = f"{fact} is not as before (p {facts[fact]:.1g}), and the images look as they did"
        return Attribution(shift=shift, driver=fact, says=says, **told)
    says = f"{len(new)} patients don't tell the kinds of change apart"
    return Attribution(shift=Shift.UNDETERMINED, driver="", says=says, **told)


DEMOGRAPHIC = frozenset({"sex", "age"})


def _is_a_mix(cases: Labelled, weights: Float, was: Float, now: Float) -> bool:
    """Whether the answers, and what lies along the way that another mix would move the mean, are spread as the weighed
    reference's are: there the mean goes whichever way the estimated mix says, also where a scanner moved every image
    that way, but each image keeps its class's place.

    The way is the reference's: of the new cases it would be found by what it is to be tested for.
    """
    share = np.where(cases.was[:, None] >= 0, np.eye(len(was))[np.maximum(cases.was, 0)], cases.said_before)
    means = (share.T @ cases.before[:, :-1]) / np.maximum(share.sum(axis=0), LEAST)[:, None]
    way = (now - was) @ means
    way = way / max(float(np.linalg.norm(way)), 1e-12)
    shape, shape_now = (np.stack([z := x[:, :-1] @ way, z**2, z**3], axis=1) for x in (cases.before, cases.seen))
    said, said_now = (np.column_stack([p[:, :-1], (p**2).sum(axis=1)]) for p in (cases.said_before, cases.said))
    return min(hotelling(shape, shape_now, weights), hotelling(said, said_now, weights)) > SHAPE


def changed_part(known: Float, new: Float, weights: Float) -> tuple[float, float] | None:
    """The share of new cases [m, k] that moved, 0..1, if the others stayed where known ones [n, k] are; and how far the
    mean of all moved, in standard deviations of the known ones.

    A part moved by d / part has mean d and adds d^2 (1 - part) / part to the variance along d, of which two standard
    errors are taken off: the largest share that agrees with it. And at least as many moved as are missing among the
    places where known cases are (all but the farthest 5 % along d). None where the mean hardly moved.

    The direction is of one half of the cases and what is read along it of the other, so that what was searched for is
    not found by the search.
    """
    w = weights / weights.sum()
    centre, found = w @ known, []
    for half, other in ((new[::2], new[1::2]), (new[1::2], new[::2])):
        direction = half.mean(axis=0) - centre
        direction = direction / max(float(np.linalg.norm(direction)), 1e-12)
        along, before = (other - centre) @ direction, (known - centre) @ direction
        order = np.argsort(before)
        edge = before[order][np.searchsorted(np.cumsum(w[order]), USUAL - 1e-9)]
        found.append((along.mean(), along.var(), float(w @ before**2), (along <= edge).mean()))
    moved, after, was, stayed = np.mean(found, axis=0)
    if moved <= MOVED * np.sqrt(was):
        return None
    more = after - was - 2 * was * np.sqrt(2 / len(new))
    part = max(moved**2 / (moved**2 + max(more, 0.0)), 1 - stayed / USUAL)
    return float(part), float(moved / np.sqrt(was))


def _weights(known: Float, labels: Int, was: Float, now: Float) -> Float:
    """[n]: the density ratio of the new prevalence to the old, by the label or else by what the model thinks of it."""
    ratio = now / np.maximum(was, LEAST)
    return np.where(labels >= 0, ratio[np.maximum(labels, 0)], known @ ratio) + 1e-9


def features(reference: Reference, distance: FarOut) -> Callable[[Batch], Float]:
    """Principal components of the embedding, scaled by the transform part, and the log distance as the last column."""
    patients = len({*reference.calibrate.unit.tolist()})
    see = Whitener(reference.transform.embedding, max(1, min(COMPONENTS, patients // PATIENTS_PER_COMPONENT)))
    return lambda batch: np.column_stack(
        [np.asarray(see(batch.embedding), dtype=np.float64), np.log(distance.distance(batch.embedding) + 1e-9)]
    )


def _facts(known: Batch, new: Batch) -> dict[str, float]:
    """The p-value of each fact's being distributed as before: Kolmogorov and Smirnov's test of numbers, chi-squared of
    names (unseen ones are pooled into one)."""
    from scipy.stats import chi2_contingency, ks_2samp

    found = {}
    for name in sorted({*known.facts} & {*new.facts}):
        before, after = known.facts[name], new.facts[name]
        if before.dtype.kind == "f":
            before, after = before[~np.isnan(before)], after[~np.isnan(after)]
            if min(len(before), len(after)) >= FEWEST:
                found[name] = float(ks_2samp(before, after).pvalue)
            continue
        before, after = before[before != ""], after[after != ""]
        values = np.unique(np.concatenate([before, after]))
        if min(len(before), len(after)) >= FEWEST and len(values) > 1:
            table = [[int(np.sum(side == value)) for value in values] for side in (before, after)]
            found[name] = float(chi2_contingency(table).pvalue)
    return found


def taken(batch: Batch, places: Int) -> Batch:
    """The batch with these cases only."""
    whole: dict[str, Any] = {
        name: getattr(batch, name)[places]
        for name in ("index", "unit", "stratum", "time", "outputs", "embedding", "quality")
    }
    facts, form = ({name: values[places] for name, values in part.items()} for part in (batch.facts, batch.form))
    whole["target"] = batch.target[places] if len(batch.target) else batch.target
    return Batch(**whole, facts=facts, form=form, version=batch.version, sensor=batch.sensor, tick_time=batch.tick_time)


def without_nan(batch: Batch) -> Batch:
    """Its cases of which embedding, outputs and image quality are finite."""
    parts = (batch.embedding, batch.outputs, batch.quality)
    return taken(batch, np.flatnonzero(np.all([np.isfinite(part).all(axis=1) for part in parts], axis=0)))


def _confidence(outputs: Float, exclusive: bool) -> float:
    """The mean probability of the answer that is given; of findings each yes or no is one."""
    given = outputs.max(axis=1) if exclusive and outputs.size else np.maximum(outputs, 1 - outputs)
    return float(given.mean()) if outputs.size else float("nan")
