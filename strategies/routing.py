"""Which of several sets of parts answers for an image: by what the pinned sensor sees of it, and nothing else.

`bank.json` names the domains, the set of parts that each is answered by, and how far from it an image may lie;
`bank.safetensors` holds the places. A set of parts named `expert1` is the files `expert1.head.safetensors`, ...: plain
files of the version's folder, so that its digest covers them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from strategies.families.weights import read_json, read_weights, same_tensors

BANK, PLACES = "bank.json", "bank.safetensors"
FORMAT = 1


class Router(nn.Module):
    """Features [b, d] of the sensor -> the squared Mahalanobis distance to the nearest class of each domain, [b, m].

    whitening [d, r] takes features to where the covariance within classes is one; centres [g, r] are class means
    there and owner [g] their domain. expert [m] is the set of parts for each domain, None for the fallback, and
    reach [m] the largest distance at which an image is still taken to be of it.
    """

    def __init__(
        self,
        domains: Sequence[str],
        expert: Sequence[str | None],
        reach: Sequence[float],
        whitening: torch.Tensor,
        centres: torch.Tensor,
        owner: torch.Tensor,
    ) -> None:
        super().__init__()
        self.domains, self.expert, self.reach = list(domains), list(expert), np.array(reach, dtype=np.float64)
        for name, tensor in (("whitening", whitening), ("centres", centres), ("owner", owner)):
            self.register_buffer(name, tensor.contiguous())
        self.whitening: torch.Tensor
        self.centres: torch.Tensor
        self.owner: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        apart = (features @ self.whitening)[:, None] - self.centres
        square = apart.square().sum(dim=2)
        return torch.stack([square[:, self.owner == m].amin(dim=1) for m in range(len(self.domains))], dim=1)

    def choose(self, distances: NDArray[np.floating]) -> NDArray[np.int64]:
        """[b, m] -> the place in `experts()` of the set of parts that answers; -1 where it is the fallback.

        That is so for domains that have no set of their own, and for an image beyond the reach of the nearest domain.
        """
        nearest = distances.argmin(axis=1)
        known = np.take_along_axis(distances, nearest[:, None], axis=1)[:, 0] <= self.reach[nearest]
        places = [-1 if name is None else self.experts().index(name) for name in self.expert]
        return np.where(known, np.array(places, dtype=np.int64)[nearest], -1)

    def experts(self) -> list[str]:
        """The names of the sets of parts, sorted."""
        return sorted({name for name in self.expert if name is not None})

    def write(self, folder: Path) -> dict[str, str]:
        """Writes bank.json and bank.safetensors."""
        domains = [
            {"name": name, "expert": expert, "reach": float(reach)}
            for name, expert, reach in zip(self.domains, self.expert, self.reach, strict=True)
        ]
        text = json.dumps({"format": FORMAT, "domains": domains}, indent=2, ensure_ascii=False)
        (folder / BANK).write_text(text + "\n", encoding="utf-8")
        save_file(self.state_dict(), folder / PLACES)
        return {"bank": BANK, "bank_places": PLACES}

    @classmethod
    def read(cls, folder: Path) -> Router | None:
        """The router of a version's folder; None where it has none. Raises ValueError where its files don't fit."""
        record = read_json(folder / BANK)
        if not record:
            return None
        if record.get("format") != FORMAT or not record.get("domains"):
            raise ValueError(f"{BANK} is not of format {FORMAT}, or names no domain.")
        tensors = read_weights(folder / PLACES)
        wanted = dict.fromkeys(("whitening", "centres", "owner"), torch.empty(0))
        same_tensors({name: tensors.get(name, empty) for name, empty in wanted.items()}, tensors, f"The part {PLACES}")
        domains = record["domains"]
        try:
            names, expert, reach = zip(
                *((one["name"], one["expert"], float(one["reach"])) for one in domains), strict=True
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{BANK} needs a name, an expert and a reach for each domain.") from error
        router = cls(names, expert, reach, **tensors)
        fits = router.centres.shape == (len(router.owner), router.whitening.shape[1])
        if not fits or sorted(set(router.owner.tolist())) != list(range(len(names))):
            raise ValueError(f"{BANK} and {PLACES} don't belong together.")
        return router


def files_of(folder: Path, expert: str) -> list[Path]:
    """The files of one set of parts."""
    return sorted(folder.glob(f"{expert}.*"))


@contextmanager
def parts_of(folder: Path, expert: str) -> Iterator[Path]:
    """A folder in which the set's files have their plain names, while the context lasts. Raises ValueError without."""
    files = files_of(folder, expert)
    if not files:
        raise ValueError(f"{BANK} names {expert}, and the version has no file of it.")
    with tempfile.TemporaryDirectory(prefix="homeostat-parts-") as scratch:
        for file in files:
            (Path(scratch) / file.name.removeprefix(f"{expert}.")).symlink_to(file.resolve())
        yield Path(scratch)
