"""Networks of volumes: several slices of a case at once, on the same terms as those that read each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from balls import Balls
from discs import dice
from torch import nn

from strategies.axes import depth
from strategies.base import fit_base, load_base
from strategies.families import load_backbone
from strategies.families.monai import DESIGNS
from strategies.parameter import LoRA
from strategies.predictor import Predictor, apply_parts, check_golden
from strategies.preprocessing import Pixels
from strategies.recipes import RECIPES, run
from strategies.slices import slices_in

SMALL = {"out_channels": 8, "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1, "norm": "batch"}
SLICES = 8


def network(folder: Path) -> Path:
    """A small UNet of volumes as a folder, with random weights."""
    from monai.networks.nets import UNet
    from safetensors.torch import save_file

    arguments = {"spatial_dims": 3, "in_channels": 3} | SMALL
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(UNet(**arguments).state_dict(), folder / "model.safetensors")
    record = {"library": "monai", "architecture": "unet3d", "arguments": arguments}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


def balls(domain: str, n: int, first: int = 0) -> Balls:
    return Balls.of(domain, n, first, SLICES).drawn()


def fitted(backbone: Path | str, out: Path, epochs: int, slices: int = SLICES) -> dict:
    return fit_base(balls("home", 24), balls("home", 8, 500), ("background", "ball"), task="segmentation",
                    backbone=str(backbone), size=32, slices=slices, epochs=epochs, out=out, measure=dice)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("made")
    fitted(network(root / "network"), root / "base", epochs=12)
    return root / "base"


def dice_of(base: Path, parts: Path | None, cases: Balls) -> float:
    """Over all voxels of a case, a mean over cases."""
    predictor, found = Predictor.load(base, parts), []
    for i in range(len(cases)):
        said = predictor.decide(predictor.answer(predictor.prepare(cases.image(i))[None]))[0]
        true = cases.mask(i).reshape(said.shape)
        found.append(2 * (said * true).sum() / (said.sum() + true.sum()))
    return float(np.mean(found))


@pytest.mark.parametrize("name", [name for name, design in DESIGNS.items() if design.dimensions == 3])
def test_every_design_of_volumes_saves_and_reads_back(tmp_path: Path, name: str) -> None:
    """Tall cases in, tall maps out, of which every slice is told by its neighbours; a sensor of few numbers."""
    torch.manual_seed(0)
    origin, tall = load_backbone(f"monai:{name}"), torch.rand(2, 3, 8 * 32, 32)
    module, sensor = origin.module.eval(), origin.sensor.eval()
    with torch.inference_mode():
        answers, sensed = module(tall), sensor(tall)
        assert answers.shape == (2, origin.width, 8 * 32, 32) and origin.stride == 1
        assert sensed.ndim == 2 and len(sensed) == 2 and sensed.shape[1] <= 512
        moved = tall.clone()
        moved[:, :, 4 * 32 : 5 * 32] += 1
        changed = (module(moved) - answers).abs().amax(dim=(0, 1, 3)).view(8, 32).amax(dim=1)
        assert (changed[2:7] > 0).all(), "a slice is read beside others"
        for cut in range(origin.depth + 1):
            prefix, suffix = origin.split(cut)
            assert torch.equal(suffix.eval()(prefix.eval()(tall)), answers)
        layers = dict(module.named_modules())
        assert {type(layers[layer]) for layer in origin.adaptable()} == {nn.Conv3d}
        origin.save(tmp_path / "saved")
        again = load_backbone(str(tmp_path / "saved"))
        assert torch.equal(again.module.eval()(tall), answers) and torch.equal(again.sensor.eval()(tall), sensed)


def test_it_is_fitted_and_answers_volumes(base: Path) -> None:
    """As many slices as it was fitted on, of a volume of any depth, and of one slice."""
    held = balls("home", 8, 5000)
    assert dice_of(base, None, held) > 0.6
    predictor = Predictor.load(base)
    several = [predictor.prepare(image) for image in (held.image(0), held.image(0)[:1], held.image(0)[0])]
    said = predictor.observe(torch.stack(several))
    assert said.probabilities.shape == (3, 2, SLICES * 32, 32) and slices_in(torch.from_numpy(said.logits)) == SLICES
    assert (said.probabilities[1] == said.probabilities[2]).all() and said.embedding.shape == (3, 32)
    assert (predictor.answer(several[0][None])[0] == said.probabilities[0]).all()


@pytest.mark.parametrize("name", ["full_rehearsal", "lora_rehearsal", "linear_probe", "recalibrate"])
def test_it_is_adapted_to_another_site(base: Path, tmp_path: Path, name: str) -> None:
    """Low rank is merged into convolutions of volumes as into flat ones; what is served is what was written."""
    new, develop = balls("new", 12), balls("new", 4, 300)
    made = run(RECIPES[name], base=base, live_parts=None, new=new, memory=balls("home", 8), develop=develop,
               out=tmp_path / "out", seed=0, measure=dice, epochs=4)  # fmt: skip
    check_golden(Predictor.load(base, tmp_path / "out"), tmp_path / "out")
    held = balls("new", 6, 5000)
    if name.startswith(("full", "lora")):
        assert dice_of(base, tmp_path / "out", held) > dice_of(base, None, held) + 0.1
        found = depth(base, None, tmp_path / "out", Pixels(develop, Predictor.load(base).preprocessing))
        assert found.touched and found.earliest == 1 and 0 < found.change[0] < 1
    assert made.made["n"]["new"] == 12


def test_what_is_merged_is_what_was_trained(base: Path, tmp_path: Path) -> None:
    """An adapter of any weights answers as a part as it did while it was attached."""
    model, tall = load_base(base), torch.rand(1, 3, SLICES * 32, 32)
    plain = model.features(tall)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in LoRA().attach(model):
            weight.normal_(std=0.1)
    LoRA().write(model, tmp_path)
    served = load_base(base)
    apply_parts(served, tmp_path)
    with torch.inference_mode():
        attached = model.eval()(tall)
        assert torch.allclose(served.eval()(tall), attached, atol=1e-3 * float(attached.abs().max()))
        assert not torch.allclose(served.features(tall), plain, atol=1e-2)


def test_too_few_slices_and_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes no images of 32 pixels a side and 1 of its slices"):
        fit_base(Balls.of("home", 8, slices=1).drawn(), Balls.of("home", 4, 500, 1).drawn(), ("background", "ball"),
                 task="segmentation", backbone="monai:unet3d", size=32, out=tmp_path / "b", measure=dice)  # fmt: skip
    with pytest.raises(ValueError, match="no classification"):
        fit_base(Balls.of("home", 8), Balls.of("home", 4, 500), ("clear", "ball"), backbone="monai:unet3d",
                 size=32, slices=8, out=tmp_path / "b", measure=dice)  # fmt: skip
