"""One year: the base and the workspace that every policy starts from, the bounds, and the run of each policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.cases.datafolder import sharing_bytes
from agent.cases.examples import FolderExamples
from agent.cases.split import Split
from agent.observe import Reading
from benchmarks.stream import write_folder
from benchmarks.year.pictures import SIDE, Cast, Pictures, Sites, cast, place_of
from benchmarks.year.play import START, Known, Tell, Trace, play
from benchmarks.year.policies import NEVER, ORACLE, Policy
from benchmarks.year.schedule import (
    CONDITIONS,
    FAR_OUT,
    HARMLESS,
    HOME,
    LEVELS,
    SCANNER,
    THIRD,
    VIEWS,
    Year,
    creep,
    draw,
)

EPOCHS = 20
INVENTED = 30  # patients of a far-out batch where there are no images for it
ROOM = 64  # images in one pass
KEPT = ("scores", "embedding", "quality")  # of what v0 reads

Progress = Callable[[str, int, int], None]
Accuracies = dict[str, dict[str, float]]  # version -> condition -> accuracy on held patients


@dataclass(frozen=True)
class Trial:
    """What is the same for every policy of one seed. `folder` holds base/, site/, images/ and v0.npz."""

    seed: int
    folder: Path
    sites: Sites
    year: Year
    cast: Cast

    @property
    def pictures(self) -> Pictures:
        return Pictures(self.sites, self.folder / "images")


def stage(sites: Sites, folder: Path, seed: int) -> Trial:
    """Draws who plays which part and what happens; nothing is computed yet."""
    parts = cast(sites, seed)
    pools: dict[str, Mapping[str, Sequence[str]]] = {
        place: sites.by_class(place, parts.year[place]) for place in (HOME, SCANNER, THIRD)
    }
    pools[FAR_OUT] = {"": sorted(sites.far_out) or [f"far-{i}" for i in range(INVENTED)]}
    return Trial(seed, folder, sites, draw(seed, pools), parts)


def prepare(trial: Trial, backbone: str, progress: Progress) -> tuple[Trace, Accuracies]:
    """Fits and deploys the base; what it says of the year's images is the bound of never updating."""
    import torch

    from agent.deploy import init
    from agent.workspace import Workspace
    from strategies.base import fit_base
    from strategies.predictor import Predictor

    torch.set_num_threads(1)
    folder, sites, pictures = trial.folder, trial.sites, trial.pictures
    views = random.Random(f"views {trial.seed}")
    rows = [_stored(sites, pictures, HOME, patient, views.randrange(VIEWS)) for patient in trial.cast.fitted]
    write_folder(folder / "home", rows)
    split = Split.draw((row.patient_id for row in rows), trial.seed, together=sharing_bytes(rows))
    part = {name: [row for row in rows if split.assign(row.patient_id) == name] for name in ("train", "develop")}
    fit_base(
        FolderExamples(part["train"], sites.classes),
        FolderExamples(part["develop"], sites.classes),
        sites.classes,
        backbone=backbone,
        size=SIDE,
        epochs=EPOCHS,
        seed=trial.seed,
        out=folder / "base",
        measure=_accuracy,
        progress=progress,
    )
    split.write(folder / "base")
    key = sha256(f"year {trial.seed}".encode()).digest()
    init(folder / "site", folder / "base", folder / "home", where=(), config=None, progress=progress, key=key,
         clock=lambda: START)  # fmt: skip
    with Workspace(folder / "site").store.read() as connection:
        digest = connection.execute("SELECT digest FROM versions WHERE id = 'v0'").fetchone()["digest"]
    files = [pictures.file(*one) for one in _shown(trial)]
    base = Predictor.load(folder / "base")
    said = _read(base, files, lambda done: progress("the year's images", done, len(files)))
    np.savez(folder / "v0.npz", digest=np.array(digest), names=np.array([path.name for path in files]),
             scores=said[0], embedding=said[1], quality=_looks(files))  # fmt: skip
    return _bound(trial, NEVER, "v0", said[0]), {"v0": _held(trial, base)}


def foretell(trial: Trial, progress: Progress) -> tuple[Trace, Accuracies]:
    """The oracle, which knows each change and has its labels at once; the base has to be prepared."""
    import torch

    from strategies.predictor import Predictor

    torch.set_num_threads(1)
    files = [trial.pictures.file(*one) for one in _shown(trial)]
    _train_oracle(trial, Split.read(trial.folder / "base"), progress)
    oracle = Predictor.load(trial.folder / "base", trial.folder / "oracle")
    said, _ = _read(oracle, files, lambda done: progress("the oracle's answers", done, len(files)))
    truth = {"v0": _held(trial, Predictor.load(trial.folder / "base")), ORACLE: _held(trial, oracle)}
    return _bound(trial, ORACLE, ORACLE, said), truth


def _shown(trial: Trial) -> list[tuple[str, str, int]]:
    """Every image of the year once: (condition, patient, view)."""
    return sorted({(case.condition, case.patient, case.view) for case in trial.year.cases})


def run(trial: Trial, policy: Policy, tell: Tell) -> tuple[Trace, Accuracies]:
    """Lives through the year under `policy`; then every version that went live answers for the held patients."""
    import torch

    from strategies.predictor import Predictor

    torch.set_num_threads(1)
    stored = np.load(trial.folder / "v0.npz")
    digest = str(stored["digest"])
    known: Known = {
        (digest, str(name)): Reading(*read)
        for name, *read in zip(
            stored["names"], *(stored[part] for part in ("scores", "embedding", "quality")), strict=True
        )
    }
    folder = trial.folder / policy.name.replace(" ", "_")
    trace = play(trial.folder / "site", folder, trial.year, trial.pictures, policy, known, trial.seed, tell)
    live = sorted({"v0", *(one["version"] for one in trace.activations)})
    parts = {name: None if name == "v0" else folder / "versions" / name for name in live}
    return trace, {name: _held(trial, Predictor.load(trial.folder / "base", parts[name])) for name in live}


def _bound(trial: Trial, name: str, version: str, scores: NDArray[np.floating]) -> Trace:
    """The trace of a model that never changes, and whose every answer is taken in good faith; scores by `_shown`."""
    cases, place = trial.year.cases, {one: i for i, one in enumerate(_shown(trial))}
    at = [place[case.condition, case.patient, case.view] for case in cases]
    answers = [trial.sites.classes[k] for k in scores[at].argmax(axis=1)]
    rows = [
        (case.day, case.condition, case.label, answer, "normal", False, version)
        for case, answer in zip(cases, answers, strict=True)
    ]
    changes = [{"version": version, "day": 0, "how": "oracle", "previous": "v0"}] if version != "v0" else []
    return Trace(name, rows, scores[at], changes, [], [], [], 0.0, trial.folder)


def _train_oracle(trial: Trial, split: Split, progress: Progress) -> None:
    """Full fine-tuning on the training patients of every condition of the year at once, with all their labels."""
    from strategies.base import Chosen
    from strategies.recipes import RECIPES
    from strategies.recipes import run as adapt

    sites, pictures = trial.sites, trial.pictures
    parts: dict[str, list[Any]] = {"train": [], "develop": []}
    looks = (HOME, HARMLESS, creep(LEVELS // 2), creep(LEVELS), SCANNER, THIRD)
    for condition in looks:
        patients = [*trial.cast.year[place_of(condition)], *(trial.cast.fitted if condition == HOME else ())]
        for patient in patients:
            part = split.assign(patient)
            if part in parts:
                parts[part].append(_stored(sites, pictures, condition, patient, 0))
    examples = {name: FolderExamples(rows, sites.classes) for name, rows in parts.items()}
    nothing = Chosen(examples["train"], np.array([], int))
    adapt(RECIPES["full_finetune"], base=trial.folder / "base", live_parts=None, new=examples["train"], memory=nothing,
          develop=examples["develop"], out=trial.folder / "oracle", seed=trial.seed, measure=_accuracy,
          progress=progress)  # fmt: skip


def _stored(sites: Sites, pictures: Pictures, condition: str, patient: str, view: int) -> Any:
    """The row of a patient with the image as it looks under a condition, and that condition as its site."""
    row = sites.rows[place_of(condition)][patient]
    return replace(row, file=pictures.file(condition, patient, view), site="main", scanner="A")


def _read(predictor: Any, files: Sequence[Path], tell: Callable[[int], None]) -> tuple[Any, Any]:
    from agent.cases.images import read_image
    from agent.tasks import answer, task_named

    scores, embedding = [], []
    for start in range(0, len(files), ROOM):
        images = [read_image(path) for path in files[start : start + ROOM]]
        tensors, shapes = [predictor.prepare(image) for image in images], [image.shape[:2] for image in images]
        said = answer(task_named(predictor.task), predictor, tensors, shapes)
        scores.append(said.scores)
        embedding.append(said.embedding)
        tell(min(start + ROOM, len(files)))
    return np.concatenate(scores), np.concatenate(embedding)


def _looks(files: Sequence[Path]) -> Any:
    from agent.cases.images import read_image
    from monitors import quality

    return np.stack([quality(read_image(path)) for path in files])


def _held(trial: Trial, predictor: Any) -> dict[str, float]:
    found, pictures = {}, trial.pictures
    for condition in CONDITIONS:
        place = place_of(condition)
        patients = trial.cast.held[place]
        scores, _ = _read(predictor, [pictures.file(condition, p, 0) for p in patients], lambda _: None)
        labels = [trial.sites.classes.index(trial.sites.rows[place][p].label or "") for p in patients]
        found[condition] = float((scores.argmax(axis=1) == np.array(labels)).mean())
    return found


def _accuracy(probability: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    from monitors import Scores, balanced_accuracy

    return float(balanced_accuracy(Scores(probability=probability, target=target, unit=target.astype(str)))[0])
