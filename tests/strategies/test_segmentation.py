"""Segmentation, whole on a tiny UNet and generated discs: what is fitted, adapted, served, refused and repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from discs import CLASSES, Discs, dice
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from strategies import architecture, data, lessons, objective, parameter, representation
from strategies.augmentation import lit, lit_and_turned, mirror
from strategies.axes import CORRUPTIONS, corrupted, depth
from strategies.base import Chosen, base_digest, fit_base, import_base, load_base, write_base
from strategies.collapse import pooled
from strategies.data import Rehearsal, herding
from strategies.families import load_backbone
from strategies.families.monai import DESIGNS
from strategies.inputs import Images, MaskedImages, TargetedLatents, mirrored_masks
from strategies.lessons import Joined, sampled
from strategies.model import Classifier, Recalibrator, Thresholds
from strategies.objective.dice import DiceCrossEntropy
from strategies.objective.sum import Sum
from strategies.parameter import Full, LinearProbe, LoRA
from strategies.predictor import Predictor, apply_parts, check_golden
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import EVERY_TASK, Preprocessing, Recipe, Stage, Step, Tasked
from strategies.recipes import COMPARISONS, RECIPES, run
from strategies.representation import BatchStatistics, Recalibrate
from strategies.tasks import TASKS, refuse_unserved, task_of
from strategies.training import served

SEGMENTATION = task_of("segmentation")
PLAIN = Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SMALL = {"spatial_dims": 2, "in_channels": 3, "out_channels": 8, "channels": [8, 16, 32], "strides": [2, 2],
         "num_res_units": 2, "norm": "batch"}  # fmt: skip


def network(folder: Path, **changed: object) -> Path:
    """A UNet of MONAI as a folder, with random weights."""
    from monai.networks.nets import UNet
    from safetensors.torch import save_file

    arguments = SMALL | changed
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(UNet(**arguments).state_dict(), folder / "model.safetensors")
    record = {"library": "monai", "architecture": "unet", "arguments": arguments}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("made")
    fitted(network(root / "network"), root / "base", epochs=32)
    return root / "base"


def fitted(backbone: Path | str, out: Path, epochs: int = 1) -> dict:
    return fit_base(Discs.of("home", 48), Discs.of("home", 12, 100), CLASSES, task="segmentation",
                    backbone=str(backbone), size=32, epochs=epochs, seed=0, out=out, measure=dice)  # fmt: skip


def go(base: Path, out: Path, recipe: Recipe, live: Path | None = None, epochs: int = 1):
    return run(recipe, base=base, live_parts=live, new=Discs.of("new", 12, 200), memory=Discs.of("home", 16),
               develop=Joined(Discs.of("home", 8, 100), Discs.of("new", 8, 300)), out=out, seed=0, measure=dice,
               epochs=epochs)  # fmt: skip


def prepared(base: Path, examples: Discs) -> torch.Tensor:
    preprocessing = load_base(base).origin.preprocessing
    return normalise(preprocessing, Pixels(examples, preprocessing)[range(len(examples))])


def held_dice(base: Path, parts: Path | None, examples: Discs) -> float:
    predictor = Predictor.load(base, parts)
    target = SEGMENTATION.target(examples, predictor.preprocessing)
    return dice(SEGMENTATION.rows(predictor.answer(prepared(base, examples)), target), examples.label)


# What is counted


def test_rows_are_what_they_say() -> None:
    """Counts by hand on four pixels, the Brier score and the log loss by their definitions."""
    said = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]])
    truth = torch.tensor([0, 1, 1, 1])
    rows = SEGMENTATION.rows(said.T.reshape(1, 3, 2, 2), truth.reshape(1, 2, 2).to(torch.uint8))
    brier = np.mean([(0.09 + 0.04 + 0.01) / 2, (0.01 + 0.04 + 0.01) / 2, (0.09 + 0.49 + 0.16) / 2, 1.0])
    log_loss = -np.mean(np.log([0.7, 0.8, 0.3, 1e-6]))
    assert rows.dtype == np.float32
    assert rows.tolist() == [pytest.approx([1, 1, 3, 0, 2, 0, brier, log_loss], abs=1e-5)]
    assert (
        SEGMENTATION.rows(said.T.reshape(1, 3, 2, 2).numpy(), truth.reshape(1, 2, 2).numpy()).tolist() == rows.tolist()
    )


def test_rows_of_a_classification_are_its_probabilities() -> None:
    """Whatever the labels are, and the labels are the target."""
    said = np.random.default_rng(0).random((4, 3), np.float32)
    assert np.array_equal(task_of("classification").rows(said, torch.zeros(4)), said)
    assert task_of("classification").target(Discs.of("home", 4), PLAIN).dtype == torch.int64
    assert tuple(TASKS) == EVERY_TASK == ("classification", "multilabel", "segmentation", "detection")
    with pytest.raises(ValueError, match="no task 'guessing'"):
        task_of("guessing")


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 70), st.integers(8, 70), st.integers(0, 10**6))
def test_a_mask_keeps_to_its_image_at_any_size(height: int, width: int, seed: int) -> None:
    """Brought to the model's size the mask has the classes that it had, and lies where the image's structure does."""

    class One:
        label, patient, domain = np.zeros(1, int), np.array(["a"]), np.array(["x"])

        def __len__(self) -> int:
            return 1

        def mask(self, i: int) -> np.ndarray:
            y, x = np.random.default_rng(seed).uniform(0.3, 0.7, 2)
            return ((np.mgrid[:height, :width][0] < y * height) & (np.mgrid[:height, :width][1] < x * width)).astype(
                np.uint8
            )

        def image(self, i: int) -> np.ndarray:
            return self.mask(i) * np.float32(255)

    mask = SEGMENTATION.target(One(), PLAIN)[0]
    image = Pixels(One(), PLAIN)[[0]][0, 0]
    assert mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1}
    sure = (image < 20) | (image > 235)
    assert torch.equal((image > 127)[sure], (mask == 1)[sure])


# Views


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([mirror, lit, lit_and_turned]), st.integers(1, 6))
def test_image_and_mask_move_together(seed: int, views: Callable, n: int) -> None:
    """Where an image is its own mask's colour, it still is after any view; and light changes no mask."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 3, (n, 8, 8), generator=generator).to(torch.uint8)
    pixels = (masks * 60 + 60)[:, None].expand(-1, 3, -1, -1)

    class Drawn:
        preprocessing = PLAIN

        def __len__(self) -> int:
            return n

        def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
            return pixels[list(rows)]

    seen, moved = MaskedImages(Drawn(), views, masks).drawn_with_target(range(n), generator)  # type: ignore[arg-type]
    assert moved.dtype == torch.uint8 and seen.shape == (n, 3, 8, 8)
    for image, mask, was in zip(seen, moved, masks, strict=True):
        assert torch.equal(mask.flatten().sort()[0], was.flatten().sort()[0])
        for c in mask.unique():  # one colour for each class, in the order of the classes
            assert image[:, mask == c].std(unbiased=False) < 1e-4
        assert image[0][mask == mask.max()].mean() > image[0][mask == mask.min()].mean() - 1e-4


def test_each_symmetry_of_the_square_is_drawn() -> None:
    """Images without an up are seen in all eight, those with an up mirrored only, and a short adaptation likewise."""
    mask = torch.arange(16).reshape(1, 1, 4, 4).expand(64, 4, -1, -1).to(torch.uint8)
    for views, count in ((lit_and_turned, 8), (lit, 2), (mirror, 2)):
        seen = views(mask, torch.Generator().manual_seed(0))[:, 3]
        assert len(seen.flatten(1).unique(dim=0)) == count


def test_latents_bring_the_mask_of_the_view(tmp_path: Path) -> None:
    """What the cache answers is of the image, or of the mirror image, that the mask is of."""
    discs = Discs.of("home", 6)
    images, masks = Pixels(discs, PLAIN), SEGMENTATION.target(discs, PLAIN)
    latents = TargetedLatents(nn.Identity(), images, masks, mirrored_masks, folder=tmp_path)
    plain = MaskedImages(images, mirror, masks)
    for seed in range(4):
        both = [one.drawn_with_target(range(6), torch.Generator().manual_seed(seed)) for one in (latents, plain)]
        assert torch.allclose(both[0][0], both[1][0], atol=1e-2)
        assert torch.equal(both[0][1], both[1][1])
    assert not torch.equal(both[1][1], masks)


# The base


def test_a_base_is_fitted_and_answers_every_pixel(base: Path, tmp_path: Path) -> None:
    """Thirty epochs tell the discs; the answers are of every pixel, and sum to one there."""
    record = json.loads((base / "base.json").read_text())
    assert (record["task"], record["classes"], record["head"]) == ("segmentation", list(CLASSES), ["conv"])
    examples = Discs.of("home", 11, 400)
    assert held_dice(base, None, examples) > 0.85
    predictor, batch = Predictor.load(base), prepared(base, examples)
    seen = predictor.observe(batch)
    assert predictor.task == "segmentation"
    assert seen.probabilities.shape == seen.logits.shape == (11, 3, 32, 32)
    assert seen.embedding.shape == (11, 32) == predictor.embed(batch).shape
    assert seen.probabilities.dtype == np.float32 and np.allclose(seen.probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(predictor.answer(batch), seen.probabilities)
    assert predictor.prepare(examples.image(0)).shape == (3, 32, 32)
    decided = predictor.decide(seen.probabilities)
    assert decided.dtype == np.int64 and np.array_equal(decided, seen.probabilities.argmax(1))
    alone = predictor.observe(batch[4:5])
    assert all(np.array_equal(whole[4:5], one) for whole, one in zip(seen, alone, strict=True))


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two trainings of one seed write one digest; the backbone that nobody names is MONAI's UNet."""
    for name in ("a", "b"):
        made = fit_base(Discs.of("home", 8), Discs.of("home", 4, 100), CLASSES, task="segmentation", size=32, epochs=1,
                        out=tmp_path / name, measure=dice)  # fmt: skip
    assert base_digest(tmp_path / "a") == base_digest(tmp_path / "b")
    assert (made["backbone"], made["n_train"], made["n_val"]) == ("monai:unet", 8, 4)


class Odd(Discs):
    """One mask is half as large as its image, or is changed otherwise."""

    def mask(self, i: int) -> np.ndarray:
        mask = super().mask(i)
        return mask[::2] if i == 3 else mask


class Fewer(Discs):
    def mask(self, i: int) -> np.ndarray:
        return super().mask(i) % 2


class More(Discs):
    def mask(self, i: int) -> np.ndarray:
        return super().mask(i) * (4 if i == 2 else 1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Odd, "mask of case 3 is of 16 x 32 pixels and its image of 32 x 32"),
        (Fewer, "No training mask has a pixel of large"),
        (More, "mask of case 2 has pixels of class 8; 3 classes"),
    ],
)
def test_masks_that_can_not_be_learnt_are_refused(tmp_path: Path, kind: type[Discs], reason: str) -> None:
    """By the number of the case, and without its patient; nothing is written."""
    with pytest.raises(ValueError, match=reason) as error:
        fit_base(kind.of("home", 8), Discs.of("home", 4, 100), CLASSES, task="segmentation", size=32, epochs=1,
                 out=tmp_path / "out", measure=dice)  # fmt: skip
    assert "home" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_cases_without_a_mask_are_left_out(tmp_path: Path) -> None:
    """Label -1 says that there is none; chosen and joined examples hand masks on."""
    discs = Discs.of("home", 8)
    discs.label[5:] = -1
    made = fit_base(discs, Discs.of("home", 4, 100), CLASSES, task="segmentation", size=32, epochs=1,
                    out=tmp_path / "out", measure=dice)  # fmt: skip
    assert made["n_train"] == 5
    joined = Joined(Chosen(discs, np.array([4, 2])), Discs.of("new", 2, 50))
    assert np.array_equal(joined.mask(1), discs.mask(2))
    assert np.array_equal(joined.mask(3), Discs.of("new", 2, 50).mask(1))


def test_networks_serve_their_own_task_only(tmp_path: Path) -> None:
    """A network that answers for every pixel classifies nothing, and each says so in a sentence."""
    with pytest.raises(ValueError, match="serves segmentation, and no classification"):
        fit_base(Alternating.of("home", 8), Alternating.of("home", 4, 100), ("a", "b"), backbone="monai:unet", size=32,
                 epochs=1, out=tmp_path / "out", measure=dice)  # fmt: skip


class Alternating(Discs):
    @property
    def label(self) -> np.ndarray:
        return np.arange(len(self.patient)) % 2

    @label.setter
    def label(self, _: np.ndarray) -> None: ...


# Families


@pytest.mark.parametrize("name", [*DESIGNS])
def test_every_design_of_monai_saves_and_reads_back(tmp_path: Path, name: str) -> None:
    """Dense features, a sensor of at most 512 numbers, layers to adapt; the folder names design and arguments."""
    torch.manual_seed(0)
    dimensions = DESIGNS[name].dimensions
    high, wide = {2: (64, 64), 3: (8 * 32, 32)}[dimensions]  # of a volume eight slices, one below the other
    origin, images = load_backbone(f"monai:{name}"), torch.rand(2, 3, high, wide)
    answers = _answers(origin.module, images)
    assert answers.shape == (2, origin.width, high, wide) and origin.stride == 1
    sensed = _answers(origin.sensor, images)
    assert sensed.ndim == 2 and sensed.shape[1] <= 512
    for cut in range(origin.depth + 1):
        prefix, suffix = origin.split(cut)
        assert torch.equal(_answers(suffix, _answers(prefix, images)), answers)
    layers = dict(origin.module.named_modules())
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    adapted = [layers[name] for name in origin.adaptable()]
    assert {type(layer) for layer in adapted} <= {conv, nn.Linear}
    assert any(layer.kernel_size == (3,) * dimensions for layer in adapted if isinstance(layer, conv))
    origin.save(tmp_path / "saved")
    assert sorted(file.name for file in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]
    again = load_backbone(str(tmp_path / "saved"))
    assert torch.equal(_answers(again.module, images), answers)
    assert torch.equal(_answers(again.sensor, images), sensed)
    assert again.preprocessing == origin.preprocessing


def test_a_foreign_network_is_imported_with_its_own_answers(tmp_path: Path) -> None:
    """A UNet that gives logits itself, fitted elsewhere: its base answers what it answered."""
    folder = network(tmp_path / "foreign", out_channels=3)
    import_base(str(folder), CLASSES, tmp_path / "base", size=32, task="segmentation")
    images = prepared(tmp_path / "base", Discs.of("home", 3))
    wanted = _answers(load_backbone(str(folder)).module, images)
    assert Predictor.load(tmp_path / "base").logits(images) == pytest.approx(wanted.numpy(), abs=1e-5)
    for classes, task, reason in (
        (CLASSES[:2], "segmentation", "3 outputs, but 2"),
        (CLASSES, "classification", "no cl"),
    ):
        with pytest.raises(ValueError, match=reason):
            import_base(str(folder), classes, tmp_path / "other", size=32, task=task)


def test_a_folder_of_other_tensors_or_arguments_is_refused(tmp_path: Path) -> None:
    """What is missing or too much is named; a class is found in a table and nowhere else."""
    folder = network(tmp_path / "odd")
    record = json.loads((folder / "config.json").read_text())
    for changed, reason in (
        ({"arguments": SMALL | {"num_res_units": 1}}, "the odd tensor"),
        ({"arguments": SMALL | {"in_channels": 2}}, "one or three channels"),
        ({"arguments": SMALL | {"surprise": 1}}, "builds no unet"),
        ({"architecture": "os.system"}, "is not known here; these are: unet, segresnet, swin_unetr"),
        ({"arguments": {}}, "lacks out_channels"),
        ({"arguments": SMALL | {"channels": [8, 16, 24]}}, "of shape"),
    ):
        (folder / "config.json").write_text(json.dumps(record | changed))
        with pytest.raises(ValueError, match=reason):
            load_backbone(str(folder))
    with pytest.raises(ValueError, match="not known here"):
        load_backbone("monai:nothing")


def _answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images)


# Recipes


@pytest.mark.parametrize("name", sorted(RECIPES | COMPARISONS))
def test_every_recipe_makes_a_version_that_loads(base: Path, tmp_path: Path, name: str) -> None:
    """The parts that it names are all that its folder holds; a fresh predictor answers as its golden outputs, which
    are small, say."""
    candidate = go(base, tmp_path / "out", (RECIPES | COMPARISONS)[name])
    assert sorted(candidate.parts.values()) == sorted(file.name for file in candidate.folder.iterdir())
    assert (candidate.folder / "golden.safetensors").stat().st_size < 2**20
    check_golden(Predictor.load(base, candidate.folder), candidate.folder)
    images = prepared(base, Discs.of("new", 2, 300))
    sensed = [Predictor.load(base, parts).embed(images) for parts in (None, candidate.folder)]
    assert np.array_equal(*sensed)
    assert json.dumps(candidate.made)


def test_the_recipes_that_are_covered_are_all() -> None:
    assert len(RECIPES | COMPARISONS) == 6


def test_an_adapter_with_rehearsal_learns_the_new_site_and_keeps_home(base: Path, tmp_path: Path) -> None:
    """Inverted images, which the base fails on, in twelve epochs; what is learnt is in peft's own form."""
    new, home = Discs.of("new", 12, 500), Discs.of("home", 12, 500)
    assert held_dice(base, None, new) < 0.5
    made = go(base, tmp_path / "out", RECIPES["lora_rehearsal"], epochs=16)
    assert held_dice(base, made.folder, new) > 0.7
    assert held_dice(base, made.folder, home) > 0.7
    assert json.loads((made.folder / "adapter_config.json").read_text())["peft_type"] == "LORA"


@pytest.mark.parametrize("mechanism", [LinearProbe, LoRA, Full])
def test_zero_steps_are_served_as_the_base(base: Path, tmp_path: Path, mechanism: type) -> None:
    """Attached and written before any step, the parts answer as the base does."""
    model, images = load_base(base), prepared(base, Discs.of("home", 3))
    one = mechanism()
    with torch.inference_mode():
        before = model(images)
    moving = one.attach(model)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), before)
    assert {id(weight) for weight in moving} == {id(weight) for weight in model.parameters() if weight.requires_grad}
    one.write(model, tmp_path)
    assert Predictor.load(base, tmp_path).logits(images) == pytest.approx(Predictor.load(base).logits(images), abs=1e-5)


@pytest.mark.parametrize("mechanism", [LinearProbe, LoRA, Full])
def test_what_moved_is_what_is_written(base: Path, tmp_path: Path, mechanism: type) -> None:
    """After some steps a fresh base with the parts answers as the trained model: 3x3 adapters are merged exactly."""
    model, discs = load_base(base), Discs.of("new", 4)
    images, masks = prepared(base, discs), SEGMENTATION.target(discs, load_base(base).origin.preprocessing)
    one = mechanism()
    moving = one.attach(model)
    if mechanism is LoRA:
        assert any(weight.shape[-1] == 3 for weight in moving)  # convolutions of 3x3 are adapted
    one.training(model)
    optimiser = torch.optim.AdamW(moving, lr=one.learning_rate)
    loss = DiceCrossEntropy().loss()
    rows = torch.arange(4)
    for _ in range(6):
        optimiser.zero_grad()
        loss(Step(rows=rows, features=images, logits=model(images), again=lambda: images, target=masks)).backward()
        optimiser.step()
    one.write(model.eval(), tmp_path)
    with torch.inference_mode():
        trained = model(images).numpy()
    answered = Predictor.load(base, tmp_path).logits(images)
    assert answered == pytest.approx(trained, abs=1e-3)
    assert answered != pytest.approx(Predictor.load(base).logits(images), abs=1e-2)


def test_what_is_live_is_gone_on_from(base: Path, tmp_path: Path) -> None:
    """A recipe that continues and moves nothing answers as the live version."""
    live = go(base, tmp_path / "live", RECIPES["lora_rehearsal"])
    stage = RECIPES["linear_probe"].stages[0]
    still = Recipe(name="still", stages=(replace(stage, parameter=LinearProbe(1e-12)),), risk=1)
    again = go(base, tmp_path / "again", still, live.folder)
    images = prepared(base, Discs.of("new", 2, 300))
    logits = [Predictor.load(base, one.folder).logits(images) for one in (live, again)]
    assert logits[1] == pytest.approx(logits[0], abs=1e-4)
    now = load_base(base)
    apply_parts(now, again.folder)
    assert now.adapter["peft_type"] == "LORA"


def test_statistics_of_batch_norms_align_a_segmentation_too(base: Path, tmp_path: Path) -> None:
    """No label and no gradient: the running statistics are the new site's."""
    made = go(base, tmp_path / "out", Recipe(name="aligned", stages=(Stage(representation=BatchStatistics()),), risk=1))
    assert "statistics" in made.parts
    images = prepared(base, Discs.of("new", 2, 300))
    assert Predictor.load(base, made.folder).logits(images) != pytest.approx(
        Predictor.load(base).logits(images), abs=0.1
    )


def test_a_mask_of_no_known_class_is_not_adapted_to(base: Path, tmp_path: Path) -> None:
    """An adaptation may lack a structure that the base knows, and may bring none that it doesn't."""
    for kind, reason in ((More, "pixels of class 8"), (Odd, "mask of case 3")):
        with pytest.raises(ValueError, match=reason):
            run(RECIPES["linear_probe"], base=base, live_parts=None, new=kind.of("new", 8), memory=Discs.of("home", 4),
                develop=Discs.of("new", 4, 50), out=tmp_path / reason, seed=0, measure=dice, epochs=1)  # fmt: skip
    run(RECIPES["linear_probe"], base=base, live_parts=None, new=Fewer.of("new", 8), memory=Fewer.of("home", 4),
        develop=Fewer.of("new", 4, 50), out=tmp_path / "out", seed=0, measure=dice, epochs=1)  # fmt: skip


def serves(mechanism: object) -> bool:
    return isinstance(mechanism, Tasked) and "segmentation" in mechanism.tasks


def test_what_can_not_serve_masks_says_so_before_it_trains(base: Path, tmp_path: Path) -> None:
    """Of every slot: those that serve a segmentation are known, and all others refuse in one sentence."""
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
        with pytest.raises(ValueError, match=f"^{one.name} serves classification, and no segmentation: take"):
            go(base, tmp_path / "out", Recipe(name="odd", stages=(replace(stage, **{slot: one}),), risk=1))
        refused += 1
    assert not (tmp_path / "out").exists()
    assert sorted(kind.__name__ for _, kind in kinds if serves(kind())) == sorted(
        ["LinearProbe", "LoRA", "Full", "Bottlenecks", "Decoder", "SAMed", "MedSA", "LearnedPrompt", "Recalibrate",
         "BatchStatistics", "Supervised", "NewCases", "Rehearsal"]
    )  # fmt: skip
    assert (len(kinds), refused) == (40, 27)


def test_a_sum_serves_what_all_of_its_parts_do() -> None:
    both = Sum((objective.Supervised(), 1.0), (DiceCrossEntropy(), 1.0))
    assert both.tasks == ("segmentation",)
    with pytest.raises(ValueError, match="and no segmentation"):
        refuse_unserved([Sum((objective.Supervised(), 1.0), (objective.EWC(), 1.0))], SEGMENTATION)


def test_scores_of_all_pixels_are_not_held(base: Path, tmp_path: Path) -> None:
    """A choice that asks for them is told so; one that goes by features gets pooled ones."""
    stage = RECIPES["full_rehearsal"].stages[0]
    hard = replace(stage, data=Rehearsal(8, choose=data.hard_first))
    with pytest.raises(ValueError, match="sample of them"):
        go(base, tmp_path / "hard", Recipe(name="hard", stages=(hard,), risk=1))
    herded = replace(stage, data=Rehearsal(8, choose=herding))
    assert go(base, tmp_path / "herded", Recipe(name="herded", stages=(herded,), risk=1)).made["epochs"] == 1


# Scores


def test_pixels_are_drawn_alike_and_weigh_as_many_as_they_stand_for(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small structure is drawn as often as the background; the weights bring back the shares of the masks."""
    discs, predictor = Discs.of("home", 5), Predictor.load(base)
    discs.label[3] = -1
    images = Pixels(discs, predictor.preprocessing)
    monkeypatch.setitem(lessons.SAMPLES, "segmentation", partial(lessons.pixels_of, most=60))
    sample = sampled(discs, images, SEGMENTATION, predictor)
    masks = SEGMENTATION.target(discs, predictor.preprocessing)
    assert sorted(set(sample.row.tolist())) == [0, 1, 2, 4]
    for row in (0, 1, 2, 4):
        mine = sample.row == row
        counts = np.bincount(masks[row].flatten().numpy(), minlength=3)
        assert np.bincount(sample.label[mine]).tolist() == np.minimum(counts, 20).tolist()
        weights = np.bincount(sample.label[mine], weights=sample.weight[mine])
        assert weights == pytest.approx(counts / counts.sum())
    again = sampled(discs, images, SEGMENTATION, predictor)
    assert np.array_equal(again.logits, sample.logits)


def test_a_temperature_that_was_put_in_is_found(base: Path) -> None:
    """Labels drawn from softmax(z): of 3 z the temperature is near 3, and near 1 for a single case, by the prior."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (4000, 3))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    label = (p.cumsum(1) > rng.random((4000, 1))).argmax(1)
    from strategies.protocols import Sample

    def found(cases: int) -> Recalibrator:
        rows = np.arange(4000) % cases
        sample = Sample((3 * z).astype(np.float32), label, rows, np.full(4000, cases / 4000))
        return Recalibrate(bias=False).mode(sample.logits, label, np.full(cases, "home"), sample)

    assert found(400).temperature == pytest.approx(3, rel=0.1)
    assert 1 < found(1).temperature < 2.5


def test_dense_scores_are_corrected_in_every_pixel() -> None:
    """As the same scores are as rows; and thresholds decide in every pixel."""
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = logits.permute(0, 2, 3, 1).reshape(-1, 3)
    recalibrated = Recalibrator(1.7, (0.3, -0.1, -0.2))
    dense = recalibrated(logits)
    assert torch.allclose(dense.permute(0, 2, 3, 1).reshape(-1, 3), recalibrated(flat), atol=1e-6)
    limits = Thresholds((0.2, 0.5, 0.3))
    assert np.array_equal(limits(dense.numpy()).flatten(), limits(recalibrated(flat).numpy()))


# Beside the training


def test_a_training_holds_rows_and_no_maps(base: Path) -> None:
    """What is kept of the develop cases is a few numbers each, and features pooled over a grid."""
    model, discs = load_base(base), Discs.of("home", 20)
    preprocessing = model.origin.preprocessing
    features, rows = served(model.backbone, model.head, Images(Pixels(discs, preprocessing), mirror), SEGMENTATION,
                            SEGMENTATION.target(discs, preprocessing))  # fmt: skip
    assert rows.shape == (20, 8)
    assert features.shape == (20, 16 * 8)
    assert pooled(torch.ones(2, 5)).shape == (2, 5)


def test_axes_of_a_segmentation(base: Path, tmp_path: Path) -> None:
    """How deep an update went, and what worse images come to beside the truth."""
    made, probed = (go(base, tmp_path / name, RECIPES[name]) for name in ("full_rehearsal", "linear_probe"))
    discs = Discs.of("home", 4)
    images = Pixels(discs, load_base(base).origin.preprocessing)
    found = depth(base, None, made.folder, images)
    assert (found.earliest, len(found.change)) == (1, 1) and 0 < found.change[0] <= 1
    assert depth(base, None, probed.folder, images).earliest is None
    truth = SEGMENTATION.target(discs, images.preprocessing)
    worse = dict(corrupted(base, None, images, truth))
    assert worse.keys() == CORRUPTIONS.keys() and {rows.shape for rows in worse.values()} == {(4, 8)}
    assert dice(worse["blur"], discs.label) < held_dice(base, None, discs)


# Encoders that pool


ENCODERS = {"mobilenet_v3_small": 32, "timm/resnet10t": 32, "dinov2-tiny": 48, "timm": 96}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_read_before_its_pooling(tmp_path: Path, name: str) -> None:
    """Its features are those of places, at any cut alike; its sensor is the encoder that it was; its files are its own
    library's, and the head is the only thing beside them."""
    torch.manual_seed(0)
    spec = timm_folder(tmp_path / "timm") if name == "timm" else name
    pooling = load_backbone(spec)
    pooling = pooling.fed(replace(pooling.preprocessing, size=ENCODERS[name]))
    origin = SEGMENTATION.backbone(pooling)
    model = Classifier(origin, SEGMENTATION.head(origin, 3), CLASSES, "segmentation")
    images = torch.rand(2, 3, ENCODERS[name], ENCODERS[name])
    answers, features = _answers(model, images), _answers(origin.module, images)
    assert answers.shape == (2, 3, ENCODERS[name], ENCODERS[name])
    assert features.shape[1:] == (origin.width, *[ENCODERS[name] // origin.stride] * 2)
    assert torch.equal(_answers(origin.sensor, images), _answers(pooling.module, images))
    for cut in range(origin.depth + 1):
        prefix, suffix = origin.split(cut)
        assert torch.equal(_answers(suffix, _answers(prefix, images)), features), cut
    assert origin.adaptable(1) and len(origin.adaptable()) >= len(origin.adaptable(1))
    write_base(model, tmp_path / "base", {})
    assert Predictor.load(tmp_path / "base").logits(images) == pytest.approx(answers.numpy(), abs=1e-5)
    assert load_backbone(str(tmp_path / "base")).stride is None


def timm_folder(folder: Path) -> str:
    import timm

    timm.models.save_for_hf(timm.create_model("test_vit", num_classes=0, img_size=96), str(folder),
                            safe_serialization=True)  # fmt: skip
    return str(folder)


@pytest.mark.parametrize(
    ("name", "size", "epochs"), [("mobilenet_v3_small", 32, 4), ("dinov2-tiny", 48, 4), ("monai:swin_unetr", 64, 1)]
)
def test_an_encoder_is_fitted_and_adapted_behind_a_frozen_part(
    tmp_path: Path, name: str, size: int, epochs: int
) -> None:
    """A third of its blocks is computed once (of a U-shaped transformer none), masks beside it; the parts load."""
    made = fit_base(Discs.of("home", 32), Discs.of("home", 8, 100), CLASSES, task="segmentation", backbone=name,
                    size=size, epochs=epochs, out=tmp_path / "base", measure=dice)  # fmt: skip
    assert made["epochs"] == epochs
    for recipe in ("lora_rehearsal", "linear_probe"):
        adapted = go(tmp_path / "base", tmp_path / recipe, RECIPES[recipe])
        check_golden(Predictor.load(tmp_path / "base", adapted.folder), adapted.folder)


def test_a_side_of_no_whole_number_of_strides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of the network's largest stride"):
        fit_base(Discs.of("home", 8), Discs.of("home", 4, 100), CLASSES, task="segmentation", size=72, epochs=1,
                 backbone="mobilenet_v3_small", out=tmp_path / "out", measure=dice)  # fmt: skip
