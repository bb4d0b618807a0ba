"""Which cases make up a batch; `__all__` is the registry of this mechanism."""

from strategies.data.rehearsal import NewCases, Rehearsal

__all__ = ["NewCases", "Rehearsal"]
