"""Every recipe, run whole on a tiny network and images of two sites: what it writes, keeps, refuses and repeats."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import Shapes, balanced

from strategies.base import Chosen, fit_base, load_base
from strategies.data import Curated, Rehearsal, herding
from strategies.experimental import DATA, OBJECTIVES
from strategies.objective import EWC, CrossEntropy, WorstGroup
from strategies.objective.sum import Sum
from strategies.parameter import Full, LoRA
from strategies.predictor import Predictor, apply_parts, check_golden
from strategies.preprocessing import apply
from strategies.protocols import Recipe, Stage
from strategies.recipes import COMPARISONS, RECIPES, Joined, run

CLASSES = ("round", "square")
ALL = RECIPES | COMPARISONS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made") / "base"
    home, develop = Shapes.of("home", 32), Shapes.of("home", 16, 100)
    fit_base(home, develop, CLASSES, backbone="mobilenet_v3_small", epochs=1, seed=0, out=folder, measure=balanced)
    return folder


def go(base: Path, out: Path, recipe: Recipe, *, live: Path | None = None, seed: int = 0, epochs: int = 1):
    return run(
        recipe,
        base=base,
        live_parts=live,
        new=Shapes.of("new", 12, 200),
        memory=Shapes.of("home", 16),
        develop=Joined(Shapes.of("home", 8, 100), Shapes.of("new", 8, 300)),
        out=out,
        seed=seed,
        measure=balanced,
        epochs=epochs,
    )


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_recipe_makes_a_version_that_loads(base: Path, tmp_path: Path, name: str) -> None:
    """The parts that a recipe names are all that its folder holds; they load, and answer as the golden outputs say."""
    before = digests(base)
    candidate = go(base, tmp_path / "out", ALL[name])
    assert sorted(candidate.parts.values()) == sorted(file.name for file in candidate.folder.iterdir())
    predictor = Predictor.load(base, candidate.folder)
    check_golden(predictor, candidate.folder)
    assert digests(base) == before
    assert candidate.recipe == name
    assert candidate.made["seconds"] > 0
    assert (candidate.made["epochs"], candidate.made["trainable_parameters"] > 0) == (
        (0, False) if name == "recalibrate" else (1, True)
    )
    assert json.dumps(candidate.made)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_after_a_training_no_answer_is_recalibrated_away(base: Path, tmp_path: Path, name: str) -> None:
    """A bias per class, fitted where a new site is mostly wrong, would undo at home what the training kept."""
    candidate = go(base, tmp_path / "out", RECIPES[name])
    if "recalibrator" in candidate.parts:
        bias = json.loads((candidate.folder / "recalibrator.json").read_text())["bias"]
        assert any(bias) == (name == "recalibrate")


def test_the_epoch_is_not_chosen_by_two_odd_cases(base: Path, tmp_path: Path) -> None:
    """The measure over domains weighs them by the root of their cases."""
    weighed = []

    def noted(probabilities: np.ndarray, labels: np.ndarray) -> float:
        weighed.append(len(labels))
        return 1.0 if len(labels) == 32 else 0.0

    develop = Joined(Shapes.of("home", 32, 100), Shapes.of("new", 2, 300))
    made = run(RECIPES["linear_probe"], base=base, live_parts=None, new=Shapes.of("new", 12, 200),
               memory=Shapes.of("home", 16), develop=develop, out=tmp_path / "out", seed=0, measure=noted,
               epochs=1).made  # fmt: skip
    assert sorted(weighed) == [2, 32]
    assert made["stages"][0]["develop"] == [pytest.approx(0.8)]


@pytest.mark.parametrize(("name", "asked"), [("full_finetune", {"new"}), ("full_rehearsal", {"home", "new"})])
def test_the_epoch_is_chosen_on_what_is_taught(base: Path, tmp_path: Path, name: str, asked: set[str]) -> None:
    """Naive fine-tuning doesn't see home in any way: it would stop before it forgets, and not be naive."""
    seen: list[int] = []

    def measure(probabilities: np.ndarray, labels: np.ndarray) -> float:
        seen.append(len(labels))
        return balanced(probabilities, labels)

    develop = Joined(Shapes.of("home", 7, 300), Shapes.of("new", 5, 400))
    run(ALL[name], base=base, live_parts=None, new=Shapes.of("new", 16, 200), memory=Shapes.of("home", 16),
        develop=develop, out=tmp_path / "out", seed=0, measure=measure, epochs=1)  # fmt: skip
    assert set(seen) == {7 if domain == "home" else 5 for domain in asked}


def test_the_recipes_that_are_covered_are_all() -> None:
    """Five for plans, from cheap to deep, and one that only the benchmark names."""
    assert list(RECIPES) == ["recalibrate", "linear_probe", "lora_rehearsal", "full_rehearsal", "full_finetune"]
    assert [recipe.risk for recipe in RECIPES.values()] == sorted(recipe.risk for recipe in RECIPES.values())
    assert len(COMPARISONS) == 1


def test_a_fresh_adapter_changes_nothing(base: Path) -> None:
    """Before the first step, the adapted model answers as the base does, to the bit."""
    images = torch.stack([apply(load_base(base).origin.preprocessing, Shapes.of("new", 4).image(i)) for i in range(4)])
    model = load_base(base)
    with torch.inference_mode():
        before = model(images)
        LoRA().attach(model)
        assert torch.equal(model.eval()(images), before)


def test_an_adapter_opens_with_plain_peft(base: Path, tmp_path: Path) -> None:
    """`PeftModel.from_pretrained` on the base's own network, and the head beside it, give the version's logits."""
    from peft import PeftModel
    from safetensors.torch import load_file

    candidate = go(base, tmp_path / "out", RECIPES["lora_rehearsal"])
    predictor = Predictor.load(base, candidate.folder)
    images = torch.stack([predictor.prepare(Shapes.of("new", 4).image(i)) for i in range(4)])
    plain = load_base(base)
    plain.backbone.network = PeftModel.from_pretrained(plain.backbone.network, str(candidate.folder))
    plain.head.load_state_dict(load_file(candidate.folder / "head.safetensors"))
    with torch.inference_mode():
        assert plain.eval()(images).numpy() == pytest.approx(predictor.observe(images).logits, abs=1e-4)
    assert "/" not in str(json.loads((candidate.folder / "adapter_config.json").read_text())["base_model_name_or_path"])


def test_same_seed_same_bytes(base: Path, tmp_path: Path) -> None:
    """A training that is repeated gives the same files to the byte; another seed gives others."""
    one, two, other = (
        digests(go(base, tmp_path / f"{i}", RECIPES["lora_rehearsal"], seed=seed).folder)
        for i, seed in enumerate((3, 3, 4))
    )
    assert one == two
    assert one["adapter_model.safetensors"] != other["adapter_model.safetensors"]


def test_recalibration_keeps_what_the_live_version_learnt(base: Path, tmp_path: Path) -> None:
    """After an adapter, the cheap steps carry it along and are whole without it; a new adapter starts from the base."""
    live = go(base, tmp_path / "live", RECIPES["lora_rehearsal"])
    again = go(base, tmp_path / "again", RECIPES["recalibrate"], live=live.folder)
    probe = go(base, tmp_path / "probe", RECIPES["linear_probe"], live=live.folder)
    deeper = go(base, tmp_path / "deeper", RECIPES["lora_rehearsal"], live=live.folder)
    files = digests(live.folder)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert digests(again.folder)[name] == digests(probe.folder)[name] == files[name]
    assert (
        digests(again.folder)["head.safetensors"]
        == files["head.safetensors"]
        != digests(probe.folder)["head.safetensors"]
    )
    assert digests(deeper.folder) == files
    assert [one.made["started_from"] for one in (again, probe, deeper)] == ["live", "live", "base"]


@pytest.mark.parametrize("before", ["lora_rehearsal", "full_rehearsal", "linear_probe"])
def test_fine_tuning_goes_on_from_what_is_live_whatever_made_that(base: Path, tmp_path: Path, before: str) -> None:
    """At no learning rate its weights are those of the live version; its files are whole, nothing is applied twice."""
    live = go(base, tmp_path / "live", RECIPES[before], epochs=2)
    stage = RECIPES["full_rehearsal"].stages[0]
    still = Stage(parameter=Full(1e-12, continues=True), objective=stage.objective, data=stage.data)
    made = go(base, tmp_path / "out", Recipe(name="still", stages=(still,), risk=4), live=live.folder)
    assert made.made["started_from"] == "live"
    assert {"weights", "head"} <= {*made.parts} and "adapter" not in made.parts
    assert not (made.folder / "adapter_config.json").exists()
    was, now = load_base(base), load_base(base)
    apply_parts(was, live.folder)
    apply_parts(now, made.folder)
    weights = dict(was.named_parameters())
    assert weights and all(torch.allclose(weight, weights[name], atol=1e-6) for name, weight in now.named_parameters())


def test_training_that_diverges_ends_with_one_sentence(base: Path, tmp_path: Path) -> None:
    """A learning rate beyond all bounds is a ValueError that says what happened, not a candidate of NaN."""
    stage = RECIPES["lora_rehearsal"].stages[0]
    wild = Recipe(
        name="wild",
        risk=9,
        stages=(Stage(parameter=LoRA(learning_rate=1e6), objective=stage.objective, data=stage.data, epochs=4),),
    )
    with pytest.raises(ValueError, match="diverged"):
        go(base, tmp_path / "out", wild, epochs=4)


def test_what_can_not_be_learnt_from_is_refused(base: Path, tmp_path: Path) -> None:
    """No new case, no develop case, a case without a label, a folder that is taken: each is one sentence."""
    new, develop = Shapes.of("new", 4), Shapes.of("home", 4)
    nothing, unknown = (
        Chosen(new, np.arange(0)),
        Shapes(np.array([0, -1]), np.array(["a1", "a2"]), np.array(["new"] * 2)),
    )
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    for says, changed in {
        "no new labelled": {"new": nothing},
        "no labelled develop": {"develop": nothing},
        "1 of 2 new cases have no label": {"new": unknown},
        "1 of 2 remembered cases": {"memory": unknown},
        "is there already": {"out": tmp_path / "taken"},
    }.items():
        arguments = {"new": new, "memory": nothing, "develop": develop, "out": tmp_path / "out"} | changed
        with pytest.raises(ValueError, match=says):
            run(RECIPES["recalibrate"], base=base, live_parts=None, seed=0, measure=balanced, **arguments)


def test_the_record_says_what_each_term_came_to(base: Path, tmp_path: Path) -> None:
    """Of a loss of several terms each one's mean and weight, and of a curated lesson what was left out."""
    stage = Stage(
        parameter=Full(5e-4, continues=True),
        objective=Sum((CrossEntropy(), 1.0), (WorstGroup(), 0.5), (EWC(cases=4), 100.0)),
        data=Curated(Rehearsal(6, choose=herding)),
        epochs=1,
    )
    (noted,) = go(base, tmp_path / "out", Recipe(name="all", stages=(stage,), risk=4)).made["stages"]
    assert set(noted["data"]["left_out"]) == {"copies", "suspicious_labels"}
    terms = noted["objective"]
    assert {name: term["weight"] for name, term in terms.items()} == {
        "cross_entropy": 1.0,
        "worst_group": 0.5,
        "ewc": 100.0,
    }
    assert sum(term["weight"] * term["mean"] for term in terms.values()) == pytest.approx(noted["loss"][0], rel=0.1)
    assert set(terms["worst_group"]["group_weights"]) == {"home", "new"}
    assert json.dumps(noted)


def test_a_recipe_on_trial_is_a_public_one_with_one_slot_changed() -> None:
    """So a row of a benchmark shows what that slot does; the plan knows none of them."""
    public = RECIPES["full_rehearsal"].stages
    for slot, recipes, count in (("objective", OBJECTIVES, 8), ("data", DATA, 9)):
        assert len(recipes) == count
        assert not set(recipes) & set(RECIPES)
        for name, recipe in recipes.items():
            first, *others = recipe.stages
            assert recipe.name == name
            assert tuple(others) == public[1:]
            assert replace(first, **{slot: getattr(public[0], slot)}) == public[0]
            assert first != public[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OBJECTIVES, *DATA])
def test_a_recipe_on_trial_runs(base: Path, tmp_path: Path, name: str) -> None:
    """Whole, and the version that it makes answers as its golden outputs say."""
    candidate = go(base, tmp_path / "out", (OBJECTIVES | DATA)[name])
    check_golden(Predictor.load(base, candidate.folder), candidate.folder)
