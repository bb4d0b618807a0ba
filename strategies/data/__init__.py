"""Which cases make up a batch; `__all__` is the registry of this mechanism.

`CHOICES` are the ways to choose what `Rehearsal` replays, and `SHARES` how much of a batch is new; the first of each is
its default. `EXPERIMENTAL` holds what is on trial.
"""

from strategies.data.all_cases import AllCases
from strategies.data.choices import by_class, by_domain, by_patient, reservoir
from strategies.data.curation import Curated
from strategies.data.hard import hard_first
from strategies.data.herding import herding
from strategies.data.rehearsal import NewCases, Rehearsal, by_roots, halves
from strategies.data.style import by_style

__all__ = ["NewCases", "Rehearsal"]

SHARES = (halves, by_roots)
CHOICES = (by_domain, by_class, by_patient, reservoir, herding, by_style, hard_first)

# No row on real data says yet what it moves, so no public recipe has it; nor any choice but `by_domain`.
EXPERIMENTAL = (Curated, AllCases)
