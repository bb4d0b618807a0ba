"""Segmentation: a class for every pixel. A label is a file in `objects/`, an answer a label map of the model's size,
or those of several slices in one picture, one below the other."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cases.masks import read_beside, read_mask, to_side
from agent.errors import HomeostatError
from agent.tasks.task import Answered, Kept, Shape, rows_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row
    from monitors import Regions
    from strategies.predictor import Predictor

PIXELS = (1.0, 1.0)  # distances are told in pixels of the image
TOLERANCE = 2.0  # pixels, within which two outlines are the same: what a second reader differs by


class Segmentation:
    """A row holds, per structure, the pixels in both, said, and true; then the pixels' mean Brier score and log-loss.

    What monitors see of an answer are the shares of the classes: the mean probability of each over the image.
    """

    name = "segmentation"
    kind = "mask"
    form = "regions"
    suffix = ".png"
    quality = "Dice"
    column = "dice"
    exclusive = True
    structures = True
    measures: tuple[str, ...] = ("dice", "hd95", "nsd")

    def targets(self, values: Sequence[str | None], classes: Sequence[str]) -> NDArray[np.int64]:
        import numpy as np

        return np.array([0 if value else -1 for value in values], np.int64)

    def said(self, row: Row) -> str | None:
        return str(row.truths[self.kind]) if self.kind in row.truths else None

    def classes(self, rows: Sequence[Row], slices: int = 1) -> list[str]:
        import numpy as np

        most, seen = 0, set[int]()
        for row in rows:
            try:
                seen |= {int(value) for value in np.unique(read_beside(row.truths[self.kind], row.file, slices))}
            except HomeostatError as error:
                place = f"line {row.line} of cases.csv: " if row.line else ""
                raise HomeostatError(f"{place}{error}") from None
            most = max(most, *seen)
        if most == 0:
            raise HomeostatError("every mask is empty: there is no structure to learn")
        if absent := [str(number) for number in range(1, most + 1) if number not in seen]:
            raise HomeostatError(f"no mask has the class {', '.join(absent)}, though one has {most}")
        return ["background", *(f"structure {number}" for number in range(1, most + 1))]

    def group(self, value: str | None) -> str:
        return "mask"

    def read(
        self, predictor: Predictor, probabilities: NDArray[np.float32], shapes: Sequence[Shape]
    ) -> tuple[NDArray[np.float32], Sequence[Kept | None]]:
        import numpy as np

        from monitors import expected_dice, shares

        maps = predictor.decide(probabilities)
        scores = np.stack([shares(one) for one in probabilities]).astype(np.float32)
        pairs = zip(maps, probabilities, strict=True)
        return scores, [Kept(_packed(one), expected_dice(said), self.form) for one, said in pairs]

    def beside(self, examples: Any, rows: Sequence[int], shapes: Sequence[Shape], size: int) -> Any:
        import numpy as np
        import torch

        return torch.from_numpy(np.stack([to_side(examples.mask(i), size) for i in rows]))

    def record(self, rows: NDArray[np.floating], target: NDArray[np.integer], unit: NDArray[np.str_]) -> Regions:
        from monitors import regions

        return regions(rows, target, unit)

    def outcome(self, row: Mapping[str, Any], classes: Sequence[str]) -> tuple[float | None, float]:
        return row["worth"], float(row["sure"] or 0.0)

    def worth(self, content: bytes, label: Path) -> float:
        """Dice, at the size of the answer."""
        import numpy as np

        from monitors import case_dice

        said = unpacked(content)
        height, side = said.shape
        true = to_side(read_mask(label, slices=height // side), side)
        structures = range(1, int(max(said.max(), true.max(), 1)) + 1)
        overlap = [[((said == k) & (true == k)).sum(), (said == k).sum(), (true == k).sum()] for k in structures]
        row = np.array([[*np.ravel(overlap), 0.0, 0.0]], np.float64)
        return float(case_dice(self.record(row, np.zeros(1, np.int64), np.array(["one"])))[0])

    def measured(self, predictor: Predictor, examples: Any, progress: Any) -> MeasuredRegions:
        """At the size of the images: the probabilities are brought there before a pixel is decided.

        Pixels are counted over all slices of a case, and distances measured within a slice: how far apart slices lie is
        not known.
        """
        import numpy as np
        import torch
        from torch.nn import functional

        from monitors import hd95, nsd
        from strategies.slices import apart, stacked

        rows, surfaces = [], []
        structures = range(1, len(predictor.classes))
        for i in range(len(examples)):
            true = examples.mask(i)
            true = true.reshape(-1, *true.shape[-2:])
            tall = torch.from_numpy(predictor.answer(predictor.prepare(examples.image(i))[None]))
            full = functional.interpolate(
                apart(tall, len(true)), size=true.shape[1:], mode="bilinear", align_corners=False
            )
            said = predictor.decide(full.numpy())
            rows.append(rows_of(self, stacked(full, len(true)).numpy(), torch.from_numpy(true).flatten(0, 1)[None]))
            of = [
                (said[j] == k, true[j] == k)
                for j in range(len(true))
                for k in structures
                if (said[j] == k).any() or (true[j] == k).any()
            ]
            surfaces.append(
                [
                    float(np.mean([hd95(a, b, PIXELS) for a, b in of])) if of else np.nan,
                    float(np.mean([nsd(a, b, PIXELS, TOLERANCE) for a, b in of])) if of else np.nan,
                ]
            )
            progress("measuring", i + 1, len(examples))
        record = self.record(np.concatenate(rows), examples.label, examples.patient)
        return MeasuredRegions(record, np.array(surfaces).reshape(-1, 2))

    def told(self, predictor: Predictor, answered: Answered, place: int) -> dict[str, Any]:
        import numpy as np

        kept = answered.kept[place]
        assert kept is not None
        said = unpacked(kept.content)
        counts = np.bincount(said.ravel(), minlength=len(predictor.classes))
        shares = {name: round(float(n) / said.size, 6) for name, n in zip(predictor.classes, counts, strict=True)}
        found = [name for name in predictor.classes[1:] if shares[name] > 0]
        return {
            "prediction": ", ".join(found) or predictor.classes[0],
            "probability": round(kept.sure, 6),
            "shares": shares,
            "expected_dice": round(kept.sure, 6),
        }


@dataclass(frozen=True)
class MeasuredRegions:
    """dice: mean over cases of the mean over the structures present; hd95 in pixels, nsd within TOLERANCE pixels: means
    over the cases in which a structure is said or true, and within one over its slices. surfaces [n, 2] of the last
    two."""

    record: Regions
    surfaces: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.record)

    def measures(self, which: NDArray[np.bool_] | None = None) -> dict[str, float | None]:
        import numpy as np

        from monitors import dice

        which = np.ones(len(self), bool) if which is None else which
        known = self.surfaces[which]
        known = known[np.isfinite(known).all(axis=1)]
        found = [float(dice(self.record.take(which))[0]), *(known.mean(axis=0) if len(known) else (np.nan, np.nan))]
        names = Segmentation.measures
        return {n: round(float(v), 6) if np.isfinite(v) else None for n, v in zip(names, found, strict=True)}


def _packed(map_: NDArray[np.integer]) -> bytes:
    """A PNG, which any tool opens."""
    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(map_.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def unpacked(content: bytes) -> NDArray[np.uint8]:
    """[s, s] of what is kept of an answer; of several slices [slices s, s], one below the other."""
    import numpy as np
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(io.BytesIO(content)) as image:
        return np.array(image)
