"""Black boxes: what is deployed answers as the vendor's module, cannot be trained, and runs no code of its archive."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vendors
from shapes import Shapes, balanced
from torch import nn

from strategies.base import base_digest, import_described, load_base
from strategies.families import family_of, load_backbone
from strategies.families.archives import EXPORT, PICKLE, TORCHSCRIPT, kind_of, load_program
from strategies.families.weights import read_weights
from strategies.predictor import Predictor
from strategies.protocols import Describing, Family
from strategies.recipes import RECIPES, run

CLASSES = ("round", "square")
SIDE = 16


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Small(nn.Module):
    """A convolutional network as vendors have it: features, and a linear layer behind them."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.last = nn.Linear(5, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(images))


class Ending(nn.Module):
    """A network and what comes behind it."""

    def __init__(self, network: nn.Module, end: nn.Module) -> None:
        super().__init__()
        self.network, self.end = network, end

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.end(self.network(images))


Maker = Callable[[nn.Module, Path], Path]
ARCHIVES: dict[str, tuple[Maker, str]] = {
    "scripted.pt": (vendors.scripted, TORCHSCRIPT),
    "traced.pth": (lambda net, file: vendors.traced(net, file, torch.zeros(1, 3, SIDE, SIDE)), TORCHSCRIPT),
    "any.pt2": (lambda net, file: vendors.exported(net, file, torch.zeros(2, 3, SIDE, SIDE), any_number=True), EXPORT),
    "one.pt2": (lambda net, file: vendors.exported(net, file, torch.zeros(1, 3, SIDE, SIDE)), EXPORT),
    "three.ts": (lambda net, file: vendors.exported(net, file, torch.zeros(3, 3, SIDE, SIDE)), EXPORT),
}
FED: dict[str, Any] = {
    "channels": 3,
    "classes": CLASSES,
    "preprocessing": {"size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3, "scale": "uint8"},
}


def box(folder: Path, network: nn.Module, archive: str = "scripted.pt", **said: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return vendors.declare(ARCHIVES[archive][0](network, folder / archive), **(FED | said))


def answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images)


def test_contract_of_every_kind_of_archive(tmp_path: Path) -> None:
    """The base answers as the module does for any number of images, holds it byte for byte, has nothing to adapt, and
    its digest covers the module."""
    network, images = Small(), torch.rand(5, 3, SIDE, SIDE)
    wanted, covered = answers(network, images), []
    for archive, (_, kind) in ARCHIVES.items():
        vendor, base = box(tmp_path / archive, network, archive), tmp_path / f"base {archive}"
        family = family_of(str(vendor))
        assert isinstance(family, Family) and isinstance(family, Describing)
        assert kind_of(vendor / archive) == kind, "by content, whatever the name"
        assert family.describes(str(vendor)) == ("classification", CLASSES)
        import_described(str(vendor), base)
        model = load_base(base)
        assert torch.allclose(answers(model, images), wanted, atol=1e-5), archive
        assert Predictor.load(base).answer(images) == pytest.approx(torch.softmax(wanted, 1).numpy(), abs=1e-5)
        assert model.origin.sealed and model.origin.adaptable() == [] and not list(model.backbone.parameters())
        assert model.classes == CLASSES and model.origin.preprocessing.size == SIDE
        [module] = [file for file in base.iterdir() if file.stem == "model"]
        assert module.read_bytes() == (vendor / archive).read_bytes()
        digest, content = base_digest(base), bytearray(module.read_bytes())
        content[-1] ^= 1
        module.write_bytes(content)
        assert base_digest(base) != digest
        covered.append(kind)
    assert (covered.count(TORCHSCRIPT), covered.count(EXPORT)) == (2, 3)


class Single(nn.Module):
    """A network that raises by itself where it is given more than one image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[0] != 1:
            raise RuntimeError("one at a time")
        return self.inner(images)


def test_a_script_that_takes_one_image_is_fed_one_at_a_time(tmp_path: Path) -> None:
    """What a script raises by itself is none of the usual errors."""
    made = load_backbone(str(box(tmp_path / "one", Single())))
    assert len(answers(made.module, torch.rand(3, 3, *[made.preprocessing.size] * 2))) == 3


class Rows(nn.Module):
    """A network whose last layer reads the places of all images as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images).relu().flatten(2).transpose(1, 2)
        return self.last(maps.reshape(-1, 4)).reshape(images.shape[0], -1, 2).mean(dim=1)


def test_what_the_monitors_see(tmp_path: Path) -> None:
    """Of a program of torch.export what its last layer reads; of TorchScript a submodule that is named, else the
    logits."""
    network, images = Small(), torch.rand(3, 3, SIDE, SIDE)
    features, logits = answers(network.features, images), answers(network, images)
    for archive, said, wanted in (
        ("any.pt2", {}, features),
        ("one.pt2", {}, features),
        ("scripted.pt", {"embedding": "features"}, features),
        ("traced.pth", {"embedding": "features.0"}, answers(network.features[0], images).mean(dim=(2, 3))),
        ("scripted.pt", {}, logits),
    ):
        origin = load_backbone(str(box(tmp_path / f"{archive}{len(said)}", network, archive, **said)))
        assert torch.allclose(answers(origin.sensor, images), wanted, atol=1e-5), archive
    rows = Rows()
    origin = load_backbone(str(box(tmp_path / "rows", rows, "any.pt2")))
    assert torch.allclose(answers(origin.sensor, images), answers(rows, images), atol=1e-5)
    for name, reason in (("encoder", "no submodule 'encoder'"), ("last", "takes no images")):
        with pytest.raises(ValueError, match=reason):
            load_backbone(str(box(tmp_path / name, network, embedding=name)))


@pytest.mark.parametrize(
    ("end", "outputs", "output"),
    [
        (nn.Softmax(dim=1), 2, "probabilities"),
        (nn.Sigmoid(), 1, "probabilities"),
        (nn.Identity(), 1, "logits"),
        (nn.Sequential(nn.Sigmoid(), nn.Flatten(0)), 1, "probabilities"),
    ],
)
def test_every_form_of_output_becomes_the_same_probabilities(
    tmp_path: Path, end: nn.Module, outputs: int, output: str
) -> None:
    """Probabilities are not softened again, and a single number is the second class's, by its sigmoid."""
    network, images = Small(outputs), torch.rand(4, 3, SIDE, SIDE)
    import_described(str(box(tmp_path / "vendor", Ending(network, end), output=output)), tmp_path / "base")
    logits = answers(network, images)
    chances = torch.softmax(logits, 1) if outputs == 2 else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
    assert Predictor.load(tmp_path / "base").answer(images) == pytest.approx(chances.numpy(), abs=1e-5)


def test_a_grey_module_takes_colour_and_grey(tmp_path: Path) -> None:
    """One channel is declared once; images of three are averaged."""
    vendor = vendors.declare(vendors.scripted(vendors.Halves(), _in(tmp_path / "vendor") / "m.pt"))
    import_described(str(vendor), tmp_path / "base")
    predictor, image = Predictor.load(tmp_path / "base"), Shapes.of("home", 1).image(0)
    grey = image if image.ndim == 2 else image.mean(axis=2)
    said = predictor.logits(torch.stack([predictor.prepare(grey), predictor.prepare(np.stack([grey] * 3, axis=2))]))
    assert said[0] == pytest.approx(said[1], abs=1e-4)


def test_a_black_box_of_masks(tmp_path: Path) -> None:
    """A module that answers for every pixel is a segmentation; its sensor pools."""
    network, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        torch.rand(2, 3, 16, 16),
    )
    vendor = box(tmp_path / "vendor", network, task="segmentation", classes=["background", "vessel"])
    import_described(str(vendor), tmp_path / "base")
    said = Predictor.load(tmp_path / "base").observe(images)
    assert said.logits == pytest.approx(answers(network, images).numpy(), abs=1e-5)
    assert said.embedding.shape == (2, 2)
    again = box(tmp_path / "exported", network, "any.pt2", task="segmentation", classes=["background", "vessel"])
    assert answers(load_backbone(str(again)).sensor, images).shape == (2, 4)


def test_only_recalibration_serves(tmp_path: Path) -> None:
    """Every recipe that moves weights is refused in a sentence, leaves nothing behind, and the one that moves none
    gives a version."""
    import_described(str(box(tmp_path / "vendor", Small())), tmp_path / "base")
    some: dict[str, Any] = {"base": tmp_path / "base", "live_parts": None, "seed": 0, "measure": balanced, "epochs": 1}
    some |= {"new": Shapes.of("new", 8), "memory": Shapes.of("home", 8), "develop": Shapes.of("home", 8, 100)}
    refused = []
    for name, recipe in RECIPES.items():
        if name != "recalibrate":
            with pytest.raises(ValueError, match=f"{name} moves weights, and this model is a black box"):
                run(recipe, out=tmp_path / name, **some)
            assert not (tmp_path / name).exists()
            refused.append(name)
    assert len(refused) == 4
    made = run(RECIPES["recalibrate"], out=tmp_path / "made", **some)
    assert made.made["trainable_parameters"] == 0 and "recalibrator" in made.parts


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"output": None}, "lacks output"),
        ({"preprocessing": {"size": SIDE, "scale": "uint8"}}, "lacks mean, std"),
        ({"preprocessing": FED["preprocessing"] | {"mean": [0.5] * 2}}, "each of 3 channels"),
        ({"preprocessing": FED["preprocessing"] | {"std": [0.0] * 3}}, "deviation above 0"),
        ({"embeding": "features"}, "'embeding', which is not read"),
        ({"task": "detection"}, "'detection' as its task; known are classification and segmentation"),
        ({"classes": ["a", "b", "c"]}, r"answers with \(2,\) for an image|where classification needs"),
        ({"output": "probabilities"}, "answers with logits, by their sums; declared are probabilities"),
        ({"channels": 1}, "takes no images"),
        ({"module": "../scripted.pt"}, "no file beside it"),
        ({"task": "segmentation"}, "where segmentation needs"),
    ],
)
def test_a_wrong_declaration_is_refused_in_one_sentence(tmp_path: Path, said: dict[str, Any], reason: str) -> None:
    """What a field lacks, or the module contradicts, is named before anything is deployed."""
    vendor = box(tmp_path / "vendor", Small(), **said)
    (tmp_path / "scripted.pt").write_bytes((vendor / "scripted.pt").read_bytes())
    with pytest.raises(ValueError, match=reason) as refusal:
        load_backbone(str(vendor))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_a_module_in_training_mode_is_refused(tmp_path: Path) -> None:
    """Dropout would answer each time otherwise, batch norm by the other images of a batch."""
    for name, network, why in (
        ("dropout", nn.Sequential(Small(8), nn.Dropout(), nn.Linear(8, 2)), "each time otherwise"),
        ("norm", Small(), "beside an image in a batch"),
    ):
        (tmp_path / name).mkdir()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.jit.trace(network.train(), torch.rand(2, 3, SIDE, SIDE), check_trace=False)
            torch.jit.save(program, tmp_path / name / "m.pt")
        with pytest.raises(ValueError, match=why):
            load_backbone(str(vendors.declare(tmp_path / name / "m.pt", **FED)))


class Harm:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickles_are_told_by_their_content_and_never_read(tmp_path: Path) -> None:
    """A state dict and a whole module, in the new and the old form, under whatever name: each is refused with the way
    to convert it, and nothing in it runs."""
    mark, refused = tmp_path / "ran", 0
    for content in (Small().state_dict(), {"weights": Harm(mark)}, Small()):
        for zipped in (True, False):
            for name in ("vendor.pt", "vendor.ts", "vendor.pt2"):
                folder = _in(tmp_path / f"{refused}")
                torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
                assert kind_of(folder / name) == PICKLE
                with pytest.raises(ValueError, match=r"is a pickle, which can run code.*torch.export.save"):
                    load_backbone(str(vendors.declare(folder / name, **FED)))
                refused += 1
    assert refused == 18 and not mark.exists()


def test_a_program_is_no_weights_file_and_alone_it_says_too_little(tmp_path: Path) -> None:
    """Named where weights are read it is told from a pickle, and where a model is, its declaration is asked for."""
    file = vendors.scripted(Small(), tmp_path / "vendor.pth")
    with pytest.raises(ValueError, match="program of TorchScript and no weights file"):
        read_weights(file)
    with pytest.raises(ValueError, match=r"put it into a folder with a config\.json"):
        load_backbone(str(file))


def changed(file: Path, record: str, change: Callable[[Any], None]) -> None:
    """The archive with one of its JSON records changed."""
    with zipfile.ZipFile(file) as archive:
        records = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(file, "w") as archive:
        for info, content in records:
            if info.filename.endswith(record):
                value = json.loads(content)
                change(value)
                content = json.dumps(value).encode()
            archive.writestr(info.filename, content)


def _graph(program: Any) -> Any:
    return program["graph_module"]["graph"]


def _in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
HARMS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "a function of Python": (
        MODEL,
        lambda p: _graph(p)["nodes"][-1].update(target="torch.os.system"),
        "torch.os.system",
    ),
    "one that opens files": (
        MODEL,
        lambda p: _graph(p)["nodes"][-1].update(target="torch.ops.aten.from_file.default"),
        "from_file",
    ),
    "one as an argument": (
        MODEL,
        lambda p: _graph(p)["nodes"][-1]["inputs"][0].update(arg={"as_operator": "torch.os.system"}),
        "torch.os.system",
    ),
    "a pickled tensor": (WEIGHTS, lambda c: next(iter(c["config"].values())).update(use_pickle=True), "the pickle"),
    "an expression": (
        MODEL,
        lambda p: next(iter(_graph(p)["tensor_values"].values()))["sizes"][0].update(
            as_expr={"expr_str": "exit()", "hint": {"as_int": 2}}
        ),
        "exit",
    ),
    "a guard": (MODEL, lambda p: p.update(guards_code=["exit()"]), "guards_code"),
    "code as a name": (MODEL, lambda p: _graph(p)["nodes"][-1].update(name="x=exit()"), "x=exit"),
    "code as a key": (MODEL, lambda p: _graph(p)["tensor_values"].update({"x=exit()": {}}), "x=exit"),
    "a class in a tree": (
        MODEL,
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "os.system", "context": "null", "children_spec": []}]'
        ),
        "os.system",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_program_that_would_run_code_is_refused(tmp_path: Path, harm: str) -> None:
    """torch.export.load would look up, unpickle or evaluate each of these; the untouched archive loads."""
    record, change, named = HARMS[harm]
    file = ARCHIVES["any.pt2"][0](Small(), tmp_path / "m.pt2")
    load_program(file)
    changed(file, record, change)
    with pytest.raises(ValueError, match=f"holds '.*{named}.*not loaded"):
        load_program(file)


def test_a_program_with_other_records_is_refused(tmp_path: Path) -> None:
    """Compiled libraries, pickled constants, and what lies outside the archive's folder, where torch looks next."""
    whole = ARCHIVES["any.pt2"][0](Small(), tmp_path / "m.pt2").read_bytes()
    for record in ("m/data/aotinductor/model/a.so", "m/data/constants/opaque_obj_0", "m/models/other.json", "version"):
        with zipfile.ZipFile(stream := io.BytesIO(whole), "a") as archive:
            archive.writestr(record, pickle.dumps(Harm(tmp_path / "ran")))
        (tmp_path / "m.pt2").write_bytes(stream.getvalue())
        with pytest.raises(ValueError, match=r"not loaded|can't be loaded"):
            load_program(tmp_path / "m.pt2")
    assert not (tmp_path / "ran").exists()


class Reads(nn.Module):
    """A module that opens a file."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean() + torch.from_file("secret", size=1)


def test_torchscript_that_opens_files_is_refused(tmp_path: Path) -> None:
    """Its interpreter knows no Python, but two operators that touch the disk."""
    with pytest.raises(ValueError, match="calls torch's 'from_file', which opens files"):
        load_program(vendors.scripted(Reads(), tmp_path / "m.pt"))


@pytest.mark.parametrize("archive", ["scripted.pt", "any.pt2"])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, archive: str) -> None:
    """Cut short, with a record missing, or with records that are not what torch wrote."""
    whole = ARCHIVES[archive][0](Small(), tmp_path / archive)
    content = whole.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as read:
        records = {name: read.read(name) for name in read.namelist()}
    for spoilt in (name for name in records if not name.endswith(("debug_pkl", "serialization_id", "byteorder"))):
        for left in ({}, {spoilt: b"{}"}):
            with zipfile.ZipFile(whole, "w") as archived:
                for name, record in ({n: r for n, r in records.items() if n != spoilt} | left).items():
                    archived.writestr(name, record)
            try:
                load_program(whole)
            except ValueError as error:
                assert "\n" not in str(error)
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="no module of TorchScript and no program"):
        load_program(whole)
