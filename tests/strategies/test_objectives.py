"""The losses on trial: what every one of them keeps to, and for each what it is there for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from strategies import objective
from strategies.objective import (
    EWC,
    MMCE,
    CrossEntropy,
    DarkExperience,
    Distillation,
    Focal,
    LwF,
    MaskedFeatures,
    WorstGroup,
)
from strategies.objective.sum import Sum
from strategies.protocols import Learner, Lesson, ObjectiveMechanism, Recorded, Step

KINDS = [*(getattr(objective, name) for name in objective.__all__), *objective.EXPERIMENTAL]
ALL: list[ObjectiveMechanism] = [
    *(kind() for kind in KINDS),
    WorstGroup(by_class=True),
    Sum((CrossEntropy(), 1.0), (EWC(), 10.0), (Distillation(), 0.5)),
]
NEW, OLD, CLASSES = 10, 20, 3


class Numbers:
    """Cases that are vectors of six numbers."""

    slices = 1

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def drawn(self, rows, generator) -> torch.Tensor:
        return self.values[list(rows)]

    def plain(self, rows) -> torch.Tensor:
        return self.values[list(rows)]


def taught(seed: int = 0, moved: float = 0.0) -> tuple[Lesson, Learner]:
    """Ten cases of a new site, twenty remembered ones of two sites; weights `moved` after the first answers."""
    torch.manual_seed(seed)
    encoder, head = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, CLASSES)
    inputs = Numbers(torch.randn(NEW + OLD, 6))
    with torch.no_grad():
        features = encoder(inputs.values)
        logits = head(features).numpy()
    lesson = Lesson(
        label=np.arange(NEW + OLD) % CLASSES,
        domain=np.array(["new"] * NEW + ["home"] * 12 + ["other"] * 8),
        patient=np.arange(NEW + OLD).astype(str),
        new=NEW,
        remembered=OLD,
        features=lambda: features.numpy(),
        logits=lambda: logits,
    )
    return lesson, Learner(
        encoder=encoder, head=head, moving=[*encoder.parameters(), *head.parameters()], inputs=inputs
    )


def shift(learner: Learner, by: float) -> None:
    with torch.no_grad():
        for weight in learner.moving:
            weight.add_(by * torch.randn_like(weight))


def step(learner: Learner, rows: list[int]) -> Step:
    features = learner.encoder(learner.inputs.plain(rows))
    return Step(rows=torch.tensor(rows), features=features, logits=learner.head(features), again=lambda: features)


def learn(loss, learner: Learner, steps: int = 60, rows: list[int] | None = None) -> None:
    optimiser = torch.optim.Adam(learner.moving, lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(step(learner, rows or list(range(NEW + OLD)))).backward()
        optimiser.step()


def test_every_objective_is_covered() -> None:
    """Ten classes, each made without arguments and of a name of its own; and two more of other arguments."""
    assert len(KINDS) == 11 == len({kind().name for kind in KINDS})
    assert len(ALL) == 13
    assert all(isinstance(one, ObjectiveMechanism) for one in ALL)


@pytest.mark.parametrize("mechanism", ALL, ids=lambda one: one.name)
def test_it_is_finite_and_reaches_every_weight(mechanism: ObjectiveMechanism) -> None:
    """Of a batch of new, of remembered and of both kinds of cases; zero weights of a batch are no division by zero."""
    lesson, learner = taught()
    loss = mechanism.prepare(lesson, learner)
    shift(learner, 0.3)
    for rows in ([0, 1, 2, 3], [NEW, NEW + 1, NEW + 15], list(range(NEW + OLD))):
        value = loss(step(learner, rows))
        assert value.ndim == 0
        assert torch.isfinite(value)
        assert value >= 0
        moving = learner.moving if mechanism.labelled else [*learner.encoder.parameters()]
        reached = torch.autograd.grad(value, moving, allow_unused=True)
        assert all(slope is None or slope.isfinite().all() for slope in reached)
    assert all(slope is not None and slope.abs().sum() > 0 for slope in reached)


@pytest.mark.parametrize("mechanism", ALL, ids=lambda one: one.name)
def test_the_order_of_a_batch_does_not_matter(mechanism: ObjectiveMechanism) -> None:
    """A batch is a set: a loss that paired rows with the wrong targets would show here."""
    lesson, learner = taught()
    ordered, mixed = (mechanism.prepare(lesson, learner) for _ in range(2))
    shift(learner, 0.3)
    rows = [0, 3, 5, 7, NEW, NEW + 3, NEW + 13, NEW + 19]
    assert float(ordered(step(learner, rows))) == pytest.approx(
        float(mixed(step(learner, [rows[i] for i in (5, 2, 7, 0, 3, 6, 1, 4)]))), rel=1e-5
    )


@pytest.mark.parametrize("mechanism", ALL, ids=lambda one: one.name)
def test_it_says_whether_it_needs_labels(mechanism: ObjectiveMechanism) -> None:
    """One that needs labels refuses a case without one with a sentence; one that does not never looks at a label."""
    lesson, learner = taught()
    blind = replace(lesson, label=np.where(np.arange(NEW + OLD) == 2, -1, lesson.label))
    if mechanism.labelled:
        with pytest.raises(ValueError, match="no label"):
            mechanism.prepare(blind, learner)
    else:
        values = [mechanism.prepare(one, learner) for one in (lesson, replace(lesson, label=np.full(NEW + OLD, -1)))]
        shift(learner, 0.3)
        first, second = (float(value(step(learner, [0, 2, NEW]))) for value in values)
        assert first == second


@pytest.mark.parametrize("mechanism", [Distillation(), LwF(), EWC()], ids=lambda one: one.name)
def test_what_keeps_is_zero_where_nothing_moved(mechanism: ObjectiveMechanism) -> None:
    """Before the first step nothing has been forgotten, so nothing is asked back."""
    lesson, learner = taught()
    loss = mechanism.prepare(lesson, learner)
    assert float(loss(step(learner, [0, 5, NEW, NEW + 9]))) == pytest.approx(0, abs=1e-6)
    shift(learner, 0.3)
    assert float(loss(step(learner, [0, 5, NEW, NEW + 9]))) > 1e-3


def test_the_focal_loss_is_for_what_is_not_known() -> None:
    """At gamma 0 it is cross-entropy; at 2 an answer of 0.9 counts for a hundredth, one of 0.1 for 81 of it."""
    lesson, learner = taught()
    plain, same = CrossEntropy().prepare(lesson, learner), Focal(0.0).prepare(lesson, learner)
    batch = step(learner, [0, 1, 2, NEW])
    assert float(same(batch)) == pytest.approx(float(plain(batch)), rel=1e-6)
    focal = Focal(2.0).prepare(lesson, learner)
    for p, share in ((0.9, 0.01), (0.1, 0.81)):
        sure = replace(batch, rows=torch.tensor([0]), logits=torch.tensor([[p, (1 - p) / 2, (1 - p) / 2]]).log())
        assert float(focal(sure)) == pytest.approx(share * -np.log(p), rel=1e-4)


def test_distillation_keeps_old_answers() -> None:
    """Learning new cases alone moves what the model says of old ones; with distillation beside it by less than half."""
    moved = {}
    for name, whole in (("without", CrossEntropy()), ("with", Sum((CrossEntropy(), 1.0), (Distillation(), 5.0)))):
        lesson, learner = taught()
        # New cases teach one class alone, remembered ones teach nothing: their labels are what the model says.
        label = np.where(np.arange(NEW + OLD) < NEW, 0, lesson.logits().argmax(1))
        learn(whole.prepare(replace(lesson, label=label), learner), learner, rows=[*range(NEW), NEW, NEW + 1])
        with torch.no_grad():
            now = learner.head(learner.encoder(learner.inputs.plain(range(NEW, NEW + OLD))))
        before = torch.softmax(torch.tensor(lesson.logits()[NEW:]), 1)
        moved[name] = float((torch.softmax(now, 1) - before).abs().mean())
    assert moved["with"] < 0.5 * moved["without"], moved


def test_lwf_asks_nothing_of_remembered_cases() -> None:
    """It needs no memory: of a batch of remembered cases alone it is zero, of new ones it is distillation."""
    lesson, learner = taught()
    lwf, distillation = LwF().prepare(lesson, learner), Distillation().prepare(lesson, learner)
    shift(learner, 0.3)
    assert float(lwf(step(learner, [NEW, NEW + 4]))) == 0
    assert float(distillation(step(learner, [NEW, NEW + 4]))) > 1e-3
    new, mixed = step(learner, [0, 4]), step(learner, [0, 4, NEW])
    assert float(lwf(mixed)) == pytest.approx(float(distillation(new)), rel=1e-5)


def test_distillation_is_avalanches_times_the_square_of_the_temperature() -> None:
    """Its LwF leaves Hinton's factor out; otherwise the numbers are the same."""
    from avalanche.training.regularization import LearningWithoutForgetting

    lesson, learner = taught()
    loss = LwF(temperature=3.0).prepare(lesson, learner)
    shift(learner, 0.3)
    batch = step(learner, [0, 1, 5, 6])
    theirs = LearningWithoutForgetting(1, 3.0)._distillation_loss(
        batch.logits, torch.tensor(lesson.logits()[[0, 1, 5, 6]]), range(CLASSES)
    )
    assert float(loss(batch)) == pytest.approx(9 * float(theirs), rel=1e-5)


def test_the_fisher_is_what_theory_says_of_a_linear_model() -> None:
    """Of softmax(W x) it is the mean of p_k (1 - p_k) x_j^2, and it is of remembered cases alone."""
    torch.manual_seed(0)
    head, inputs = nn.Linear(4, CLASSES, bias=False), Numbers(torch.randn(1500, 4))
    inputs.values[:500] *= 100
    lesson, _ = taught()
    lesson = replace(lesson, new=500, remembered=1000)
    learner = Learner(encoder=nn.Identity(), head=head, moving=[head.weight], inputs=inputs)
    with torch.no_grad():
        p = torch.softmax(head(inputs.values[500:]), 1)
    exact = torch.einsum("nk,nj->kj", p * (1 - p), inputs.values[500:] ** 2) / 1000
    (found,) = EWC(cases=1000).fisher(lesson, learner)
    assert found.numpy() == pytest.approx(exact.numpy(), rel=0.25)


def test_ewc_holds_the_weights_that_memory_hangs_on() -> None:
    """A weight that remembered answers hang on stays near where it was; one that they do not hang on moves freely."""
    torch.manual_seed(0)
    values = torch.zeros(NEW + OLD, 6)
    values[:NEW] = 1.0  # new cases speak through all six inputs, remembered ones through the first three
    values[NEW:, :3] = torch.randn(OLD, 3) * 2
    lesson, _ = taught()
    lesson = replace(lesson, label=np.where(np.arange(NEW + OLD) < NEW, 2, lesson.label))
    head = nn.Linear(6, CLASSES, bias=False)
    learner = Learner(encoder=nn.Identity(), head=head, moving=[head.weight], inputs=Numbers(values))
    before = head.weight.detach().clone()
    loss = Sum((CrossEntropy(), 1.0), (EWC(), 100.0)).prepare(lesson, learner)
    learn(loss, learner, rows=list(range(NEW)))
    moved = (head.weight.detach() - before).abs().mean(dim=0)
    assert moved[:3].max() < 0.25 * moved[3:].min(), moved


def test_without_a_memory_ewc_is_zero() -> None:
    """The first update of a foreign base remembers nothing, and nothing is held."""
    lesson, learner = taught()
    loss = EWC().prepare(replace(lesson, new=NEW + OLD, remembered=0), learner)
    shift(learner, 0.3)
    assert float(loss(step(learner, [0, 1]))) == 0


def test_dark_experience_is_its_three_terms() -> None:
    """Cross-entropy of the new, a tenth of the squared distance to the stored logits and half the old cases' loss."""
    lesson, learner = taught()
    loss = DarkExperience().prepare(lesson, learner)
    shift(learner, 0.3)
    rows = [0, 1, 2, NEW + 2, NEW + 3, NEW + 4]  # each class once: all weights are equal within a kind
    weight = torch.tensor(CrossEntropy().weights(lesson.label, lesson.domain))[rows]
    batch = step(learner, rows)
    each = functional.cross_entropy(batch.logits, torch.tensor(lesson.label[rows]), reduction="none") * weight
    apart = functional.mse_loss(batch.logits[3:], torch.tensor(lesson.logits()[rows[3:]]))
    expected = each[:3].sum() / weight[:3].sum() + 0.1 * apart + 0.5 * each[3:].sum() / weight[3:].sum()
    assert float(loss(batch)) == pytest.approx(float(expected), rel=1e-5)
    assert isinstance(loss, Recorded)
    assert loss.record()["stored_logits"] == {"weight": 0.1, "mean": pytest.approx(float(apart), rel=1e-5)}


def test_mmce_finds_answers_that_are_too_sure() -> None:
    """Sure of 0.9 and right in nine of ten cases it is near zero; right in five of ten it is 0.4 and asks for less."""
    lesson, learner = taught()
    loss = MMCE().prepare(replace(lesson, label=np.zeros(NEW + OLD, int)), learner)
    batch = step(learner, list(range(10)))
    values = []
    for right in (9, 5):
        truth, other = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05]
        logits = torch.tensor([truth] * right + [other] * (10 - right)).log().requires_grad_()
        value = loss(replace(batch, logits=logits))
        values.append(float(value))
    assert values == pytest.approx([0.0, 0.4], abs=1e-3)
    (slope,) = torch.autograd.grad(value, logits)
    assert (slope[:5, 0] > 0).all(), "surer answers would be worse"


def test_the_worst_group_gains_weight() -> None:
    """A site that is answered badly counts more with each step; the record says what each counts at last."""
    lesson, learner = taught()
    with torch.no_grad():
        said = learner.head(learner.encoder(learner.inputs.values)).argmax(1).numpy()
    label = np.where(
        lesson.domain == "home", (said + 1) % CLASSES, said
    )  # always wrong at home, always right elsewhere
    loss = WorstGroup(rate=1.0).prepare(replace(lesson, label=label), learner)
    assert isinstance(loss, Recorded)
    seen = []
    for _ in range(5):
        seen.append(loss.record()["group_weights"]["home"])
        loss(step(learner, list(range(NEW + OLD))))
    assert seen[0] == pytest.approx(1 / 3)
    assert seen == sorted(seen)
    assert seen[-1] > 0.45
    assert sum(loss.record()["group_weights"].values()) == pytest.approx(1)
    assert len(WorstGroup(by_class=True).prepare(lesson, learner).record()["group_weights"]) == 9  # type: ignore


def test_a_sum_is_weighed_and_remembers_its_terms() -> None:
    """The value is the weighted sum; the record has each term's mean over the steps, and what the term itself notes."""
    lesson, learner = taught()
    parts = (CrossEntropy(), 1.0), (WorstGroup(), 0.5), (EWC(), 100.0)
    whole = Sum(*parts)
    assert (whole.name, whole.labelled) == ("cross_entropy+worst_group+ewc", True)
    assert not Sum((EWC(), 1.0), (LwF(), 1.0)).labelled
    loss, alone = whole.prepare(lesson, learner), CrossEntropy().prepare(lesson, learner)
    assert isinstance(loss, Recorded)
    values, means = [], []
    for rows in ([0, 1, NEW], [2, 3, NEW + 4]):
        shift(learner, 0.1)
        values.append(float(loss(step(learner, rows))))
        means.append(float(alone(step(learner, rows))))
    record = loss.record()
    assert record["cross_entropy"] == {"weight": 1.0, "mean": pytest.approx(np.mean(means), rel=1e-5)}
    assert sum(one["weight"] * one["mean"] for one in record.values()) == pytest.approx(np.mean(values), rel=1e-5)
    assert set(record["worst_group"]) == {"weight", "mean", "group_weights"}


def test_a_part_is_to_say_what_the_whole_said() -> None:
    """Nothing is lost where the features are those that the whole had; training brings them there from elsewhere."""
    lesson, learner = taught()
    loss = MaskedFeatures().prepare(lesson, learner)
    rows = list(range(NEW + OLD))
    assert float(loss(step(learner, rows))) == pytest.approx(0.0, abs=1e-5)
    shift(learner, 0.5)
    before = float(loss(step(learner, rows)).detach())
    learn(loss, learner)
    assert before > 0.1 and float(loss(step(learner, rows)).detach()) < before / 4


def test_what_is_hidden_is_hidden_in_the_view_that_is_learnt_from() -> None:
    """About the share asked for, in whole squares, in the image's own mean; the usual view comes before."""
    usual = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    seen = MaskedFeatures(share=0.4).views(lambda batch, generator: usual)(usual, torch.Generator().manual_seed(0))
    squares = (seen != usual).any(dim=1).unfold(1, 4, 4).unfold(2, 4, 4).float().mean(dim=(3, 4))
    assert set(squares.unique().tolist()) == {0.0, 1.0}
    assert 0.37 < float(squares.mean()) < 0.43
    changed = (seen != usual).any(dim=1)
    assert torch.allclose(seen[0][:, changed[0]][:, 0], usual[0].mean(dim=(1, 2)))
