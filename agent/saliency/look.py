"""What versions answer of a data folder with labels and masks or boxes, and where in the images they see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.cases import boxes, masks
from agent.cases.datafolder import Row, read_folder
from agent.cases.images import Unreadable, read_image
from agent.cases.pseudonym import patient_key
from agent.cases.split import Split
from agent.errors import HomeostatError
from agent.progress import Progress
from agent.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monitors import Localised, Looked
    from strategies.predictor import Predictor
    from strategies.protocols import Attribution

AT_ONCE = 8  # images


class Marked(NamedTuple):
    """An image, and the pixels of it that people marked, bool [h, w]; None where nobody did, or they can't be read."""

    image: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Labelled cases of patients that no version was trained on; left_out: how many cases there are of the others."""

    rows: Sequence[Row]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """One version at these cases. places: those with a mask, in the order of `looked.pointing`; maps [m, g, g] and
    localised are of these. unreadable: images that no answer could be asked of, and marks that are none of their
    image."""

    version: str
    looked: Looked
    places: Sequence[int]
    maps: NDArray[np.float32]
    localised: Sequence[Localised]
    unreadable: int


def chosen(workspace: Workspace, folder: Path, where: Sequence[str], classes: Sequence[str]) -> Cases:
    """The cases to look at. Raises HomeostatError where none is left, or none has a mask or boxes."""
    labelled = [row for row in read_folder(folder, where).rows if row.label in classes]
    if not labelled:
        raise HomeostatError(f"{folder} has no case of the classes {', '.join(classes)}: check its cases.csv")
    split, trained = Split.read(workspace.base), _trained(workspace)
    rows = [
        row
        for row in labelled
        if not split.trained_on(row.patient_id) and patient_key(workspace.key, row.patient_id) not in trained
    ]
    if not rows:
        raise HomeostatError(f"all patients of {folder} are of the part that teaches: name a folder with others")
    if not any(_says_where(row) for row in rows):
        raise HomeostatError(
            f"{folder} has no mask or boxes of a labelled case that teaches nobody: fill the column 'mask' or 'boxes' "
            "of its cases.csv"
        )
    return Cases(rows=rows, left_out=len(labelled) - len(rows))


def look(version: str, predictor: Predictor, rows: Sequence[Row], method: Attribution, progress: Progress) -> Found:
    """Asks one version about every case. An image that can't be read is left out, for every version alike. Raises
    HomeostatError where none can be read, or no mask marks anything."""
    import numpy as np
    import torch

    from monitors import Looked, Scores, localised
    from strategies.saliency import attributions, stretched

    said, kept, maps, found, places, unreadable = [], list[int](), [], [], list[int](), 0
    for start in range(0, len(rows), AT_ONCE):
        some: dict[int, Marked] = {}
        for i in range(start, min(start + AT_ONCE, len(rows))):
            try:
                some[i] = marked(rows[i])
            except Unreadable:
                unreadable += 1
            else:
                unreadable += some[i].mask is None and _says_where(rows[i])
        if some:
            seen = attributions(predictor, torch.stack([predictor.prepare(one.image) for one in some.values()]), method)
            said.append(seen.probability)
            kept += some
            for (i, one), attribution in zip(some.items(), seen.attribution, strict=True):
                if one.mask is None:
                    continue
                place = localised(stretched(attribution, one.mask.shape), one.mask)
                if place is not None:
                    places.append(i)
                    found.append(place)
                    maps.append(attribution.numpy())
        progress(f"looking with {version}", min(start + AT_ONCE, len(rows)), len(rows))
    if not found:
        raise HomeostatError(
            "no mask or box marks anything in an image that can be read: look at the files of the column 'mask' or "
            f"'boxes' ({unreadable} of {len(rows)} cases can't be read)"
        )
    numbers = {raw: f"p{i}" for i, raw in enumerate(sorted({row.patient_id for row in rows}))}
    unit = np.array([numbers[row.patient_id] for row in rows], np.str_)
    order = {name: i for i, name in enumerate(predictor.classes)}
    target = np.array([order[rows[i].label or ""] for i in kept], np.int64)
    looked = Looked.of(Scores(probability=np.concatenate(said), target=target, unit=unit[kept]), found, unit[places])
    return Found(
        version=version, looked=looked, places=places, maps=np.stack(maps), localised=found, unreadable=unreadable
    )


def _says_where(row: Row) -> bool:
    """Whether the row names a mask or boxes, be they there or not."""
    return bool(row.truths or row.wrong)


def marked(row: Row) -> Marked:
    """Raises Unreadable where the image can't be read; marks that can't be, or are none of this image, are None."""
    image = read_image(row.file)
    for kind, read in _READERS.items():
        if kind in row.truths:
            try:
                return Marked(image, read(row.truths[kind], row.file, image.shape))
            except Unreadable:
                return Marked(image, None)
    return Marked(image, None)


def _of_mask(file: Path, image: Path, shape: Sequence[int]) -> NDArray[np.bool_]:
    mask = masks.read_beside(file, image)
    masks.against(mask, shape, range(masks.MOST_CLASSES))  # type: ignore[arg-type]
    return mask > 0


def _of_boxes(file: Path, image: Path, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Whatever lies in one of the boxes."""
    import numpy as np

    listed = boxes.read_boxes(file)
    boxes.against(listed, shape, ())
    inside = np.zeros((shape[0], shape[1]), bool)
    for _, x0, y0, x1, y1 in listed:
        inside[max(0, round(y0)) : round(y1), max(0, round(x0)) : round(x1)] = True
    return inside


_READERS = {"mask": _of_mask, "boxes": _of_boxes}


def _trained(workspace: Workspace) -> set[str]:
    """The pseudonyms of patients whose labels teach."""
    with workspace.store.read() as connection:
        return {
            row["patient_key"] for row in connection.execute("SELECT patient_key FROM patients WHERE split='train'")
        }
