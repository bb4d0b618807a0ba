"""`homeostat demo` as a person meets it: one command, the whole story, a page that opens alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.demo.cast import Size, generated
from agent.demo.page import page
from agent.demo.record import Step
from agent.demo.story import Play
from agent.demo.telling import told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
STEPS = [
    "fit", "init", "quiet", "alarm", "labels", "update", "approve", "kill", "recover", "restored", "naive",
    "flipped-byte", "rollback", "resume", "end",
]  # fmt: skip


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `homeostat demo --json` answers, run once as a process of its own with its defaults."""
    folder = tmp_path_factory.mktemp("demo")
    line = [sys.executable, "-m", "agent.cli", "demo", "--keep", str(folder / "kept"), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture(scope="module")
def story(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in answer["story"]}


def test_every_act_is_played_and_says_something(answer: dict[str, Any]) -> None:
    """Nothing of the story is left out on the generated images, and each step has a sentence."""
    assert [step["step"] for step in answer["story"]] == STEPS
    assert all(step["says"] for step in answer["story"])


def test_the_change_is_noticed_and_the_quiet_days_are_not_disturbed(story: dict[str, dict[str, Any]]) -> None:
    """No alarm before the new scanner, one within 40 cases after it, and trust says so."""
    assert story["quiet"]["alarms"] == 0
    assert 0 < story["alarm"]["after_cases"] <= 40
    assert story["alarm"]["trust"] == "caution"


def test_the_update_learns_the_new_scanner_and_keeps_the_old_one(story: dict[str, dict[str, Any]]) -> None:
    """Ours rises at the new scanner and stays within the plan's margin at home; the gates required it."""
    before, after = story["restored"]["before"], story["restored"]["after"]
    assert after["new"] >= before["new"] + 0.1
    assert after["home"] >= before["home"] - 0.05
    assert set(story["update"]["verdicts"].values()) - {"INSUFFICIENT"} == {"PASS"}


def test_naive_fine_tuning_forgets_and_is_refused_for_it(story: dict[str, dict[str, Any]]) -> None:
    """The bad candidate is refused by a forgetting gate at home, with exit code 1."""
    naive = story["naive"]
    assert naive["state"] == "rejected" and naive["exit_code"] == 1
    assert any(gate.startswith("forgetting:home") for gate in naive["refused_by"])


def test_what_is_broken_on_purpose_is_mended(story: dict[str, dict[str, Any]]) -> None:
    """The killed promotion is made whole, the flipped byte is found and refused, the rollback is exact."""
    kill, flip = story["kill"], story["flipped-byte"]
    assert (kill["exit_status"], kill["store"], kill["live.json"]) == (-9, "v1", "v0")
    assert story["recover"]["live"] == "v1" and story["recover"]["ok"]
    assert flip["exit_code"] == 1 and flip["refused"] and flip["ok_again"]
    assert [problem["where"] for problem in flip["problems"]] == ["versions/v1"]
    assert story["rollback"]["byte_equal"] and story["rollback"]["to"] == "v0"
    assert story["end"]["live"] == "v1" and story["end"]["trust"] == "normal"


def test_the_page_holds_the_story_and_needs_no_network(answer: dict[str, Any]) -> None:
    """story.html opens alone, with its images and drawings in it, and tells every step."""
    html = Path(answer["page"]).read_text()
    assert "<script" not in html and "http" not in html
    assert html.count("data:image/png;base64,") == 6 and html.count("<svg") > 10
    for title in ("kill -9 in the middle of the promotion", "One flipped byte", "Rollback"):
        assert title in html


def test_the_workspace_is_kept_whole_and_never_overwritten(answer: dict[str, Any]) -> None:
    """The kept workspace verifies with the ordinary commands, and a second demo leaves it alone."""
    line = [sys.executable, "-m", "agent.cli"]
    verified = subprocess.run([*line, "verify", "--workspace", answer["workspace"], "--json"], capture_output=True)
    assert verified.returncode == 0 and json.loads(verified.stdout)["ok"]
    again = subprocess.run([*line, "demo", "--keep", answer["workspace"]], capture_output=True, text=True)
    assert again.returncode == 2 and "overwrites nothing" in again.stderr


def test_a_story_that_the_data_do_not_carry_is_told_as_it_was(tmp_path: Path) -> None:
    """With a hopeless base and few patients the play goes to its end, says what failed, and leaves the rest out."""
    cast = generated(
        tmp_path / "demo", Size(home=60, quiet=20, arrival=70, later=4, test=12, pixels=48, epochs=1), seed=1
    )
    heard: list[Step] = []
    play = Play(tmp_path, cast, epochs=1, seed=0, tell=heard.append)
    play.perform()
    assert heard == play.steps and heard[-1].step == "end"
    told_steps = {step.step for step in heard}
    assert told_steps >= {"fit", "init", "quiet", "alarm", "labels", "update", "end"}
    assert ("kill" in told_steps) == ("rollback" in told_steps)
    assert heard[-1].title in page(told(play, 1.0))
