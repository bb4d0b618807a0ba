"""A case of several slices: each is read by itself, one answer comes of all, and a case stays one row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from balls import DEPTH, Balls
from discs import Discs, dice

from strategies.augmentation import augment, lit, lit_and_turned, mirror, turned
from strategies.base import base_digest, fit_base, load_base, read_record
from strategies.families import load_backbone
from strategies.families.dense import decoder, dense_from
from strategies.predictor import Predictor, check_golden
from strategies.preprocessing import Pixels, apply, from_record, pixels, resized, to_record
from strategies.protocols import Preprocessing
from strategies.recipes import RECIPES, run
from strategies.slices import alike, apart, stacked
from strategies.tasks import task_of

PLAIN = Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), slices=3)
SEGMENTATION = task_of("segmentation")


def accuracy(rows: np.ndarray, labels: np.ndarray) -> float:
    return float((rows.argmax(axis=1) == labels).mean())


def test_slices_come_apart_and_together_as_they_were() -> None:
    tall = torch.arange(2 * 3 * 12 * 4).view(2, 3, 12, 4)
    assert (apart(tall, 3)[4] == tall[1, :, 4:8]).all(), "the second case's second slice"
    assert (stacked(apart(tall, 3), 3) == tall).all()


def test_an_image_is_prepared_as_ever_and_a_volume_slice_by_slice() -> None:
    """One scale for all of a volume; fewer slices than are asked for come more than once, more are chosen from."""
    volume = np.random.default_rng(0).uniform(0, 255, (7, 20, 30)).astype(np.float32)
    one = Preprocessing(size=32, mean=PLAIN.mean, std=PLAIN.std)
    assert torch.equal(apply(PLAIN, volume[:3])[:, 32:64], apply(one, volume[1]))
    assert torch.equal(pixels(PLAIN, volume), pixels(PLAIN, volume[[1, 3, 5]]))
    assert torch.equal(pixels(PLAIN, volume[:1]), pixels(PLAIN, volume[0])), "a volume of one slice, and an image"
    assert torch.equal(pixels(PLAIN, volume[0]), pixels(one, volume[0]).repeat(1, 3, 1))
    colour = np.repeat(volume[..., None], 3, axis=3)
    assert torch.equal(pixels(PLAIN, colour), pixels(PLAIN, volume))
    scaled = pixels(Preprocessing(size=32, mean=PLAIN.mean, std=PLAIN.std, slices=2, scale="minmax"),
                    np.stack([volume[0], volume[0] / 4]))  # fmt: skip
    assert scaled[:, :32].float().mean() > 3 * scaled[:, 32:].float().mean()
    drawn = (volume > 128).astype(np.uint8)
    assert torch.equal(resized(PLAIN, drawn[:3])[32:64], resized(one, drawn[1]))
    with pytest.raises(ValueError, match="shape"):
        pixels(one, volume)


def test_a_record_of_slices_is_read_back_and_one_without_them_reads_one() -> None:
    assert from_record(to_record(PLAIN)) == PLAIN
    assert from_record({key: value for key, value in to_record(PLAIN).items() if key != "slices"}).slices == 1
    for wrong in (0, 1000, "all"):
        with pytest.raises(ValueError, match="slices"):
            from_record(to_record(PLAIN) | {"slices": wrong})


@pytest.mark.parametrize("views", [augment, turned, lit, lit_and_turned, mirror])
def test_a_volume_is_turned_as_a_whole(views) -> None:
    """Slices that are the same stay the same, and an image is seen as ever."""
    image = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    seen = alike(views)(image.repeat(1, 1, 3, 1), torch.Generator().manual_seed(3))
    assert seen.shape == (4, 3, 48, 16) and torch.equal(seen[:, :, :16], seen[:, :, 32:])
    alone = alike(views)(image, torch.Generator().manual_seed(3))
    assert torch.equal(alone, views(image, torch.Generator().manual_seed(3)))
    assert torch.equal(seen[:, :, :16], alone)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "dinov2-tiny"])
@pytest.mark.parametrize("dense", [False, True])
def test_each_slice_is_read_by_itself(name: str, dense: bool) -> None:
    """By encoder and sensor, split anywhere, behind a head that reads neighbours: as the slices alone would be."""
    torch.manual_seed(0)
    origin = load_backbone(name)
    size = 32 if name.startswith("mobile") else 64
    origin = origin.fed(Preprocessing(size=size, mean=PLAIN.mean, std=PLAIN.std, slices=3))
    origin = dense_from(origin) if dense else origin
    module, sensor = origin.module.eval(), origin.sensor.eval()
    tall = torch.randn(2, 3, 3 * size, size)
    with torch.inference_mode():
        slices = module(apart(tall, 3))
        wanted = stacked(slices, 3) if dense else slices.view(2, 3, -1).mean(dim=1)
        assert torch.allclose(module(tall), wanted, atol=1e-5)
        assert torch.allclose(sensor(tall), sensor(apart(tall, 3)).view(2, 3, -1).mean(dim=1), atol=1e-5)
        for cut in (0, 1, origin.depth // 2, origin.depth):
            prefix, suffix = (part.eval() for part in origin.split(cut))
            kept = prefix(tall)
            assert len(kept) == 2 and torch.allclose(suffix(kept), wanted, atol=1e-4), cut
        if dense:
            head = decoder(origin, 2).eval()
            assert torch.allclose(head(wanted), stacked(head(slices), 3), atol=1e-5)


def fitted(out: Path, slices: int, n: int = 48, epochs: int = 12) -> dict:
    return fit_base(Balls.of("home", n, slices=slices), Balls.of("home", 16, 1000, slices), ("clear", "ball"),
                    backbone="mobilenet_v3_small", size=32, slices=slices, epochs=epochs, seed=0, out=out,
                    measure=accuracy)  # fmt: skip


@pytest.mark.slow
def test_a_finding_that_the_middle_slice_does_not_show_is_found(tmp_path: Path) -> None:
    """Of patients that were never seen; by a version that is adapted to another site too."""
    torch.set_num_threads(1)
    found = {}
    for slices in (1, DEPTH):
        fitted(tmp_path / str(slices), slices, n=80, epochs=25)
        predictor, held = Predictor.load(tmp_path / str(slices)), Balls.of("home", 40, 5000, slices)
        said = predictor.answer(torch.stack([predictor.prepare(held.image(i)) for i in range(40)]))
        found[slices] = accuracy(said, held.label)
    assert found[1] < 0.7 and found[DEPTH] >= 0.9, found
    base = tmp_path / str(DEPTH)
    for name in ("full_rehearsal", "lora_rehearsal", "recalibrate"):
        new, memory, develop = Balls.of("new", 24), Balls.of("home", 24), Balls.of("new", 12, 300)
        parts = run(RECIPES[name], base=base, live_parts=None, new=new, memory=memory, develop=develop,
                    out=tmp_path / name, seed=0, measure=accuracy, epochs=6)  # fmt: skip
        predictor, held = Predictor.load(base, tmp_path / name), Balls.of("new", 40, 5000)
        check_golden(predictor, tmp_path / name)
        assert parts.made["n"] == {"new": 24, "memory": 24, "develop": 12, "unlabelled": 0}, "a case is one row"
        said = predictor.answer(torch.stack([predictor.prepare(held.image(i)) for i in range(40)]))
        found[name] = accuracy(said, held.label)
    assert found["full_rehearsal"] >= 0.8, found


def test_slices_are_part_of_a_base_and_of_its_digest(tmp_path: Path) -> None:
    """Which answers a volume of any depth, and an image, in any company, to the same bits."""
    torch.set_num_threads(1)
    for slices in (1, 3):
        fitted(tmp_path / str(slices), slices, n=8, epochs=1)
    assert read_record(tmp_path / "3")["preprocessing"]["slices"] == 3
    record = (tmp_path / "3/base.json").read_text()
    digest = base_digest(tmp_path / "3")
    (tmp_path / "3/base.json").write_text(record.replace('"slices": 3', '"slices": 4'))
    assert base_digest(tmp_path / "3") != digest
    (tmp_path / "3/base.json").write_text(record)
    predictor = Predictor.load(tmp_path / "3")
    assert load_base(tmp_path / "3").origin.preprocessing.slices == 3
    whole = Balls.of("home", 1, slices=DEPTH).image(0)
    several = [predictor.prepare(image) for image in (whole, whole[:2], whole[:1], whole[0])]
    assert torch.equal(several[2], several[3])
    together, alone = predictor.observe(torch.stack(several)), predictor.observe(several[1][None])
    assert together.probabilities.shape == (4, 2) and np.isfinite(together.embedding).all()
    assert (together.probabilities[1] == alone.probabilities[0]).all()
    assert (together.embedding[1] == alone.embedding[0]).all()


def test_what_can_not_be_several_slices_is_refused(tmp_path: Path) -> None:
    for slices in (0, 257):
        with pytest.raises(ValueError, match="1 to 256"):
            fitted(tmp_path / "base", slices)
    with pytest.raises(ValueError, match="one slice of a volume"):
        fit_base(Discs.of("home", 8), Discs.of("home", 4, 100), ("disc",), task="detection", slices=2,
                 out=tmp_path / "base", measure=dice)  # fmt: skip


def test_masks_of_slices_are_learnt_and_counted_over_the_volume(tmp_path: Path) -> None:
    """The truth of a case is one tall map; its Dice that of all slices together; adapted by low rank as well."""
    torch.set_num_threads(1)
    cases = Balls.of("home", 16, slices=4).drawn()
    truth = SEGMENTATION.target(cases, Preprocessing(size=32, mean=PLAIN.mean, std=PLAIN.std, slices=4))
    assert truth.shape == (16, 128, 32) and (truth[0].view(4, 32, 32).numpy() == cases.mask(0)).all()
    said = torch.nn.functional.one_hot(truth.long(), 2).movedim(3, 1).float()
    said[0, :, :64] = torch.tensor([1.0, 0.0]).view(2, 1, 1)  # in half of the slices nothing is said
    rows = SEGMENTATION.rows(said, truth)
    assert rows[0, :3].tolist() == [truth[0, 64:].sum(), truth[0, 64:].sum(), truth[0].sum()]
    fit_base(cases, Balls.of("home", 6, 500, 4).drawn(), ("background", "ball"), task="segmentation", slices=4,
             backbone="mobilenet_v3_small", size=32, epochs=2, out=tmp_path / "base", measure=dice)  # fmt: skip
    new, develop = Balls.of("new", 8, slices=4).drawn(), Balls.of("new", 4, 300, 4).drawn()
    for name in ("lora_rehearsal", "linear_probe"):
        run(RECIPES[name], base=tmp_path / "base", live_parts=None, new=new, memory=cases, develop=develop,
            out=tmp_path / name, seed=0, measure=dice, epochs=1)  # fmt: skip
        predictor = Predictor.load(tmp_path / "base", tmp_path / name)
        check_golden(predictor, tmp_path / name)
        batch = torch.stack([predictor.prepare(new.image(i)) for i in range(3)])
        seen = predictor.observe(batch)
        assert seen.probabilities.shape == (3, 2, 128, 32)
        assert seen.embedding.shape[0] == 3 and seen.embedding.ndim == 2


def test_a_cache_holds_all_slices(tmp_path: Path) -> None:
    """Or reads them again each time where they would not fit."""
    cases = Balls.of("home", 3, slices=3)
    kept, read = Pixels(cases, PLAIN), Pixels(cases, PLAIN, limit=0)
    assert kept[[0, 2]].shape == (2, 3, 96, 32) and torch.equal(kept[[0, 2]], read[[0, 2]])
