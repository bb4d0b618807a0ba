"""LiveModel: the handle by which a user's own process answers with whatever version is live.

It needs base/, versions/ and live.json of the workspace, and not its database. A new version is prepared whole beside
the running one and checked; then one reference is flipped. A request holds one reference from first image to last.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import HomeostatError
from agent.trust import SUSPENDED
from agent.versions import bundle, pointer
from agent.versions.pointer import Pointer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from strategies.predictor import Predictor

log = logging.getLogger("homeostat.serve")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answer: what is said, and which version says so with what trust.

    label: the class, the findings as a label has them ("a|b", "none"), or what a mask or boxes show, in words.
    probabilities: of every class or finding; empty of masks and boxes. content: of these the file that `predict --out`
    writes: a label map as PNG, as large as the model reads images, or boxes in pixels of the image as JSON.
    """

    label: str
    probabilities: dict[str, float]
    version: str
    trust: str
    content: bytes | None = None


@dataclass(frozen=True)
class Serving:
    """What one request holds on to: a version whole, and the pointer that named it."""

    pointer: Pointer
    predictor: Predictor


class LiveModel:
    """Follows live.json: `predict` looks whether it changed, and a change is served from the next request on.

    Threads may share one. While a new version is prepared by one request, the others go on with the old one; a version
    that is damaged is logged and not served, and the old one goes on. The version that served last is kept ready, so
    that a rollback is served at once. Raises HomeostatError where nothing whole is live to begin with.
    """

    def __init__(self, workspace: Path | str) -> None:
        self.root = Path(workspace).resolve()
        self._file = self.root / pointer.NAME
        self._follows = threading.Lock()
        self._mark = self._stat()
        self._serving = Serving(now := pointer.read(self._file), load(self.root, now))
        self._last = self._serving

    @property
    def live(self) -> Pointer:
        """What is served now."""
        return self._serving.pointer

    def predict(self, images: Sequence[NDArray[np.float32]], domain: str | None = None) -> list[Prediction]:
        """Answers for images [h, w] or [h, w, 3], all by one version; where its base reads several slices, for volumes
        [d, h, w] or [d, h, w, 3] too. Raises ValueError on NaN pixels or no pixels.

        domain: the site and scanner that they come from, as `status` names them ("home", "site/scanner"); their answers
        carry trust "suspended" where labels have shown that the live version serves it badly.
        """
        from agent.cases.images import sides
        from agent.tasks import answer, task_named

        self.follow()
        serving = self._serving
        predictor, now = serving.predictor, serving.pointer
        if not len(images):
            return []
        task, shapes = task_named(predictor.task), [sides(image.shape) for image in images]
        said = answer(task, predictor, [predictor.prepare(image) for image in images], shapes)
        return [
            Prediction(
                label=task.told(predictor, said, place)["prediction"],
                probabilities={} if kept else dict(zip(predictor.classes, map(float, scores), strict=True)),
                version=now.version,
                trust=SUSPENDED if domain in now.suspended else now.trust,
                content=kept.content if kept else None,
            )
            for place, (scores, kept) in enumerate(zip(said.scores, said.kept, strict=True))
        ]

    def follow(self) -> None:
        """Takes up what live.json says, unless another thread is at it; a lower generation is ignored."""
        if not self._follows.acquire(blocking=False):
            return
        try:
            mark = self._stat()
            if mark != self._mark:
                self._mark = mark
                self._take_up(pointer.read(self._file))
        except HomeostatError as error:
            log.error("%s goes on serving: %s", self._serving.pointer.version, error)
        finally:
            self._follows.release()

    def _take_up(self, now: Pointer) -> None:
        before = self._serving
        if now.generation < before.pointer.generation:
            return
        ready = {serving.pointer.digest: serving.predictor for serving in (self._last, before)}
        following = Serving(now, ready.get(now.digest) or load(self.root, now))
        if now.digest != before.pointer.digest:
            self._last = before
        self._serving = following

    def _stat(self) -> tuple[int, int]:
        try:
            found = self._file.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_ino


def load(root: Path, now: Pointer) -> Predictor:
    """The predictor of one version, after its files, its base and its golden outputs are found to be as registered.

    Raises HomeostatError where they are not.
    """
    folder = root / "versions" / now.version
    if problems := bundle.check(folder, now.digest):
        raise HomeostatError(
            f"{now.version} is not served, for {problems[0]}: restore versions/{now.version} or roll back"
        )
    if bundle.folder_digest(root / "base") != bundle.facts(folder)["base_digest"]:
        raise HomeostatError(
            f"{now.version} was made for another base than the one in {root / 'base'}: restore that one"
        )
    from strategies.predictor import Predictor, check_golden

    try:
        predictor = Predictor.load(root / "base", folder)
        check_golden(predictor, folder)
    except (ValueError, OSError) as error:
        raise HomeostatError(f"{now.version} is not served: {error}") from error
    return predictor
