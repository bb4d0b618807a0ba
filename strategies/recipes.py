"""Recipes of adaptation, and the one function that runs any of them: cases in, a folder of parts out."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from strategies.alignment import ALIGNMENT, STATISTICS
from strategies.augmentation import augment, mirror, turned, upright
from strategies.base import load_base, read_record
from strategies.data import NewCases, Rehearsal
from strategies.domains import domain_shares
from strategies.episode import TEST_TIME
from strategies.inputs import Images, Inputs, Latents, Views
from strategies.lessons import Joined, as_sensed, as_served, no_logits, site_first
from strategies.model import Classifier, Thresholds
from strategies.objective import Supervised
from strategies.parameter import Full, LinearProbe, LoRA
from strategies.predictor import PROMPT, Predictor, apply_parts, write_golden
from strategies.preprocessing import Pixels, to_record
from strategies.protocols import (
    Candidate,
    Cutting,
    DataMechanism,
    Examples,
    Learner,
    Lesson,
    Loss,
    ParameterMechanism,
    Penalised,
    Placed,
    Progress,
    Recipe,
    Recorded,
    Stage,
    Step,
    Stepwise,
    Viewing,
)
from strategies.representation import Recalibrate
from strategies.routing import BANK, PLACES, Router, files_of
from strategies.slices import FEWEST, apart, fewer
from strategies.suffix import lean
from strategies.tasks import refuse_unserved, task_of
from strategies.training import Measure, Trained, features_of, head_of, train

EPOCHS = 12
BATCH = 16
CALIBRATE = Stage(representation=Recalibrate())
SOFTEN = Stage(representation=Recalibrate(bias=False))  # a temperature alone: what was learnt is not answered otherwise


def _learn(parameter: ParameterMechanism, data: DataMechanism) -> Stage:
    return Stage(parameter=parameter, objective=Supervised(), data=data, epochs=EPOCHS)


# What a plan may name. full_rehearsal is what low rank falls short of: another stain through a small convolutional
# network. full_finetune is there to be compared with: it forgets, and the forgetting gate refuses it.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="recalibrate", stages=(CALIBRATE,), risk=1),
        Recipe(name="linear_probe", stages=(_learn(LinearProbe(), Rehearsal()), SOFTEN), risk=2),
        Recipe(name="lora_rehearsal", stages=(_learn(LoRA(), Rehearsal()), SOFTEN), risk=3),
        Recipe(name="full_rehearsal", stages=(_learn(Full(5e-4, continues=True), Rehearsal()), SOFTEN), risk=4),
        Recipe(name="full_finetune", stages=(_learn(Full(), NewCases()),), risk=5),
    )
}

# What only the benchmark names: the adapter without rehearsal.
COMPARISONS = {"naive_lora": Recipe(name="naive_lora", stages=(_learn(LoRA(), NewCases()),), risk=4)}

# What a version's encoder and head have learnt; a recipe that continues carries these files along.
LEARNT = {
    "weights": "weights.safetensors",
    "adapter": "adapter_model.safetensors",
    "adapter_config": "adapter_config.json",
    "tuned": "tuned.safetensors",
    "inserted": "inserted.safetensors",
    "prompt": PROMPT,
    "head": "head.safetensors",
    "statistics": STATISTICS,
    "alignment": ALIGNMENT,
}


def run(
    recipe: Recipe,
    *,
    base: Path,
    live_parts: Path | None,
    new: Examples,
    memory: Examples,
    develop: Examples,
    out: Path,
    seed: int,
    measure: Measure,
    unlabelled: Examples | None = None,
    progress: Progress | None = None,
    epochs: int | None = None,
    latents: Path | None = None,
) -> Candidate:
    """Runs the stages on one model and writes the candidate's parts into the new folder `out`.

    The base's task is learnt: of a segmentation `new`, `memory` and `develop` are `Masked`.

    A recipe whose every step continues starts from the live version (`live_parts`), any other from the base: what the
    live version had learnt is learnt again from the memory there, so that adapters don't pile up on each other. Of
    the epochs the one is kept whose `measure(the task's rows, labels)` is best: a mean by `domain_shares` over those
    domains of `develop` that the stage is taught (over all, where it has none of them), so that a naive recipe is
    naive in this too. `unlabelled` are new cases without a label, for mechanisms that need none. Scores are
    recalibrated, and features aligned, on cases that no weight was fitted on here: `develop` and `unlabelled`, and
    `new` too where no weight moved; after a training by a temperature alone, which changes no answer. A live bank is
    gone on with by a recipe that has one too; any other goes on from what the bank falls back to. The same call gives
    the same bytes on one machine with one thread. `epochs` replaces those of the stages. `latents` is a folder for what
    frozen blocks make of images, which the next recipe can use again and the caller deletes; without it there is one
    beside `out` meanwhile. Raises ValueError where there is nothing to learn from, a label is missing, the stages are
    in no order that can be served, do not serve the task or move weights of a black box, `out` is taken, or the
    training diverges or collapses.
    """
    started = time.monotonic()
    _check(recipe, new, memory, develop, unlabelled, out)
    refuse_unserved(_mechanisms(recipe), task_of(read_record(base)["task"]))
    moving = [stage.parameter for stage in recipe.stages if stage.parameter is not None]
    continues = live_parts is not None and all(parameter.continues for parameter in moving)
    model = load_base(base)
    if moving and model.origin.sealed:
        raise ValueError(
            f"{recipe.name} moves weights, and this model is a black box: it is watched and recalibrated, and not "
            "adapted."
        )
    out.mkdir(parents=True, exist_ok=True)
    preprocessing = model.origin.preprocessing
    parts: dict[str, str] = {}
    if continues and live_parts is not None:
        apply_parts(model, live_parts)
        parts |= {} if any(parameter.whole for parameter in moving) else _carry(live_parts, out, model)
    held = site_first(Joined(develop) if moving else Joined(develop, new), new, unlabelled)
    held_images = Pixels(held, preprocessing, progress=progress, what="develop images read")
    trained: list[Trained] = []
    noted: list[dict[str, Any]] = []
    trainable = 0
    with _folder_for(latents, out) as folder:
        for stage in recipe.stages:
            stage = replace(stage, epochs=epochs or stage.epochs)
            if stage.parameter is not None:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    weights = stage.parameter.attach(model)
                trainable += sum(weight.numel() for weight in weights)
                taught = (new, memory) if unlabelled is None else (new, memory, unlabelled)
                one, note = _train(stage, model, weights, taught, held, held_images, seed, measure, folder, progress)
                trained.append(one)
                noted.append(asdict(one) | note)
                parts |= stage.parameter.write(model, out)
            if stage.representation is not None:
                aligned, served = as_served(base, out, held, held_images, new, unlabelled)
                parts |= stage.representation.fit(aligned, served, out)
            if stage.architecture is not None:
                lesson = as_sensed(base, new, memory, develop, unlabelled)
                parts = stage.architecture.assemble(lesson, parts, _files_of(live_parts), out)
    (out / "preprocessing.json").write_text(json.dumps(to_record(preprocessing), indent=2) + "\n", encoding="utf-8")
    Thresholds().write(out / "thresholds.json")
    write_golden(Predictor.load(base, out), out)
    parts |= {
        "preprocessing": "preprocessing.json",
        "thresholds": "thresholds.json",
        "golden": "golden.safetensors",
    }
    made = {
        "seed": seed,
        "started_from": "live" if continues else "base",
        "n": {"new": len(new), "memory": len(memory), "develop": len(develop), "unlabelled": len(unlabelled or ())},
        "trainable_parameters": trainable,
        "epochs": sum(one.epochs for one in trained),
        "losses": [loss for one in trained for loss in one.loss],
        "stages": noted,
        "seconds": time.monotonic() - started,
    }
    return Candidate(folder=out, recipe=recipe.name, parts=parts, made=made)


def _train(
    stage: Stage,
    model: Classifier,
    weights: Sequence[torch.nn.Parameter],
    taught_from: Sequence[Examples],
    held: Examples,
    held_images: Pixels,
    seed: int,
    measure: Measure,
    latents: Path,
    progress: Progress | None,
) -> tuple[Trained, dict[str, Any]]:
    """What the training came to, and what its loss and its batches have to say of it."""
    if stage.parameter is None or stage.objective is None or stage.data is None:
        raise ValueError("A stage that moves weights needs an objective and a data mechanism.")
    new, memory, *_ = taught_from
    task = task_of(model.task)
    cases = Joined(*(taught_from[:2] if stage.objective.labelled else taught_from))
    taught = {*new.domain.tolist(), *(memory.domain.tolist() if stage.data.remembers else ())}
    asked = np.isin(held.domain, sorted(taught))
    shares = domain_shares(held.domain[asked] if asked.any() else held.domain)

    def over_domains(rows: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
        found = {name: measure(rows[held.domain == name], labels[held.domain == name]) for name in shares}
        known = {name: value for name, value in found.items() if np.isfinite(value)}
        return sum(shares[name] * value for name, value in known.items()) / sum(shares[name] for name in known)

    def as_good(rows: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
        return 0.0  # no label is learnt, so none says which epoch is best: of equals the last is kept

    # A short adaptation sees mirrored views; without labels, telling views apart is all there is to learn from.
    cut = _frozen(stage.parameter, model) if stage.objective.labelled else 0
    images = Pixels(cases, model.origin.preprocessing, progress=progress)
    views = mirror if stage.objective.labelled else _strong(images)
    target, truth = (task.target(some, model.origin.preprocessing) for some in (cases, held))
    for one in (target, truth):
        task.check(one, model.classes)
    drawn = stage.objective.views(views) if isinstance(stage.objective, Viewing) else views
    inputs = task.adapted(images, target, drawn)
    shown: Inputs = Images(held_images, mirror)
    encoder: torch.nn.Module = model.backbone
    if cut:
        prefix, encoder = model.origin.split(cut)
        inputs = task.cached(prefix, images, target, latents, progress)
        shown = Latents(prefix, held_images, folder=latents, mirrored=False)
        if isinstance(stage.parameter, LoRA) and stage.parameter.lean:
            encoder = lean(encoder, weights)
    begins = cache(lambda: features_of(encoder.eval(), inputs, task.at_once))
    lesson = Lesson(
        label=cases.label,
        domain=cases.domain,
        patient=cases.patient,
        new=len(new),
        remembered=len(memory),
        features=begins,
        logits=no_logits if task.dense else cache(lambda: head_of(model.head, begins())),
        task=task.name,
    )
    learner = Learner(encoder=encoder, head=model.head, moving=weights, inputs=inputs)
    if isinstance(stage.parameter, Placed):
        stage.parameter.place(lesson, learner)
    size = fewer(BATCH, model.origin.preprocessing.slices, FEWEST)
    batches, loss = stage.data.batches(lesson, size, seed), stage.objective.prepare(lesson, learner)
    trained = train(
        encoder,
        model.head,
        weights,
        inputs,
        cases.label,
        develop=(shown, held.label),
        measure=over_domains if stage.objective.labelled else as_good,
        task=task,
        truth=truth,
        epochs=stage.epochs,
        learning_rate=stage.parameter.learning_rate,
        seed=seed,
        patience=stage.epochs,
        batches=batches,
        loss=_penalised(loss, stage.parameter, model) if isinstance(stage.parameter, Penalised) else loss,
        mode=stage.parameter.training,
        defended=True,
        stepped=partial(stage.parameter.stepped, model) if isinstance(stage.parameter, Stepwise) else None,
        progress=progress,
    )
    note: dict[str, Any] = {}
    if isinstance(loss, Recorded):
        note["objective"] = loss.record()
    if isinstance(batches, Recorded):
        note["data"] = batches.record()
    return trained, note


def _frozen(parameter: ParameterMechanism, model: Classifier) -> int:
    """How many of the first blocks it never moves."""
    if isinstance(parameter, Cutting):
        return parameter.cut(model.origin)
    return int(parameter.frozen * model.origin.depth)


def _penalised(loss: Loss, parameter: Penalised, model: Classifier) -> Loss:
    def both(step: Step) -> torch.Tensor:
        return loss(step) + parameter.penalty(model)

    return both


def _strong(images: Pixels) -> Views:
    some = np.unique(np.linspace(0, len(images) - 1, 128).astype(int)).tolist()
    return augment if upright(apart(images[some], images.preprocessing.slices)) else turned


@contextmanager
def _folder_for(latents: Path | None, out: Path) -> Iterator[Path]:
    if latents is not None:
        yield latents
        return
    with tempfile.TemporaryDirectory(prefix=".latents-", dir=out.parent) as folder:
        yield Path(folder)


def _carry(live_parts: Path, out: Path, model: Classifier) -> dict[str, str]:
    """Copies what the live version has learnt; an alignment stays folded into the head of `model`, which has both."""
    carried = {kind: name for kind, name in LEARNT.items() if (live_parts / name).is_file()}
    for name in carried.values():
        shutil.copyfile(live_parts / name, out / name)
    if carried.pop("alignment", None):
        (out / ALIGNMENT).unlink()
        save_file(model.head.state_dict(), out / LEARNT["head"])
        carried["head"] = LEARNT["head"]
    return carried


def _files_of(live_parts: Path | None) -> list[Path]:
    """The files of the live version that answers come from: what it learnt, how it is served, its bank."""
    if live_parts is None:
        return []
    router = Router.read(live_parts)
    own = [live_parts / name for name in (*LEARNT.values(), "recalibrator.json", TEST_TIME, BANK, PLACES)]
    experts = [file for name in (router.experts() if router else ()) for file in files_of(live_parts, name)]
    return [*(file for file in own if file.is_file()), *experts]


def _check(
    recipe: Recipe, new: Examples, memory: Examples, develop: Examples, unlabelled: Examples | None, out: Path
) -> None:
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is there already; a candidate is written into a new folder.")
    _check_order(recipe)
    learns = [one for stage in recipe.stages for one in (stage.objective, stage.representation) if one is not None]
    if any(one.labelled for one in learns) and not len(new):
        raise ValueError("There is no new labelled case to learn from.")
    if not len(new) and not len(unlabelled or ()):
        raise ValueError("There is no new case to learn from, labelled or not.")
    if not len(develop):
        raise ValueError("There is no labelled develop case to choose the best epoch with.")
    for what, examples in (("new", new), ("remembered", memory), ("develop", develop)):
        unknown = int((np.asarray(examples.label) < 0).sum())
        if unknown:
            raise ValueError(
                f"{unknown} of {len(examples)} {what} cases have no label; only labelled cases are learnt from."
            )


def _mechanisms(recipe: Recipe) -> list[object]:
    """Every mechanism that its stages name."""
    slots = [(one.parameter, one.representation, one.objective, one.data, one.architecture) for one in recipe.stages]
    return [mechanism for stage in slots for mechanism in stage if mechanism is not None]


def _check_order(recipe: Recipe) -> None:
    """Weights move before features are aligned, and a bank is the last: each is fitted to what stands before it."""
    aligned = banked = False
    for stage in recipe.stages:
        if banked or (aligned and stage.parameter is not None):
            raise ValueError(
                f"The stages of {recipe.name} are in no order that can be served: "
                "first those that move weights, then alignments, then a bank."
            )
        aligned |= stage.representation is not None
        banked |= stage.architecture is not None
