"""A set of parts for each domain, and a router in front: what is good for one site leaves the others as they are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from strategies.protocols import Lesson
from strategies.routing import BANK, PLACES, Router, files_of, nearest

FOLDS = 5


class AdapterBank:
    """The recipe's parts answer for the domains that it learnt; for every other image the live version does, or base.

    An image belongs to the domain whose class means are nearest (Mahalanobis distance within classes, Lee and others
    2018), in features of the pinned base: an update never moves its own router. A domain reaches as far as `covered`
    of its own cases lie from means that were computed without their patients; beyond that nobody's parts answer.
    `choice` between the domains is one of `strategies.routing.CHOICES`, from then on for those of a live bank too.
    """

    name = "adapter_bank"

    def __init__(self, covered: float = 0.99, choice: str = nearest.__name__) -> None:
        self.covered, self.choice = covered, choice

    def assemble(self, lesson: Lesson, parts: Mapping[str, str], live: Sequence[Path], folder: Path) -> dict[str, str]:
        """Renames the parts, copies the live version's, writes bank.json and bank.safetensors.

        Domains of a bank that is live stay where they are, and so does the whitening. Raises ValueError where there
        is no part, and where there is no case of another domain to tell the new one from.
        """
        if not parts:
            raise ValueError("A bank needs a stage before it that makes parts for the new domain.")
        before = next((Router.read(file.parent) for file in live if file.name == BANK), None)
        known = lesson.new + lesson.remembered
        learnt = {*lesson.domain[: lesson.new].tolist(), *lesson.domain[known:].tolist()}
        if not learnt or learnt >= set(lesson.domain.tolist()) | set(before.domains if before else ()):
            raise ValueError("A bank needs cases of the new domain and of one other at least, to tell them apart.")
        expert = _name(before, learnt)
        made = {f"{expert}.{kind}": f"{expert}.{name}" for kind, name in parts.items()}
        for name in parts.values():
            (folder / name).rename(folder / f"{expert}.{name}")
        replaced = {file.name for file in files_of(live[0].parent, expert)} if live else set()
        for file in live:
            if file.name not in replaced | {BANK, PLACES}:
                shutil.copyfile(file, folder / file.name)
                made[file.name] = file.name
        return made | self.router(lesson, learnt, expert, before).write(folder)

    def router(self, lesson: Lesson, learnt: set[str], expert: str, before: Router | None) -> Router:
        """The router that has the `learnt` domains answered by `expert`."""
        features = lesson.features().astype(np.float64)
        said = np.where(lesson.label >= 0, lesson.label, lesson.logits().argmax(axis=1))
        group = np.array([f"{label} {domain}" for label, domain in zip(said, lesson.domain, strict=True)])
        whitening = _whitening(features, group) if before is None else before.whitening.double().numpy()
        apart = _apart(features, group, lesson.domain, lesson.patient, None if before is None else whitening)
        kept = [m for m, name in enumerate(before.domains) if name not in learnt] if before else []
        own = [name for name in np.unique(lesson.domain).tolist() if before is None or name in learnt]
        domains: list[str] = [before.domains[m] for m in kept] if before else []
        experts: list[str | None] = [before.expert[m] for m in kept] if before else []
        reach: list[float] = [float(before.reach[m]) for m in kept] if before else []
        centres = [before.centres[before.owner == m].double().numpy() for m in kept] if before else []
        for name in own:
            here = lesson.domain == name
            domains.append(name)
            experts.append(expert if name in learnt else None)
            reach.append(float(np.quantile(apart[here], self.covered)))
            centres.append(_means(features[here], group[here]) @ whitening)
        return Router(
            domains,
            experts,
            reach,
            torch.from_numpy(whitening.astype(np.float32)),
            torch.from_numpy(np.concatenate(centres).astype(np.float32)),
            torch.from_numpy(np.repeat(np.arange(len(domains)), [len(one) for one in centres])),
            self.choice,
        )


def _whitening(features: NDArray[np.float64], group: NDArray[np.str_]) -> NDArray[np.float64]:
    """[d, d], of the covariance within groups, shrunk as Ledoit and Wolf (2004) have it."""
    from sklearn.covariance import ledoit_wolf

    within = features.copy()
    for name in np.unique(group):
        within[group == name] -= within[group == name].mean(axis=0)
    values, vectors = np.linalg.eigh(ledoit_wolf(within, assume_centered=True)[0])
    return vectors / np.sqrt(np.maximum(values, 1e-12 * values.max()))


def _means(features: NDArray[np.float64], group: NDArray[np.str_]) -> NDArray[np.float64]:
    return np.stack([features[group == name].mean(axis=0) for name in np.unique(group)])


def _apart(
    features: NDArray[np.float64],
    group: NDArray[np.str_],
    domain: NDArray[np.str_],
    patient: NDArray[np.str_],
    whitening: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Squared distance of each case to the nearest class mean of its own domain, its patient left out.

    Left out of the whitening too, unless one is given: with fewer cases than features, a covariance knows its own
    cases, and every other lies far out (the real sites' images were sent to the fallback, all but 6 %).
    """
    apart = np.full(len(features), np.inf)
    of = np.unique(patient, return_inverse=True)[1]
    for fold in range(FOLDS):
        held = of % FOLDS == fold
        within = _whitening(features[~held], group[~held]) if whitening is None else whitening
        for name in np.unique(domain[held]):
            rest, here = ~held & (domain == name), held & (domain == name)
            if rest.any():
                means = _means(features[rest], group[rest]) @ within
                apart[here] = np.square((features[here] @ within)[:, None] - means).sum(axis=2).min(axis=1)
    for name in np.unique(domain[np.isinf(apart)]):
        here = domain == name
        known = apart[here & np.isfinite(apart)]
        apart[here & np.isinf(apart)] = known.max() if len(known) else 0.0  # one patient: nothing else is like it
    return apart


def _name(before: Router | None, learnt: set[str]) -> str:
    """The set of parts that answers for just these domains already, or the next free name."""
    if before is None:
        return "expert1"
    for name in before.experts():
        if {domain for domain, one in zip(before.domains, before.expert, strict=True) if one == name} <= learnt:
            return name
    return f"expert{1 + max((int(re.sub(r'[^0-9]', '', name)) for name in before.experts()), default=0)}"
