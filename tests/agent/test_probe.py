"""The process that decodes what nobody vouches for: it may die or spin, and only that file is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from taking import write_png

from agent.cases import probe
from agent.cases.probe import Probe
from agent.errors import HomeostatError


def test_it_answers_for_one_file_after_the_other(tmp_path: Path) -> None:
    """With the reader's own sentence, or nothing where the file is an image."""
    good = write_png(tmp_path / "good.png", 1)
    with Probe() as asked:
        assert asked.look(good, "image/png")[0] == ""
        assert "decoded" in asked.look(good, "image/jpeg")[0]
        assert asked.look(good, "")[0] == "the file is none of DICOM, NIfTI, PNG, JPEG, TIFF, NPY"
        assert asked.look(good, "image/png")[0] == ""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the program by one whose JPEG decoder runs the given statement: native code can't be broken."""

    def replace(statement: str, before: str = "") -> None:
        (tmp_path / "stand_in.py").write_text(
            f"{before}\nfrom agent.cases import images, probe\n"
            f"probe.CPU_SECONDS = 5\ndef broken(path, slices):\n    {statement}\n"
            "images._READERS['image/jpeg'] = broken\nprobe.main()\n"
        )
        real = subprocess.Popen
        program = [sys.executable, str(tmp_path / "stand_in.py")]
        monkeypatch.setattr(probe, "CPU_SECONDS", 5)
        monkeypatch.setattr(probe.subprocess, "Popen", lambda _, **options: real(program, **options))

    return replace


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        ("while True: pass", "within 5 seconds"),
        ("import os; os.abort()", "made its decoder fail"),
        ("import os; os._exit(1)", "made its decoder fail"),
        ("bytearray(2**40)", "memory"),
    ],
)
def test_a_decoder_that_spins_dies_or_eats_memory_costs_one_file(
    tmp_path: Path, stand_in: Callable[..., None], decoder: str, says: str
) -> None:
    """The next file is asked of a fresh process."""
    stand_in(decoder)
    good = write_png(tmp_path / "good.png", 1)
    with Probe() as asked:
        assert says in asked.look(good, "image/jpeg")[0]
        assert asked.look(good, "image/png")[0] == ""


@pytest.mark.parametrize(("decoder", "before"), [("import nowhere", ""), ("pass", "raise SystemExit(1)")])
def test_a_broken_installation_is_no_fault_of_the_files(
    tmp_path: Path, stand_in: Callable[..., None], decoder: str, before: str
) -> None:
    """Otherwise every case would end in quarantine: it is an error instead, and nothing is taken in."""
    stand_in(decoder, before)
    with Probe() as asked, pytest.raises(HomeostatError, match="doctor"):
        asked.look(write_png(tmp_path / "x.png", 1), "image/jpeg")
