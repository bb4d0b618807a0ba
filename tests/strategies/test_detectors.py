"""Detection, whole on a small network and generated cells: what is fitted, adapted, served, refused and repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cells import CLASSES, Cells, f1
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import monitors
from strategies import architecture, boxes, data, objective, parameter, representation
from strategies.augmentation import lit, lit_and_turned, mirror
from strategies.axes import CORRUPTIONS, corrupted, depth
from strategies.base import Chosen, base_digest, fit_base, import_base, load_base, write_base
from strategies.families import load_backbone
from strategies.families.columns import STRIDE, columns, detector
from strategies.inputs import BoxedImages, TargetedLatents
from strategies.lessons import Joined, sampled
from strategies.model import Classifier, Recalibrator
from strategies.objective.boxes import CrossEntropyGIoU, answered
from strategies.parameter import Full, LinearProbe, LoRA
from strategies.predictor import Predictor, check_golden, machine, write_golden
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Preprocessing, Recipe, Step, Tasked
from strategies.recipes import COMPARISONS, RECIPES, run
from strategies.tasks import task_of

DETECTION = task_of("detection")
PLAIN = Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def fitted(out: Path, epochs: int = 1, examples: type[Cells] = Cells, n: int = 96) -> dict:
    return fit_base(examples.of("home", n), Cells.of("home", 24, 1000), CLASSES, task="detection", size=64,
                    epochs=epochs, seed=0, out=out, measure=f1)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("made")
    fitted(root / "base", epochs=24)
    return root / "base"


def test_golden_outputs_of_an_earlier_build_are_still_those_of_its_model(base: Path, tmp_path: Path) -> None:
    """There the logits of boxes had distances behind the scores; the probabilities have the corners."""
    predictor = Predictor.load(base)
    write_golden(predictor, tmp_path)
    now = load_file(tmp_path / "golden.safetensors")
    b, _, h, w = now["logits"].shape
    for name, odd in (("probabilities", 0.1), ("logits", 0.1), ("logits", 0.0)):
        before = dict(now) | {name: now[name] + odd}
        before["logits"] = torch.cat([before["logits"], torch.rand(b, 4, h, w)], dim=1)
        save_file(before, tmp_path / "golden.safetensors", metadata={"machine": machine()})
        if odd:
            with pytest.raises(ValueError, match="golden outputs differ"):
                check_golden(predictor, tmp_path)
        else:
            check_golden(predictor, tmp_path)


def go(base: Path, out: Path, recipe: Recipe, live: Path | None = None, epochs: int = 1):
    return run(recipe, base=base, live_parts=live, new=Cells.of("new", 24, 2000), memory=Cells.of("home", 24),
               develop=Joined(Cells.of("home", 12, 1000), Cells.of("new", 12, 3000)), out=out, seed=0, measure=f1,
               epochs=epochs)  # fmt: skip


def prepared(base: Path, examples: Cells) -> torch.Tensor:
    preprocessing = load_base(base).origin.preprocessing
    return normalise(preprocessing, Pixels(examples, preprocessing)[range(len(examples))])


def held_rows(base: Path, parts: Path | None, examples: Cells) -> np.ndarray:
    predictor = Predictor.load(base, parts)
    target = DETECTION.target(examples, predictor.preprocessing)
    return DETECTION.rows(predictor.answer(prepared(base, examples)), target)


def held_f1(base: Path, parts: Path | None, examples: Cells) -> float:
    return f1(held_rows(base, parts, examples), examples.label)


# Boxes and what they found


def answer_of(*said: tuple[int, float, Sequence[float]], classes: int = 2, side: int = 4) -> torch.Tensor:
    """[k + 4, h, w] in which just these (class, score, corners) are said, each at a place of its own."""
    answer = torch.zeros(classes + 4, side * side)
    for place, (label, score, corners) in enumerate(said):
        answer[label, place] = score
        answer[classes:, place] = torch.tensor(corners)
    return answer.view(classes + 4, side, side)


ONE = (0.1, 0.1, 0.5, 0.5)
NEAR = (0.1, 0.1, 0.5, 0.52)  # overlaps by 0.95
FAR = (0.6, 0.6, 0.9, 0.9)


def test_answers_are_decoded_to_boxes() -> None:
    """The surest first; of two boxes of a class in one place the surer; those of another class, and apart, stay."""
    found = boxes.found(answer_of((0, 0.6, ONE), (0, 0.9, NEAR), (1, 0.7, ONE), (0, 0.04, FAR), (1, 0.3, FAR)))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found.labels.tolist() == [0, 1, 1]
    assert found.corners.flatten().tolist() == pytest.approx([*NEAR, *ONE, *FAR])
    outside = boxes.found(answer_of((0, 0.6, (-0.5, 0.2, 1.5, 0.4))))
    assert outside.corners.flatten().tolist() == pytest.approx([0, 0.2, 1, 0.4])
    assert [len(part) for part in boxes.found(answer_of())] == [0, 0, 0]
    many = torch.rand(3 + 4, 24, 24, generator=torch.Generator().manual_seed(0))
    many[5:] = many[3:5] + 0.01
    twice = [boxes.found(many) for _ in range(2)]
    assert len(twice[0].scores) == boxes.MOST
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 6))
def test_what_a_box_found_is_as_the_monitors_count_it(seed: int, said: int, true: int) -> None:
    """Two implementations, because neither package knows the other; crowded boxes, so that they compete."""
    draw = np.random.default_rng(seed)

    def some(n: int) -> tuple[np.ndarray, np.ndarray]:
        low = draw.integers(0, 4, (n, 2)) / 10
        return np.column_stack([low, low + draw.integers(2, 5, (n, 2)) / 10]), draw.integers(0, 2, n)

    (found, labels), (there, classes) = some(said), some(true)
    scores = np.sort(draw.random(said))[::-1].copy()
    ours = boxes.matched(
        boxes.Found(torch.from_numpy(found), torch.from_numpy(scores), torch.from_numpy(labels)),
        torch.from_numpy(np.column_stack([classes, there])),
    )
    assert np.array_equal(ours, monitors.match(found, scores, labels, there, classes))


def test_rows_are_what_they_say() -> None:
    """Two boxes, of which one finds a true one up to an overlap of 0.95, and the true ones counted by class."""
    answer = answer_of((0, 0.9, NEAR), (1, 0.75, FAR))[None]
    truth = boxes.padded([torch.tensor([[0, *ONE], [0, *FAR]])])
    [row] = DETECTION.rows(answer, truth)
    assert row.dtype == np.float32 and len(row) == 12 * boxes.MOST + 2
    assert row[:12].tolist() == pytest.approx([0.9, 0, *[1] * 10])
    assert row[12:24].tolist() == pytest.approx([0.75, 1, *[0] * 10])
    assert np.isnan(row[24:-2]).all() and row[-2:].tolist() == [2, 0]
    assert f1(row[None], np.zeros(1)) == pytest.approx(0.5)
    [empty] = DETECTION.rows(answer_of()[None].numpy(), boxes.padded([torch.zeros(0, 5)]).numpy())
    assert np.isnan(empty[:-2]).all() and empty[-2:].tolist() == [0, 0]


class Wild(Cells):
    """The fourth case's box is not what it should be."""

    odd = (0.0, 10.0, 10.0, 80.0, 20.0)

    def boxes(self, i: int) -> np.ndarray:
        return np.array([self.odd], np.float32) if i == 3 else super().boxes(i)


class Flat(Wild):
    odd = (0.0, 10.0, 10.0, 10.0, 20.0)


class Martian(Wild):
    odd = (7.0, 10.0, 10.0, 20.0, 20.0)


class Alike(Cells):
    def boxes(self, i: int) -> np.ndarray:
        return super().boxes(i) * np.array([0, 1, 1, 1, 1], np.float32)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Wild, "Of case 3 a box lies outside its image of 64 x 64"),
        (Flat, "has no area in it"),
        (Martian, "A box is of class 7; 2 classes are named"),
        (Alike, "No training case has a box of small"),
    ],
)
def test_boxes_that_can_not_be_learnt_are_refused(tmp_path: Path, kind: type[Cells], reason: str) -> None:
    """By the number of the case, and without its patient; nothing is written."""
    with pytest.raises(ValueError, match=reason) as error:
        fitted(tmp_path / "out", examples=kind, n=8)
    assert "home" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_box_that_was_drawn_to_the_edge_is_cut_there() -> None:
    """Within a pixel, as people draw; and shares hold at any size of the model."""
    true = boxes.of_image(np.array([[1, -1, 10, 33, 20]]), (40, 32, 3))
    assert true.flatten().tolist() == pytest.approx([1, 0, 0.25, 1, 0.5])
    assert boxes.of_image(np.empty((0, 5)), (40, 32)).shape == (0, 5)
    both = DETECTION.target(Cells.of("new", 12), PLAIN)
    assert both.shape == (12, 2, 5) and (both[9, :, 0] == -1).all()
    assert torch.equal(boxes.real(both[0]), boxes.of_image(Cells.of("new", 12).boxes(0), (64, 128)))


# Views


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([mirror, lit, lit_and_turned]), st.integers(1, 6))
def test_image_and_boxes_move_together(seed: int, views: Callable, n: int) -> None:
    """What is bright in an image lies within its box after any view, and fills it."""
    generator, draw = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    low = draw.integers(0, 8, (n, 2))
    high = low + draw.integers(1, 9, (n, 2))
    pixels = torch.zeros(n, 3, 16, 16, dtype=torch.uint8)
    for image, (x0, y0), (x1, y1) in zip(pixels, low, high, strict=True):
        image[:, y0:y1, x0:x1] = 200
    true = torch.from_numpy(np.column_stack([np.ones(n), low / 16, high / 16])).float()[:, None]

    class Drawn:
        preprocessing = PLAIN

        def __len__(self) -> int:
            return n

        def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
            return pixels[list(rows)]

    seen, moved = BoxedImages(Drawn(), views, true).drawn_with_target(range(n), generator)  # type: ignore[arg-type]
    for image, [(label, *corners)] in zip(seen, moved.tolist(), strict=True):
        bright = image[0] > image[0].mean()
        x0, y0, x1, y1 = (round(16 * corner) for corner in corners)
        assert label == 1 and bright.sum() == (y1 - y0) * (x1 - x0) and bright[y0:y1, x0:x1].all()


def test_latents_bring_the_boxes_of_the_view(tmp_path: Path) -> None:
    """What the cache answers is of the image, or of the mirror image, that the boxes are of."""
    cells = Cells.of("home", 6)
    images, true = Pixels(cells, PLAIN), DETECTION.target(cells, PLAIN)
    latents = TargetedLatents(nn.Identity(), images, true, boxes.mirrored, folder=tmp_path)
    plain = BoxedImages(images, mirror, true)
    for seed in range(4):
        both = [one.drawn_with_target(range(6), torch.Generator().manual_seed(seed)) for one in (latents, plain)]
        assert torch.allclose(both[0][0], both[1][0], atol=1e-2)
        real = true[..., :1] >= 0
        assert torch.allclose(both[0][1] * real, both[1][1] * real, atol=1e-6)
    assert not torch.equal(both[1][1], true)


# The loss


def test_places_answer_for_the_box_around_them() -> None:
    """The smallest of those whose middle is near; one next to the middle always; none for what only fills up."""
    true = torch.tensor([[[0, 0.0, 0.0, 0.5, 0.5], [1, 0.26, 0.26, 0.36, 0.36], [-1, -1, -1, -1, -1]]])
    [which] = answered(true, 8, 8)
    assert which[2, 2] == 1 and (which == 1).sum() == 1
    assert set(which.unique().tolist()) == {-1, 0, 1}
    assert (which[4:] == -1).all() and (which[:, 4:] == -1).all()
    assert (answered(torch.empty(2, 0, 5), 3, 3) == -1).all()


def test_the_loss_is_least_where_the_answer_is_right() -> None:
    """Scores and boxes as they are true cost next to nothing; each fault costs more."""
    true = torch.tensor([[[1, 0.25, 0.25, 0.75, 0.75]]])
    which = answered(true, 8, 8)
    scores = torch.full((1, 2, 8, 8), -12.0)
    scores[:, 1][which == 0] = 12.0
    middle = boxes.centres(8, 8)
    distances = torch.stack([middle[0] - 0.25, middle[1] - 0.25, 0.75 - middle[0], 0.75 - middle[1]])[None]
    right = torch.cat([scores, (8 * distances).clamp_min(0.1).log()], dim=1)

    def loss(logits: torch.Tensor, target: torch.Tensor = true) -> float:
        rows, logits = torch.arange(1), boxes.Corners()(logits)
        step = Step(rows=rows, features=logits, logits=logits, again=lambda: logits, target=target)
        return float(CrossEntropyGIoU().loss()(step))

    assert loss(right) < 1e-3
    assert loss(torch.cat([-right[:, :2], right[:, 2:]], dim=1)) > 1
    assert loss(torch.cat([right[:, :2], right[:, 2:] - 1], dim=1)) > 0.3
    nothing = torch.empty(1, 0, 5)
    assert (
        loss(torch.cat([torch.full((1, 2, 8, 8), -12.0), right[:, 2:]], dim=1), nothing) < 1e-3 < loss(right, nothing)
    )
    with pytest.raises(ValueError, match="learns from boxes"):
        loss(right, None)  # type: ignore[arg-type]


# The base


def test_a_base_is_fitted_and_finds_cells(base: Path) -> None:
    """Two dozen epochs find them, at images with none as well; one image's answer doesn't hang on the others."""
    record = json.loads((base / "base.json").read_text())
    layers = ["conv", "relu", "conv", "relu", "conv", "corners"]
    assert (record["task"], record["classes"], record["head"]) == ("detection", list(CLASSES), layers)
    examples = Cells.of("home", 20, 4000)
    assert held_f1(base, None, examples) > 0.85
    predictor, batch = Predictor.load(base), prepared(base, examples)
    seen = predictor.observe(batch)
    assert seen.probabilities.shape == seen.logits.shape == (20, 6, 64 // STRIDE, 64 // STRIDE)
    assert seen.embedding.shape == (20, 648) == predictor.embed(batch).shape
    assert (seen.probabilities[:, :2] >= 0).all() and (seen.probabilities[:, :2] <= 1).all()
    assert np.array_equal(predictor.answer(batch), seen.probabilities)
    alone = predictor.observe(batch[4:5])
    assert all(np.array_equal(whole[4:5], one) for whole, one in zip(seen, alone, strict=True))


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two trainings of one seed write one digest; cases of which nobody knows the boxes are left out."""
    for name in ("a", "b"):
        made = fitted(tmp_path / name, n=16)
    assert base_digest(tmp_path / "a") == base_digest(tmp_path / "b")
    assert (made["backbone"], made["n_train"], made["n_val"]) == ("mobilenet_v3_small", 16, 24)
    cells = Cells.of("home", 16)
    cells.label[10:] = -1
    made = fit_base(cells, Cells.of("home", 4, 1000), CLASSES, task="detection", size=64, epochs=1,
                    out=tmp_path / "c", measure=f1)  # fmt: skip
    assert made["n_train"] == 10
    joined = Joined(Chosen(cells, np.array([4, 2])), Cells.of("new", 2, 50))
    assert np.array_equal(joined.boxes(1), cells.boxes(2)) and len(joined.boxes(3)) == len(
        Cells.of("new", 2, 50).boxes(1)
    )


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "densenet121"])
def test_networks_that_pool_give_their_maps(tmp_path: Path, name: str) -> None:
    """Three sizes side by side at the largest; the sensor sees their means; saved as it came."""
    torch.manual_seed(0)
    pooled = load_backbone(name)
    origin, images = columns(pooled), torch.rand(2, 3, 64, 64)
    answers = _answers(origin.module, images)
    assert origin.stride == STRIDE and answers.shape == (2, origin.width, 8, 8)
    assert torch.equal(_answers(origin.sensor, images), answers.mean(dim=(2, 3)))
    deepest = _answers(nn.Sequential(*pooled.module.blocks()[: origin.depth - 1]), images)
    assert torch.equal(answers[:, : deepest.shape[1]], deepest), "the first of the maps are the network's own"
    for cut in range(origin.depth + 1):
        prefix, suffix = origin.split(cut)
        assert torch.equal(_answers(suffix, _answers(prefix, images)), answers)
    layers = dict(origin.module.named_modules())
    assert origin.adaptable() and set(origin.adaptable()) <= layers.keys()
    origin.save(tmp_path / "saved")
    again = columns(load_backbone(str(tmp_path / "saved")))
    assert torch.equal(_answers(again.module, images), answers)


def test_a_base_of_an_earlier_build_answers_as_it_did(tmp_path: Path) -> None:
    """Its head gave distances, and the task turned them into corners: the record has no layer for that."""
    origin = columns(load_backbone("mobilenet_v3_small").fed(PLAIN))
    model = Classifier(origin, detector(origin, 2), CLASSES, "detection")
    write_base(model, tmp_path / "base", {})
    file = tmp_path / "base" / "base.json"
    record = json.loads(file.read_text())
    assert record["head"].pop() == "corners"
    file.write_text(json.dumps(record))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(_answers(load_base(tmp_path / "base"), images), _answers(model, images))


def test_networks_without_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for detection take a convolutional network"):
        columns(load_backbone("vit_tiny_patch16_224"))
    with pytest.raises(ValueError, match="for detection take a convolutional network"):
        columns(replace(load_backbone("mobilenet_v3_small"), stride=1))
    with pytest.raises(ValueError, match="serves no detection"):
        origin = load_backbone("resnet18")
        origin.save(tmp_path / "network")
        from safetensors.torch import load_file, save_file

        weights = load_file(tmp_path / "network" / "model.safetensors")
        save_file(weights | {"fc.weight": torch.zeros(2, 512), "fc.bias": torch.zeros(2)}, tmp_path / "r.safetensors")
        import_base(f"resnet18:{tmp_path}/r.safetensors", CLASSES, tmp_path / "base", task="detection")


def _answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images)


# Recipes


@pytest.mark.parametrize("name", sorted(RECIPES | COMPARISONS))
def test_every_recipe_makes_a_version_that_loads(base: Path, tmp_path: Path, name: str) -> None:
    """The parts that it names are all that its folder holds; a fresh predictor answers as its golden outputs say."""
    candidate = go(base, tmp_path / "out", (RECIPES | COMPARISONS)[name])
    assert sorted(candidate.parts.values()) == sorted(file.name for file in candidate.folder.iterdir())
    assert (candidate.folder / "golden.safetensors").stat().st_size < 2**20
    check_golden(Predictor.load(base, candidate.folder), candidate.folder)
    images = prepared(base, Cells.of("new", 2, 3000))
    sensed = [Predictor.load(base, parts).embed(images) for parts in (None, candidate.folder)]
    assert np.array_equal(*sensed)
    assert json.dumps(candidate.made)


def test_the_recipes_that_are_covered_are_all() -> None:
    assert len(RECIPES | COMPARISONS) == 6


@pytest.mark.parametrize("mechanism", [LinearProbe, LoRA, Full])
def test_zero_steps_are_served_as_the_base_and_steps_as_they_were_trained(
    base: Path, tmp_path: Path, mechanism: type
) -> None:
    """Attached and written before any step, and after some, a fresh base with the parts answers as the model."""
    model, cells = load_base(base), Cells.of("new", 4)
    images, true = prepared(base, cells), DETECTION.target(cells, model.origin.preprocessing)
    before, one = _answers(model, images), mechanism()
    moving = one.attach(model)
    assert torch.equal(_answers(model, images), before)
    (tmp_path / "none").mkdir()
    one.write(model, tmp_path / "none")
    logits = Predictor.load(base).logits(images)
    assert Predictor.load(base, tmp_path / "none").logits(images) == pytest.approx(logits, abs=1e-4)
    one.training(model)
    optimiser, loss = torch.optim.AdamW(moving, lr=one.learning_rate), CrossEntropyGIoU().loss()
    for _ in range(6):
        optimiser.zero_grad()
        step = Step(rows=torch.arange(4), features=images, logits=model(images), again=lambda: images, target=true)
        loss(step).backward()
        optimiser.step()
    (tmp_path / "some").mkdir()
    one.write(model.eval(), tmp_path / "some")
    served = Predictor.load(base, tmp_path / "some").logits(images)
    assert served == pytest.approx(_answers(model, images).numpy(), abs=2e-3)
    assert served != pytest.approx(logits, abs=1e-2)


def test_full_training_with_rehearsal_learns_the_new_site_and_keeps_home(base: Path, tmp_path: Path) -> None:
    new, home = Cells.of("new", 20, 5000), Cells.of("home", 20, 5000)
    before = held_f1(base, None, new)
    made = go(base, tmp_path / "out", RECIPES["full_rehearsal"], epochs=8)
    assert held_f1(base, made.folder, new) > max(0.7, before + 0.1)
    assert held_f1(base, made.folder, home) > 0.75


def serves(mechanism: object) -> bool:
    return isinstance(mechanism, Tasked) and "detection" in mechanism.tasks


def test_what_can_not_serve_boxes_says_so_before_it_trains(base: Path, tmp_path: Path) -> None:
    """Of every slot: those that serve a detection are known, and all others refuse in one sentence."""
    slots = {"parameter": parameter, "representation": representation, "objective": objective, "data": data,
             "architecture": architecture}  # fmt: skip
    kinds = [
        (slot, kind)
        for slot, package in slots.items()
        for kind in [*(getattr(package, name) for name in package.__all__), *package.EXPERIMENTAL]
    ]
    refused = 0
    stage = RECIPES["full_rehearsal"].stages[0]
    for slot, kind in kinds:
        one = kind()
        if serves(one):
            continue
        with pytest.raises(ValueError, match=f"^{one.name} serves [a-z ]+, and no detection: take"):
            go(base, tmp_path / "out", Recipe(name="odd", stages=(replace(stage, **{slot: one}),), risk=1))
        refused += 1
    assert not (tmp_path / "out").exists()
    assert sorted(kind.__name__ for _, kind in kinds if serves(kind())) == sorted(
        ["LinearProbe", "LoRA", "Full", "Recalibrate", "BatchStatistics", "Supervised", "NewCases", "Rehearsal"]
    )
    assert (len(kinds), refused) == (40, 32)


# Scores


def test_boxes_are_sampled_with_what_they_found(base: Path) -> None:
    """Each as its class or as none, and the boxes of a case weigh as one; a case without a label is left out."""
    cells, predictor = Cells.of("home", 12), Predictor.load(base)
    cells.label[3] = -1
    sample = sampled(cells, Pixels(cells, predictor.preprocessing), DETECTION, predictor)
    rows = held_rows(base, None, cells)[:, :-2].reshape(12, -1, 12)
    for row in range(12):
        mine, said = sample.row == row, rows[row][np.isfinite(rows[row][:, 0])]
        if row == 3 or not len(said):
            assert not mine.any()
            continue
        chances = torch.softmax(torch.from_numpy(sample.logits[mine]), dim=1).numpy()
        assert chances[np.arange(len(said)), said[:, 1].astype(int)] == pytest.approx(said[:, 0], abs=1e-4)
        assert np.where(sample.label[mine] == 2, 0, 1).tolist() == said[:, 2].tolist()
        assert sample.weight[mine].sum() == pytest.approx(1)


def test_a_temperature_changes_no_answer_and_a_bias_does() -> None:
    """The half is where a logit is zero, whatever it is divided by; the box's own numbers are left alone."""
    logits = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = DETECTION.probabilities(logits)
    cooled = DETECTION.probabilities(logits, Recalibrator(2.0))
    assert torch.equal(plain[:, :2] >= 0.5, cooled[:, :2] >= 0.5) and not torch.equal(plain[:, :2], cooled[:, :2])
    moved = DETECTION.probabilities(logits, Recalibrator(1.0, (5.0, 0.0)))
    assert (moved[:, 0] > plain[:, 0]).all() and torch.equal(moved[:, 1:], plain[:, 1:])


def test_recalibration_brings_scores_to_how_often_they_are_right(base: Path, tmp_path: Path) -> None:
    """On the cases that it is fitted on the squared error of the boxes falls; it keeps one bias for each class."""
    made = go(base, tmp_path / "out", RECIPES["recalibrate"])
    record = json.loads((made.folder / "recalibrator.json").read_text())
    assert len(record["bias"]) == 2 and 0.1 < record["temperature"] < 10

    def error(parts: Path | None) -> float:
        rows = held_rows(base, parts, Cells.of("new", 24, 2000))[:, :-2].reshape(-1, 12)
        said = rows[np.isfinite(rows[:, 0])]
        return float(((said[:, 0] - said[:, 2]) ** 2).sum())

    assert error(made.folder) < error(None)


# Beside the training


def test_axes_of_a_detection(base: Path, tmp_path: Path) -> None:
    """How deep an update went, and what worse images come to beside the truth."""
    made, probed = (go(base, tmp_path / name, RECIPES[name]) for name in ("full_rehearsal", "linear_probe"))
    cells = Cells.of("home", 8)
    images = Pixels(cells, load_base(base).origin.preprocessing)
    found = depth(base, None, made.folder, images)
    assert found.earliest == 1 and len(found.change) == load_base(base).origin.depth
    assert depth(base, None, probed.folder, images).earliest is None
    worse = dict(corrupted(base, None, images, DETECTION.target(cells, images.preprocessing)))
    assert worse.keys() == CORRUPTIONS.keys() and {rows.shape for rows in worse.values()} == {(8, 12 * boxes.MOST + 2)}
