"""What stands beside the network; `__all__` is the registry of this mechanism, `EXPERIMENTAL` what is on trial."""

from strategies.architecture.adapter_bank import AdapterBank
from strategies.architecture.adapter_mixture import AdapterMixture

EXPERIMENTAL = (AdapterBank, AdapterMixture)

__all__: list[str] = []
