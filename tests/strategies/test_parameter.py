"""The mechanisms of moving weights on trial: how they go on from a live version, and what the orthogonal one keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shapes import Shapes, balanced
from told import lesson
from torch.nn import functional

from strategies.augmentation import mirror
from strategies.base import fit_base, load_base
from strategies.experimental import DECODERS, PARAMETERS
from strategies.inputs import Images
from strategies.lessons import Joined
from strategies.model import Classifier
from strategies.parameter import EXPERIMENTAL, AdaLoRA, BitFit, DoRA, EarlyBlocks, LoRA, OrthogonalLoRA
from strategies.predictor import Predictor, apply_parts
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Candidate, Learner, ParameterMechanism, Recipe
from strategies.recipes import RECIPES, run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made") / "base"
    fit_base(Shapes.of("home", 64), Shapes.of("home", 16, 100), ("round", "square"), backbone="mobilenet_v3_small",
             size=32, epochs=6, seed=0, out=folder, measure=balanced)  # fmt: skip
    return folder


def go(base: Path, out: Path, recipe: Recipe, live: Path | None = None) -> Candidate:
    return run(recipe, base=base, live_parts=live, new=Shapes.of("new", 12, 200), memory=Shapes.of("home", 16),
               develop=Joined(Shapes.of("home", 8, 100), Shapes.of("new", 8, 300)), out=out, seed=0, measure=balanced,
               epochs=1)  # fmt: skip


def images_of(model: Classifier, examples: Shapes) -> torch.Tensor:
    preprocessing = model.origin.preprocessing
    return normalise(preprocessing, Pixels(examples, preprocessing)[range(len(examples))])


def still(mechanism: ParameterMechanism) -> Recipe:
    """A recipe in which the mechanism moves nothing."""
    mechanism.learning_rate = 1e-12
    stage = replace(RECIPES["lora_rehearsal"].stages[0], parameter=mechanism)
    return Recipe(name="still", stages=(stage,), risk=1)


def logits(base: Path, parts: Path | None, examples: Shapes) -> np.ndarray:
    predictor = Predictor.load(base, parts)
    return predictor.logits(torch.stack([predictor.prepare(examples.image(i)) for i in range(len(examples))]))


def test_each_is_on_trial_in_a_recipe_that_only_benchmarks_name() -> None:
    """One recipe each, which differs from lora_rehearsal in the weights that move alone; one more without rehearsal,
    and LoRA itself trained in a lean way, which no public recipe is."""
    used = [type(recipe.stages[0].parameter) for recipe in (PARAMETERS | DECODERS).values()]
    assert {*used} == {*EXPERIMENTAL, LoRA} and len(used) == len(EXPERIMENTAL) + 2 == 15
    public = [stage.parameter for recipe in RECIPES.values() for stage in recipe.stages]
    assert not any(isinstance(one, LoRA) and one.lean for one in public)
    assert not (PARAMETERS | DECODERS).keys() & RECIPES.keys()


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - {"prefix_rehearsal"}))
def test_what_was_learnt_is_carried_and_gone_on_from(base: Path, tmp_path: Path, name: str) -> None:
    """A recipe on trial makes a version that loads; later cheap steps keep it, and fine-tuning goes on from it."""
    live = go(base, tmp_path / "live", PARAMETERS[name])
    assert sorted(live.parts.values()) == sorted(file.name for file in live.folder.iterdir())
    new = Shapes.of("new", 8, 300)
    probe = go(base, tmp_path / "probe", still(type(RECIPES["linear_probe"].stages[0].parameter)()), live.folder)
    whole = go(base, tmp_path / "whole", still(type(RECIPES["full_finetune"].stages[0].parameter)(continues=True)),
               live.folder)  # fmt: skip
    was = load_base(base)
    apply_parts(was, live.folder)
    for one in (probe, whole):
        now = load_base(base)
        apply_parts(now, one.folder)
        weights = dict(now.named_parameters())
        assert weights.keys() == dict(was.named_parameters()).keys()
        assert all(torch.allclose(weight, weights[n], atol=1e-6) for n, weight in was.named_parameters())
    assert logits(base, probe.folder, new) == pytest.approx(logits(base, live.folder, new), abs=1e-4)
    assert "weights" in whole.parts and not {"adapter", "tuned", "inserted"} & {*whole.parts}


def test_an_orthogonal_adapter_is_stacked_on_the_live_one(base: Path, tmp_path: Path) -> None:
    """Nothing moved, it answers as the live version; to peft too the file is one adapter of the summed rank."""
    from peft import PeftModel

    live = go(base, tmp_path / "live", RECIPES["lora_rehearsal"])
    made = go(base, tmp_path / "made", still(OrthogonalLoRA(rank=4, alpha=4)), live.folder)
    new = Shapes.of("new", 8, 300)
    assert logits(base, made.folder, new) == pytest.approx(logits(base, live.folder, new), abs=1e-4)
    assert logits(base, made.folder, new) != pytest.approx(logits(base, None, new), abs=1e-2)
    assert json.loads((made.folder / "adapter_config.json").read_text())["r"] == 12
    rows = [a[8:] for n, a in load_file(made.folder / "adapter_model.safetensors").items() if ".lora_A." in n]
    assert all(a.flatten(1).norm(dim=1).numpy() == pytest.approx(3**-0.5, abs=1e-3) for a in rows)  # placed by the run
    again = go(base, tmp_path / "again", PARAMETERS["orthogonal_lora"], made.folder)
    plain = load_base(base)
    images = images_of(plain, new)
    plain.backbone.network = PeftModel.from_pretrained(plain.backbone.network, str(again.folder))
    plain.head.load_state_dict(load_file(again.folder / "head.safetensors"))
    with torch.inference_mode():
        assert plain.eval()(images).numpy() == pytest.approx(logits(base, again.folder, new), abs=1e-3)


def test_no_orthogonal_adapter_on_what_it_can_not_be_added_to(base: Path, tmp_path: Path) -> None:
    """DoRA scales the rows, so no product can be added behind it; and without old cases nothing is to keep off."""
    live = go(base, tmp_path / "live", still(DoRA()))
    with pytest.raises(ValueError, match="can't be stacked"):
        go(base, tmp_path / "out", PARAMETERS["orthogonal_lora"], live.folder)
    shapes = Shapes.of("new", 8, 200)
    with pytest.raises(ValueError, match="no remembered case"):
        placed(load_base(base), OrthogonalLoRA(), shapes, Shapes.of("home", 0))


def placed(model: Classifier, mechanism: ParameterMechanism, new: Shapes, old: Shapes) -> list[torch.nn.Parameter]:
    moving = mechanism.attach(model)
    if isinstance(mechanism, OrthogonalLoRA):
        inputs = Images(Pixels(Joined(new, old), model.origin.preprocessing), mirror)
        learner = Learner(encoder=model.backbone, head=model.head, moving=moving, inputs=inputs)
        mechanism.place(lesson(new, old), learner)
    return moving


def moved_when_learnt(base: Path, mechanism: ParameterMechanism, goal: float) -> float:
    """How far logits of unseen old cases have moved (root mean square) when the new site's loss is down to `goal`."""
    torch.manual_seed(0)
    model, new = load_base(base), Shapes.of("new", 32, 200)
    judge, images, target = images_of(model, Shapes.of("home", 32, 400)), images_of(model, new), torch.tensor(new.label)
    with torch.no_grad():
        before = model(judge)
    placed(model, mechanism, new, Shapes.of("home", 32))
    moving = [weight for weight in model.backbone.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=1e-3)
    for _ in range(100):
        loss = functional.cross_entropy(model.eval()(images), target)
        if loss.item() < goal:
            with torch.no_grad():
                return float((model(judge) - before).square().mean().sqrt())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError(f"the new site was not learnt: {loss.item():.3g}")


def test_an_orthogonal_adapter_moves_old_answers_less(tmp_path: Path) -> None:
    """At the same loss on the new site, with no old case rehearsed and the head kept, old answers have moved less."""
    base = tmp_path / "base"
    fit_base(Shapes.of("home", 96), Shapes.of("home", 32, 100), ("round", "square"), backbone="test_vit", size=32,
             epochs=16, seed=0, out=base, measure=balanced)  # fmt: skip
    off, plain = (moved_when_learnt(base, mechanism, goal=0.3) for mechanism in (OrthogonalLoRA(), LoRA()))
    assert off < 0.5 * plain


def test_early_blocks_alone_move_and_replace_each_other(base: Path, tmp_path: Path) -> None:
    """What lies behind them and every statistic stays the base's; a later version holds them once, and what another
    mechanism tuned behind them stays."""
    biases = go(base, tmp_path / "biases", replace(PARAMETERS["bitfit_rehearsal"], stages=(
        replace(RECIPES["lora_rehearsal"].stages[0], parameter=BitFit()),)))  # fmt: skip
    first = go(base, tmp_path / "first", PARAMETERS["early_blocks_rehearsal"], biases.folder)
    again = go(base, tmp_path / "again", PARAMETERS["early_blocks_rehearsal"], first.folder)
    states = []
    for one in (biases, first, again):
        model = load_base(base)
        apply_parts(model, one.folder)
        states.append(model.backbone.state_dict())
    cut = int(0.3 * load_base(base).origin.depth)
    assert cut == 4
    for before, after in pairwise(states):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert {int(name.split(".")[2]) for name in moved} == set(range(cut))
        assert not any("running" in name for name in moved)
    files = [load_file(one.folder / "tuned.safetensors") for one in (biases, first, again)]
    assert files[0].keys() < files[1].keys() == files[2].keys()
    assert (again.folder / "tuned.safetensors").stat().st_size < 100_000  # of 3.7 MB


def test_a_network_without_early_blocks_is_refused(base: Path) -> None:
    """A share of less than a block would be the head alone, under another name."""
    with pytest.raises(ValueError, match="can't be told from late ones"):
        EarlyBlocks(share=0.05).attach(load_base(base))
    model = load_base(base)
    LoRA().attach(model)
    with pytest.raises(ValueError, match="carries an adapter"):
        EarlyBlocks().attach(model)


def test_adalora_shares_out_its_rank(base: Path, tmp_path: Path) -> None:
    """A run ends at the average rank asked for, differently spent over layers, with orthonormal rows; the same seed
    gives the same bytes, and peft's own reader the same answers."""
    from peft import PeftModel

    made, again = (go(base, tmp_path / name, PARAMETERS["adalora_rehearsal"]) for name in ("made", "again"))
    assert all((again.folder / name).read_bytes() == (made.folder / name).read_bytes() for name in made.parts.values())
    ranks = [sum(kept) for kept in record_of(made)["rank_pattern"].values()]
    weights = load_file(made.folder / "adapter_model.safetensors")
    assert sorted(ranks) == sorted(len(e) for name, e in weights.items() if "lora_E" in name)
    assert len({*ranks}) > 1 and np.mean(ranks) == pytest.approx(8, abs=0.01)
    grams = [a @ a.T - torch.eye(len(a)) for name, a in weights.items() if "lora_A" in name]
    assert max(float(gram.norm()) for gram in grams) < 0.03  # 0.11 without the term of the loss
    new, plain = Shapes.of("new", 8, 300), load_base(base)
    images = images_of(plain, new)
    plain.backbone.network = PeftModel.from_pretrained(plain.backbone.network, str(made.folder))
    plain.head.load_state_dict(load_file(made.folder / "head.safetensors"))
    with torch.inference_mode():
        assert plain.eval()(images).numpy() == pytest.approx(logits(base, made.folder, new), abs=1e-3)
    assert logits(base, made.folder, new) != pytest.approx(logits(base, None, new), abs=1e-2)


def record_of(candidate: Candidate) -> dict:
    return json.loads((candidate.folder / "adapter_config.json").read_text())


def test_adalora_writes_the_ranks_of_the_epoch_that_is_kept(base: Path, tmp_path: Path) -> None:
    """The best epoch may lie before the last cut; its weights are served whole, with the ranks that they had then."""
    torch.manual_seed(0)
    model, mechanism = load_base(base), AdaLoRA()
    moving = mechanism.attach(model)
    images = images_of(model, Shapes.of("new", 8, 200))
    optimiser = torch.optim.AdamW(moving, lr=1e-2)
    for done in range(1, 11):
        optimiser.zero_grad()
        (functional.cross_entropy(model(images), torch.arange(8) % 2) + mechanism.penalty(model)).backward()
        optimiser.step()
        mechanism.stepped(model, done, 10)
        if done == 4:
            kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(kept)
    mechanism.write(model, tmp_path)
    pattern = json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    assert 8 < np.mean([sum(one) for one in pattern.values()]) < 12
    with torch.inference_mode():
        assert model.eval()(images).numpy() == pytest.approx(logits(base, tmp_path, Shapes.of("new", 8, 200)), abs=1e-3)


def test_the_penalty_is_that_of_peft(base: Path) -> None:
    """peft has it within a forward whose output holds a loss, which no encoder's does; the number is the same."""
    model, mechanism = load_base(base), AdaLoRA()
    mechanism.attach(model)
    adapted = model.backbone.network.base_model
    adapted.model.forward = lambda: SimpleNamespace(loss=torch.zeros(()))
    assert mechanism.penalty(model).item() == pytest.approx(adapted().loss.item(), rel=1e-5)


def test_ranks_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    """A version whose ranks don't fit its weights never serves."""
    made = go(base, tmp_path / "made", still(AdaLoRA()))
    record = record_of(made)
    name = min(record["rank_pattern"])
    for ranks in ({"other": [True]}, {name: [True]}, {name: 3}, [name]):
        (made.folder / "adapter_config.json").write_text(json.dumps(record | {"rank_pattern": ranks}))
        with pytest.raises(ValueError, match=r"does not fit this base|another model"):
            Predictor.load(base, made.folder)
