"""Update: from a decision to a judged candidate, by way of two jobs; the live model is untouched.

Nothing here is durable but what the store says: a process that dies in between leaves a version in state training,
which the next start closes as abandoned.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.drift.domains import HOME
from agent.drift.reference import open_epoch
from agent.errors import HomeostatError, NotEnoughEvidence
from agent.observe import record
from agent.store import Connection
from agent.tasks import Kept, task_of
from agent.trust import suspended_for
from agent.updates import anchors, jobs, material, records
from agent.updates.axes import joined, of_record
from agent.updates.clear import below
from agent.updates.judge import Anchored, age_band, as_dict, judge, outcome, unharmed_at
from agent.versions import bundle, registry
from agent.workspace import Workspace, get_setting

FORM_OF_JOB = ("uri", "media_type", "label", "patient", "domain")


@dataclass
class Making:
    """One candidate in the making: first its training job, then the job that shows it to the anchors.

    `trained` is the first job's result, empty while it trains; a held version judged again starts at the second.
    spares: whether a finalist that is no better on *develop*, or harms there, is not shown to the anchors at all.
    """

    version: str
    job: jobs.Job | None
    learnt: tuple[str, ...]
    labelled: int
    tried: tuple[str, ...]
    trained: dict[str, Any] = field(default_factory=dict)
    parts: Path | None = None
    anchored: Sequence[anchors.AnchorSet] = ()
    shown: Sequence[material.Case] = ()
    reference: Sequence[material.Case] = ()
    spares: bool = False


def begin(
    workspace: Workspace, recipes: Sequence[str], *, by: str, at: datetime, domains: Collection[str] | None = None
) -> Making:
    """Registers the next version and starts its training; on new cases of `domains` where the plan decided on it.

    What a person asks for is always judged. Raises NotEnoughEvidence without labels to learn from.
    """
    config = workspace.config
    rule = config.plan.gates["forgetting"]
    spares = domains is not None and config.plan.gates["gain"].role == "require"
    with workspace.store.read() as connection:
        live = registry.live(connection)["version"]
        new = [case for case in material.new_cases(connection) if domains is None or case["domain"] in domains]
        memory = material.memory_cases(connection, live)
        taught = {HOME, *(case["domain"] for case in [*new, *memory])}  # what isn't says nothing about the candidate
        develop = [case for case in material.develop_cases(connection) if case["domain"] in taught]
        classes, task = get_setting(connection, "classes"), task_of(connection)
        slices = get_setting(connection, "slices", 1)
        learnt = material.learnt_from(connection, live)
    if not new or not develop:
        whose = "training" if not new else "develop"
        raise NotEnoughEvidence(
            f"no labelled case of a {whose} patient has come since the change: "
            "bring labels with 'homeostat labels import FILE'"
        )
    spec = {
        "base": "base",
        "live": _folder_of(live),
        "recipes": list(recipes),
        "new": _for_job(new),
        "memory": _for_job(memory),
        "develop": _for_job(develop),
        "classes": classes,
        "task": task.name,
        "slices": slices,
        "seed": config.plan.seed,
        "batch": config.model.batch,
        "margin": rule.margin,
        "stop": config.plan.portfolio.stop,
        "change": config.plan.limits.change,
        "shown": (rule.elsewhere or rule.burden) == "no_harm_found",
        "asked": config.plan.portfolio.asked,
        "spares": spares,
        "learnt": learnt,
    }
    job = jobs.start(workspace, "train", spec, config.plan.limits, at=at)
    with workspace.store.transaction() as connection:
        version = registry.create(
            connection, recipe="+".join(recipes), parent=live, job=job.id, plan_digest=config.plan_digest, by=by, at=at
        )
        domains = sorted({case["domain"] for case in new})
        measures = {"labelled": material.patients(new), "domains": domains}
        records.add_measures(connection, version, measures)
    return Making(
        version=version,
        job=job,
        learnt=tuple(domains),
        labelled=material.patients(new),
        tried=tuple(recipes),
        spares=spares,
    )


def rejudge(workspace: Workspace, *, at: datetime) -> Making | None:
    """Shows a held version to the anchors again, once labels have opened a generation that it has not seen."""
    config = workspace.config
    with workspace.store.read() as connection:
        held = connection.execute("SELECT * FROM versions WHERE state = 'held' ORDER BY number DESC LIMIT 1").fetchone()
        if held is None:
            return None
    with workspace.store.transaction() as connection:
        anchors.open_generations(
            connection, least=config.plan.labels.anchor_patients, alpha=config.plan.alpha, by="homeostat", at=at
        )
        seen = {
            (row["domain"], row["generation"])
            for row in connection.execute("SELECT domain, generation FROM looks WHERE version = ?", (held["id"],))
        }
        if all((one.domain, one.generation) in seen for one in anchors.current(connection)):
            return None
    measures = json.loads(held["measures"])
    trained = json.loads(workspace.path("versions", held["id"], "version.json").read_text())
    making = Making(
        version=held["id"],
        job=None,
        learnt=tuple(measures["domains"]),
        labelled=measures["labelled"],
        tried=(held["recipe"],),
        trained={"finalist": held["recipe"], "made": trained["made"], "develop": trained["develop"]},
        parts=workspace.path("versions", held["id"]),
    )
    _show(workspace, making, at)
    return making


def advance(workspace: Workspace, making: Making, *, at: datetime) -> str | None:
    """Looks after the running job; the state of the version once it is judged, None until then. Raises JobFailed."""
    assert making.job is not None
    try:
        result = jobs.poll(workspace, making.job, at=at)
        if result is None:
            return None
        if not making.trained:
            making.trained, making.parts = result, making.job.folder / "recipes" / result["finalist"]
            if making.spares and not result["worth_judging"]:
                return _spare(workspace, making, at)
            _show(workspace, making, at)
            return None
        return _judge(workspace, making, at)
    except HomeostatError as error:
        abandon(workspace, making, str(error), at=at)
        with workspace.store.transaction() as connection:
            if registry.get(connection, making.version)["state"] == "held":  # else it would be tried at every step
                registry.move(connection, making.version, "rejected", by="homeostat", reason=str(error), at=at)
        raise


def abandon(workspace: Workspace, making: Making, reason: str, *, at: datetime) -> None:
    """Ends the job and closes its version as abandoned; one that was held stays so."""
    if making.job is not None:
        jobs.abandon(workspace, making.job, reason, at=at)
    with workspace.store.transaction() as connection:
        if registry.get(connection, making.version)["state"] == "training":
            registry.move(connection, making.version, "abandoned", by="homeostat", reason=reason, at=at)


def _spare(workspace: Workspace, making: Making, at: datetime) -> str:
    """Closes a version that could not pass; the anchors keep their alpha for one that can."""
    reason = f"on the develop patients {making.trained['finalist']} is no better than what is live, or harms"
    with workspace.store.transaction() as connection:
        facts = {"develop": making.trained["develop"], "no_better": True}
        records.add_measures(connection, making.version, facts)
        registry.move(connection, making.version, "abandoned", by="homeostat", reason=reason, at=at)
    return "abandoned"


def _show(workspace: Workspace, making: Making, at: datetime) -> None:
    """Starts the job in which candidate, live and original answer the anchors' cases, the candidate what it has not
    answered yet of the reference's."""
    config = workspace.config
    with workspace.store.transaction() as connection:
        anchors.open_generations(
            connection, least=config.plan.labels.anchor_patients, alpha=config.plan.alpha, by="homeostat", at=at
        )
        making.anchored = anchors.current(connection)
        live = registry.live(connection)["version"]
        making.reference = material.next_reference(connection, live, making.learnt)
        answered = material.answered(connection, making.version)
        classes, task = get_setting(connection, "classes"), task_of(connection)
    judging = {case["case_id"]: case for one in making.anchored for case in one.cases}
    rest = {case["case_id"]: case for case in making.reference if case["case_id"] not in answered}
    making.shown = [*judging.values(), *(case for name, case in rest.items() if name not in judging)]
    assert making.parts is not None
    candidate = making.parts.relative_to(workspace.root).as_posix()
    versions: dict[str, tuple[str | None, int]] = {
        "v0": (None, len(judging)),
        live: (_folder_of(live), len(judging)),
        making.version: (candidate, len(making.shown)),
    }
    spec = {"base": "base", "versions": versions, "cases": _for_job(making.shown), "classes": classes,
            "task": task.name, "batch": config.model.batch}  # fmt: skip
    making.job = jobs.start(workspace, "infer", spec, config.plan.limits, at=at)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE versions SET job = ? WHERE id = ?", (making.job.id, making.version))


def _judge(workspace: Workspace, making: Making, at: datetime) -> str:
    """Verdicts, bundle, and all that stands with the version, in one transaction."""
    import numpy as np

    assert making.job is not None and making.parts is not None
    outputs = dict(np.load(making.job.folder / "outputs.npz", allow_pickle=False))
    with workspace.store.read() as connection:
        live = registry.live(connection)["version"]
        if live != registry.get(connection, making.version)["parent"]:
            raise jobs.JobFailed(f"{live} became live while {making.version} was made from another version")
        anchored = anchor_records(workspace, connection, making, outputs, live)
        suspended = suspended_for(connection, live)
    plan = workspace.config.plan
    verdicts = judge(plan, anchored, making.learnt, suspended)
    state = outcome(verdicts)
    again = making.parts.parent == workspace.path("versions")
    if not again:
        digest = bundle.write(workspace, making.version, making.parts, _facts(workspace, making, live))
    bundle.record_verdicts(workspace, making.version, [as_dict(named) for named in verdicts])
    with workspace.store.transaction() as connection:
        if again:
            registry.move(connection, making.version, "candidate", by="homeostat", reason="judged again", at=at)
        else:
            finalist = making.trained["finalist"]
            connection.execute("UPDATE versions SET recipe = ? WHERE id = ?", (finalist, making.version))
            records.add_measures(connection, making.version, {"develop": making.trained["develop"]})
            reason = f"trained by {finalist} on {making.labelled} labelled patients"
            registry.complete(connection, making.version, digest=digest, by="homeostat", reason=reason, at=at)
            records.supersede(connection, making.version, at)
        _keep(workspace, connection, making, outputs, at)
        records.write_verdicts(connection, making.version, verdicts, at)
        right = {one.anchors.domain: one.right() for one in anchored}
        records.add_measures(connection, making.version, {"right": right, "below": below(connection, plan, right)})
        for one in anchored:
            if making.version not in one.anchors.seen_by:
                passed = unharmed_at(one.anchors.domain, verdicts)
                anchors.look(connection, one.anchors, version=making.version, alpha=one.alpha, passed=passed, at=at)
        if state != "candidate":
            wanted = "FAIL" if state == "rejected" else "INSUFFICIENT"
            why = next(n for n in verdicts if n.role == "require" and n.judgement.verdict == wanted)
            reason = f"{why.gate}: {why.judgement.says}"
            registry.move(connection, making.version, state, by="homeostat", reason=reason, at=at)
    return state


def anchor_records(
    workspace: Workspace, connection: Connection, making: Making, outputs: Mapping[str, Any], live: str
) -> list[Anchored]:
    """Per anchor set: targets, what the original, live and candidate said of its cases, and the alpha of the look.

    A candidate that is judged again on a set that it was shown to is the same test: it keeps its alpha and spends none.
    """
    import numpy as np

    from monitors import spend

    plan, position = workspace.config.plan, {case["case_id"]: i for i, case in enumerate(making.shown)}
    classes, task = get_setting(connection, "classes"), task_of(connection)
    records = []
    for one in making.anchored:
        rows = np.array([position[case["case_id"]] for case in one.cases], np.int64)
        records.append(
            Anchored(
                anchors=one,
                task=task,
                target=task.targets([case["label"] for case in one.cases], classes),
                original=outputs["rows_v0"][rows],
                live=outputs[f"rows_{live}"][rows],
                candidate=outputs[f"rows_{making.version}"][rows],
                groups=_groups(connection, one.cases, workspace.config.monitors.subgroups),
                alpha=one.seen_by.get(making.version) or spend(plan.alpha, one.looks + 1, one.carried),
                classes=classes,
            )
        )
    return records


def _keep(
    workspace: Workspace, connection: Connection, making: Making, outputs: Mapping[str, Any], at: datetime
) -> None:
    """What the candidate said of the reference-to-be, its epoch, its rehearsal sample: promotion then only flips."""
    import numpy as np

    sensor = get_setting(connection, "sensor")
    place = {case["case_id"]: i for i, case in enumerate(making.shown)}
    fresh = [case["case_id"] for case in making.reference if case["case_id"] in place]
    rows = connection.execute(
        """SELECT case_id, embedding FROM observations
           WHERE sensor = :sensor AND case_id IN (SELECT value FROM json_each(:cases)) GROUP BY case_id""",
        {"sensor": sensor, "cases": json.dumps(fresh)},
    )
    seen = {row["case_id"]: np.frombuffer(row["embedding"], "<f4") for row in rows}  # one sensor for all versions
    kept = _kept(outputs, making.version, task_of(connection).form)
    for case_id in fresh:
        i = place[case_id]
        record(connection, case_id=case_id, version=making.version, role="replay",
               scores=outputs[f"scores_{making.version}"][i], embedding=seen[case_id], sensor=sensor,
               trust="normal", kept=kept[i] if kept else None, at=at)  # fmt: skip
    members = {case["case_id"]: "transform" if case["split"] == "train" else "calibrate" for case in making.reference}
    if members:
        open_epoch(connection, version=making.version, sensor=sensor, members=members, at=at, by="homeostat")
    size, seed = workspace.config.memory.size, workspace.config.plan.seed
    records.store_memory(connection, making.version, material.trainable_cases(connection), size=size, seed=seed)


def _kept(outputs: Mapping[str, Any], version: str, form: str) -> list[Kept]:
    """What is kept of each answer beside its scores; empty where nothing is."""
    import numpy as np

    if f"kept_{version}" not in outputs:
        return []
    ends = np.cumsum(outputs[f"lengths_{version}"])
    pieces = np.split(outputs[f"kept_{version}"], ends[:-1])
    return [
        Kept(one.tobytes(), float(sure), form) for one, sure in zip(pieces, outputs[f"sure_{version}"], strict=True)
    ]


def _facts(workspace: Workspace, making: Making, live: str) -> dict[str, Any]:
    with workspace.store.read() as connection:
        base = registry.get(connection, "v0")["base_digest"]
    assert making.parts is not None
    trained, job = making.trained, making.parts.parents[1]
    record = of_record(
        workspace.config.plan,
        trained["finalist"],
        trained["made"],
        job,
        making.parts,
        making.labelled,
        trained["gained"],
    )
    return {
        "parent": live,
        "recipe": making.trained["finalist"],
        "tried": list(making.tried),
        "failed": making.trained.get("failed", {}),
        "base_digest": base,
        "plan_digest": workspace.config.plan_digest,
        "made": making.trained["made"],
        "develop": making.trained["develop"],
        "axes": joined(record, trained.get("axes", {})),
        "data": {
            "job_spec": record["auditability"]["spec"],
            "labelled_patients": making.labelled,
            "domains": list(making.learnt),
            "anchors": [one.name for one in making.anchored],
        },
    }


def _groups(connection: Connection, cases: Sequence[material.Case], columns: Sequence[str]) -> dict[str, Any]:
    import numpy as np

    rows = {}
    for case in cases:
        row = connection.execute("SELECT scanner, facts FROM cases WHERE case_id = ?", (case["case_id"],)).fetchone()
        rows[case["case_id"]] = {"scanner": row["scanner"], **json.loads(row["facts"])}
    groups = {}
    for column in columns:
        values = [rows[case["case_id"]].get(column) or "" for case in cases]
        groups[column] = np.array([age_band(v) if column == "age" else str(v) for v in values], np.str_)
    return groups


def _folder_of(version: str) -> str | None:
    """Where the parts of a version lie, relative to the workspace; v0 is the base alone."""
    return None if version == "v0" else f"versions/{version}"


def _for_job(cases: Sequence[material.Case]) -> list[dict[str, Any]]:
    return [{name: case[name] for name in FORM_OF_JOB} for case in cases]
