"""What a change may cost while nobody has labelled: estimates of accuracy for an alarm's evidence, and in words.

They tell people what may be at stake. No trust, no plan and no gate reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitors import Batch, Estimator, Findings, Scores

PREVALENCE = "prevalence"


def estimators(shift: str) -> list[Estimator]:
    """Those that are asked about a shift. The one for another mix is worse wherever images look different too
    (docs/results.md), so that it has a say only where the shift is named so."""
    from monitors import CBPE, ESTIMATORS

    return [*(kind() for kind in ESTIMATORS), *([CBPE(other_mix=True)] if shift == PREVALENCE else [])]


def estimated(approved: Scores | Findings, cases: Batch, shift: str) -> dict[str, Any]:
    """{estimator: {"before", "now", "low", "high", "patients"}}; without those that have too few patients. Of findings
    it is the share of them that are answered rightly.

    approved: what was said of the reference's calibration part, beside its labels. shift: what the alarm is called.
    """
    from monitors import Findings, estimate

    of = {"of": "share of findings answered rightly"} if isinstance(approved, Findings) else {}
    found: dict[str, Any] = {}
    for how in estimators(shift):
        one = estimate(how, approved, cases.outputs, cases.unit)
        numbers = {"before": one.before, "now": one.value, "low": one.low, "high": one.high}
        told = {name: round(number, 4) for name, number in numbers.items() if number is not None}
        if told:
            found[how.name] = {**told, "patients": one.n, **of}
    return found


def estimated_worth(
    reference: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], quality: str
) -> dict[str, Any]:
    """The same of answers that expect their own worth: their `quality` is estimated. Rows have patient_key, sure and
    worth, which is asked of the reference alone."""
    import numpy as np

    from monitors import DoC, expected_worth

    def column(some: Sequence[Mapping[str, Any]], name: str) -> Any:
        return np.array([np.nan if row[name] is None else row[name] for row in some], np.float64)

    unit, new = (np.array([row["patient_key"] for row in some], np.str_) for some in (reference, rows))
    one = expected_worth(column(reference, "worth"), column(reference, "sure"), unit, column(rows, "sure"), new)
    if one.value is None:
        return {}
    numbers = {"before": one.before, "now": one.value, "low": one.low, "high": one.high}
    told = {name: round(number, 4) for name, number in numbers.items() if number is not None}
    return {DoC.name: {**told, "patients": one.n, "of": quality}}


def in_words(evidence: Mapping[str, Any]) -> str | None:
    """The worst of the estimates in an alarm's evidence, in a sentence or two; None without any.

    The worst, because at real new sites they are too high (docs/results.md).
    """
    estimates = evidence.get("estimated", {})
    if not estimates:
        return None
    name = min(estimates, key=lambda how: estimates[how]["now"])
    one = estimates[name]
    return (
        f"Estimated {one.get('of', 'accuracy')} {one['now']:.2f} ({one['low']:.2f} to {one['high']:.2f}) against "
        f"{one['before']:.2f} at approval, without labels ({name}, {one['patients']} patients). An estimate approves "
        "nothing; at a new site or scanner the truth may be far lower."
    )
