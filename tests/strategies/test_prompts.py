"""Prompts for SAM: what they are, that answers are transformers' own, and that one embedding serves them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sams
import torch
from discs import Discs
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.families import load_backbone
from strategies.families.sam import sam_backbone
from strategies.preprocessing import Pixels
from strategies.prompts import Prompt, Sam, boxes, grid, jittered, point_within, points
from strategies.protocols import Preprocessing

PLAIN = Preprocessing(size=sams.SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGE = torch.randn(1, 3, sams.SIDE, sams.SIDE, generator=torch.Generator().manual_seed(1))
PROMPTS = {
    "point": points([[5, 9]]),
    "points": points([[5, 9], [20, 3], [1, 30]], [1, 0, 1]),
    "boxes": boxes([[2, 3, 20, 25], [0, 0, 31, 31]]),
    "grid": grid(sams.SIDE, 3),
}


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.set_num_threads(1)
    return Sam(sam_backbone(sams.tiny(), PLAIN))


@pytest.mark.parametrize("name", PROMPTS)
def test_answers_are_those_of_transformers(sam: Sam, name: str) -> None:
    """The same prompt given to SamModel with the image gives the same masks and the same predicted quality."""
    prompt = PROMPTS[name]
    given_: dict[str, Any] = {"input_boxes": prompt.boxes[None]} if prompt.boxes is not None else {
        "input_points": prompt.points[None], "input_labels": prompt.labels[None]}  # fmt: skip
    with torch.inference_mode():
        wanted = sams.tiny()(pixel_values=IMAGE, multimask_output=prompt.ambiguous, **given_)
    masks = sam.predict(sam.embed(IMAGE), prompt)
    n = {"point": 1, "points": 1, "boxes": 2, "grid": 9}[name]
    assert masks.logits.shape == (n, 3 if name in ("point", "grid") else 1, 16, 16)
    assert torch.allclose(masks.logits, wanted.pred_masks[0], atol=1e-5)
    assert torch.allclose(masks.iou, wanted.iou_scores[0], atol=1e-5)


def test_an_image_is_embedded_once_for_every_prompt(tmp_path: Path) -> None:
    """From disk the second time, named by encoder and images; another encoder has a file of its own."""
    images = Pixels(Discs.of("home", 3), PLAIN)
    seen: list[int] = []

    def sam_of(seed: int) -> Sam:
        made = Sam(sam_backbone(sams.tiny(seed), PLAIN))
        made.encoder.register_forward_hook(lambda *called: seen.append(len(called[2])))
        return made

    sam = sam_of(0)
    kept = sam.embeddings(images, tmp_path)
    computed = sum(seen)
    answers = [[sam.predict(kept.plain([i]), prompt) for prompt in PROMPTS.values()] for i in range(3)]
    assert sum(seen) == computed == 3 + 1  # one for the shape
    again = sam_of(0).embeddings(images, tmp_path)
    assert sum(seen) == computed + 1
    for i, masks in enumerate(answers):
        fresh = [sam.predict(again.plain([i]), prompt) for prompt in PROMPTS.values()]
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(masks, fresh, strict=True))
    sam_of(1).embeddings(images, tmp_path)
    assert len(list(tmp_path.glob("*.rows"))) == 2


def test_at_another_size_a_prompt_is_at_the_same_place(tmp_path: Path) -> None:
    """A box over half of the image is one at any size: the embedded corners are the same."""
    origin = load_backbone(str(sams.folder(tmp_path / "sam")))
    from dataclasses import replace

    large = Sam(origin.fed(replace(origin.preprocessing, size=64)))
    small = Sam(origin)
    embedding = small.embed(IMAGE)
    half, doubled = boxes([[-0.5, -0.5, 15.5, 31.5]]), boxes([[-0.5, -0.5, 31.5, 63.5]])
    assert torch.equal(large.predict(embedding, doubled).logits, small.predict(embedding, half).logits)
    assert large.embed(torch.randn(1, 3, 64, 64)).shape == (1, 32, 8, 8)


def test_a_grid_covers_the_image_evenly() -> None:
    """Each point in the middle of its own square."""
    prompt = grid(8, 4)
    assert prompt.points is not None and prompt.points.shape == (16, 1, 2)
    assert prompt.points[:5, 0].tolist() == [[0.5, 0.5], [2.5, 0.5], [4.5, 0.5], [6.5, 0.5], [0.5, 2.5]]
    assert prompt.labels is not None and bool((prompt.labels == 1).all()) and prompt.ambiguous


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(24, 90))
def test_a_jittered_box_is_near_and_repeats(seed: int, side: int) -> None:
    """Within the image and the largest error, the same for the same seed; a point within lies on the mask."""
    draw = np.random.default_rng(seed)
    x0, y0 = draw.integers(0, side // 2, 2)
    mask = np.zeros((side, side), np.uint8)
    mask[y0 : y0 + draw.integers(1, side // 2), x0 : x0 + draw.integers(1, side // 2)] = 2
    first, again = jittered(mask, seed), jittered(mask, seed)
    assert first.boxes is not None and again.boxes is not None
    assert torch.equal(first.boxes, again.boxes)
    y, x = np.nonzero(mask)
    true = np.array([x.min(), y.min(), x.max(), y.max()])
    assert np.abs(first.boxes[0].numpy() - true).max() <= 2 * 20 / 1024 * side + 1e-4
    assert float(first.boxes.min()) >= 0 and float(first.boxes.max()) <= side - 1
    point = point_within(mask, seed).points
    assert point is not None
    px, py = point[0, 0].int().tolist()
    assert mask[py, px] == 2


def test_different_seeds_jitter_differently() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 10:50] = 1
    drawn = [tuple(jittered(mask, seed).boxes[0].tolist()) for seed in range(20)]  # type: ignore[index]
    assert len(set(drawn)) >= 15  # the largest error is met often, on a box this large


def test_what_is_no_prompt_is_refused(tmp_path: Path) -> None:
    """In a sentence each; and another network than SAM's is told."""
    for ask, reason in (
        (lambda: jittered(np.zeros((4, 4), int), 0), "mask is empty"),
        (lambda: point_within(np.zeros((4, 4), int), 0), "mask is empty"),
        (lambda: boxes([[5, 0, 1, 9]]), "left before right"),
        (lambda: boxes([]), "left before right"),
        (lambda: points([[1, 2]], [1, 0]), "as many labels"),
        (lambda: points([]), "at least one point"),
        (lambda: Sam(load_backbone("monai:unet")), "Only SAM and MedSAM answer prompts"),
    ):
        with pytest.raises(ValueError, match=reason):
            ask()
    assert not Prompt(boxes=torch.zeros(1, 4)).ambiguous
