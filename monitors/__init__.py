"""What is measured of a deployed model: drift of its cases and answers, and how good a candidate is beside it.

`__all__` is the registry: monitors, gates, measures, estimators, and the rules that bring their readings together.
numpy is all that the import needs; scipy loads where it is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from monitors.alpha import decidable, power, spend
from monitors.appearance import QualityStream
from monitors.attribution import Attribution, attribute, without_nan
from monitors.bootstrap import paired, paired_all, patient_weights
from monitors.classifier import ClassifierBet
from monitors.embedding import EmbeddingMean
from monitors.estimates import ATC, CBPE, DoC, Estimate, Estimator, estimate
from monitors.evidence import EDetector, as_before, family
from monitors.facts import FactStream
from monitors.far_out import FarOut
from monitors.gates import Calibration, Forgetting, Gain, NegativeFlips, WorstSubgroup
from monitors.harm import PairedHarm, by_confidence, collapse, unharmed
from monitors.intervals import wilson
from monitors.kernel import KernelMean
from monitors.measures import (
    accuracy,
    auroc,
    balanced_accuracy,
    brier,
    calibration_in_the_large,
    calibration_slope,
    ece,
    ece_debiased,
    nll,
)
from monitors.onset import Onset, onset
from monitors.outcomes import CalibrationStream, PerformanceStream, SubgroupStream
from monitors.predictions import PredictionStream
from monitors.protocols import (
    Batch,
    Burden,
    Gate,
    Judgement,
    Monitor,
    OtherVersion,
    Reference,
    Scores,
    Shift,
    Signal,
    Verdict,
)
from monitors.quality import NAMES as QUALITY
from monitors.quality import quality
from monitors.schema import SchemaStream
from monitors.volume import CaseVolume

SHARES: Mapping[type[Any], float] = {
    EmbeddingMean: 0.57,
    PredictionStream: 0.19,
    CaseVolume: 0.05,
    FarOut: 0.19,
    FactStream: 0.19,
    QualityStream: 0.19,
    SchemaStream: 0.05,
    PerformanceStream: 0.1,
    CalibrationStream: 0.1,
    SubgroupStream: 0.1,
}
"""Of the one budget: most for the monitor that looks into most directions and would be slowed down most."""

MONITORS: tuple[type[Any], ...] = tuple(SHARES)
EXPERIMENTAL: tuple[type[Any], ...] = (KernelMean, ClassifierBet)
"""They keep the contract and have no share: `homeostat bench drift` tells what one would move."""

OF_LABELS: tuple[type[Any], ...] = (PerformanceStream, CalibrationStream, SubgroupStream)
"""Those that read the cases whose labels have come since the last tick, and not those of the tick."""
GATES = (Gain, Forgetting, Calibration, NegativeFlips, WorstSubgroup)
ESTIMATORS = (CBPE, ATC, DoC)
MEASURES = (
    accuracy,
    balanced_accuracy,
    auroc,
    ece,
    ece_debiased,
    brier,
    nll,
    calibration_slope,
    calibration_in_the_large,
)


def default_monitors(
    ticks_per_false_alarm: float = 365.0,
    timed: bool = True,
    facts: Sequence[str] = (),
    looks: bool = False,
    forms: bool = False,
    labels: bool = False,
    subgroups: Sequence[str] = (),
) -> list[Monitor]:
    """One of each monitor, set for its share of one budget: read them together by `family`.

    Where the feed has no times the case volume says nothing, where no facts or subgroups are named theirs don't, and
    without `looks`, image quality in the reference, `forms`, a record of what came with each case, or `labels` none
    that reads these: leaving them out gives their shares to the others.
    """
    idle = {CaseVolume: not timed, FactStream: not facts, QualityStream: not looks, SchemaStream: not forms}
    idle |= dict.fromkeys(OF_LABELS, not labels)
    idle[SubgroupStream] |= not subgroups
    chosen = {monitor: share for monitor, share in SHARES.items() if not idle.get(monitor)}
    total, given = sum(chosen.values()), {FactStream: {"names": facts}, SubgroupStream: {"names": subgroups}}
    return [
        monitor(run_length=ticks_per_false_alarm * total / share, **given.get(monitor, {}))
        for monitor, share in chosen.items()
    ]


__all__ = [
    "MONITORS",
    "OF_LABELS",
    "EXPERIMENTAL",
    "GATES",
    "MEASURES",
    "ESTIMATORS",
    *(monitor.__name__ for monitor in (*MONITORS, *EXPERIMENTAL)),
    *(thing.__name__ for thing in (*GATES, *MEASURES, *ESTIMATORS)),
    "default_monitors",
    "family",
    "as_before",
    "attribute",
    "without_nan",
    "estimate",
    "Estimate",
    "Estimator",
    "onset",
    "quality",
    "QUALITY",
    "Attribution",
    "Onset",
    "EDetector",
    "PairedHarm",
    "by_confidence",
    "collapse",
    "unharmed",
    "decidable",
    "power",
    "spend",
    "patient_weights",
    "paired",
    "paired_all",
    "wilson",
    "Batch",
    "Reference",
    "Signal",
    "Shift",
    "Monitor",
    "OtherVersion",
    "Scores",
    "Verdict",
    "Burden",
    "Judgement",
    "Gate",
]
