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
from monitors.box_statistics import count_shares, expected_f1
from monitors.classifier import ClassifierBet
from monitors.detection import box_brier, boxes, case_f1, class_f1, f1, froc, map, map50, match
from monitors.embedding import EmbeddingMean
from monitors.estimates import ATC, CBPE, DoC, Estimate, Estimator, estimate
from monitors.evidence import EDetector, as_before, family
from monitors.expected import expected_worth
from monitors.facts import FactStream
from monitors.far_out import FarOut
from monitors.findings import (
    auroc_per_finding,
    case_set_f1,
    ece_per_finding,
    exact_match,
    finding_auroc,
    finding_brier,
    finding_ece,
    finding_nll,
    finding_recall,
    set_f1,
)
from monitors.forms import FORMS, Form, form_of
from monitors.gates import Calibration, Forgetting, Gain, NegativeFlips
from monitors.harm import PairedHarm, by_confidence, collapse, unharmed
from monitors.intervals import wilson
from monitors.kernel import KernelMean
from monitors.mask_statistics import expected_dice, shares
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
from monitors.overlap import case_dice, dice, dice_per_structure, pixel_brier, pixel_nll
from monitors.predictions import PredictionStream
from monitors.protocols import (
    Batch,
    Boxes,
    Burden,
    Findings,
    Gate,
    Judgement,
    Monitor,
    OtherVersion,
    Record,
    Reference,
    Regions,
    Scores,
    Shift,
    Signal,
    Verdict,
    regions,
)
from monitors.quality import NAMES as QUALITY
from monitors.quality import quality
from monitors.saliency import Localised, Looked, Shortcut, localised
from monitors.schema import SchemaStream
from monitors.surfaces import hd95, nsd
from monitors.volume import CaseVolume
from monitors.worst import WorstStructure, WorstSubgroup

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
GATES = (Gain, Forgetting, Calibration, NegativeFlips, WorstSubgroup, WorstStructure)
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
MEASURES_OF_FINDINGS = (
    exact_match,
    finding_recall,
    set_f1,
    finding_auroc,
    finding_ece,
    finding_brier,
    finding_nll,
)
MEASURES_OF_REGIONS = (dice, pixel_brier, pixel_nll)
MEASURES_OF_BOXES = (map50, map, froc, f1, box_brier)


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
    "MEASURES_OF_FINDINGS",
    "MEASURES_OF_REGIONS",
    "MEASURES_OF_BOXES",
    "ESTIMATORS",
    *(monitor.__name__ for monitor in (*MONITORS, *EXPERIMENTAL)),
    *(thing.__name__ for thing in (*GATES, *MEASURES, *MEASURES_OF_FINDINGS, *MEASURES_OF_REGIONS)),
    *(thing.__name__ for thing in (*MEASURES_OF_BOXES, *ESTIMATORS)),
    "auroc_per_finding",
    "ece_per_finding",
    "case_set_f1",
    "case_dice",
    "dice_per_structure",
    "case_f1",
    "class_f1",
    "match",
    "hd95",
    "nsd",
    "localised",
    "Localised",
    "Looked",
    "Shortcut",
    "count_shares",
    "expected_f1",
    "shares",
    "expected_dice",
    "regions",
    "boxes",
    "default_monitors",
    "family",
    "as_before",
    "attribute",
    "without_nan",
    "estimate",
    "expected_worth",
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
    "FORMS",
    "Form",
    "form_of",
    "Record",
    "Scores",
    "Findings",
    "Regions",
    "Boxes",
    "Verdict",
    "Burden",
    "Judgement",
    "Gate",
]
