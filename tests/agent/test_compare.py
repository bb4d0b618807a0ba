"""check: the answer, its kind, its exit code and its page, on images on disk; no workspace, no model."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from agent import cli


def folder(
    path: Path, n: int, seed: int, *, light: float = 1.0, dark_share: float = 0.3, labelled: bool = True
) -> Path:
    """n patients' images of two classes: a bright or a dark spot on a textured ground."""
    rng = np.random.default_rng(seed)
    path.mkdir()
    rows = []
    for i in range(n):
        dark = rng.random() < dark_share
        ground = 110 + 25 * gaussian_filter(rng.standard_normal((48, 48)), 1.5) * 4
        y, x = np.mgrid[:48, :48]
        spot = np.exp(-((y - rng.uniform(20, 28)) ** 2 + (x - rng.uniform(20, 28)) ** 2) / 60)
        image = light * (ground + (-70 if dark else 70) * spot)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path / f"{i}.png")
        rows.append([f"{i}.png", f"patient-{seed}-{i}", "dark" if dark else "bright"])
    with (path / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient_id", *(["label"] if labelled else [])])
        writer.writerows(row[: 3 if labelled else 2] for row in rows)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("check") / "known", 160, 1)


def check(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict]:
    code = cli.main(["check", *(str(arg) for arg in args), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_same_kind_of_images_is_no_drift(known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and neither shift nor driver."""
    code, answer = check(capsys, folder(tmp_path / "same", 80, 2), "--against", known)
    assert (code, answer["drift"], answer["shift"], answer["driver"], answer["n"]) == (0, False, None, None, 80)
    assert answer["evidence"]["p"] > 0.01


def test_a_darker_lamp_is_an_acquisition_shift(known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1; the kind, and as the driver the feature that moved most."""
    code, answer = check(capsys, folder(tmp_path / "lamp", 80, 3, light=0.8), "--against", known)
    assert (code, answer["drift"], answer["shift"]) == (1, True, "acquisition")
    assert answer["driver"] == next(iter(answer["evidence"]["moved"]))
    assert answer["evidence"]["moved"]["brightness"] < -1


def test_another_mix_of_classes_is_a_prevalence_shift(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels on both sides tell it, and the images weighed to it are as before."""
    code, answer = check(capsys, folder(tmp_path / "mix", 200, 4, dark_share=0.75), "--against", known)
    assert (code, answer["shift"], answer["driver"]) == (1, "prevalence", "prediction")
    assert answer["evidence"]["prevalence"][1] == pytest.approx(0.75, abs=0.07)


def test_few_patients_are_exit_3_unless_they_show_it(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve of the same kind say nothing; twelve of another say it."""
    code, answer = check(capsys, folder(tmp_path / "few", 12, 5), "--against", known)
    assert (code, answer["drift"]) == (3, None)
    code, answer = check(capsys, folder(tmp_path / "others", 12, 6, light=0.4), "--against", known)
    assert (code, answer["drift"]) == (1, True)


def test_the_page_needs_nothing_else_and_names_nobody(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pairs of pictures inside the file; no script, no link out, no patient."""

    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.images, self.outside, self.tags = 0, list[str](), set[str]()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)
            for name, value in attrs:
                self.images += tag == "img" and name == "src" and (value or "").startswith("data:image/png;base64,")
                if name in ("src", "href") and not (value or "").startswith("data:"):
                    self.outside.append(value or "")

    out = tmp_path / "page.html"
    check(capsys, folder(tmp_path / "new", 40, 7, light=0.7), "--against", known, "--out", out)
    links = Links()
    links.feed(out.read_text())
    assert links.images == 16
    assert links.outside == [] and "script" not in links.tags
    assert "patient-" not in out.read_text() and ".png" not in out.read_text().replace("image/png", "")
    assert "Drift: another look of the images" in out.read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--out", "no/such/folder/page.html"], "no/such/folder/page.html can't be written"),
        (["--model", "no-base"], "no-base can't be loaded as a base model"),
        (["--where", "site=mars"], "site"),
    ],
)
def test_a_wrong_call_is_one_sentence_before_any_work(
    known: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, what is wrong and the way out; no fault of the program."""
    assert cli.main(["check", str(known), "--against", str(known), *more]) == 2
    err = capsys.readouterr().err
    assert says in err and "fault" not in err and err.count("\n") == 1


def test_broken_images_are_counted_and_a_folder_without_any_is_an_error(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad file and one of two rows of pixels are told; nothing readable at all is exit 2 and one sentence."""
    some = folder(tmp_path / "some", 30, 9)
    (some / "3.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((2, 40), np.uint8)).save(some / "4.png")  # too small to be described
    code, answer = check(capsys, some, "--against", known)
    assert (code, answer["n"], answer["evidence"]["unreadable"]) == (0, 28, 2)
    for file in some.glob("*.png"):
        file.write_bytes(b"")
    assert cli.main(["check", str(some), "--against", str(known)]) == 2
    assert "none of the 30 new cases can be read as an image" in capsys.readouterr().err
