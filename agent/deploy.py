"""fit and init: a base model with the one split, and the workspace that inherits it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from agent.cases.datafolder import read_folder, sharing_bytes
from agent.cases.examples import FolderExamples, StoredExamples
from agent.cases.images import middle, sides
from agent.cases.intake import Intake
from agent.cases.labels import COLUMNS
from agent.cases.split import Split
from agent.clock import Clock, utc_now
from agent.config import Config, read_config, render
from agent.drift.domains import key_of
from agent.drift.reference import open_epoch
from agent.errors import HomeostatError
from agent.observe import Reading, describe, reading, record
from agent.store import Connection, journal
from agent.tasks import Task, answer, task_for, task_named
from agent.updates import anchors, material
from agent.updates.quality import quality
from agent.updates.records import store_memory
from agent.updates.settle import settle
from agent.versions import bundle, pointer, registry
from agent.workspace import Workspace, put_setting, write_atomically

Progress = Callable[[str, int, int], None]

BY = "init"


def fit(
    data: Path,
    out: Path,
    *,
    where: Sequence[str],
    task: str = "classification",
    backbone: str | None,
    size: int | None = None,
    slices: int = 1,
    epochs: int | None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Draws the split over the folder's patients, trains on *train*, selects on *develop*, measures on *judge*.

    Raises HomeostatError where the folder has no labels, one class, or a split part without patients.
    """
    started = time.monotonic()
    task_named(task)
    if out.exists() and any(out.iterdir()):
        raise HomeostatError(f"{out} is not empty: name a new folder with --out")
    every = read_folder(data, where).rows
    of = task_for(task, every)
    rows = [row for row in every if of.said(row)]
    if not rows:
        column = COLUMNS[of.kind]
        raise HomeostatError(f"{data} has no labelled case to learn from: fill the column '{column}' of its cases.csv")
    try:
        classes = of.classes(rows, slices)
    except HomeostatError as error:
        raise HomeostatError(f"{data}: {error}") from None
    split = Split.draw({row.patient_id for row in rows}, seed, together=sharing_bytes(rows))
    parts = {name: [r for r in rows if split.assign(r.patient_id) == name] for name in ("train", "develop", "judge")}
    for name, part in parts.items():
        if not part:
            raise HomeostatError(f"{data} has too few patients: none fell into the {name} split; bring more patients")
    examples = {name: FolderExamples(part, classes, of, slices) for name, part in parts.items()}

    from strategies.base import DEFAULT_EPOCHS, fit_base  # slow: only once the data are fit for it

    try:
        made = fit_base(
            examples["train"],
            examples["develop"],
            tuple(classes),
            task=of.name,
            backbone=backbone,
            size=size,
            slices=slices,
            epochs=epochs or DEFAULT_EPOCHS,
            seed=seed,
            out=out,
            measure=partial(quality, of),
            progress=progress,
        )
    except ValueError as error:
        raise HomeostatError(str(error)) from error
    split.write(out)
    judged = _measures(of, out, examples["judge"], progress)
    return {
        "out": str(out),
        "backbone": made["backbone"],
        "n_train": len(parts["train"]),
        "n_val": len(parts["develop"]),
        "n_judge": len(parts["judge"]),
        "task": of.name,
        "classes": classes,
        "metrics": judged,
        "epochs": made["epochs"],
        "seconds": round(time.monotonic() - started, 1),
    }


def _measures(task: Task, base: Path, examples: FolderExamples, progress: Progress) -> dict[str, float | None]:
    """The measures of a base on patients that it has never seen."""
    from strategies.predictor import Predictor

    return task.measured(Predictor.load(base), examples, progress).measures()


def init(
    root: Path,
    base: Path,
    reference: Path,
    *,
    where: Sequence[str],
    config: Path | None,
    progress: Progress,
    key: bytes | None = None,
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """Makes a workspace in `root`; a call that dies leaves a folder without live.json, which `init` asks to be removed.
    `clock` tells when v0 was made and its labels were there: what comes later is news to it.

    `base` is a folder that `fit` wrote, or a model that says itself what it answers: a base is made of that first.

    Raises HomeostatError where the base is none, the reference can't be read, or no unseen patient is in it.
    """
    with _as_base(base) as folder:
        return _make(root, folder, reference, where, read_config(config) if config else Config(), progress, key, clock)


def _make(
    root: Path,
    base: Path,
    reference: Path,
    where: Sequence[str],
    resolved: Config,
    progress: Progress,
    key: bytes | None,
    clock: Clock,
) -> dict[str, Any]:
    classes, task, sealed, slices = _of_base(base)
    task_named(task)
    resolved = resolved.model_copy(update={"model": resolved.model.model_copy(update={"task": task})})
    read_folder(reference, where)  # a wrong folder is refused before anything is written
    workspace = Workspace.create(root, clock, key=key)
    write_atomically(workspace.path("homeostat.yaml"), render(resolved).encode())
    shutil.copytree(base, workspace.base)
    known_split = (workspace.base / "split.json").exists()
    if not known_split:
        Split.draw((), resolved.plan.seed).write(workspace.base)
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", list(classes))
        put_setting(connection, "task", task)
        put_setting(connection, "sealed", sealed)
        put_setting(connection, "slices", slices)
        put_setting(connection, "unseen", "known" if known_split else "unknown")
        journal.append(connection, "workspace_made", at=workspace.now(), by=BY, body={"task": task})
    taken = Intake(workspace).take(reference, where=where, labels=True, origin="reference")
    digest, base_digest = _write_v0(workspace)
    with workspace.store.read() as connection:
        cases = [
            row["case_id"]
            for row in connection.execute(
                "SELECT case_id FROM cases WHERE origin = 'reference' AND alias_of IS NULL ORDER BY seq"
            )
        ]
    if not cases:
        raise HomeostatError(
            f"{reference} has no readable case: see quarantine/ in {root}, then make the workspace anew"
        )
    seen = _observe(workspace, cases, progress)
    with workspace.store.transaction() as connection:
        registry.register_base(
            connection,
            digest=digest,
            base_digest=base_digest,
            plan_digest=resolved.plan_digest,
            by=BY,
            at=workspace.now(),
        )
        counts = _reference(workspace, connection, cases, seen, base_digest)
    settle(workspace)
    pointer.publish(workspace)
    return {
        "workspace": str(workspace.root),
        "live": "v0",
        "reference": counts["reference"],
        "anchor": counts["anchor"],
        "decidable": _decidable(resolved, counts["anchor"]["patients"]),
        "unseen": "known" if known_split else "unknown",
        "sealed": sealed,
        "quarantined": taken["quarantined"],
        "memory": counts["memory"],
    }


@contextmanager
def _as_base(model: Path) -> Iterator[Path]:
    """The model's own folder where it is a base, else a base made of it, for the time being."""
    from strategies.base import import_described

    if (model / "base.json").is_file() or not model.exists():
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="homeostat-") as scratch:
        try:
            import_described(str(model), Path(scratch) / "base")
        except (ValueError, OSError) as error:
            raise HomeostatError(str(error)) from error
        yield Path(scratch) / "base"


def _of_base(base: Path) -> tuple[tuple[str, ...], str, bool, int]:
    """Its classes, its task, whether it is a black box, and how many slices of a volume it reads."""
    from strategies.base import read_record
    from strategies.preprocessing import from_record

    try:
        record = read_record(base)
        slices = from_record(record["preprocessing"]).slices
        return tuple(record["classes"]), record["task"], record.get("sealed", False), slices
    except (ValueError, OSError) as error:
        raise HomeostatError(str(error)) from error


def _write_v0(workspace: Workspace) -> tuple[str, str]:
    """v0 is the base alone: its bundle holds preprocessing, thresholds, an identity recalibrator and golden outputs."""
    from strategies.model import Recalibrator, Thresholds
    from strategies.predictor import Predictor, write_golden
    from strategies.preprocessing import to_record

    parts = workspace.path("jobs", "v0")
    parts.mkdir(parents=True, exist_ok=True)
    try:
        predictor = Predictor.load(workspace.base)
    except ValueError as error:
        raise HomeostatError(str(error)) from error
    Recalibrator().write(parts / "recalibrator.json")
    Thresholds().write(parts / "thresholds.json")
    (parts / "preprocessing.json").write_text(json.dumps(to_record(predictor.preprocessing), indent=1))
    try:
        write_golden(predictor, parts)
    except (ValueError, RuntimeError) as error:
        raise HomeostatError(f"The model can't answer for an image of its own size: {error}") from error
    base_digest = bundle.folder_digest(workspace.base)
    return bundle.write(workspace, "v0", parts, {"base_digest": base_digest, "recipe": "base"}), base_digest


def _observe(workspace: Workspace, cases: Sequence[str], progress: Progress) -> dict[str, Reading]:
    from monitors import quality as look
    from strategies.predictor import Predictor
    from strategies.slices import fewer

    predictor, examples = Predictor.load(workspace.base), StoredExamples(workspace, cases)
    batch = fewer(workspace.config.model.batch, predictor.preprocessing.slices)
    task, seen = task_named(predictor.task), {}
    for start in range(0, len(cases), batch):
        chunk = range(start, min(start + batch, len(cases)))
        tensors, looks, shapes = [], [], []
        for i in chunk:
            image = examples.image(i)
            tensors.append(predictor.prepare(image))
            looks.append(look(middle(image)))
            shapes.append(sides(image.shape))
        said = answer(task, predictor, tensors, shapes)
        seen.update({cases[i]: reading(said, j, looks[j]) for j, i in enumerate(chunk)})
        progress("reading the reference", chunk[-1] + 1, len(cases))
    return seen


def _reference(
    workspace: Workspace,
    connection: Connection,
    cases: Sequence[str],
    seen: dict[str, Reading],
    base_digest: str,
) -> dict[str, Any]:
    """Observations, epoch, anchors and memory of the deployed model, in the caller's transaction."""
    now, config = workspace.now(), workspace.config
    sensor = f"base:{base_digest[:16]}"
    put_setting(connection, "sensor", sensor)
    rows = {
        row["case_id"]: row
        for row in connection.execute(
            """SELECT c.case_id, c.site, c.scanner, c.patient_key, p.split FROM cases c
               JOIN patients p ON p.patient_key = c.patient_key WHERE c.origin = 'reference'"""
        )
    }
    home = sorted({key_of(rows[case], config.intake.domain_by) for case in cases} - {""})
    put_setting(connection, "home", home)
    for case in cases:
        describe(connection, case, seen[case].quality)
        record(connection, case_id=case, version="v0", role="replay", scores=seen[case].scores,
               embedding=seen[case].embedding, sensor=sensor, trust="normal", kept=seen[case].kept,
               at=now)  # fmt: skip
    connection.execute(
        "UPDATE cases SET state = 'observed', domain = 'home' WHERE origin = 'reference' AND alias_of IS NULL"
    )
    members = {case: "transform" if rows[case]["split"] == "train" else "calibrate" for case in cases}
    open_epoch(connection, version="v0", sensor=sensor, members=members, at=now, by=BY)
    anchors.open_generations(
        connection, least=config.plan.labels.anchor_patients, alpha=config.plan.alpha, by=BY, at=now
    )
    anchored = [case for one in anchors.current(connection) for case in one.cases]
    trainable = material.trainable_cases(connection)
    memory = store_memory(connection, "v0", trainable, size=config.memory.size, seed=config.plan.seed)
    return {
        "reference": {"n": len(cases), "patients": len({rows[case]["patient_key"] for case in cases})},
        "anchor": {"n": len(anchored), "patients": material.patients(anchored)},
        "memory": memory,
    }


def _decidable(config: Config, patients: int) -> dict[str, Any]:
    """What the gates of the plan can tell with so many anchor patients, at its power and its first look's alpha."""
    from monitors import decidable, power, spend

    alpha = spend(config.plan.alpha, 1)
    margin = config.plan.gates["forgetting"].margin
    smallest = decidable(patients, alpha=alpha, power=config.plan.power)
    return {
        "patients": patients,
        "discordance": 0.05,
        "alpha": alpha,
        "power": config.plan.power,
        "smallest_margin": round(smallest, 4) if patients else None,
        "plan_margin": margin,
        "power_at_plan_margin": round(power(patients, margin, alpha=alpha), 3),
        "decides": bool(patients) and smallest <= margin,
    }
