"""The one split of patients, born in `fit` and inherited by every workspace around the base: train, develop, judge."""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agent.errors import HomeostatError
from agent.workspace import write_atomically

FILE = "split.json"
FORMAT = 1
SHARES = {"train": 50, "develop": 20, "judge": 30}  # percent, in this order


@dataclass(frozen=True)
class Split:
    """Which part a patient belongs to, for ever.

    `recorded` maps the keyed hashes of the patients that `fit` saw to their part. A patient who comes later belongs
    where the hash itself falls, so that every workspace around this base agrees without talking to another. The salt
    is not the workspace's key: a pseudonym of the store can't be looked up here.
    """

    salt: bytes
    recorded: Mapping[str, str]

    @classmethod
    def draw(cls, raw_ids: Iterable[str], seed: int, *, together: Iterable[Collection[str]] = ()) -> Split:
        """Gives the patients out by the rank of their keyed hash: 50, 20 and 30 %, each rounded to a whole patient.

        Patients of one group of `together` share a part (who has an image in common is likely the same person), and
        count as one. The salt comes of the seed and of the ids, so the same call gives the same split, and no two
        hospitals share a salt. Draw it from no ids for a base that is not ours: then every patient is a later one.
        """
        patients = sorted(set(raw_ids))
        salt = sha256(json.dumps([FORMAT, seed, patients]).encode()).digest()
        groups = {patient: {_hash(salt, patient)} for patient in patients}
        for alike in together:
            joined = set().union(*(groups[patient] for patient in alike))
            members = [patient for patient in patients if groups[patient] & joined]
            groups.update(dict.fromkeys(members, joined))
        ranked = sorted({min(group): group for group in groups.values()}.items())
        recorded, begin, percent = {}, 0, 0
        for part, share in SHARES.items():
            percent += share
            end = (percent * len(ranked) + 50) // 100
            recorded.update({hashed: part for _, group in ranked[begin:end] for hashed in group})
            begin = end
        return cls(salt, recorded)

    def assign(self, raw_id: str) -> str:
        """One of "train", "develop" or "judge"; the same answer for the same patient, always."""
        hashed = _hash(self.salt, raw_id)
        return self.recorded.get(hashed) or _by_threshold(hashed)

    def knows(self, raw_id: str) -> bool:
        """Whether `fit` saw this patient."""
        return _hash(self.salt, raw_id) in self.recorded

    def trained_on(self, raw_id: str) -> bool:
        """Whether the base was trained on this patient."""
        return self.recorded.get(_hash(self.salt, raw_id)) == "train"

    def write(self, base: Path) -> None:
        """Writes `split.json` into the base: keyed hashes only."""
        parts: dict[str, list[str]] = {part: [] for part in SHARES}
        for hashed, part in sorted(self.recorded.items()):
            parts[part].append(hashed)
        content = {"format": FORMAT, "salt": self.salt.hex(), "percent": SHARES, "patients": parts}
        write_atomically(base / FILE, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def read(cls, base: Path) -> Split:
        """Raises HomeostatError where the base has no split, or one that this program can't read."""
        path = base / FILE
        if not path.is_file():
            raise HomeostatError(f"{base} has no {FILE}: it was not made by 'homeostat fit', so whom it saw is unknown")
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT or content["percent"] != SHARES:
                raise ValueError("another format")
            recorded = {hashed: part for part in SHARES for hashed in content["patients"][part]}
            if len(recorded) != sum(len(content["patients"][part]) for part in SHARES):
                raise ValueError("a patient in two parts")
            return cls(bytes.fromhex(content["salt"]), recorded)
        except (ValueError, KeyError, TypeError) as error:
            raise HomeostatError(
                f"{path} is damaged or of another release ({error}): restore the base from where it came"
            ) from None


def _hash(salt: bytes, raw_id: str) -> str:
    return hmac.new(salt, raw_id.encode(), sha256).hexdigest()[:32]


def _by_threshold(hashed: str) -> str:
    """Where the hash falls on a line of 100 percent; exact in integers, so every machine agrees."""
    place, percent = int(hashed, 16) * 100 >> 128, 0
    for part, share in SHARES.items():
        percent += share
        if place < percent:
            return part
    raise AssertionError("the shares add up to 100")
