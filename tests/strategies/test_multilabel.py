"""Findings that don't exclude each other, on a tiny network and generated marks: fitted, adapted, served, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import CLASSES, Marks, balanced

from strategies import architecture, data, objective, parameter, representation
from strategies.base import fit_base, load_base, read_record
from strategies.data import Rehearsal
from strategies.findings import MOST, label_of, members
from strategies.lessons import Joined
from strategies.model import Recalibrator, Thresholds
from strategies.objective.binary_cross_entropy import BinaryCrossEntropy
from strategies.predictor import Predictor, check_golden
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Learner, Lesson, Recipe, Step, Tasked
from strategies.recipes import COMPARISONS, RECIPES, run
from strategies.representation import Recalibrate
from strategies.tasks import task_of

MULTILABEL = task_of("multilabel")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("made")
    fitted(root / "base", epochs=30, n=128)
    return root / "base"


def fitted(out: Path, epochs: int = 1, n: int = 16, examples: Marks | None = None) -> dict:
    return fit_base(examples or Marks.of("home", n), Marks.of("home", 32, 1000), CLASSES, task="multilabel",
                    backbone="test_resnet", size=32, epochs=epochs, seed=0, out=out, measure=balanced)  # fmt: skip


def go(base: Path, out: Path, recipe: Recipe, live: Path | None = None, epochs: int = 1, new: Marks | None = None):
    return run(recipe, base=base, live_parts=live, new=new or Marks.of("new", 40, 2000), memory=Marks.of("home", 40),
               develop=Joined(Marks.of("home", 16, 1000), Marks.of("new", 16, 3000)), out=out, seed=0,
               measure=balanced, epochs=epochs)  # fmt: skip


def prepared(base: Path, examples: Marks) -> torch.Tensor:
    preprocessing = load_base(base).origin.preprocessing
    return normalise(preprocessing, Pixels(examples, preprocessing)[range(len(examples))])


def held(base: Path, parts: Path | None, examples: Marks) -> float:
    said = Predictor.load(base, parts).answer(prepared(base, examples))
    return balanced(MULTILABEL.rows(said, torch.zeros(len(said))), examples.label)


# Sets of findings


@given(st.lists(st.sets(st.integers(0, MOST - 1)), min_size=1))
def test_a_set_is_a_label_and_a_label_a_set(sets: list[set[int]]) -> None:
    """Of as many findings as there may be, in an int64; no label has none of them."""
    label = np.array([*(label_of(one) for one in sets), -1], np.int64)
    found = members(label, MOST)
    assert [set(np.flatnonzero(row).tolist()) for row in found] == [*sets, set()]
    assert (label[:-1] >= 0).all()


# The loss


def lesson(label: list[int], domain: list[str]) -> Lesson:
    names = np.array([str(i) for i in range(len(label))])
    return Lesson(label=np.array(label), domain=np.array(domain), patient=names, new=len(label), remembered=0,
                  logits=lambda: np.zeros((0, 2)), features=lambda: np.zeros((0, 2)), task="multilabel")  # fmt: skip


def loss_of(one: Lesson, logits: torch.Tensor, rows: list[int]) -> float:
    learner = Learner(encoder=torch.nn.Identity(), head=torch.nn.Identity(), moving=(), inputs=None)  # type: ignore[arg-type]
    step = Step(rows=torch.tensor(rows), features=logits, logits=logits, again=lambda: logits)
    return float(BinaryCrossEntropy().prepare(one, learner)(step))


def test_having_a_finding_weighs_as_much_as_not_having_it_in_each_domain() -> None:
    """At home one in four has it: to miss that one costs as much as to invent three; a domain where nobody has it is
    even. A case without a label is refused."""
    home = lesson([1, 0, 0, 0], ["home"] * 4)
    yes, no = torch.tensor([[3.0]]), torch.tensor([[-3.0]])
    missed = torch.cat([no, no, no, no])
    invented = torch.cat([yes, yes, yes, yes])
    assert loss_of(home, missed, [0, 1, 2, 3]) == pytest.approx(loss_of(home, invented, [0, 1, 2, 3]), abs=1e-5)
    both = lesson([1, 0, 0, 0, 0, 0], ["home"] * 4 + ["new"] * 2)
    assert loss_of(both, torch.cat([no, yes]), [4, 5]) == pytest.approx((0.0486 + 3.0486) / 2, abs=1e-3)
    rare = lesson([1, *[0] * 99], ["home"] * 100)
    plain = torch.nn.functional.softplus(torch.tensor([3.0, -3.0]))
    wanted = (5 * plain[0] + 99 * plain[1]) / 104
    assert loss_of(rare, torch.full((100, 1), -3.0), list(range(100))) == pytest.approx(float(wanted), abs=1e-4)
    with pytest.raises(ValueError, match="1 of 2 cases to learn from have no label"):
        loss_of(lesson([1, -1], ["home"] * 2), missed[:2], [0, 1])


def test_a_finding_has_a_loss_of_its_own() -> None:
    """Two findings that are both there are both wanted, whatever a softmax would share out between them."""
    one = lesson([0b11, 0b00], ["home"] * 2)
    both = torch.tensor([[4.0, 4.0], [-4.0, -4.0]])
    assert loss_of(one, both, [0, 1]) == pytest.approx(0.0181, abs=1e-3)
    assert loss_of(one, both * torch.tensor([1.0, -1.0]), [0, 1]) > 1.9


# The base


def test_a_base_finds_what_it_was_taught(base: Path) -> None:
    """Its answers are chances of their own; no class is the commonest, so nothing needs two of them."""
    assert read_record(base)["task"] == "multilabel"
    examples = Marks.of("home", 32, 5000)
    said = Predictor.load(base).answer(prepared(base, examples))
    assert said.shape == (32, 2) and (said >= 0).all() and (said <= 1).all()
    both, nothing = said[examples.label == 3].sum(axis=1), said[examples.label == 0].sum(axis=1)
    assert both.mean() > 1.4 and nothing.mean() < 0.6
    assert held(base, None, examples) > 0.85


def test_what_cannot_be_learnt_is_refused(tmp_path: Path) -> None:
    """A finding that no case has, or every case; and a network that answers for every pixel."""
    examples = Marks.of("home", 16)
    never, always = (replace(examples, label=label) for label in (examples.label & 1, examples.label | 2))
    with pytest.raises(ValueError, match="No training case is labelled disc"):
        fitted(tmp_path / "a", examples=never)
    with pytest.raises(ValueError, match="Every training case is labelled disc"):
        fitted(tmp_path / "b", examples=always)


def test_thresholds_are_of_each_finding(base: Path, tmp_path: Path) -> None:
    """A half where the version has none; a version's own move that finding's answers and no other's."""
    said = np.array([[0.4, 0.6], [0.6, 0.4]], np.float32)
    predictor = Predictor.load(base)
    assert predictor.decide(said).tolist() == [[False, True], [True, False]]
    made = go(base, tmp_path / "out", RECIPES["recalibrate"])
    Thresholds((0.3, 0.7)).write(made.folder / "thresholds.json")
    assert Predictor.load(base, made.folder).decide(said).tolist() == [[True, False], [True, False]]


# Recipes


@pytest.mark.parametrize("name", [*RECIPES, *COMPARISONS])
def test_every_public_recipe_is_written_and_read_again(base: Path, tmp_path: Path, name: str) -> None:
    """What was made answers in another process's hands as its golden outputs say, and twice the same."""
    recipe = (RECIPES | COMPARISONS)[name]
    made = go(base, tmp_path / "one", recipe)
    check_golden(Predictor.load(base, made.folder), made.folder)
    again = go(base, tmp_path / "two", recipe)
    for file in made.folder.iterdir():
        if file.name != "golden.safetensors":
            assert file.read_bytes() == (again.folder / file.name).read_bytes(), file.name


def test_another_stain_is_learnt_and_home_is_kept(base: Path, tmp_path: Path) -> None:
    """By full rehearsal, the deepest recipe: the new site from chance, home as before."""
    new, home = Marks.of("new", 32, 7000), Marks.of("home", 32, 5000)
    made = go(base, tmp_path / "out", RECIPES["full_rehearsal"], epochs=12)
    assert held(base, None, new) < 0.7
    assert held(base, made.folder, new) > held(base, None, new) + 0.15
    assert held(base, made.folder, home) > 0.8


def test_mechanisms_that_ask_for_one_class_say_so_before_they_train(base: Path, tmp_path: Path) -> None:
    """Of every slot: those that serve findings are known, and all others refuse in one sentence; so does a choice of
    what is replayed that goes by the loss of a class."""
    slots = {"parameter": parameter, "representation": representation, "objective": objective, "data": data,
             "architecture": architecture}  # fmt: skip
    kinds = [
        (slot, kind)
        for slot, package in slots.items()
        for kind in [*(getattr(package, name) for name in package.__all__), *package.EXPERIMENTAL]
    ]
    stage, refused = RECIPES["full_rehearsal"].stages[0], []
    for slot, kind in kinds:
        one = kind()
        if isinstance(one, Tasked) and "multilabel" in one.tasks:
            continue
        with pytest.raises(ValueError, match=f"^{one.name} serves .*, and no multilabel: take"):
            go(base, tmp_path / "out", Recipe(name="odd", stages=(replace(stage, **{slot: one}),), risk=1))
        refused.append(kind.__name__)
    served = sorted(kind.__name__ for _, kind in kinds if kind.__name__ not in refused)
    assert served == sorted(
        ["LinearProbe", "LoRA", "Full", "Recalibrate", "BatchStatistics", "Supervised", "NewCases", "Rehearsal"]
    )
    assert (len(served), len(refused)) == (8, len(kinds) - 8)
    hard = replace(stage, data=Rehearsal(8, choose=data.hard_first))
    with pytest.raises(ValueError, match="hard_first asks of which class"):
        go(base, tmp_path / "hard", Recipe(name="hard", stages=(hard,), risk=1))


@pytest.mark.parametrize("choose", [one for one in data.CHOICES if one is not data.hard_first])
def test_choices_of_what_is_replayed_take_sets_as_they_come(base: Path, tmp_path: Path, choose) -> None:
    """Whatever number a set has: the largest is no array's length."""
    far = Marks.of("home", 12)
    far.label = far.label + (1 << 40)
    one = replace(lesson([0] * 4, ["home"] * 4), new=0, remembered=12, label=far.label, patient=far.patient,
                  domain=far.domain, features=lambda: np.random.default_rng(0).random((12, 5)))  # fmt: skip
    assert 0 < len(choose(one, 6, 0)) <= 6


# Scores


def test_recalibration_finds_temperature_and_a_bias_for_each_finding() -> None:
    """Three times too sure, one finding said too often and one too seldom: set right with enough labels."""
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 1.5, (3000, 2))
    truth = rng.random((3000, 2)) < 1 / (1 + np.exp(-odds))
    label = np.array([label_of(np.flatnonzero(row).tolist()) for row in truth])
    fitted = Recalibrate().mode(3 * (odds - [1.0, -0.5]), label, np.full(3000, "home"), several=True)
    assert fitted.temperature == pytest.approx(3.0, rel=0.1)
    assert fitted.bias == pytest.approx([1.0, -0.5], abs=0.15)
    nobody = Recalibrate().mode(np.zeros((5, 2)), np.full(5, -1), np.full(5, "home"), several=True)
    assert nobody == Recalibrator(1.0, (0.0, 0.0))


def test_recalibrate_lowers_the_loss_at_the_new_site(base: Path, tmp_path: Path) -> None:
    """On cases that it has not seen, and no weight has moved."""
    new = Marks.of("new", 40, 7000)
    made = go(base, tmp_path / "out", RECIPES["recalibrate"])
    record = json.loads((made.folder / "recalibrator.json").read_text())
    assert len(record["bias"]) == 2
    truth = members(new.label, 2)

    def error(parts: Path | None) -> float:
        return float(((Predictor.load(base, parts).answer(prepared(base, new)) - truth) ** 2).mean())

    assert error(made.folder) < error(None)
    assert not [name for name in ("weights", "adapter", "head") if name in made.parts]
