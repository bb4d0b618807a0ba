"""Which of several sets of parts answer for an image: by what the pinned sensor sees of it, and nothing else.

`bank.json` names the domains, the set of parts that each is answered by, and how far from it an image may lie; and,
in format 2, which of `CHOICES` is made between the domains, without one `nearest`.
`bank.safetensors` holds the places. A set of parts named `expert1` is the files `expert1.head.safetensors`, ...: plain
files of the version's folder, so that its digest covers them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from strategies.families.weights import read_json, read_weights, same_tensors

BANK, PLACES = "bank.json", "bank.safetensors"
LEAST = 0.01  # a set of parts that counts for less of the heaviest one's share is not run


def nearest(distances: NDArray[np.floating]) -> NDArray[np.float64]:
    """Squared distances [b, m] -> all of an image to its nearest domain, [b, m]."""
    return np.eye(distances.shape[1])[distances.argmin(axis=1)]


def posterior(distances: NDArray[np.floating]) -> NDArray[np.float64]:
    """Squared distances [b, m] -> how likely an image is of each domain, [b, m]: softmax of minus half of them.

    For domains that are as frequent as each other, with Gaussians of one covariance around their class means.
    """
    from scipy.special import softmax

    half = np.nan_to_num(distances.astype(np.float64) / 2, nan=np.inf).clip(max=1e300)
    return softmax(-half, axis=1)


CHOICES: dict[str, Callable[[NDArray[np.floating]], NDArray[np.float64]]] = {
    choice.__name__: choice for choice in (nearest, posterior)
}


class Router(nn.Module):
    """Features [b, d] of the sensor -> the squared Mahalanobis distance to the nearest class of each domain, [b, m].

    whitening [d, r] takes features to where the covariance within classes is one; centres [g, r] are class means
    there and owner [g] their domain. expert [m] is the set of parts for each domain, None for the fallback, and
    reach [m] the largest distance at which an image is still taken to be of it. choice is the name of one of `CHOICES`.
    """

    def __init__(
        self,
        domains: Sequence[str],
        expert: Sequence[str | None],
        reach: Sequence[float],
        whitening: torch.Tensor,
        centres: torch.Tensor,
        owner: torch.Tensor,
        choice: str = nearest.__name__,
    ) -> None:
        super().__init__()
        self.choice = choice
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

    def shares(self, distances: NDArray[np.floating]) -> NDArray[np.float64]:
        """[b, m] -> how much each set of parts counts, in the order of `experts()`, and last the fallback: [b, e + 1].

        Rows sum to 1. What falls to a domain that has no set of its own, or beyond whose reach the image lies, is the
        fallback's.
        """
        names = self.experts()
        own = np.array([len(names) if name is None else names.index(name) for name in self.expert])
        place = np.where(distances <= self.reach, own, len(names))
        share = np.zeros((len(distances), len(names) + 1))
        np.add.at(share, (np.arange(len(distances))[:, None], place), CHOICES[self.choice](distances))
        share[share < LEAST * share.max(axis=1, keepdims=True)] = 0
        return share / share.sum(axis=1, keepdims=True)

    def experts(self) -> list[str]:
        """The names of the sets of parts, sorted."""
        return sorted({name for name in self.expert if name is not None})

    def write(self, folder: Path) -> dict[str, str]:
        """Writes bank.json and bank.safetensors."""
        domains = [
            {"name": name, "expert": expert, "reach": float(reach)}
            for name, expert, reach in zip(self.domains, self.expert, self.reach, strict=True)
        ]
        how = {"format": 1} if self.choice == nearest.__name__ else {"format": 2, "choice": self.choice}
        text = json.dumps({**how, "domains": domains}, indent=2, ensure_ascii=False)
        (folder / BANK).write_text(text + "\n", encoding="utf-8")
        save_file(self.state_dict(), folder / PLACES)
        return {"bank": BANK, "bank_places": PLACES}

    @classmethod
    def read(cls, folder: Path) -> Router | None:
        """The router of a version's folder; None where it has none. Raises ValueError where its files don't fit."""
        record = read_json(folder / BANK)
        if not record:
            return None
        choice = record.get("choice", nearest.__name__)
        if record.get("format") not in (1, 2) or not record.get("domains"):
            raise ValueError(f"{BANK} is not of format 1 or 2, or names no domain.")
        if choice not in CHOICES:
            raise ValueError(f"{BANK} chooses by {choice!r}; known are {', '.join(CHOICES)}.")
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
        router = cls(names, expert, reach, **tensors, choice=choice)
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
