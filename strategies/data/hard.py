"""Loss-aware rehearsal: what the model answers worst is replayed, unless its label is what is wrong."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from strategies.data.choices import ranked, rows_of
from strategies.data.curation import suspicious
from strategies.protocols import Lesson


def hard_first(lesson: Lesson, size: int, seed: int) -> list[int]:
    """Even over domains and classes; of each the patients with the largest mean loss as the training begins.

    The largest losses are also those of wrong labels, and replaying these teaches them: patients with a case that
    confident learning suspects come last. No seed enters. Raises ValueError of cases that are not of one class each.
    """
    if lesson.task == "multilabel":
        raise ValueError("hard_first asks of which class a case is, and serves no multilabel: take another choice.")
    loss = -log_softmax(lesson.logits().astype(np.float64), axis=1)[np.arange(len(lesson)), lesson.label.clip(min=0)]
    doubtful = suspicious(lesson.label, lesson.domain, lesson.logits())
    place = {patient: (bool(doubtful[rows].any()), -loss[rows].mean()) for patient, rows in rows_of(lesson).items()}
    return ranked(lesson, size, lambda patient, domain, label: (*place[patient], patient))
