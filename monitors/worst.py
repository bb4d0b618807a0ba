"""The gates that look behind the mean: does a group of patients lose, or a class or structure, while all seems well?

The level is shared among all that are judged, and the worst of them speaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monitors.forms import Worths, form_of, mean_worth
from monitors.gates import LEAST, ORDER, RESAMPLES, judgement
from monitors.intervals import Change, decide, labelled, paired_change, patients
from monitors.measures import Measure
from monitors.protocols import Burden, Float, Judgement, Record, Verdict

__all__ = ["WorstSubgroup", "WorstStructure"]


class _Worst:
    """What the two have in common: margin, burden and level, and how the worst is found."""

    name = ""

    def __init__(self, margin: float, burden: Burden, alpha: float, min_n: int, seed: int) -> None:
        self.margin, self.burden, self.alpha, self.min_n, self.seed = margin, burden, alpha, min_n, seed

    def _speaks(
        self, measure: Measure, pairs: Mapping[str, tuple[Record, Record]], what: str, unheard: Sequence[str]
    ) -> Judgement:
        """The judgement of the worst of these pairs, each named."""
        alpha, found = self.alpha / len(pairs), list[tuple[Change, Judgement]]()
        for name, (old, new) in pairs.items():
            change = paired_change(measure, old, new, better=1, resamples=RESAMPLES, seed=self.seed)
            verdict, missing = decide(change, self.margin, alpha, self.burden, self.min_n)
            told = judgement(
                self.name, f"{what} of {name}", change, alpha, self.margin, verdict, missing, _aside(unheard)
            )
            found.append((change, told))
        return max(found, key=lambda pair: (ORDER.index(pair[1].verdict), -pair[0].change))[1]

    def _nothing(self, n: int, of: str, unheard: Sequence[str]) -> Judgement:
        return Judgement(
            gate=self.name,
            verdict=Verdict.INSUFFICIENT,
            n=n,
            before=None,
            after=None,
            interval=None,
            margin=self.margin,
            says=f"no {of} has {self.min_n} labelled patients{_aside(unheard)}",
            needed=self.min_n,
        )


class WorstSubgroup(_Worst):
    """Does the update harm a group of patients while the mean looks well? Accuracy per group (Dice of regions, F1 of
    boxes), the worst one speaks.

    `groups` [n] names each case's group. Groups with fewer than `min_n` labelled patients are pooled; where even that
    is too few, they are told as not evaluable. The level is shared among the groups that are judged.
    """

    name = "worst-subgroup"

    def __init__(
        self,
        groups: NDArray[np.str_],
        margin: float = 0.05,
        burden: Burden = Burden.NO_HARM_FOUND,
        alpha: float = 0.05,
        min_n: int = LEAST,
        seed: int = 0,
    ) -> None:
        super().__init__(margin, burden, alpha, min_n, seed)
        self.groups = np.asarray(groups)

    def judge(self, before: Record, after: Record) -> Judgement:
        """Raises ValueError where the groups are not of these cases."""
        if len(self.groups) != len(before):
            raise ValueError(f"{len(self.groups)} groups were named for {len(before)} cases")
        what, measure = form_of(before, after).plain
        groups = {str(name): before.known & (self.groups == name) for name in np.unique(self.groups)}
        judged, unheard = _evaluable(groups, before.unit, self.min_n, "groups")
        if not judged:
            return self._nothing(patients(labelled(before)), "group", unheard)
        which = {name: np.any([groups[one] for one in ones], axis=0) for name, ones in judged.items()}
        pairs = {name: (before.take(cases), after.take(cases)) for name, cases in which.items()}
        return self._speaks(measure, pairs, what, unheard)


class WorstStructure(_Worst):
    """Does the update lose a structure (of regions) or a class (of boxes, of scores) while the mean looks well? Dice of
    each structure, F1 or recall of each class, the worst one speaks.

    `names` in their order; without any they are numbered. A structure is judged on the cases in which it is true, or
    was said before or after: one that is now invented in other cases loses as one that is missed does, and there what
    was rightly left empty is 1. Those of fewer than `min_n` patients are pooled, and told as not evaluable where even
    that is too few; the level is shared among those that are judged.
    """

    name = "worst-structure"

    def __init__(
        self,
        names: Sequence[str] = (),
        margin: float = 0.05,
        burden: Burden = Burden.NO_HARM_FOUND,
        alpha: float = 0.05,
        min_n: int = LEAST,
        seed: int = 0,
    ) -> None:
        super().__init__(margin, burden, alpha, min_n, seed)
        self.names = tuple(names)

    def judge(self, before: Record, after: Record) -> Judgement:
        """Raises ValueError where there are more or fewer names than structures, and where the two are not of the same
        cases."""
        form = form_of(before, after)
        was, now = form.parts(before), form.parts(after)
        if was.shape != now.shape:
            raise ValueError("before and after are not of the same cases")
        names = self.names or [f"{form.part} {i + form.first}" for i in range(was.shape[1])]
        if len(names) != was.shape[1]:
            raise ValueError(f"{len(names)} names were given for {was.shape[1]} of what is called a {form.part} here")
        there = ~(np.isnan(was) & np.isnan(now))
        column = {name: i for i, name in enumerate(names)}
        cases = {name: there[:, i] for name, i in column.items()}
        several = f"{form.part}{'es' if form.part == 'class' else 's'}"
        judged, unheard = _evaluable(cases, before.unit, self.min_n, several)
        if not judged:
            return self._nothing(patients(labelled(before)), form.part, unheard)
        pairs: dict[str, tuple[Record, Record]] = {}
        for name, ones in judged.items():
            own = [column[one] for one in ones]
            old, new = (_mean_of(np.where(np.isnan(side), 1.0, side)[:, own], there[:, own]) for side in (was, now))
            some = there[:, own].any(axis=1)
            unit = before.unit[some]
            pairs[name] = (Worths(value=old[some], unit=unit), Worths(value=new[some], unit=after.unit[some]))
        return self._speaks(mean_worth, pairs, form.parts_in, unheard)


def _evaluable(
    groups: Mapping[str, NDArray[np.bool_]], unit: NDArray[np.str_], least: int, many: str
) -> tuple[dict[str, list[str]], list[str]]:
    """({name: groups that are judged as one}, those that are not evaluable) of groups of labelled cases [n]."""
    sizes = {name: len(np.unique(unit[which])) for name, which in groups.items()}
    judged = {name: [name] for name in groups if sizes[name] >= least}
    small = [name for name in groups if name not in judged]
    if len(small) > 1 and len(np.unique(unit[np.any([groups[name] for name in small], axis=0)])) >= least:
        return judged | {f"small {many} ({', '.join(small)})": small}, []
    return judged, [f"{name} ({sizes[name]} patients)" for name in small]


def _aside(unheard: Sequence[str]) -> str:
    return f"; not evaluable: {', '.join(unheard)}" if unheard else ""


def _mean_of(values: Float, there: NDArray[np.bool_]) -> Float:
    """[n]: the mean of a case's values [n, p] of the parts that are there; 0 where none is."""
    return (values * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
