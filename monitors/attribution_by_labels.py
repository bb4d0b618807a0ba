"""What labels of new cases say of a change that its images and answers alone can't tell.

In the causal terms of Castro, Walker and Glocker (2020), where a label y causes an image x: prevalence is another P(y),
manifestation another P(x|y) of some classes because the disease looks different, acquisition another P(x|y) of all
because the scanner does. Where the label is made from the image, annotation is another P(y|x), with P(x) as before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitors.hotelling import apart, hotelling
from monitors.protocols import Float, Int, Shift

CLEAR = 0.05  # p-value above which two samples are taken for equal
FEWEST = 8  # patients below which nothing is named, and of a class below which it is not tested
LABELLED = 30  # labelled patients of each side below which labels say nothing
CLEARLY = 0.1  # change of the mix of classes (total variation) that counts beside another change
COUNTED = 5  # expected patients of a class below which it is pooled with others like it
SURE = 1.645  # standard errors that are exceeded on one side with CLEAR
HALF = 0.5  # of the way that a class moved by itself
NEAR = 0.25  # of the squared distance that one class moved: others that surely moved less stayed where they were


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The reference's patients and the new ones: features [n, k], answers [n, c], classes [n] with -1 where unknown."""

    before: Float
    said_before: Float
    was: Int
    seen: Float
    said: Float
    now: Int

    @property
    def n(self) -> int:
        return int((self.now >= 0).sum())

    def enough(self) -> bool:
        """Whether labels of both sides are enough, and those of the new side are no chosen ones: their answers are like
        those of the cases without labels."""
        known, told = (self.was >= 0).sum(), self.now >= 0
        if min(known, told.sum()) < LABELLED:
            return False
        answers = _answers(self.said)
        return int((~told).sum()) < FEWEST or hotelling(answers[~told], answers[told]) > CLEAR

    def classes(self) -> list[int]:
        """Those with patients enough on both sides."""
        both = {*np.unique(self.was).tolist()} & {*np.unique(self.now).tolist()} - {-1}
        return [c for c in sorted(both) if min((self.was == c).sum(), (self.now == c).sum()) >= FEWEST]

    def changed(self, alpha: float) -> dict[int, float]:
        """{class: p} of classes that look different given the label; alpha is divided among all that are tested."""
        p = {c: hotelling(self.before[self.was == c], self.seen[self.now == c]) for c in self.classes()}
        return {c: value for c, value in p.items() if value * len(p) < alpha}


def look_and_mix(cases: Labelled, alpha: float) -> tuple[Shift, str] | None:
    """(mixed or manifestation, what it rests on) of images that differ even when the reference is weighed to the new
    prevalence; None where labels say nothing."""
    return (_mixed(cases, alpha) or manifestation(cases, alpha)) if cases.enough() else None


def agree(cases: Labelled, alpha: float) -> bool:
    """Whether labels are at one with a change of prevalence only: given the label, answers err as they did. True where
    there are too few of them."""
    if not cases.enough():
        return True
    known, told = cases.was >= 0, cases.now >= 0
    wrong, wrong_now = _wrong(cases.said_before[known], cases.was[known]), _wrong(cases.said[told], cases.now[told])
    return hotelling(wrong, wrong_now, _as_mixed(cases.was[known], cases.now[told])) >= alpha


def _mixed(cases: Labelled, alpha: float) -> tuple[Shift, str] | None:
    """Prevalence, and what remains with the reference weighed to the labels' mix. By labels only: an estimate by the
    answers follows any other look of the images, too."""
    was, now = cases.was[cases.was >= 0], cases.now[cases.now >= 0]
    size = 1 + max(int(was.max()), int(now.max()))
    counts = np.stack([np.bincount(side, minlength=size) for side in (was, now)]).astype(float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    if np.abs(shares[1] - shares[0]).sum() / 2 < CLEARLY or _other_counts(counts) >= alpha:
        return None
    known, told = np.isin(cases.was, now) & (cases.was >= 0), np.isin(cases.now, was) & (cases.now >= 0)
    if min(known.sum(), told.sum()) < LABELLED:
        return None
    p = hotelling(cases.before[known], cases.seen[told], _as_mixed(cases.was[known], cases.now[told]))
    if p >= alpha:
        return None
    most = int(np.argmax(np.abs(shares[1] - shares[0])))
    says = f"labels say another mix of classes (class {most}: {shares[0][most]:.0%} before, {shares[1][most]:.0%} now)"
    return Shift.MIXED, f"{says}, and given the label images differ as well (p {p:.1g})"


def manifestation(cases: Labelled, alpha: float) -> tuple[Shift, str] | None:
    """Some classes look different, and the mean of all cases went their way; all other classes, taken together, surely
    moved less than half as far.

    Where the others may have moved as far the change may be one of all classes, and labels say nothing; in between
    nothing is named.
    """
    changed = cases.changed(alpha) if cases.enough() else {}
    rest = np.isin(cases.was, [*changed, -1], invert=True)
    rest_now = np.isin(cases.now, [*changed, -1], invert=True) & np.isin(cases.now, cases.was[rest])
    rest &= np.isin(cases.was, cases.now[rest_now])
    if not changed or min(rest.sum(), rest_now.sum()) < FEWEST:
        return None
    most = min(changed, key=changed.__getitem__)
    centre = {c: cases.before[cases.was == c].mean(axis=0) for c in np.unique(cases.was[rest]).tolist()}
    off, off_now = (
        features[where] - np.stack([centre[c] for c in label[where].tolist()])
        for features, label, where in ((cases.before, cases.was, rest), (cases.seen, cases.now, rest_now))
    )
    others = apart(off, off_now, _as_mixed(cases.was[rest], cases.now[rest_now]))
    moved = apart(cases.before[cases.was == most], cases.seen[cases.now == most]).at_least(alpha)
    stayed = others.at_most(alpha)
    if others.p < alpha or stayed >= moved:
        return None
    which = f"class{'es' * (len(changed) > 1)} {', '.join(str(c) for c in changed)}"
    followed = _followed(cases, most, cases.before, cases.seen)[0] > HALF
    if followed and stayed < NEAR * moved and others.p > CLEAR:
        says = f"{which} look{'s' * (len(changed) == 1)} different given the label (p {changed[most]:.1g})"
        return Shift.MANIFESTATION, f"{says} and the others look as before (p {others.p:.1g})"
    return Shift.UNDETERMINED, f"{which} moved, and labels don't say yet whether the others did"


def annotation(cases: Labelled, alpha: float) -> tuple[Shift, str] | None:
    """Labels disagree with the answers more than they did, while images (of which the caller has made sure) and answers
    are as before; None where labels say nothing.

    A rare class that looks different would disagree as well, and hardly show among all images. But by its answers,
    which is where it disagrees, it would move the mean of all cases; where this surely stayed behind half of that, they
    only changed their names. Assumed is that no two classes moved so as to make up for each other.
    """
    if not cases.enough():
        return None
    known, told = cases.was >= 0, cases.now >= 0
    wrong, wrong_now = _wrong(cases.said_before[known], cases.was[known]), _wrong(cases.said[told], cases.now[told])
    p = hotelling(wrong, wrong_now)
    if p >= alpha:
        return None
    before, seen = _answers(cases.said_before), _answers(cases.said)
    classes = cases.classes()
    changed = [c for c in classes if hotelling(before[cases.was == c], seen[cases.now == c]) * len(classes) < alpha]
    renamed = [_followed(cases, c, before, seen)[1] < HALF for c in changed]
    more = wrong_now[:, -1].mean() > wrong[:, -1].mean()
    if more and changed and all(renamed) and hotelling(before, seen) > CLEAR:
        says = f"labels disagree with the answers more than before (p {p:.1g})"
        return Shift.ANNOTATION, f"{says}, and images and answers are as they were"
    return Shift.UNDETERMINED, f"labels and answers go together otherwise than before (p {p:.1g})"


def _followed(cases: Labelled, c: int, before: Float, seen: Float) -> tuple[float, float]:
    """How far the mean of all cases, in features before [n, k] and seen [m, k], went along the way that class c moved,
    as (low, high), each exceeded with CLEAR: 1 where nothing else moved, 0 where nothing did.

    The way is of one half of the cases and what is read along it of the other.
    """
    was, now = cases.was == c, cases.now == c
    half, found = np.cumsum(now) % 2 == 0, []
    for learn, read in ((half, ~half), (~half, half)):
        way = seen[now & learn].mean(axis=0) - before[was].mean(axis=0)
        along, along_now = before @ way, seen[read] @ way
        moved = now.sum() / cases.n * (along_now[now[read]].mean() - along[was].mean())
        error = along.var() / len(along) + along_now.var() / len(along_now)
        found.append((along_now.mean() - along.mean(), error / 2, moved))
    mean, error, moved = np.mean(found, axis=0)
    if moved <= 0:
        return 0.0, 1.0
    return float((mean - SURE * np.sqrt(error)) / moved), float((mean + SURE * np.sqrt(error)) / moved)


def _answers(said: Float) -> Float:
    """[n, c]: all probabilities but the last, and how sure they are."""
    return np.column_stack([said[:, :-1], (said**2).sum(axis=1)])


def _wrong(said: Float, label: Int) -> Float:
    """[n, c]: label less answer of all classes but the last, and their squared distance (Brier 1950)."""
    off = np.eye(said.shape[1])[label] - said
    return np.column_stack([off[:, :-1], (off**2).sum(axis=1)])


def _as_mixed(was: Int, now: Int) -> Float:
    """[n]: weights that give the reference the new cases' mix of classes."""
    size = 1 + max(int(was.max()), int(now.max()))
    before, after = np.bincount(was, minlength=size), np.bincount(now, minlength=size)
    return (after / np.maximum(before, 1))[was] + 1e-9


def _other_counts(counts: NDArray[np.float64]) -> float:
    """The p-value of counts [2, c] of one mix; classes that are hardly expected are pooled."""
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.sum(axis=0) > 0]
    rare = counts.sum(axis=0) * counts.sum(axis=1).min() / counts.sum() < COUNTED
    pooled = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)]) if rare.any() else counts
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    return float(chi2_contingency(pooled).pvalue) if pooled.shape[1] > 1 else 1.0
