"""RetinaNet and YOLOS as their libraries save them, tiny or small: they answer as there, and are adapted as others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import CLASSES, Cells, f1
from published import LOCAL, SIDE, retinanet, retinanet_file, yolos, yolos_folder
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.ops import box_convert
from transformers import YolosImageProcessor, YolosModel
from transformers.loss.loss_for_object_detection import HungarianMatcher

from strategies import boxes
from strategies.base import base_digest, fit_base, import_base, load_base
from strategies.detectors import against_others, sides_of
from strategies.families import family_of, load_backbone
from strategies.families.retinanet import RetinanetFamily
from strategies.families.yolos import YolosFamily
from strategies.lessons import Joined
from strategies.objective.boxes import CrossEntropyGIoU
from strategies.parameter import Full, LinearProbe, LoRA
from strategies.predictor import Predictor, check_golden
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Family, Step
from strategies.recipes import COMPARISONS, RECIPES, run
from strategies.tasks import task_of

DETECTION = task_of("detection")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)


def imported(folder: Path, name: str, **others: Any) -> Path:
    (folder / "theirs").mkdir()
    import_base(LOCAL[name](folder / "theirs", **others), CLASSES, folder / "base", size=SIDE, task="detection")
    return folder / "base"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return {name: imported(tmp_path_factory.mktemp(name), name) for name in LOCAL}


def prepared(examples: Cells, base: Path) -> torch.Tensor:
    preprocessing = load_base(base).origin.preprocessing
    return normalise(preprocessing, Pixels(examples, preprocessing)[range(len(examples))])


def _answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images)


# As their libraries answer


def older(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names of the file that torchvision publishes to this day."""

    def name(now: str) -> str:
        parts = now.split(".")
        if parts[0] == "head" and parts[2] == "conv":
            return ".".join([*parts[:3], str(2 * int(parts[3])), parts[5]])
        return ".".join([*parts[:4], parts[5]]) if parts[2] in ("inner_blocks", "layer_blocks") else now

    return {name(now): tensor for now, tensor in weights.items()}


@pytest.mark.parametrize("kind", ["plain", "constant and old", "grouped"])
def test_a_retinanet_answers_as_torchvision(tmp_path: Path, kind: str) -> None:
    """The same boxes, classes and scores as the network's own last step gives, without output 0, the background."""
    network = retinanet(constant=kind.startswith("constant"), grouped=kind == "grouped")
    weights = network.state_dict()
    save_file(older(weights) if kind.endswith("old") else weights, tmp_path / "theirs.safetensors")
    import_base(str(tmp_path / "theirs.safetensors"), CLASSES, tmp_path / "base", size=SIDE, task="detection")
    predictor, image = Predictor.load(tmp_path / "base"), Cells.of("home", 1).image(0).round()
    with torch.inference_mode():
        theirs = network([torch.from_numpy(image / 255).expand(3, -1, -1)])[0]
    some = theirs["labels"] > 0
    corners, scores, labels = (theirs[name][some][: boxes.MOST] for name in ("boxes", "scores", "labels"))
    found = boxes.found(torch.from_numpy(predictor.answer(predictor.prepare(image)[None])[0]))
    assert len(scores) > 10 and scores.unique().numel() > 10 and {*labels.tolist()} == {1, 2}
    assert torch.equal(found.labels, labels - 1)
    assert found.scores.numpy() == pytest.approx(scores.numpy(), abs=1e-5)
    assert (SIDE * found.corners).numpy() == pytest.approx(corners.numpy(), abs=1e-2)


@pytest.mark.parametrize("middle", [False, True])
def test_a_yolos_answers_as_transformers(tmp_path: Path, middle: bool) -> None:
    """Every query's chances and corners, and the boxes of its own last step where none stands for another."""
    network = yolos(middle)
    network.save_pretrained(tmp_path / "theirs")
    processor = YolosImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 96})
    processor.save_pretrained(tmp_path / "theirs")
    import_base(str(tmp_path / "theirs"), CLASSES, tmp_path / "base", task="detection")
    predictor, images = Predictor.load(tmp_path / "base"), torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        said = network(pixel_values=images)
    answers = torch.from_numpy(predictor.answer(images))
    assert answers.shape == (2, 2 + 4, 12, 1)
    chances = said.logits.softmax(dim=2)[..., :-1].transpose(1, 2).unsqueeze(-1)
    corners = box_convert(said.pred_boxes, "cxcywh", "xyxy").transpose(1, 2).unsqueeze(-1)
    assert answers.numpy() == pytest.approx(torch.cat([chances, corners], dim=1).numpy(), abs=1e-5)
    theirs = processor.post_process_object_detection(said, threshold=0.5, target_sizes=[(1, 1)] * 2)
    shown = 0
    for answer, true in zip(answers, theirs, strict=True):
        ours = boxes.found(answer)
        for score, corners in zip(ours.scores, ours.corners, strict=True):
            if score > 0.5:
                place = (true["scores"] - score).abs().argmin()
                assert float((true["scores"][place] - score).abs()) < 1e-5
                assert corners.numpy() == pytest.approx(true["boxes"][place].clamp(0, 1).numpy(), abs=1e-5)
                shown += 1
    assert shown


def test_a_softmax_is_told_by_sigmoids() -> None:
    logits = 4 * torch.randn(5, 7)
    assert torch.allclose(against_others(logits).sigmoid(), logits.softmax(dim=1), atol=1e-6)


# The families


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_the_contract_of_families_that_detect(tmp_path: Path, name: str) -> None:
    """They split without a change, save in a form that reads back alike, name real layers, and sense by their base."""
    (tmp_path / "theirs").mkdir()
    spec = LOCAL[name](tmp_path / "theirs")
    family = family_of(spec)
    assert isinstance(family, Family) and family.name == name
    backbone, images = load_backbone(spec), torch.rand(2, 3, SIDE, SIDE)
    features = _answers(backbone.module, images)
    assert features.shape[:2] == (2, backbone.width) and features.shape[3] == 1 and backbone.stride
    for cut in range(backbone.depth + 1):
        prefix, suffix = backbone.split(cut)
        assert torch.equal(_answers(suffix, _answers(prefix, images)), features), cut
    prefix, suffix = backbone.split(1)
    assert not {id(weight) for weight in prefix.parameters()} & {id(weight) for weight in suffix.parameters()}
    layers = dict(backbone.module.named_modules())
    assert backbone.adaptable() and set(backbone.adaptable()) <= layers.keys()
    assert _answers(backbone.sensor, images).shape[0] == 2
    backbone.save(tmp_path / "saved")
    again = load_backbone(str(tmp_path / "saved"))
    assert again.preprocessing == backbone.preprocessing
    assert torch.equal(_answers(again.module, images), features)
    with pytest.raises(ValueError, match="without its last layers"):
        family.head(str(tmp_path / "saved"))
    assert backbone.detector is not None
    fresh = backbone.detector(4)
    assert _answers(fresh, features).shape[1] == 4 + 4
    came, made = family.head(spec).state_dict(), fresh.state_dict()
    kept = {name for name in made if made[name].shape == came[name].shape and torch.equal(made[name], came[name])}
    assert any(name.startswith(("box", "bbox")) for name in kept), "the layers for boxes are those that came along"


def test_the_families_that_detect_are_covered() -> None:
    assert {RetinanetFamily.name, YolosFamily.name} == set(LOCAL) and len(LOCAL) == 2


def test_names_are_families_that_detect() -> None:
    """Names of torchvision and of the hub, and a name of ours, of a network small enough to be fitted here."""
    for spec, name in (
        ("retinanet_resnet50_fpn_v2", "retinanet"),
        ("retinanet_resnet50_fpn:w.safetensors", "retinanet"),
        ("hustvl/yolos-tiny", "yolos"),
    ):
        assert family_of(spec).name == name
    assert load_backbone("retinanet_resnet18_fpn").width == 128
    with pytest.raises(ValueError, match="published weights of retinanet_resnet18_fpn can't be had"):
        load_backbone("retinanet_resnet18_fpn", pretrained=True)


def test_digests_bind_weights_and_preprocessing(tmp_path: Path, bases: dict[str, Path]) -> None:
    """Another side of the images, or one other weight, is another base."""
    for name, base in bases.items():
        (tmp_path / name).mkdir()
        again = imported(tmp_path / name, name)
        assert base_digest(again) == base_digest(base)
        weights = load_file(again / "model.safetensors")
        first = next(key for key, one in weights.items() if one.is_floating_point())
        save_file(weights | {first: weights[first] + 1}, again / "model.safetensors")
        assert base_digest(again) != base_digest(base)


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_what_they_do_not_serve_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "theirs").mkdir()
    spec = LOCAL[name](tmp_path / "theirs")
    for task, reason in (("segmentation", "no segmentation"), ("classification", "no classification")):
        with pytest.raises(ValueError, match=reason):
            task_of(task).backbone(load_backbone(spec))
        with pytest.raises(ValueError, match=f"serves no {task}"):
            import_base(spec, CLASSES, tmp_path / "base", task=task)
    with pytest.raises(ValueError, match="has 2 outputs, but 3 classes are named"):
        import_base(spec, ("a", "b", "c"), tmp_path / "base", task="detection")


def test_other_tensors_are_refused(tmp_path: Path, bases: dict[str, Path]) -> None:
    """By name, in one sentence; and an image that the pyramid can't halve."""
    weights = load_file(retinanet_file(tmp_path))
    for lost, reason in (
        ("backbone.fpn.layer_blocks.0.0.weight", "lacks the tensor 'backbone.fpn.layer_blocks.0.0.weight'"),
        ("backbone.body.layer1.0.conv1.weight", "is no RetinaNet of torchvision"),
    ):
        save_file({n: w for n, w in weights.items() if n != lost}, tmp_path / "odd.safetensors")
        with pytest.raises(ValueError, match=reason):
            load_backbone(str(tmp_path / "odd.safetensors"))
    whole = load_file(Path(yolos_folder(tmp_path / "whole")) / "model.safetensors")
    for lost in ("vit.layernorm.weight", "bbox_predictor.layers.2.bias"):
        save_file(
            {n: w for n, w in whole.items() if n != lost}, tmp_path / "whole" / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(ValueError, match=f"lack '{lost}'"):
            load_backbone(str(tmp_path / "whole"))
    with pytest.raises(ValueError, match="multiple of 32"):
        load_backbone(retinanet_file(tmp_path)).module(torch.zeros(1, 3, 72, 72))
    with pytest.raises(ValueError, match="no pyramid"):
        sides_of(17, 5)
    for name, base in bases.items():
        head = load_file(base / "head.safetensors")
        head.pop(max(head))
        (tmp_path / name).mkdir()
        for file in base.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        save_file(head, tmp_path / name / "head.safetensors")
        with pytest.raises(ValueError, match="not those of a head"):
            load_base(tmp_path / name)


# The loss


def test_anchors_are_matched_as_torchvision_matches_them(bases: dict[str, Path]) -> None:
    """Which anchor answers for which box, and which is left out, with filled-up rows and without a box."""
    network, model = retinanet(), load_base(bases["retinanet"])
    cells, images = Cells.of("home", 10), torch.zeros(10, 3, SIDE, SIDE)
    target = DETECTION.target(cells, model.origin.preprocessing)
    seen: list[torch.Tensor] = []
    kept = network.proposal_matcher

    def matcher(overlap: torch.Tensor) -> torch.Tensor:
        seen.append(kept(overlap))
        return seen[-1]

    network.proposal_matcher = matcher
    real = [boxes.real(one)[:, 1:] for one in target]
    true = [{"boxes": SIDE * one, "labels": torch.ones(len(one), dtype=torch.long)} for one in real]
    network.train()([*images], true)
    said = _answers(model, images)
    which = model.head.answered(said, target).squeeze(-1)
    some = [row for row, one in zip(which, real, strict=True) if len(one)]
    assert len(some) == len(seen) == 9 and all(map(torch.equal, some, seen))
    assert (which[9] == boxes.NONE).all() and {boxes.NONE, boxes.UNCOUNTED, 0, 1} == set(which.unique().tolist())


def test_queries_are_matched_as_transformers_matches_them(tmp_path: Path) -> None:
    """Each box by one query, none twice."""
    network, spec = yolos(), tmp_path / "theirs"
    network.save_pretrained(spec)
    import_base(str(spec), CLASSES, tmp_path / "base", task="detection")
    model, cells = load_base(tmp_path / "base"), Cells.of("home", 10)
    images, target = prepared(cells, tmp_path / "base"), DETECTION.target(cells, model.origin.preprocessing)
    with torch.inference_mode():
        said = network(pixel_values=images)
    true = [boxes.real(one) for one in target]
    pairs = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)(
        {"logits": said.logits, "pred_boxes": said.pred_boxes},
        [{"class_labels": one[:, 0].long(), "boxes": box_convert(one[:, 1:], "xyxy", "cxcywh")} for one in true],
    )
    which = model.head.answered(_answers(model, images), target).squeeze(-1)
    for row, (query, box), one in zip(which, pairs, true, strict=True):
        assert torch.equal(row[query], box) and int((row >= 0).sum()) == len(one)


# Adapted


@pytest.mark.parametrize("name", sorted(LOCAL))
@pytest.mark.parametrize("mechanism", [LinearProbe, LoRA, Full])
def test_zero_steps_are_served_as_the_base_and_steps_as_they_were_trained(
    bases: dict[str, Path], tmp_path: Path, mechanism: type, name: str
) -> None:
    """Written before any step, and after some, the parts on a fresh base answer as the model; the loss has fallen."""
    base = bases[name]
    model, cells = load_base(base), Cells.of("new", 4)
    images, true = prepared(cells, base), DETECTION.target(cells, model.origin.preprocessing)
    before, one = _answers(model, images), mechanism()
    moving = one.attach(model)
    assert torch.equal(_answers(model, images), before)
    (tmp_path / "none").mkdir()
    one.write(model, tmp_path / "none")
    logits = Predictor.load(base).logits(images)
    assert Predictor.load(base, tmp_path / "none").logits(images) == pytest.approx(logits, abs=1e-3)
    one.training(model)
    optimiser, loss = torch.optim.AdamW(moving, lr=one.learning_rate), CrossEntropyGIoU().loss(model.head)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        step = Step(rows=torch.arange(4), features=images, logits=model(images), again=lambda: images, target=true)
        value = loss(step)
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
    assert min(losses) < losses[0]
    (tmp_path / "some").mkdir()
    one.write(model.eval(), tmp_path / "some")
    served = Predictor.load(base, tmp_path / "some").logits(images)
    assert served == pytest.approx(_answers(model, images).numpy(), abs=5e-3)
    assert served != pytest.approx(logits, abs=1e-2)


@pytest.mark.parametrize("recipe", sorted(RECIPES | COMPARISONS))
def test_every_recipe_makes_a_version_of_a_yolos(bases: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    made(bases["yolos"], tmp_path, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(RECIPES | COMPARISONS))
def test_every_recipe_makes_a_version_of_a_retinanet(bases: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    made(bases["retinanet"], tmp_path, recipe)


def made(base: Path, tmp_path: Path, recipe: str) -> None:
    """A fresh predictor answers as its golden outputs say, which are few; the sensor is the base's."""
    candidate = run((RECIPES | COMPARISONS)[recipe], base=base, live_parts=None, new=Cells.of("new", 8, 2000),
                    memory=Cells.of("home", 8), develop=Joined(Cells.of("home", 4, 1000), Cells.of("new", 4, 3000)),
                    out=tmp_path / "out", seed=0, measure=f1, epochs=1)  # fmt: skip
    assert sorted(candidate.parts.values()) == sorted(file.name for file in candidate.folder.iterdir())
    assert (candidate.folder / "golden.safetensors").stat().st_size < 2**20
    check_golden(Predictor.load(base, candidate.folder), candidate.folder)
    images = prepared(Cells.of("new", 2, 3000), base)
    assert np.array_equal(*(Predictor.load(base, parts).embed(images) for parts in (None, candidate.folder)))
    assert json.dumps(candidate.made)


def fitted(backbone: str, out: Path, epochs: int, n: int) -> dict[str, Any]:
    return fit_base(Cells.of("home", n), Cells.of("home", 24, 1000), CLASSES, task="detection", backbone=backbone,
                    size=SIDE, epochs=epochs, seed=0, out=out, measure=f1)  # fmt: skip


def test_a_folder_is_fitted_to_other_classes(tmp_path: Path) -> None:
    """A YOLOS of five classes gets a head for two; the transformer alone, saved without any, gets one as well."""
    made = fitted(yolos_folder(tmp_path / "five", outputs=5), tmp_path / "base", 1, 8)
    assert (made["n_train"], Predictor.load(tmp_path / "base").classes) == (8, CLASSES)
    assert isinstance(YolosModel.from_pretrained(tmp_path / "base", add_pooling_layer=False), YolosModel)


@pytest.mark.slow
def test_a_small_retinanet_finds_cells(tmp_path: Path) -> None:
    """From random weights, and is written and read as any base."""
    made = fitted("retinanet_resnet18_fpn", tmp_path / "base", 24, 96)
    assert made["metrics"]["develop"] > 0.8
    record = json.loads((tmp_path / "base" / "base.json").read_text())
    assert (record["head"], record["task"]) == (["anchored"], "detection")
