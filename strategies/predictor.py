"""A version as it serves: the base, the parts of one version on top, and the pinned sensor beside it.

The answer for an image depends neither on the images it came with nor on the machine's load: every forward pass has
the same shape and runs on one thread, because both choose the kernels and so move the last bits of a sum.
"""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

from strategies.alignment import ALIGNMENT, STATISTICS, fold, set_statistics
from strategies.base import load_base
from strategies.boxes import CORNERS
from strategies.collapse import pooled
from strategies.episode import Episode, trusted, views
from strategies.families.weights import load_exactly, read_json, read_weights, same_tensors
from strategies.inserted import insert
from strategies.model import Classifier, Recalibrator, Thresholds
from strategies.preprocessing import apply, from_record
from strategies.protocols import Preprocessing
from strategies.routing import Router, parts_of
from strategies.slices import fewer
from strategies.tasks import task_of

# Rows of every forward pass; fewer are padded. One row takes half the time of eight, eight a third of eight times one.
# Of cases that are several slices, fewer cases.
ROWS = 8

PROMPT = "prompt.safetensors"

# The files of a version that change what its encoder says; the sensor stays the base's.
ENCODER = (
    "weights.safetensors",
    "adapter_config.json",
    STATISTICS,
    "tuned.safetensors",
    "inserted.safetensors",
    PROMPT,
)

# The forms of peft that merge exactly and are read here.
FORMS = ("LORA", "ADALORA", "IA3", "LN_TUNING")


class Observation(NamedTuple):
    """What a version says of b images, float32.

    probabilities [b, k], rows sum to 1, or of findings each 0..1; logits [b, k], before recalibration, or the
    probabilities' logarithm where several sets of parts or views answer together; embedding [b, d] of the pinned
    sensor. Of a segmentation the first two are of every pixel, [b, k, s, s]; of a detection of places, and the last
    four of k are the corners of a box, as shares of the image's sides.
    """

    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Expert(NamedTuple):
    """One set of parts over the base: its encoder, its head and the recalibration of its scores.

    `episode` says which images are answered by views that the encoder `adapting` goes along with; mostly there is none.
    """

    backbone: nn.Module
    head: nn.Module
    recalibrator: Recalibrator
    episode: Episode | None = None
    adapting: nn.Module | None = None


class Predictor:
    """Immutable once loaded, so threads may share it.

    `router` sends an image to one of `experts`, to several, or to none: then the version's own parts answer, `served`.
    """

    def __init__(
        self,
        base: Classifier,
        preprocessing: Preprocessing,
        served: Expert,
        thresholds: Thresholds,
        router: Router | None = None,
        experts: Sequence[Expert] = (),
    ) -> None:
        self.classes = base.classes
        self.task = base.task
        self._task = task_of(base.task)
        self._corrected = self._task.probabilities
        self.preprocessing = preprocessing
        self.served = served
        self.experts = dict(zip(router.experts() if router else (), experts, strict=True))
        self._sensor = base.origin.sensor.eval()
        self._router = router
        self._thresholds = thresholds

    @classmethod
    def load(cls, base: Path, parts: Path | None = None) -> Predictor:
        """The base with the version's parts. Raises ValueError where a file is broken or belongs to another model."""
        model = load_base(base)
        preprocessing, thresholds, router = model.origin.preprocessing, Thresholds(), None
        if parts is None:
            return cls(model, preprocessing, Expert(model.backbone, model.head, Recalibrator()), thresholds)
        if (parts / "preprocessing.json").is_file():
            preprocessing = from_record(read_json(parts / "preprocessing.json"))
        if (parts / "thresholds.json").is_file():
            thresholds = Thresholds.read(parts / "thresholds.json", len(model.classes))
        router = Router.read(parts)
        experts = []
        for name in router.experts() if router else ():
            with parts_of(parts, name) as folder:
                experts.append(expert_of(model, folder))
        return cls(model, preprocessing, expert_of(model, parts), thresholds, router, experts)

    def prepare(self, image: NDArray[np.float32]) -> torch.Tensor:
        """[h, w] or [h, w, 3], or a volume of these -> float32 [3, slices size, size]; see `preprocessing.pixels`."""
        return apply(self.preprocessing, image)

    def answer(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Prepared images [b, 3, s, s] -> probabilities [b, k] or [b, k, s, s], without what the sensor sees."""
        return self._said(batch)[0].numpy()

    def features(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Prepared images [b, 3, s, s] -> what the version's own encoder makes of them, pooled, [b, d], unrouted."""
        return pooled(self._rows(self.served.backbone, batch)).numpy()

    def logits(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Prepared images [b, 3, s, s] -> logits [b, k] or [b, k, s, s], as they are before recalibration."""
        return self._said(batch)[1].numpy()

    def observe(self, batch: torch.Tensor) -> Observation:
        """Prepared images [b, 3, s, s] -> what the version says of each."""
        embedding = self._rows(self._sensor, batch)
        probabilities, logits = self._said(batch, embedding)
        return Observation(probabilities.numpy(), logits.numpy(), embedding.numpy())

    def embed(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Prepared images [b, 3, s, s] -> float32 [b, d] of the pinned sensor, the base's encoder in every version."""
        return self._rows(self._sensor, batch).numpy()

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray:
        """[b, k] -> the index of the class that the version decides for, int64 [b]; [b, k, s, s] -> [b, s, s]. Of
        findings that don't exclude each other which it decides for, bool [b, k]."""
        return self._task.decide(probabilities, self._thresholds)

    def shares(self, embedding: torch.Tensor) -> NDArray[np.float64]:
        """What the sensor sees, [b, d] -> each expert's share in the answer and, last, that of `served`, [b, e + 1].

        Rows sum to 1; a bank's hold a single 1.
        """
        if self._router is None:
            return np.ones((len(embedding), 1))
        return self._router.shares(self._rows(self._router, embedding).numpy())

    def _said(self, batch: torch.Tensor, embedding: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and logits [b, k]; each image is answered by the parts that have a share in it."""
        if self._router is None:
            return self._by(self.served, batch, embedding)
        embedding = self._rows(self._sensor, batch) if embedding is None else embedding
        shares = torch.from_numpy(self.shares(embedding)).float()
        said = torch.zeros(2, len(batch), len(self.classes))
        for share, expert in zip(shares.T, [*self.experts.values(), self.served], strict=True):
            mine = share > 0
            if mine.any():
                said[:, mine] += share[mine, None] * torch.stack(self._by(expert, batch[mine], embedding[mine]))
        mixed = shares.amax(dim=1) < 1
        said[1, mixed] = said[0, mixed].clamp_min(torch.finfo(said.dtype).tiny).log()
        return said[0], said[1]

    def _by(
        self, expert: Expert, batch: torch.Tensor, embedding: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shared = embedding if expert.backbone is self._sensor else None
        features = self._rows(expert.backbone, batch) if shared is None else shared
        logits = self._rows(expert.head, features)
        probabilities = self._corrected(logits, expert.recalibrator)
        if expert.episode is None or expert.adapting is None:
            return probabilities, logits
        logits = logits.clone()
        for i in expert.episode.doubtful(probabilities).nonzero().flatten().tolist():
            # As many views as a pass has rows: what its norms measure is of this image and nothing else.
            features = self._rows(expert.adapting, views(batch[i]))
            marginal = self._corrected(self._rows(expert.head, features), expert.recalibrator).mean(dim=0)
            if trusted(marginal, probabilities[i]):
                probabilities[i], logits[i] = marginal, marginal.clamp_min(torch.finfo(marginal.dtype).tiny).log()
        return probabilities, logits

    def by_each(self, batch: torch.Tensor) -> dict[str, NDArray[np.float32]]:
        """{expert: probabilities [b, k]} of each set of parts, whatever is routed to it."""
        return {name: self._by(expert, batch, None)[0].numpy() for name, expert in self.experts.items()}

    @torch.inference_mode()
    def _rows(self, module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        rows = fewer(ROWS, self.preprocessing.slices)
        padding = -len(batch) % rows
        padded = torch.cat([batch, batch.new_zeros((padding, *batch.shape[1:]))])
        with one_thread():
            return torch.cat([module(chunk) for chunk in padded.split(rows)])[: len(batch)].float()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch keeps the number per calling thread, so others that compute in this process keep theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def expert_of(base: Classifier, parts: Path) -> Expert:
    """The parts over the base, which stays as it is: its encoder is shared where no part changes it."""
    moved = any((parts / name).is_file() for name in ENCODER)
    head = copy.deepcopy(base.head)
    classifier = copy.deepcopy(base) if moved else Classifier(base.origin, head, base.classes, base.task)
    apply_parts(classifier.eval(), parts)
    file = parts / "recalibrator.json"
    recalibrator = Recalibrator.read(file, len(base.classes)) if file.is_file() else Recalibrator()
    encoder, episode = classifier.backbone.eval(), Episode.read(parts)
    adapting = None if episode is None else episode.adapting(encoder)
    return Expert(encoder, classifier.head.eval(), recalibrator, episode, adapting)


def apply_parts(classifier: Classifier, parts: Path) -> None:
    """Puts a version's weights, adapter (merged), statistics, tuned weights, inserted modules, prompt, head and
    alignment (folded in) into `classifier`, in place.

    Raises ValueError where a part's tensors are not exactly those that the model has.
    """
    backbone: Any = classifier.backbone
    if (parts / "weights.safetensors").is_file():
        weights = read_weights(parts / "weights.safetensors")
        insert(backbone, {n.removeprefix("inserted."): w for n, w in weights.items() if n.startswith("inserted.")})
        load_exactly(backbone, weights, "The part weights.safetensors")
    if (parts / "adapter_config.json").is_file():
        # The adapter is peft's over the ecosystem's own network, so that any tool of theirs can load it.
        backbone.network = merged(backbone.network, parts)
        classifier.adapter = read_json(parts / "adapter_config.json")
    if (parts / STATISTICS).is_file():
        set_statistics(backbone, parts / STATISTICS)
    if (parts / "tuned.safetensors").is_file():
        tuned, own = read_weights(parts / "tuned.safetensors"), backbone.network.state_dict()
        same_tensors({n: w for n, w in own.items() if n in tuned}, tuned, "The part tuned.safetensors")
        backbone.network.load_state_dict(tuned, strict=False)
    if (parts / "inserted.safetensors").is_file():
        insert(backbone, read_weights(parts / "inserted.safetensors"))
    if (parts / PROMPT).is_file():
        insert(backbone, read_weights(parts / PROMPT), PROMPT)
    if (parts / "head.safetensors").is_file():
        load_exactly(classifier.head, read_weights(parts / "head.safetensors"), "The part head.safetensors")
    if (parts / ALIGNMENT).is_file():
        fold(classifier.head, parts / ALIGNMENT)


def merged(network: nn.Module, parts: Path) -> nn.Module:
    """`network` with the peft adapter of `parts` merged in.

    peft passes over missing and unknown tensors in silence; here they raise ValueError, as does another form than
    those of `FORMS`.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    form = read_json(parts / "adapter_config.json").get("peft_type")
    if form not in FORMS:
        raise ValueError(f"The adapter is of peft's form {form!r}; those that are merged here: {', '.join(FORMS)}.")
    weights = read_weights(parts / "adapter_model.safetensors")
    with warnings.catch_warnings():
        # Of a count of features, not used; of AdaLoRA's ranks, which are no LoRA's, and of its layers of rank 0.
        warnings.filterwarnings("ignore", "Unsupported layer type|.*rank_pattern keys|.*have invalid shape")
        try:
            model = get_peft_model(network, PeftConfig.from_pretrained(str(parts)))
            wanted = get_peft_model_state_dict(model)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"The adapter does not fit this base: peft finds no place for it ({error}).") from error
        same_tensors(wanted, weights, "The adapter")
        set_peft_model_state_dict(model, weights)
        return model.merge_and_unload()


def golden(predictor: Predictor) -> dict[str, NDArray[np.float32]]:
    """What the predictor says of images drawn from a fixed seed: no patient's, and the same on every machine.

    Each expert of a bank says it too, wherever those images would be routed. Of dense answers it is some pixels, and of
    boxes the logits are of their scores alone: the corners are among the probabilities.
    """
    batch = torch.stack([predictor.prepare(image) for image in _synthetic()])
    said = predictor.observe(batch)._asdict() | predictor.by_each(batch)
    if predictor.task == "detection":
        said["logits"] = said["logits"][:, :-CORNERS]
    return {name: _some(answers) for name, answers in said.items()}


def _some(answers: NDArray[np.float32]) -> NDArray[np.float32]:
    """[b, k] as it is; of dense answers [b, k, h, w] at most 32 pixels across and 1024 in all, evenly spaced."""
    if answers.ndim != 4:
        return answers
    across = max(1, -(-answers.shape[-1] // 32))
    down = -(-answers.shape[-2] // (1024 // min(32, answers.shape[-1])))
    return np.ascontiguousarray(answers[..., ::down, ::across])


def write_golden(predictor: Predictor, folder: Path) -> None:
    """Writes golden.safetensors, with the machine that made it in its metadata."""
    save_file(golden(predictor), folder / "golden.safetensors", metadata={"machine": machine()})


def check_golden(predictor: Predictor, folder: Path) -> None:
    """Raises ValueError unless the predictor answers as golden.safetensors says.

    Byte for byte where the machine and torch are those that wrote it, within 1e-5 elsewhere.
    """
    file = folder / "golden.safetensors"
    wanted = {name: tensor.numpy() for name, tensor in read_weights(file).items()}
    with safe_open(file, framework="np") as opened:
        tolerance = 0.0 if (opened.metadata() or {}).get("machine") == machine() else 1e-5
    now = golden(predictor)
    if predictor.task == "detection":  # as they were written when the logits of boxes had distances behind the scores
        wanted["logits"] = wanted["logits"][:, : now["logits"].shape[1]]
    if now.keys() != wanted.keys() or any(now[name].shape != wanted[name].shape for name in now):
        raise ValueError("The golden outputs are of another kind of model than the one loaded.")
    worst = max(float(np.abs(now[name] - wanted[name]).max()) for name in now)
    if not worst <= tolerance:
        raise ValueError(
            f"The loaded version answers otherwise than when it was made: golden outputs differ by {worst:.2g}."
        )


def machine() -> str:
    """What the low bits of an answer depend on."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"


def _synthetic(count: int = 4) -> list[NDArray[np.float32]]:
    """Smooth random grey and colour images of several sizes, 0..255."""
    draw = np.random.Generator(np.random.PCG64(20260101))
    images = []
    for i in range(count):
        coarse = draw.integers(0, 256, size=(6 + i, 7, 3 if i % 2 else 1)).astype(np.float32)
        images.append(np.kron(coarse, np.ones((17, 19, 1), dtype=np.float32)).squeeze())
    return images
