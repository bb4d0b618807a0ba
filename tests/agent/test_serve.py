"""LiveModel: serves what is live, follows the pointer, and never answers with a mixture."""

from __future__ import annotations

import logging
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agent.errors import HomeostatError
from agent.trust import suspend_domains
from agent.versions import bundle, pointer, registry
from agent.versions.serve import LiveModel
from agent.workspace import Workspace, put_setting
from strategies.base import write_base
from strategies.families import load_backbone
from strategies.model import Classifier, Recalibrator
from strategies.predictor import Predictor, write_golden

WHO = {"by": "ana", "reason": "because"}
CLASSES = ("normal", "pneumonia", "other")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """v0 and v1 of a small random network; v1 has another head and another recalibration, and is live."""
    workspace = Workspace.create(tmp_path_factory.mktemp("serve") / "site")
    torch.manual_seed(0)
    backbone = load_backbone("mobilenet_v3_small", pretrained=False)
    write_base(Classifier(backbone, torch.nn.Linear(backbone.width, 3), CLASSES), workspace.base, {})
    base_digest, at = bundle.folder_digest(workspace.base), workspace.now()
    digest = write_version(workspace, "v0", Recalibrator(), {})
    with workspace.store.transaction() as connection:
        registry.register_base(
            connection, digest=digest, base_digest=base_digest, plan_digest="plan", by="ana", at=workspace.now()
        )
        version = registry.create(
            connection, recipe="linear_probe", parent="v0", job=None, plan_digest="plan", by="agent", at=at
        )
    head = torch.nn.Linear(backbone.width, 3).state_dict()
    digest = write_version(workspace, version, Recalibrator(temperature=0.5), head)
    with workspace.store.transaction() as connection:
        registry.complete(connection, version, digest=digest, at=at, **WHO)
        registry.move(connection, version, "approved", at=at, **WHO)
    registry.promote(workspace, version, **WHO)
    workspace.store.close()
    return workspace.root


def write_version(workspace, version, recalibrator, head) -> str:
    parts = workspace.path("jobs", version)
    parts.mkdir()
    if head:
        save_file(head, parts / "head.safetensors")
    recalibrator.write(parts / "recalibrator.json")
    write_golden(Predictor.load(workspace.base, parts), parts)
    return bundle.write(workspace, version, parts, {"base_digest": bundle.folder_digest(workspace.base)})


@pytest.fixture
def workspace(origin, tmp_path):
    shutil.copytree(origin, tmp_path / "site")
    return Workspace(tmp_path / "site")


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(1)
    return [draw.integers(0, 256, (60 + i, 70)).astype(np.float32) for i in range(3)]


def test_an_answer_says_which_version_and_what_trust(workspace, images):
    """Every prediction carries the version that made it and what to think of it today."""
    model = LiveModel(workspace.root)
    answers = model.predict(images)
    assert [(answer.version, answer.trust) for answer in answers] == [("v1", "normal")] * 3
    for answer in answers:
        assert set(answer.probabilities) == set(CLASSES)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert answer.label == max(answer.probabilities, key=answer.probabilities.get)
    assert model.predict([]) == []


def test_after_a_rollback_the_answers_are_those_the_version_gave_first(workspace, images):
    """Rollback restores the whole version, head and recalibration together: equal to the last bit, restarted or not."""
    model = LiveModel(workspace.root)
    first = model.predict(images)
    registry.rollback(workspace, **WHO)
    other = model.predict(images)
    registry.rollback(workspace, "v1", **WHO)

    assert ([a.version for a in other], [a.version for a in first]) == (["v0"] * 3, ["v1"] * 3)
    assert probabilities(other) != probabilities(first)
    assert probabilities(model.predict(images)) == probabilities(first)
    assert probabilities(LiveModel(workspace.root).predict(images)) == probabilities(first)


def probabilities(answers):
    return [answer.probabilities for answer in answers]


def test_trust_is_followed_without_loading_anything(workspace, images):
    """A change of trust reaches the next answer, and the network in memory stays the same."""
    model = LiveModel(workspace.root)
    before = model._serving.predictor
    with workspace.store.transaction() as connection:
        put_setting(connection, "trust", "suspended")
    pointer.publish(workspace)
    assert model.predict(images[:1])[0].trust == "suspended"
    assert model._serving.predictor is before


def test_a_suspended_domain_is_told_with_each_of_its_answers(workspace, images):
    """Its images carry `suspended`, those of other scanners what the deployment is trusted with."""
    model = LiveModel(workspace.root)
    with workspace.store.transaction() as connection:
        suspend_domains(connection, "v1", ["main/C"], by="homeostat", reason="labels", at=workspace.now())
    pointer.publish(workspace)
    found = [model.predict(images[:1], domain=domain)[0].trust for domain in ("main/C", "home", None)]
    assert found == ["suspended", "normal", "normal"]
    assert model.live.suspended == ("main/C",)


def test_a_damaged_version_is_not_taken_up(workspace, images, caplog):
    """A flipped byte in the version that goes live: the old one goes on serving, and the log says why."""
    registry.rollback(workspace, **WHO)
    model = LiveModel(workspace.root)
    first = model.predict(images)
    registry.rollback(workspace, "v1", **WHO)
    damage(workspace.path("versions", "v1", "head.safetensors"))

    with caplog.at_level(logging.ERROR, "homeostat.serve"):
        answers = model.predict(images)
    assert probabilities(answers) == probabilities(first)
    assert {a.version for a in answers} == {"v0"}
    assert "head.safetensors was changed" in caplog.text
    with pytest.raises(HomeostatError, match=r"head\.safetensors was changed"):
        LiveModel(workspace.root)


def test_another_base_is_refused(workspace):
    """An adapter on a base that it was not made for gives confident nonsense: it is not served."""
    damage(workspace.base / "head.safetensors")
    with pytest.raises(HomeostatError, match="made for another base"):
        LiveModel(workspace.root)


def test_a_lower_generation_is_ignored(workspace, images):
    """An older live.json, restored by a backup program, doesn't take the service back."""
    older = workspace.path("live.json").read_bytes()
    registry.rollback(workspace, **WHO)
    model = LiveModel(workspace.root)
    workspace.path("live.json").write_bytes(older)
    assert model.predict(images[:1])[0].version == "v0"


def test_no_answer_is_torn_while_versions_switch(workspace, images):
    """Threads ask while live goes to and fro: each answer is one version's own, to the bit, and is labelled as such."""
    model = LiveModel(workspace.root)
    truth = {}
    for version in ("v0", "v1"):
        if model.live.version != version:
            registry.rollback(workspace, version, **WHO)
        truth[version] = probabilities(model.predict(images))
    ended, answers, faults = threading.Event(), [], []

    def ask():
        try:
            while not ended.is_set():
                answers.append(model.predict(images))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(40):
        registry.rollback(workspace, ("v0", "v1")[i % 2], **WHO)
        model.follow()
    ended.set()
    for thread in threads:
        thread.join()

    assert faults == []
    seen = {answer.version for batch in answers for answer in batch}
    torn = [batch for batch in answers if probabilities(batch) != truth[batch[0].version]]
    assert (torn, seen) == ([], {"v0", "v1"})


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_of_findings_the_label_has_all_that_are_said(tmp_path):
    """Where they don't exclude each other: as a label is written, `none` where nothing is; each has a chance of its
    own."""
    workspace = Workspace.create(tmp_path / "site")
    backbone, head = load_backbone("mobilenet_v3_small", pretrained=False), torch.nn.Linear(576, 3)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([2.0, -2.0, 1.0]))
    write_base(Classifier(backbone, head, CLASSES, "multilabel"), workspace.base, {})
    digest = write_version(workspace, "v0", Recalibrator(bias=(0.0, 0.0, 0.0)), {})
    with workspace.store.transaction() as connection:
        registry.register_base(connection, digest=digest, base_digest=bundle.folder_digest(workspace.base),
                               plan_digest="plan", by="ana", at=workspace.now())  # fmt: skip
    pointer.publish(workspace)
    [said] = LiveModel(workspace.root).predict([np.zeros((40, 40), np.float32)])
    assert said.label == "normal|other"
    assert said.probabilities == pytest.approx({"normal": 0.881, "pneumonia": 0.119, "other": 0.731}, abs=1e-3)
