"""What a model is asked for: one small object per task, by the name that a base's record has.

A task knows its truth (labels, sets of findings, masks at the model's size, or boxes), what is kept of an answer beside
it, its supervised loss, and the form of its features and its head. What differs between tasks is asked here and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from strategies import boxes
from strategies.augmentation import augment, lit, lit_and_turned, turned
from strategies.families.columns import columns, detector
from strategies.families.dense import decoder, dense_from
from strategies.findings import members
from strategies.inputs import (
    DENSE_BATCH,
    BoxedImages,
    Images,
    Inputs,
    Latents,
    MaskedImages,
    TargetedLatents,
    Views,
    mirrored_masks,
)
from strategies.model import Recalibrator, Thresholds
from strategies.objective.binary_cross_entropy import BinaryCrossEntropy
from strategies.objective.boxes import CrossEntropyGIoU
from strategies.objective.cross_entropy import CrossEntropy
from strategies.objective.dice import DiceCrossEntropy
from strategies.preprocessing import Pixels, resized
from strategies.protocols import (
    Backbone,
    Boxed,
    Examples,
    Loss,
    Masked,
    ObjectiveMechanism,
    Preprocessing,
    Progress,
    Step,
    Tasked,
)

PLAIN = Recalibrator()


class Task(Protocol):
    """`dense`: an answer is of the image's places, and not of the image as a whole, [b, k]. `objective` is the
    supervised loss of recipes; `at_once` how many cases are answered in one pass of a training's
    measure, as memory allows; `bounds` the mean loss, in units of log k, beyond which a training has diverged; `rate`
    the learning rate at which a network with batch norms is fitted; `sliced` whether a case may be several slices."""

    name: str
    dense: bool
    objective: ObjectiveMechanism
    at_once: int
    bounds: float
    rate: float
    sliced: bool

    def target(self, examples: Examples, preprocessing: Preprocessing) -> torch.Tensor:
        """The truth of every case, as the model is taught it: int64 [n], uint8 [n, s, s] (of slices, one below the
        other), or boxes, [n, most, 5].

        Raises ValueError where a mask is of another size than its image, or a box outside; it names the case's number.
        """
        ...

    def probabilities(self, logits: torch.Tensor, corrected: Recalibrator = PLAIN) -> torch.Tensor:
        """What a network says, [b, k, ...], in the form that is answered with."""
        ...

    def decide(self, probabilities: NDArray[np.float32], thresholds: Thresholds) -> NDArray:
        """What is answered with: the class [b, ...] as an index, or which findings, bool [b, k]."""
        ...

    def rows(self, probabilities: torch.Tensor | NDArray, target: torch.Tensor | NDArray) -> NDArray[np.float32]:
        """What is kept of answers [b, k, ...] beside their truth [b, ...], per case: float32 [b, m]."""
        ...

    def inputs(self, images: Pixels, target: torch.Tensor, upright: bool) -> Inputs:
        """The random views of a training from scratch, with their truth where it moves along."""
        ...

    def adapted(self, images: Pixels, target: torch.Tensor, views: Views) -> Inputs:
        """`views` of the images of an adaptation, with their truth where it moves along."""
        ...

    def cached(
        self, prefix: nn.Module, images: Pixels, target: torch.Tensor, folder: Path, progress: Progress | None
    ) -> Inputs:
        """What a frozen prefix makes of images and of their mirror images, computed once; see `Latents`."""
        ...

    def fitted(self, target: torch.Tensor, head: nn.Module) -> Loss:
        """The loss of a training of this head from scratch on cases of this truth, all of them alike."""
        ...

    def check(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        """Raises ValueError where the truth of a case is of no class; it names the case's number."""
        ...

    def check_whole(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        """Raises ValueError where a class is nowhere in the truth of a training from scratch."""
        ...

    def backbone(self, origin: Backbone) -> Backbone:
        """The encoder in the form that the task's head reads. Raises ValueError where it has none."""
        ...

    def head(self, origin: Backbone, classes: int) -> nn.Module:
        """A fresh head for what `backbone` gave."""
        ...


class Classification:
    """One class for the image. What is kept of an answer is the probabilities themselves, [b, k]."""

    name = "classification"
    dense = False
    objective: ObjectiveMechanism = CrossEntropy()
    at_once = 64
    bounds = 10.0
    rate = 2e-3
    sliced = True

    def target(self, examples: Examples, preprocessing: Preprocessing) -> torch.Tensor:
        return torch.as_tensor(np.asarray(examples.label, dtype=np.int64))

    def probabilities(self, logits: torch.Tensor, corrected: Recalibrator = PLAIN) -> torch.Tensor:
        return corrected(logits)

    def decide(self, probabilities: NDArray[np.float32], thresholds: Thresholds) -> NDArray:
        return thresholds(probabilities)

    def rows(self, probabilities: torch.Tensor | NDArray, target: torch.Tensor | NDArray) -> NDArray[np.float32]:
        return np.asarray(probabilities, dtype=np.float32)

    def inputs(self, images: Pixels, target: torch.Tensor, upright: bool) -> Inputs:
        return Images(images, augment if upright else turned)

    def adapted(self, images: Pixels, target: torch.Tensor, views: Views) -> Inputs:
        return Images(images, views)

    def cached(
        self, prefix: nn.Module, images: Pixels, target: torch.Tensor, folder: Path, progress: Progress | None
    ) -> Inputs:
        return Latents(prefix, images, folder=folder, mirrored=True, progress=progress)

    def fitted(self, target: torch.Tensor, head: nn.Module) -> Loss:
        def loss(step: Step) -> torch.Tensor:
            return functional.cross_entropy(step.logits, target[step.rows])

        return loss

    def check(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        """The labels of examples are those of their classes already."""

    def check_whole(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        counts = target.bincount(minlength=len(classes))
        if len(classes) < 2 or int(counts.count_nonzero()) < 2:
            raise ValueError("Training needs labelled cases of at least two classes.")
        empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
        if empty:
            raise ValueError(f"No training case is labelled {', '.join(empty)}.")

    def backbone(self, origin: Backbone) -> Backbone:
        if origin.stride is not None:
            served = (
                "for every pixel: it serves segmentation"
                if origin.detector is None
                else "by boxes: it serves detection"
            )
            raise ValueError(f"This network answers {served}, and no classification.")
        return origin

    def head(self, origin: Backbone, classes: int) -> nn.Module:
        return nn.Linear(origin.width, classes)


class Multilabel(Classification):
    """Any number of findings of the image, none among them: a sigmoid for each, and a label that is a set
    (`strategies/findings.py`). All else is as for one class."""

    name = "multilabel"
    objective: ObjectiveMechanism = BinaryCrossEntropy()

    def probabilities(self, logits: torch.Tensor, corrected: Recalibrator = PLAIN) -> torch.Tensor:
        return torch.sigmoid(corrected.scaled(logits))

    def decide(self, probabilities: NDArray[np.float32], thresholds: Thresholds) -> NDArray:
        return thresholds.each(probabilities)

    def fitted(self, target: torch.Tensor, head: nn.Module) -> Loss:
        def loss(step: Step) -> torch.Tensor:
            truth = torch.from_numpy(members(target[step.rows].numpy(), step.logits.shape[1])).float()
            return functional.binary_cross_entropy_with_logits(step.logits, truth)

        return loss

    def check_whole(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        if not classes:
            raise ValueError("Training needs the name of one finding at least.")
        share = members(target.numpy(), len(classes)).mean(axis=0)
        if never := [name for name, seen in zip(classes, share, strict=True) if seen == 0]:
            raise ValueError(f"No training case is labelled {', '.join(never)}.")
        if always := [name for name, seen in zip(classes, share, strict=True) if seen == 1]:
            raise ValueError(f"Every training case is labelled {', '.join(always)}: what is not it can't be learnt.")


class Segmentation:
    """A class for every pixel, 0 the background; masks at the model's size, by nearest neighbour.

    What is kept of an answer, [b, 3 (k - 1) + 2]: for each structure in order the pixels that are it in both the answer
    and the truth, in the answer, and in the truth; then the mean over pixels of the Brier score (half the sum over
    classes, 0 to 1) and of the log loss in nats (probabilities clipped at 1e-6).
    """

    name = "segmentation"
    dense = True
    objective: ObjectiveMechanism = DiceCrossEntropy()
    at_once = DENSE_BATCH
    bounds = 30.0  # of another scanner's images most pixels may be wrong, and surely so, before the first step
    rate = 2e-3
    sliced = True

    def target(self, examples: Examples, preprocessing: Preprocessing) -> torch.Tensor:
        """Reads every image too, for its size."""
        size, n = preprocessing.size, preprocessing.slices
        masks = torch.empty((len(examples), n * size, size), dtype=torch.uint8)
        for i in range(len(examples)):
            mask, image = np.asarray(cast(Masked, examples).mask(i)), examples.image(i)
            shape = image.shape[: mask.ndim]
            if mask.shape != shape:
                raise ValueError(
                    f"The mask of case {i} is of {' x '.join(map(str, mask.shape))} pixels and its image of "
                    f"{' x '.join(map(str, shape))}: a mask is as large as its image."
                )
            masks[i] = resized(preprocessing, mask)
        return masks

    def probabilities(self, logits: torch.Tensor, corrected: Recalibrator = PLAIN) -> torch.Tensor:
        return corrected(logits)

    def decide(self, probabilities: NDArray[np.float32], thresholds: Thresholds) -> NDArray:
        return thresholds(probabilities)

    def rows(self, probabilities: torch.Tensor | NDArray, target: torch.Tensor | NDArray) -> NDArray[np.float32]:
        said, truth = torch.as_tensor(probabilities).float(), torch.as_tensor(target).long()
        decided, over = said.argmax(dim=1), (1, 2)
        columns = []
        for structure in range(1, said.shape[1]):
            answer, true = decided == structure, truth == structure
            columns += [(answer & true).sum(over), answer.sum(over), true.sum(over)]
        of_truth = said.gather(1, truth[:, None])[:, 0]
        # sum (p - y)^2 over the classes is sum p^2 - 2 p_true + 1
        brier = (said.square().sum(dim=1) - 2 * of_truth + 1).mean(over) / 2
        log_loss = -of_truth.clamp_min(1e-6).log().mean(over)
        return torch.stack([*columns, brier, log_loss], dim=1).float().numpy()

    def inputs(self, images: Pixels, target: torch.Tensor, upright: bool) -> Inputs:
        return MaskedImages(images, lit if upright else lit_and_turned, target)

    def adapted(self, images: Pixels, target: torch.Tensor, views: Views) -> Inputs:
        return MaskedImages(images, views, target)

    def cached(
        self, prefix: nn.Module, images: Pixels, target: torch.Tensor, folder: Path, progress: Progress | None
    ) -> Inputs:
        return TargetedLatents(prefix, images, target, mirrored_masks, folder=folder, progress=progress)

    def fitted(self, target: torch.Tensor, head: nn.Module) -> Loss:
        return DiceCrossEntropy().loss()

    def check(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        largest = target.flatten(1).amax(dim=1)
        if (largest >= len(classes)).any():
            first = int((largest >= len(classes)).nonzero()[0])
            raise ValueError(
                f"The mask of case {first} has pixels of class {int(largest[first])}; "
                f"{len(classes)} classes are named, so 0 to {len(classes) - 1} are known."
            )

    def check_whole(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        if len(classes) < 2:
            raise ValueError("A segmentation needs the name of one structure at least beside the background's.")
        absent = [name for c, name in enumerate(classes) if c and not (target == c).any()]
        if absent:
            raise ValueError(f"No training mask has a pixel of {', '.join(absent)}: it can't be learnt.")

    def backbone(self, origin: Backbone) -> Backbone:
        if origin.detector is not None:
            raise ValueError("This network finds things: it serves detection, and no segmentation.")
        return dense_from(origin)

    def head(self, origin: Backbone, classes: int) -> nn.Module:
        return decoder(origin, classes)


class Detection:
    """Boxes of k classes, none of which is a background; `strategies/boxes.py` says what a box is.

    An answer, [b, k + 4, h, w], has for every place the chance that something of each class has its middle there, and
    the corners of its box. A detector that answers by anchors at several levels, or by queries, has them all in one
    column, [b, k + 4, n, 1]. What is kept of one, [b, 12 * MOST + k]: for each of the boxes in it, the surest first,
    the score, the class and whether it found a true one at each of ten overlaps, NaN where there are fewer; then how
    many true boxes there are of each class.
    """

    name = "detection"
    dense = True
    objective: ObjectiveMechanism = CrossEntropyGIoU()
    at_once = DENSE_BATCH
    bounds = 30.0  # as for masks: another site may be answered wrongly, and surely so, at every place
    rate = 5e-3
    sliced = False

    def target(self, examples: Examples, preprocessing: Preprocessing) -> torch.Tensor:
        """Reads every image too, for its size."""
        several = []
        for i in range(len(examples)):
            try:
                several.append(boxes.of_image(cast(Boxed, examples).boxes(i), examples.image(i).shape))
            except ValueError as error:
                raise ValueError(f"Of case {i} {error}.") from None
        return boxes.padded(several)

    def probabilities(self, logits: torch.Tensor, corrected: Recalibrator = PLAIN) -> torch.Tensor:
        scores, corners = logits[:, : -boxes.CORNERS], logits[:, -boxes.CORNERS :].float()
        return torch.cat([torch.sigmoid(corrected.scaled(scores)), corners], dim=1)

    def decide(self, probabilities: NDArray[np.float32], thresholds: Thresholds) -> NDArray:
        return thresholds(probabilities)

    def rows(self, probabilities: torch.Tensor | NDArray, target: torch.Tensor | NDArray) -> NDArray[np.float32]:
        answers, truth = torch.as_tensor(probabilities).float(), torch.as_tensor(target).float()
        classes, width = answers.shape[1] - boxes.CORNERS, 2 + len(boxes.IOUS)
        rows = np.full((len(answers), boxes.MOST * width + classes), np.nan, dtype=np.float32)
        for row, answer, padded in zip(rows, answers, truth, strict=True):
            said, true = boxes.found(answer), boxes.real(padded)
            several = np.column_stack([said.scores, said.labels, boxes.matched(said, true)])
            row[: several.size] = several.ravel()
            row[-classes:] = np.bincount(true[:, 0].long(), minlength=classes)
        return rows

    def inputs(self, images: Pixels, target: torch.Tensor, upright: bool) -> Inputs:
        return BoxedImages(images, lit if upright else lit_and_turned, target)

    def adapted(self, images: Pixels, target: torch.Tensor, views: Views) -> Inputs:
        return BoxedImages(images, views, target)

    def cached(
        self, prefix: nn.Module, images: Pixels, target: torch.Tensor, folder: Path, progress: Progress | None
    ) -> Inputs:
        return TargetedLatents(prefix, images, target, boxes.mirrored, folder=folder, progress=progress)

    def fitted(self, target: torch.Tensor, head: nn.Module) -> Loss:
        return CrossEntropyGIoU().loss(head)

    def check(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        seen = {int(number) for number in target[..., 0].unique()} - {-1}
        if odd := [number for number in seen if number >= len(classes)]:
            raise ValueError(f"A box is of class {odd[0]}; {len(classes)} classes are named, from 0 on.")

    def check_whole(self, target: torch.Tensor, classes: Sequence[str]) -> None:
        if not classes:
            raise ValueError("A detection needs the name of one class at least.")
        seen = {int(number) for number in target[..., 0].unique()}
        if absent := [name for number, name in enumerate(classes) if number not in seen]:
            raise ValueError(f"No training case has a box of {', '.join(absent)}: it can't be learnt.")

    def backbone(self, origin: Backbone) -> Backbone:
        return origin if origin.detector is not None else columns(origin)

    def head(self, origin: Backbone, classes: int) -> nn.Module:
        return detector(origin, classes) if origin.detector is None else origin.detector(classes)


TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Multilabel(), Segmentation(), Detection())}


def task_of(name: str) -> Task:
    """Raises ValueError where there is no such task."""
    try:
        return TASKS[name]
    except KeyError:
        raise ValueError(f"There is no task {name!r}; there are {', '.join(TASKS)}.") from None


def refuse_unserved(mechanisms: Iterable[object], task: Task) -> None:
    """Raises ValueError for the first of the mechanisms that does not serve the task."""
    for mechanism in mechanisms:
        served = mechanism.tasks if isinstance(mechanism, Tasked) else (Classification.name,)
        if task.name not in served:
            name = getattr(mechanism, "name", type(mechanism).__name__)
            raise ValueError(f"{name} serves {' and '.join(served)}, and no {task.name}: take another recipe.")
