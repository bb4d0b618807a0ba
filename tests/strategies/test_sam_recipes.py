"""SAM adapted by recipes, whole: a base on generated discs, every recipe that serves masks, and a learnt prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sams
import torch
from discs import CLASSES, Discs, dice
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from strategies.base import base_digest, fit_base, load_base, write_base
from strategies.experimental import DECODERS, PARAMETERS
from strategies.families import load_backbone
from strategies.families.sam import Places
from strategies.model import Classifier
from strategies.parameter import Decoder, SAMed
from strategies.parameter.decoder import encoder_depth
from strategies.predictor import Predictor, apply_parts, check_golden
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Candidate, Recipe
from strategies.recipes import RECIPES, run
from strategies.tasks import task_of
from strategies.training import train

SEGMENTATION = task_of("segmentation")
ALL = RECIPES | DECODERS | {"bottleneck_rehearsal": PARAMETERS["bottleneck_rehearsal"]}


class Dim(Discs):
    """Another site: the same discs, darker and with less contrast."""

    def image(self, i: int) -> np.ndarray:
        return super().image(i) * np.float32(0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained faster than `fit` dares, so that there are features to defend."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("sam")
    origin = load_backbone(str(sams.checkpoint(root / "vit.safetensors")))
    model = Classifier(origin, SEGMENTATION.head(origin, 3), CLASSES, "segmentation")
    parts = [Discs.of("home", 48), Discs.of("home", 6, 100)]
    truth = [SEGMENTATION.target(part, origin.preprocessing) for part in parts]
    images = [Pixels(part, origin.preprocessing) for part in parts]
    inputs, shown = (SEGMENTATION.inputs(*both, True) for both in zip(images, truth, strict=True))
    train(model.backbone, model.head, model.parameters(), inputs, parts[0].label, develop=(shown, parts[1].label),
          measure=dice, task=SEGMENTATION, truth=truth[1], loss=SEGMENTATION.fitted(truth[0], model.head), epochs=40,
          learning_rate=8e-3, seed=0, patience=40)  # fmt: skip
    write_base(model, root / "base", {})
    return root / "base"


def go(base: Path, out: Path, recipe: Recipe, live: Path | None = None, epochs: int = 1, **more: Path) -> Candidate:
    return run(recipe, base=base, live_parts=live, new=Dim.of("dim", 12, 200), memory=Discs.of("home", 8),
               develop=Dim.of("dim", 8, 300), out=out, seed=0, measure=dice, epochs=epochs, **more)  # fmt: skip


def prepared(base: Path, examples: Discs) -> torch.Tensor:
    preprocessing = load_base(base).origin.preprocessing
    return normalise(preprocessing, Pixels(examples, preprocessing)[range(len(examples))])


def logits(base: Path, parts: Path | None) -> np.ndarray:
    return Predictor.load(base, parts).logits(prepared(base, Dim.of("dim", 3, 300)))


def held_dice(base: Path, parts: Path | None) -> float:
    predictor, examples = Predictor.load(base, parts), Dim.of("dim", 12, 500)
    target = SEGMENTATION.target(examples, predictor.preprocessing)
    return dice(SEGMENTATION.rows(predictor.answer(prepared(base, examples)), target), examples.label)


def test_a_base_is_sam_and_a_head_that_goes_up_to_the_pixels(base: Path) -> None:
    """transformers' own folder inside; the head is a convolution on each place, and bilinear between them."""
    record = json.loads((base / "base.json").read_text())
    assert (record["task"], record["head"]) == ("segmentation", ["conv", "finer2"])
    assert json.loads((base / "config.json").read_text())["model_type"] == "sam"
    assert logits(base, None).shape == (3, 3, 32, 32)
    model, images = load_base(base), prepared(base, Discs.of("home", 2))
    with torch.inference_mode():
        places = model.head[0](model.features(images))  # type: ignore[index]
        wanted = nn.functional.interpolate(places, scale_factor=2, mode="bilinear")
        assert torch.equal(model(images), wanted)
    sensed = Predictor.load(base).embed(images)
    assert sensed.shape == (2, 32)  # the image embedding's channels


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_recipe_makes_a_version_that_loads(base: Path, tmp_path: Path, name: str) -> None:
    """Its parts are all that its folder holds, portable; a fresh predictor answers as its golden outputs say."""
    before = base_digest(base)
    candidate = go(base, tmp_path / "out", ALL[name])
    assert sorted(candidate.parts.values()) == sorted(file.name for file in candidate.folder.iterdir())
    assert {file.suffix for file in candidate.folder.iterdir()} <= {".json", ".safetensors"}
    check_golden(Predictor.load(base, candidate.folder), candidate.folder)
    assert base_digest(base) == before
    assert len(ALL) == 10


def test_samed_adapts_queries_and_values_and_the_decoder(base: Path, tmp_path: Path) -> None:
    """peft's own adapter on q and v of every layer; every tensor of the decoder in a file of its own; it learns."""
    short = go(base, tmp_path / "out", DECODERS["samed_rehearsal"], epochs=12)
    config = json.loads((short.folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    assert config["target_modules"] == sorted(
        f"vision_encoder.layers.{i}.attn.qkv.{one}" for i in range(2) for one in ("q", "v")
    )
    tuned = load_file(short.folder / "tuned.safetensors")
    assert {name.split(".")[0] for name in tuned} == {"mask_decoder", "prompt_encoder"}
    assert "prompt_encoder.no_mask_embed.weight" in tuned and "mask_decoder.mask_tokens.weight" in tuned
    assert not any("lora" in name or "iou_prediction" in name for name in tuned)
    frozen, now = load_base(base), load_base(base)
    apply_parts(now, short.folder)
    moved = {n for n, w in now.state_dict().items() if not torch.equal(w, frozen.state_dict()[n])}
    encoder = {n for n in moved if "vision_encoder" in n}
    assert encoder == {
        f"backbone.network.vision_encoder.layers.{i}.attn.qkv.{one}.weight" for i in range(2) for one in ("q", "v")
    }
    assert held_dice(base, short.folder) > held_dice(base, None) + 0.1


def test_bottlenecks_stand_in_the_encoder_alone_and_the_decoder_moves(base: Path, tmp_path: Path) -> None:
    """No weight of the encoder's own moves: one module behind each of its blocks, and every tensor of the decoder."""
    short = go(base, tmp_path / "out", DECODERS["med_sa_rehearsal"], epochs=12)
    depth = encoder_depth(load_base(base).origin)
    inserted = load_file(short.folder / "inserted.safetensors")
    assert {name.rpartition(".")[0] for name in inserted} == {f"{i}.bottleneck" for i in range(depth)}
    assert all(inserted[f"{i}.bottleneck.up"].abs().max() > 0 for i in range(depth))
    tuned = load_file(short.folder / "tuned.safetensors")
    assert {name.split(".")[0] for name in tuned} == {"mask_decoder", "prompt_encoder"}
    assert held_dice(base, short.folder) > held_dice(base, None) + 0.1


def test_a_decoder_alone_leaves_the_encoder_and_reads_embeddings_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many epochs there are: images pass the layers of the encoder when the cache is filled, and never again;
    another recipe of the same job does not fill it anew."""
    passed: list[int] = []
    forward = Places.forward
    monkeypatch.setattr(Places, "forward", lambda self, maps: passed.append(len(maps)) or forward(self, maps))
    filled = []
    for epochs in (1, 5):
        passed.clear()
        go(base, tmp_path / f"out{epochs}", DECODERS["decoder_rehearsal"], epochs=epochs)
        filled.append(sum(passed))
    assert filled[0] == filled[1]
    kept = tmp_path / "latents"
    passed.clear()
    made = go(base, tmp_path / "first", DECODERS["decoder_rehearsal"], latents=kept)
    first = sum(passed)
    passed.clear()
    go(base, tmp_path / "second", DECODERS["learned_prompt_rehearsal"], latents=kept)
    assert sum(passed) <= first - 2 * 2 * 20 + 3 * 2  # two views of 20 cases through two layers, less three probes
    weights = load_base(base).state_dict()
    now = load_base(base)
    apply_parts(now, made.folder)
    moved = {n for n, w in now.state_dict().items() if not torch.equal(w, weights[n])}
    assert moved and not any("vision_encoder" in name or "point_embed" in name for name in moved)
    assert set(made.parts) >= {"tuned", "head"} and "adapter" not in made.parts


def test_a_learned_prompt_is_a_part_and_its_change_a_new_version(base: Path, tmp_path: Path) -> None:
    """One tensor of the image embedding's shape and nothing else moves; what goes on from it goes on with it."""
    first = go(base, tmp_path / "first", DECODERS["learned_prompt_rehearsal"], epochs=2)
    assert set(first.parts) == {"prompt", "recalibrator", "preprocessing", "thresholds", "golden"}
    (dense,) = load_file(first.folder / "prompt.safetensors").values()
    assert dense.shape == (32, 4, 4) and dense.abs().max() > 0
    assert first.made["trainable_parameters"] == dense.numel()
    assert logits(base, first.folder) != pytest.approx(logits(base, None), abs=1e-3)
    second = go(base, tmp_path / "second", DECODERS["learned_prompt_rehearsal"], first.folder)
    assert (second.folder / "prompt.safetensors").read_bytes() != (first.folder / "prompt.safetensors").read_bytes()
    assert second.made["started_from"] == "live"
    still = replace(DECODERS["decoder_rehearsal"].stages[0], parameter=Decoder(1e-12))
    carried = go(base, tmp_path / "carried", Recipe(name="still", stages=(still,), risk=1), first.folder)
    assert {"prompt", "tuned", "head"} <= set(carried.parts)
    assert logits(base, carried.folder) == pytest.approx(logits(base, first.folder), abs=1e-4)
    whole = go(base, tmp_path / "whole", RECIPES["full_rehearsal"], first.folder)
    third = go(base, tmp_path / "third", DECODERS["learned_prompt_rehearsal"], whole.folder)
    assert {"weights", "prompt"} <= set(third.parts)
    with safe_open(third.folder / "prompt.safetensors", "np") as opened:
        assert list(opened.keys()) == ["4.prompt.dense"]


def test_a_prompt_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    """By the name of its part."""
    from safetensors.torch import save_file

    save_file({"40.prompt.dense": torch.zeros(1)}, tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match=r"part prompt.safetensors has the odd tensor '40.prompt.dense'"):
        Predictor.load(base, tmp_path)


def test_a_network_without_a_decoder_apart_is_refused(tmp_path: Path) -> None:
    """In a sentence, before anything is attached."""
    fit_base(Discs.of("home", 4), Discs.of("home", 2, 100), CLASSES, task="segmentation", size=32, epochs=1,
             out=tmp_path / "unet", measure=dice)  # fmt: skip
    for recipe in DECODERS.values():
        with pytest.raises(ValueError, match="has no decoder apart from its encoder, as SAM has"):
            go(tmp_path / "unet", tmp_path / recipe.name, recipe)
    model = load_base(tmp_path / "unet")
    with pytest.raises(ValueError, match="no decoder apart"):
        SAMed().attach(model)
    assert not hasattr(model.backbone.network, "peft_config")


def test_another_size_is_fitted_with_its_own_positions(tmp_path: Path) -> None:
    """`--size`: positions are interpolated as SAMed's; a side that is no whole number of patches is refused."""
    sam = str(sams.checkpoint(tmp_path / "vit.safetensors"))

    def fitted(size: int) -> Path:
        out = tmp_path / f"base{size}"
        fit_base(Discs.of("home", 4), Discs.of("home", 2, 100), CLASSES, task="segmentation", backbone=sam, size=size,
                 epochs=1, out=out, measure=dice)  # fmt: skip
        return out

    assert logits(fitted(48), None).shape == (3, 3, 48, 48)
    with pytest.raises(ValueError, match="takes no images of 44 pixels"):
        fitted(44)
