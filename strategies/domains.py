"""How much each domain says where several are measured or fitted together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def domain_shares(domain: NDArray[np.str_]) -> dict[str, float]:
    """{domain: its share of the vote}, in proportion to the square root of its number of cases; they sum to 1.

    With equal votes a new site of two cases chooses the epoch by itself, with one vote a case a large old site outvotes
    the new one. The root, the exponent 0.5 of what languages are sampled by (Conneau and Lample 2019), weighs a domain
    by how well its mean is known.
    """
    names, counts = np.unique(domain, return_counts=True)
    roots = np.sqrt(counts)
    return dict(zip(names.tolist(), (roots / roots.sum()).tolist(), strict=True)) if len(names) else {}
