"""The audience: test patients whom nothing in the play sees, asked what each version says of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.cases.datafolder import Row, read_folder
from agent.demo.cast import Cast
from agent.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.versions.serve import LiveModel
    from monitors.protocols import Scores

SIDES = ("home", "new")
PROBES = 6  # images of each side whose answers must come back equal to the byte


class Audience:
    """Each version is asked about each side once."""

    def __init__(self, root: Path, cast: Cast) -> None:
        self.root = root
        self.rows: dict[str, list[Row]] = {side: read_folder(cast[f"test-{side}"]).rows for side in SIDES}
        self._scores: dict[tuple[str, str], Scores] = {}

    def scores(self, version: str, side: str) -> Scores:
        """What a version says of the test patients of a side, "home" or "new"."""
        from agent.cases.examples import FolderExamples
        from agent.observe import load_version
        from agent.tasks.classification import scores_of

        if (version, side) not in self._scores:
            predictor = load_version(Workspace(self.root), version)
            self._scores[version, side] = scores_of(predictor, FolderExamples(self.rows[side], predictor.classes))
        return self._scores[version, side]

    def accuracies(self, version: str) -> dict[str, float]:
        """Balanced accuracy of a version on either side."""
        from agent.tasks.classification import MeasuredScores

        found = {side: MeasuredScores(self.scores(version, side)).measures()["balanced_accuracy"] for side in SIDES}
        return {side: round(value or 0.0, 4) for side, value in found.items()}

    def patients(self, side: str) -> int:
        return len({row.patient_id for row in self.rows[side]})

    def probes(self) -> list[NDArray[np.float32]]:
        """A few images of both sides."""
        from agent.cases.images import read_image

        return [read_image(row.file) for side in SIDES for row in self.rows[side][:PROBES]]

    def answers(self, service: LiveModel) -> bytes:
        """What a service answers to the probes, as bytes."""
        import numpy as np

        said = service.predict(self.probes())
        return np.array([list(one.probabilities.values()) for one in said], np.float64).tobytes()
