"""Detection: boxes. A label is a JSON list in `objects/`, an answer the same with scores, in pixels of its image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cases.boxes import read_boxes
from agent.errors import HomeostatError
from agent.tasks.task import Answered, Kept, Shape, rows_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row
    from monitors import Boxes
    from strategies.predictor import Predictor

SHOWN = 0.5  # the score from which on a box is part of the answer; the others are kept for curves over all scores
MOST = 100  # boxes of an answer
COLUMNS = 12  # of each in a row: score, class, and whether it found a true one at ten overlaps


class Detection:
    """A row holds MOST boxes, the surest first, NaN where there are fewer, and then the true boxes' number by class.

    What monitors see of an answer are the shares of the expected counts of its classes, and of none.
    """

    name = "detection"
    kind = "boxes"
    form = "boxes"
    suffix = ".json"
    quality = "F1 at IoU 0.5"
    column = "map50"
    exclusive = True
    structures = True
    measures: tuple[str, ...] = ("map50", "map", "froc")

    def targets(self, values: Sequence[str | None], classes: Sequence[str]) -> NDArray[np.int64]:
        import numpy as np

        return np.array([0 if value else -1 for value in values], np.int64)

    def said(self, row: Row) -> str | None:
        return str(row.truths[self.kind]) if self.kind in row.truths else None

    def classes(self, rows: Sequence[Row], slices: int = 1) -> list[str]:
        seen = set[str]()
        for row in rows:
            try:
                seen |= {box.label for box in read_boxes(row.truths[self.kind])}
            except HomeostatError as error:
                place = f"line {row.line} of cases.csv: " if row.line else ""
                raise HomeostatError(f"{place}{error}") from None
        if not seen:
            raise HomeostatError("every list of boxes is empty: there is nothing to learn to find")
        return sorted(seen)

    def group(self, value: str | None) -> str:
        return "boxes"

    def read(
        self, predictor: Predictor, probabilities: NDArray[np.float32], shapes: Sequence[Shape]
    ) -> tuple[NDArray[np.float32], Sequence[Kept | None]]:
        import numpy as np
        import torch

        from monitors import count_shares, expected_f1
        from strategies.boxes import found

        scores, kept = [], []
        for answer, shape in zip(probabilities, shapes, strict=True):
            said = found(torch.from_numpy(answer))
            sure = said.scores.numpy()
            shares = count_shares(sure, said.labels.numpy(), len(predictor.classes))
            # NaN is no box of any score: without this a broken answer would be a sure one that there is nothing.
            scores.append(shares if np.isfinite(answer).all() else np.full_like(shares, np.nan))
            kept.append(Kept(_packed(said, shape, predictor.classes), expected_f1(sure, SHOWN), self.form))
        return np.stack(scores).astype(np.float32), kept

    def beside(self, examples: Any, rows: Sequence[int], shapes: Sequence[Shape], size: int) -> Any:
        from strategies.boxes import of_image, padded

        return padded([of_image(examples.boxes(i), shape) for i, shape in zip(rows, shapes, strict=True)])

    def record(self, rows: NDArray[np.floating], target: NDArray[np.integer], unit: NDArray[np.str_]) -> Boxes:
        import numpy as np

        from monitors import Boxes

        boxes = rows[:, : MOST * COLUMNS].reshape(len(rows), MOST, COLUMNS)
        there = np.isfinite(boxes[..., 0])
        said = boxes[there]
        return Boxes(
            case=np.nonzero(there)[0],
            label=said[:, 1].astype(int),
            score=said[:, 0].astype(np.float64),
            matched=said[:, 2:] > 0,
            true=np.nan_to_num(rows[:, MOST * COLUMNS :]).astype(int),
            known=np.asarray(target) >= 0,
            unit=np.asarray(unit, np.str_),
            threshold=SHOWN,
        )

    def outcome(self, row: Mapping[str, Any], classes: Sequence[str]) -> tuple[float | None, float]:
        return row["worth"], float(row["sure"] or 0.0)

    def worth(self, content: bytes, label: Path) -> float:
        """F1 at an overlap of a half, of the boxes that are shown."""
        import numpy as np

        from monitors import boxes, case_f1

        said, true = json.loads(content), read_boxes(label)
        names = sorted({*(box["label"] for box in said), *(box.label for box in true)})
        places = {name: place for place, name in enumerate(names)}
        record = boxes(
            [
                (
                    np.array([box["box"] for box in said], np.float64).reshape(-1, 4),
                    np.array([box["score"] for box in said], np.float64),
                    np.array([places[box["label"]] for box in said], int),
                )
            ],
            [
                (
                    np.array([box[1:] for box in true], np.float64).reshape(-1, 4),
                    np.array([places[box.label] for box in true], int),
                )
            ],
            np.array(["one"]),
            max(1, len(names)),
            SHOWN,
        )
        return float(case_f1(record)[0])

    def measured(self, predictor: Predictor, examples: Any, progress: Any) -> MeasuredBoxes:
        import numpy as np

        rows = []
        for i in range(len(examples)):
            image = examples.image(i)
            try:
                true = self.beside(examples, [i], [image.shape[:2]], predictor.preprocessing.size)
            except ValueError as error:
                raise HomeostatError(f"of image {i + 1} of {len(examples)} {error}") from None
            rows.append(rows_of(self, predictor.answer(predictor.prepare(image)[None]), true))
            progress("measuring", i + 1, len(examples))
        return MeasuredBoxes(self.record(np.concatenate(rows), examples.label, examples.patient))

    def told(self, predictor: Predictor, answered: Answered, place: int) -> dict[str, Any]:
        kept = answered.kept[place]
        assert kept is not None
        shown = [box for box in json.loads(kept.content) if box["score"] >= SHOWN]
        counts = {name: sum(box["label"] == name for box in shown) for name in predictor.classes}
        return {
            "prediction": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing",
            "probability": round(kept.sure, 6),
            "boxes": shown,
            "expected_f1": round(kept.sure, 6),
        }


@dataclass(frozen=True)
class MeasuredBoxes:
    """map50 and map are means over the classes present, froc counts all classes together; None without a true box."""

    record: Boxes

    def __len__(self) -> int:
        return len(self.record)

    def measures(self, which: NDArray[np.bool_] | None = None) -> dict[str, float | None]:
        import numpy as np

        import monitors

        of = self.record if which is None else self.record.take(which)
        found = {name: float(getattr(monitors, name)(of)[0]) for name in Detection.measures}
        return {name: round(value, 6) if np.isfinite(value) else None for name, value in found.items()}


def _packed(said: Any, shape: Shape, classes: Sequence[str]) -> bytes:
    """In the form of a label, with scores: what finds one is found by the other."""
    height, width = shape
    sides = said.corners.new_tensor([width, height, width, height])
    boxes = zip((said.corners * sides).tolist(), said.scores.tolist(), said.labels.tolist(), strict=True)
    listed = [
        {"label": classes[label], "score": round(score, 4), "box": [round(corner, 2) for corner in box]}
        for box, score, label in boxes
    ]
    return json.dumps(listed).encode()
