"""Which cases make up a batch; `__all__` is the registry of this mechanism."""

from strategies.data.all_cases import AllCases
from strategies.data.rehearsal import NewCases, Rehearsal

EXPERIMENTAL = (AllCases,)

__all__ = ["NewCases", "Rehearsal"]
