"""run and update: the cycle, by the daemon or by hand."""

from __future__ import annotations

import argparse
import time
from typing import Any

from agent.answer import Answer, table
from agent.commands.versions import as_answer
from agent.errors import HomeostatError
from agent.progress import progress_bar
from agent.versions import registry
from agent.workspace import Workspace, exclusive, get_setting

PATIENCE = 2 * 3600.0  # seconds that `update` waits for a daemon to answer
EXIT = {"candidate": 0, "approved": 0, "probation": 0, "active": 0, "held": 3}


def run(args: argparse.Namespace) -> Answer:
    """The daemon; with --until-idle it works off all that is there and ends."""
    from agent import daemon

    workspace = Workspace(args.workspace)
    workspace.store, workspace.config  # noqa: B018  no workspace, or a wrong config, is told before anything starts
    with progress_bar() as progress:
        if args.until_idle:
            daemon.work_off(workspace, lambda cycle: progress(*_at_work(workspace)))
        else:
            daemon.work(workspace)
    value = summary(workspace)
    text = (
        f"{value['cases']} cases observed, {value['quarantined']} quarantined, {value['alarms']} alarms, "
        f"{value['versions']} versions; {value['live']} is live"
    )
    return Answer(value, text)


def summary(workspace: Workspace) -> dict[str, Any]:
    """Counts of all time."""
    with workspace.store.read() as connection:
        connection.execute("BEGIN")

        def count(query: str) -> int:
            return int(connection.execute(query).fetchone()[0])

        return {
            "cases": count("SELECT coalesce(max(number), 0) FROM observations"),
            "quarantined": count("SELECT count(*) FROM quarantine"),
            "alarms": count("SELECT count(*) FROM alarms"),
            "versions": count("SELECT count(*) FROM versions"),
            "live": registry.live(connection)["version"],
        }


def _at_work(workspace: Workspace) -> tuple[str, int, int]:
    with workspace.store.read() as connection:
        seen = connection.execute("SELECT coalesce(max(number), 0) FROM observations").fetchone()[0]
        pending = connection.execute(
            "SELECT count(*) FROM cases WHERE state = 'pending' AND alias_of IS NULL"
        ).fetchone()
    return "observing", seen, seen + pending[0]


def update(args: argparse.Namespace) -> Answer:
    """Asks for an update: taken up by a running daemon, else worked off here."""
    from agent.plan import RECIPES
    from agent.updates.decide import RECALIBRATE, SEALED

    workspace = Workspace(args.workspace)
    with workspace.store.read() as connection:
        registry.live(connection)
        sealed = get_setting(connection, "sealed", False)
    plan = workspace.config.plan
    if args.recipe is not None and args.recipe not in RECIPES:
        raise HomeostatError(f"there is no recipe '{args.recipe}': there are {', '.join(RECIPES)}")
    asked = (args.recipe,) if args.recipe else plan.responses["undetermined"].recipes
    recipes = tuple(name for name in asked if name == RECALIBRATE) if sealed else asked
    left_out = [name for name in asked if name not in recipes]
    if left_out and not recipes:
        raise HomeostatError(f"{', '.join(left_out)} can't be tried: {SEALED}; take --recipe {RECALIBRATE}")
    without = f"\n{', '.join(left_out)} left out: {SEALED}" if left_out else ""
    if args.dry_run:
        return _dry_run(workspace, recipes, without)
    version = _made(workspace, recipes)
    with workspace.store.read() as connection:
        state = registry.get(connection, version)["state"]
        verdicts = [as_answer(row) for row in registry.verdicts(connection, version)]
        job = connection.execute(
            "SELECT says FROM jobs WHERE id = (SELECT job FROM versions WHERE id = ?)", (version,)
        ).fetchone()
    if state == "abandoned":
        raise HomeostatError(
            f"{version} was abandoned: {job['says'] or 'its process was stopped'}; look at 'homeostat journal'"
        )
    value = {"candidate": version, "verdicts": verdicts, "state": state}
    rows = table(verdicts, ["gate", "role", "verdict", "n", "before", "after", "says"])
    return Answer(value, f"{rows}\n{version} is {state}{without}", exit_code=EXIT.get(state, 1))


def replay(args: argparse.Namespace) -> Answer:
    """Trains a version again from its record; exit 1 where other bytes come out."""
    from agent.updates.replay import replay as again

    with progress_bar() as progress:
        found = again(Workspace(args.workspace), args.version, by=args.by, progress=progress)
    same = not found.differs
    text = (
        f"{found.version} was made again from its record, and all {found.files} files are the same"
        if same
        else f"{found.version} is not what its record gives here: {', '.join(found.differs)} differ"
    )
    value = {"version": found.version, "same": same, "differs": list(found.differs), "files": found.files}
    return Answer(value, text, exit_code=0 if same else 1)


def _dry_run(workspace: Workspace, recipes: tuple[str, ...], without: str) -> Answer:
    from agent.updates.material import develop_cases, new_cases, patients

    with workspace.store.read() as connection:
        new, develop = patients(new_cases(connection)), patients(develop_cases(connection))
    value = {"candidate": None, "verdicts": [], "state": "dry-run", "recipes": list(recipes), "new_patients": new,
             "develop_patients": develop}  # fmt: skip
    text = f"would try {', '.join(recipes)} on {new} labelled patients, selecting on {develop}{without}"
    return Answer(value, text, exit_code=0 if new and develop else 3)


def _made(workspace: Workspace, recipes: tuple[str, ...]) -> str:
    """The version that came of a request, judged or abandoned."""
    from agent.updates import requests

    number = requests.ask(workspace, recipes, by="update")
    with progress_bar() as progress:
        _work_here(workspace, progress)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            said = requests.answer(workspace, number)
            if said and "error" in said:
                error = HomeostatError(str(said["error"]))
                error.exit_code = int(str(said["exit_code"]))
                raise error
            if said and _settled(workspace, str(said["version"])):
                return str(said["version"])
            time.sleep(0.2)
    raise HomeostatError("the daemon did not finish the update in two hours: look at 'homeostat status'")


def _work_here(workspace: Workspace, progress: Any) -> None:
    """Takes the request up in this process, unless a daemon holds the workspace: then that one does."""
    from agent.cycle import Cycle
    from agent.updates import jobs

    try:
        with exclusive(workspace.path(".lock"), "busy"):
            cycle = Cycle(workspace)
            cycle.start(workspace.now())
            try:
                cycle.decide(workspace.now())
                while cycle.making is not None:
                    cycle.update(workspace.now())
                    if cycle.making is not None and cycle.making.job is not None:
                        jobs.pause(cycle.making.job, progress)
            finally:
                cycle.stop(workspace.now())
    except HomeostatError as error:
        if str(error) != "busy":
            raise


def _settled(workspace: Workspace, version: str) -> bool:
    with workspace.store.read() as connection:
        return registry.get(connection, version)["state"] != "training"
