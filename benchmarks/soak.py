"""Does the daemon's memory grow with the number of cases: resident megabytes while it works off ten thousand.

`homeostat bench soak` fits nothing: a small network with random weights is deployed on generated images, then
`homeostat run` works as a process of its own while this one feeds it and reads its resident memory in /proc. The first
thousand cases fill what is bounded (pools of the monitors, SQLite's cache, the allocator's arenas); what counts is what
comes after: `growth_mib_per_1000` is the slope of a straight line through the later readings.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import linregress

from agent.cases.intake import Intake
from agent.deploy import init
from agent.errors import HomeostatError
from agent.workspace import Workspace

CASES, CHUNK, SIZE = 10_000, 500, 32
CLASSES = ("round", "square")
PATIENCE = 600.0  # seconds for one chunk


def bench(
    data: Path | None, seed: int, input: Path | None, full: bool, cases: int = CASES, chunk: int = CHUNK
) -> dict[str, Any]:
    """Needs no data; `full` goes on to 50,000 cases."""
    total = 5 * cases if full else cases
    with tempfile.TemporaryDirectory() as folder:
        workspace = deployed(Path(folder), seed)
        rows = soak(workspace, Path(folder), total, chunk, seed)
    late = [row for row in rows if row["cases"] >= total * 0.1] or rows
    slope = linregress([row["cases"] for row in late], [row["resident_mib"] for row in late]).slope
    ratios = {
        "growth_mib_per_1000": 1000 * float(slope),
        "last_to_first": late[-1]["resident_mib"] / late[0]["resident_mib"],
    }
    return {"name": "soak", "rows": rows, "ratios": ratios}


def deployed(folder: Path, seed: int) -> Workspace:
    """A workspace around a network that has learnt nothing."""
    import torch

    from strategies.base import write_base
    from strategies.families import load_backbone
    from strategies.model import Classifier

    torch.manual_seed(seed)
    backbone = load_backbone("test_resnet", pretrained=False)
    write_base(Classifier(backbone, torch.nn.Linear(backbone.width, len(CLASSES)), CLASSES), folder / "base", {})
    reference = written(folder / "reference", 200, seed, 0)
    init(folder / "site", folder / "base", reference, where=(), config=None, progress=lambda what, done, of: None)
    return Workspace(folder / "site")


def written(folder: Path, n: int, seed: int, first: int) -> Path:
    """A data folder of n noisy discs and squares, one patient each, without times."""
    rng = np.random.default_rng([seed, first])
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "label"])
        for i in range(first, first + n):
            kind, radius = rng.integers(2), rng.uniform(6, 12)
            shape = np.hypot(x, y) < radius if kind == 0 else np.maximum(abs(x), abs(y)) < radius
            pixels = 60 + 120 * shape + rng.normal(0, 12, shape.shape)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"images/{i}.png")
            writer.writerow([f"images/{i}.png", f"case-{i}", f"patient-{i}", CLASSES[kind]])
    return folder


def soak(workspace: Workspace, folder: Path, total: int, chunk: int, seed: int) -> list[dict[str, Any]]:
    """Feeds the daemon chunk by chunk; what it holds in memory after each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agent.cli", "run", "--workspace", str(workspace.root)]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    rows, started = [], time.monotonic()
    try:
        for first in range(0, total, chunk):
            cases = written(folder / "feed", chunk, seed, 10**6 + first)
            Intake(workspace).take(cases, labels=False)
            shutil.rmtree(cases)
            _wait(workspace, daemon, first + chunk)
            rows.append(
                {
                    "cases": first + chunk,
                    "resident_mib": round(_resident(daemon.pid) / 2**20, 1),
                    "store_mib": round((workspace.root / "homeostat.db").stat().st_size / 2**20, 1),
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    return rows


def _wait(workspace: Workspace, daemon: subprocess.Popen[bytes], cases: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and daemon.poll() is None:
        with workspace.store.read() as connection:
            decided = connection.execute("SELECT coalesce(max(at_case), 0) FROM signals").fetchone()[0]
        if decided >= cases - cases % 10:
            return
        time.sleep(0.2)
    raise HomeostatError(f"the daemon did not work off {cases} cases: look at 'homeostat journal' of a smaller run")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
