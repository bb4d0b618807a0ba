"""A bank of adapters: each image is answered by the parts of its own domain, or by what was live before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from told import lesson
from torch import nn

from agent.versions.bundle import FORMATS
from strategies.architecture import AdapterBank
from strategies.base import write_base
from strategies.data import NewCases
from strategies.experimental import BANKED, EXPERIMENTAL, MIXED
from strategies.families import load_backbone
from strategies.lessons import Joined
from strategies.model import Classifier
from strategies.objective import CrossEntropy
from strategies.parameter import LinearProbe
from strategies.predictor import Predictor, check_golden
from strategies.protocols import Candidate, Recipe, Stage
from strategies.recipes import run
from strategies.representation import BatchStatistics, Coral, FeatureStatistics, PriorCorrection
from strategies.routing import Router

COLOURS = {"home": (200, 120, 180), "new": (90, 170, 120), "third": (60, 60, 190), "unknown": (20, 20, 20)}

ALIGNED = (Stage(representation=BatchStatistics()), Stage(representation=PriorCorrection()))


class Tiles:
    """Noisy squares on a ground of the domain's own colour; the class is the square's size."""

    def __init__(self, domain: str, n: int, first: int = 0) -> None:
        self.number = np.arange(first, first + n)
        self.label, self.domain = self.number % 2, np.full(n, domain)
        self.patient = np.array([f"{domain}{i}" for i in self.number])

    def __len__(self) -> int:
        return len(self.number)

    def image(self, i: int) -> np.ndarray:
        draw, side = np.random.default_rng(int(self.number[i])), 10 + 8 * int(self.label[i])
        image = np.array(COLOURS[str(self.domain[i])]) + draw.normal(0, 15, (32, 32, 3))
        image[4 : 4 + side, 4 : 4 + side] += 50
        return image.clip(0, 255).astype(np.float32)


def balanced(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(probabilities.argmax(1) == labels))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at 32 px, batch norms adapted to them so that signals don't vanish."""
    from dataclasses import replace

    torch.set_num_threads(1)
    torch.manual_seed(0)
    origin = load_backbone("mobilenet_v3_small")
    origin = origin.fed(replace(origin.preprocessing, size=32))
    norms = [layer for layer in origin.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        origin.module.train()(torch.randn(64, 3, 32, 32))
    for layer in norms:
        layer.momentum = 0.1
    out = tmp_path_factory.mktemp("made") / "base"
    write_base(Classifier(origin, nn.Linear(origin.width, 2), ("a", "b")), out, {"how": "test"})
    return out


def go(base: Path, out: Path, recipe: Recipe, domain: str = "new", live: Path | None = None, n: int = 24) -> Candidate:
    return run(
        recipe,
        base=base,
        live_parts=live,
        new=Tiles(domain, n, 200),
        memory=Joined(Tiles("home", 24), *([Tiles("new", 8, 200)] if domain != "new" else [])),
        develop=Tiles("home", 24, 100),
        unlabelled=Tiles(domain, 16, 400),
        out=out,
        seed=0,
        measure=balanced,
        epochs=1,
    )


def probe(learning_rate: float) -> Recipe:
    stage = Stage(parameter=LinearProbe(learning_rate), objective=CrossEntropy(), data=NewCases(), epochs=1)
    return Recipe(name="probe", stages=(stage,), risk=2)


@pytest.fixture(scope="module")
def bank(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What batch statistics and the mix of classes make of the new domain, banked."""
    return go(
        base, tmp_path_factory.mktemp("bank") / "v1", Recipe(name="mine", stages=(*ALIGNED, BANKED), risk=1)
    ).folder


def prepared(predictor: Predictor, domain: str, n: int = 12) -> torch.Tensor:
    cases = Tiles(domain, n, 5000)
    return torch.stack([predictor.prepare(cases.image(i)) for i in range(n)])


def test_home_and_the_unknown_are_answered_byte_for_byte_as_before(base: Path, bank: Path) -> None:
    """The alignment serves its own domain alone; home, and what nobody has seen, get the bytes that the base gives."""
    before, after = Predictor.load(base), Predictor.load(base, bank)
    for domain in ("home", "unknown"):
        old, now = before.observe(prepared(before, domain)), after.observe(prepared(after, domain))
        assert all(np.array_equal(one, other) for one, other in zip(old, now, strict=True)), domain
    old, now = before.observe(prepared(before, "new")), after.observe(prepared(after, "new"))
    assert (np.abs(old.logits - now.logits).max(axis=1) > 1e-3).mean() >= 0.9
    assert np.array_equal(old.embedding, now.embedding), "the sensor is pinned"


def test_an_image_is_routed_by_itself(base: Path, bank: Path) -> None:
    """In mixed company, alone and in another order an image gets the same bytes: of its own domain's parts."""
    predictor = Predictor.load(base, bank)
    mixed = torch.cat([prepared(predictor, domain, 5) for domain in ("home", "new", "unknown")])
    order = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0))
    together, shuffled = predictor.observe(mixed), predictor.observe(mixed[order])
    assert all(np.array_equal(one[order.numpy()], other) for one, other in zip(together, shuffled, strict=True))
    assert all(np.array_equal(predictor.answer(mixed[i : i + 1])[0], together.probabilities[i]) for i in (0, 7, 14))
    assert np.array_equal(predictor.logits(mixed), together.logits)
    assert predictor.shares(torch.from_numpy(together.embedding)).tolist()[:5] == [[0.0, 1.0]] * 5


def test_a_second_domain_joins_and_moves_nobody(base: Path, bank: Path, tmp_path: Path) -> None:
    """On a live bank the next domain gets parts of its own; the first one's answers, and home's, keep their bytes."""
    second = go(base, tmp_path / "v2", EXPERIMENTAL["coral_banked"], "third", live=bank)
    before, after = Predictor.load(base, bank), Predictor.load(base, second.folder)
    assert list(after.experts) == ["expert1", "expert2"]
    for domain in ("home", "new", "unknown"):
        assert np.array_equal(before.answer(prepared(before, domain)), after.answer(prepared(after, domain))), domain
    moved = np.abs(before.logits(prepared(before, "third")) - after.logits(prepared(after, "third"))).max(axis=1) > 1e-3
    assert moved.mean() >= 0.9
    assert sorted(second.parts.values()) == sorted(file.name for file in second.folder.iterdir())
    again = go(base, tmp_path / "v3", EXPERIMENTAL["feature_statistics_banked"], "third", live=second.folder)
    assert list(Predictor.load(base, again.folder).experts) == ["expert1", "expert2"], "a domain has one set of parts"


def test_the_fallback_is_the_live_version(base: Path, tmp_path: Path) -> None:
    """Over a live version that has learnt something, the unknown is answered as that version did, not as the base."""
    live = go(base, tmp_path / "live", probe(1e-2)).folder
    made = go(base, tmp_path / "v2", EXPERIMENTAL["coral_banked"], "third", live=live).folder
    batch = prepared(Predictor.load(base), "unknown")
    assert np.array_equal(Predictor.load(base, made).answer(batch), Predictor.load(base, live).answer(batch))
    assert not np.allclose(Predictor.load(base, made).answer(batch), Predictor.load(base).answer(batch))
    adapted = go(base, tmp_path / "adapted", EXPERIMENTAL["test_time"]).folder
    made = go(base, tmp_path / "v3", EXPERIMENTAL["coral_banked"], "third", live=adapted).folder
    assert Predictor.load(base, made).served.episode == Predictor.load(base, adapted).served.episode is not None


def test_a_bank_is_plain_files_and_all_of_them_are_needed(base: Path, bank: Path, tmp_path: Path) -> None:
    """A bundle takes the folder as it is; golden outputs hold for each expert; a file that is gone is one sentence."""
    assert all(file.is_file() and file.suffix in FORMATS for file in bank.iterdir())
    assert {"expert1.statistics.safetensors", "expert1.recalibrator.json"} <= {file.name for file in bank.iterdir()}
    check_golden(Predictor.load(base, bank), bank)
    changed = Path(shutil.copytree(bank, tmp_path / "changed"))
    (changed / "expert1.recalibrator.json").unlink()
    with pytest.raises(ValueError, match="golden outputs differ"):
        check_golden(Predictor.load(base, changed), changed)
    (changed / "expert1.statistics.safetensors").unlink()
    with pytest.raises(ValueError, match="names expert1, and the version has no file of it"):
        Predictor.load(base, changed)
    record = json.loads((bank / "bank.json").read_text())
    record["domains"] = record["domains"][:1]
    (changed / "bank.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="don't belong together"):
        Router.read(changed)


def test_what_goes_on_from_an_alignment_carries_it_once(base: Path, tmp_path: Path) -> None:
    """A live alignment is in the head that the next recipe starts from: with no step taken, answers stay."""
    aligned = Recipe(name="mine", stages=(ALIGNED[0], Stage(representation=FeatureStatistics())), risk=1)
    live = go(base, tmp_path / "live", aligned).folder
    made = go(base, tmp_path / "v2", probe(1e-12), live=live)
    before, after = Predictor.load(base, live), Predictor.load(base, made.folder)
    batch = prepared(before, "new")
    assert after.logits(batch) == pytest.approx(before.logits(batch), abs=1e-4)
    assert after.logits(batch) != pytest.approx(Predictor.load(base).logits(batch), abs=1e-2)
    assert sorted(made.parts.values()) == sorted(file.name for file in made.folder.iterdir())


def softer(mixture: Path, out: Path, reach: float = 1.0) -> Path:
    """The same bank with all distances smaller, so that images lie between the domains."""
    router = Router.read(Path(shutil.copytree(mixture, out)))
    assert router is not None
    Router(
        router.domains,
        router.expert,
        (reach * router.reach).tolist(),
        router.whitening * 0.02,
        router.centres * 0.02,
        router.owner,
        router.choice,
    ).write(out)
    return out


@pytest.fixture(scope="module")
def mixture(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(name="mine", stages=(*ALIGNED, MIXED), risk=1)
    return go(base, tmp_path_factory.mktemp("mixture") / "v1", recipe).folder


def test_between_domains_the_probabilities_are_mixed(base: Path, mixture: Path, tmp_path: Path) -> None:
    """The answer is the mean of what the sets say after their own recalibration, whatever company an image is in."""
    predictor = Predictor.load(base, softer(mixture, tmp_path / "soft"))
    batch = torch.cat([prepared(predictor, domain, 5) for domain in ("home", "new", "unknown")])
    seen = predictor.observe(batch)
    share = predictor.shares(torch.from_numpy(seen.embedding))
    assert ((share > 0.05) & (share < 0.95)).all(axis=1).sum() >= 5, "images lie between"
    served = Predictor.load(base).answer(batch)
    wanted = share[:, :1] * predictor.by_each(batch)["expert1"] + share[:, 1:] * served
    assert seen.probabilities == pytest.approx(wanted, abs=1e-6)
    between = (share > 0).all(axis=1)
    mixed = torch.softmax(torch.from_numpy(seen.logits[between]), dim=1).numpy()
    assert mixed == pytest.approx(seen.probabilities[between], abs=1e-6)
    assert all(np.array_equal(predictor.answer(batch[i : i + 1])[0], seen.probabilities[i]) for i in range(len(batch)))
    assert np.array_equal(seen.embedding, Predictor.load(base).embed(batch)), "the sensor is pinned"


def test_a_mixture_is_a_bank_where_one_domain_is_certain(base: Path, bank: Path, mixture: Path, tmp_path: Path) -> None:
    """Then, and beyond reach, answers are the bank's byte for byte, and a set without a share is not run."""
    hard, soft = Predictor.load(base, bank), Predictor.load(base, mixture)
    ran: list[int] = []
    soft.experts["expert1"].backbone.register_forward_hook(lambda *_: ran.append(1))
    for domain in ("home", "unknown", "new"):
        assert not ran, "no set is run for images that it has no share in"
        one, other = hard.observe(prepared(hard, domain)), soft.observe(prepared(soft, domain))
        assert all(np.array_equal(mine, its) for mine, its in zip(one, other, strict=True)), domain
    assert ran
    far = Predictor.load(base, softer(mixture, tmp_path / "far", reach=0.0))
    assert np.array_equal(far.answer(prepared(far, "new")), Predictor.load(base).answer(prepared(far, "new")))


def test_shares_are_of_the_sets_of_parts() -> None:
    """Two domains of one set add up; out of reach, of no set and not a number is the fallback's; crumbs are dropped."""
    distances = np.array(
        [[0.0, 0.0, 0.0], [2.0, 0.0, 20.0], [9.0, 9.0, 8.0], [99.0, 99.0, 97.0], [np.nan, np.inf, np.nan]]
    )
    place = (torch.eye(2), torch.zeros(3, 2), torch.arange(3))
    soft = Router("abc", ["expert1", "expert1", None], [8.0, 8.0, 50.0], *place, "posterior").shares(distances)
    assert soft.tolist()[1:] == [[1, 0], [0, 1], [0, 1], [0, 1]]
    assert soft[0] == pytest.approx([2 / 3, 1 / 3])
    hard = Router("abc", ["expert1", "expert2", None], [8.0, 8.0, 50.0], *place).shares(distances[:4])
    assert hard.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_a_bank_of_before_chooses_as_before(bank: Path, mixture: Path, tmp_path: Path) -> None:
    """A bank that chooses is written as it always was; a mixture is of a format that older readers refuse."""
    record = json.loads((bank / "bank.json").read_text())
    assert record.keys() == {"format", "domains"} and record["format"] == 1
    router, mixed = Router.read(bank), Router.read(mixture)
    assert router is not None and mixed is not None and (router.choice, mixed.choice) == ("nearest", "posterior")
    assert json.loads((mixture / "bank.json").read_text())["format"] == 2
    changed = Path(shutil.copytree(mixture, tmp_path / "changed"))
    (changed / "bank.json").write_text((mixture / "bank.json").read_text().replace("posterior", "guess"))
    with pytest.raises(ValueError, match="chooses by 'guess'; known are nearest, posterior"):
        Router.read(changed)


def test_stages_in_an_order_that_can_not_be_served_are_refused(base: Path, tmp_path: Path) -> None:
    """Weights that move behind an alignment, or anything behind a bank, would not be what was fitted."""
    coral, learn = Stage(representation=Coral()), probe(1e-2).stages[0]
    for stages in ((coral, learn), (BANKED, coral)):
        with pytest.raises(ValueError, match="in no order that can be served"):
            go(base, tmp_path / "out", Recipe(name="odd", stages=stages, risk=9))
    with pytest.raises(ValueError, match="no new labelled case"):
        go(base, tmp_path / "out", probe(1e-2), n=0)
    with pytest.raises(ValueError, match="needs a stage before it"):
        go(base, tmp_path / "out", Recipe(name="alone", stages=(BANKED,), risk=9))
    alone = lesson(Tiles("new", 4), Tiles("new", 4, 10))
    with pytest.raises(ValueError, match="one other at least"):
        AdapterBank().assemble(alone, {"head": "head.safetensors"}, [], tmp_path)
