"""The process that decodes what nobody vouches for: it may die or spin, and only that file is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from taking import write_png

from agent import probe
from agent.probe import Probe


def test_it_answers_for_one_file_after_the_other(tmp_path: Path) -> None:
    """With the reader's own sentence, or nothing where the file is an image."""
    good = write_png(tmp_path / "good.png", 1)
    with Probe() as asked:
        assert asked.why_unreadable(good, "image/png") == ""
        assert "decoded" in asked.why_unreadable(good, "image/jpeg")
        assert asked.why_unreadable(good, "") == "the file is none of DICOM, NIfTI, PNG, JPEG, TIFF, NPY"
        assert asked.why_unreadable(good, "image/png") == ""


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        ("while True: pass", "within 0.3 seconds"),
        ("import os; os.abort()", "made its decoder fail"),
        ("bytearray(2**40)", "memory"),
    ],
)
def test_a_decoder_that_spins_dies_or_eats_memory_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: str, says: str
) -> None:
    """The next file is asked of a fresh process. A broken decoder stands in for native code."""
    (tmp_path / "stand_in.py").write_text(
        "from agent import images, probe\n"
        f"probe.CPU_SECONDS = 0.3\ndef broken(path):\n    {decoder}\n"
        "images._READERS['image/jpeg'] = broken\nprobe.main()\n"
    )
    stand_in = [sys.executable, str(tmp_path / "stand_in.py")]
    real = probe.subprocess.Popen
    monkeypatch.setattr(probe, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(probe.subprocess, "Popen", lambda _, **options: real(stand_in, **options))
    good = write_png(tmp_path / "good.png", 1)
    with Probe() as asked:
        assert says in asked.why_unreadable(good, "image/jpeg")
        assert asked.why_unreadable(good, "image/png") == ""
