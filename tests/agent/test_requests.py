"""Requests: a person's wish for an update is taken up once, and always answered."""

from __future__ import annotations

import pytest
from stocked import stock

from agent.errors import HomeostatError, NotEnoughEvidence
from agent.updates import requests


@pytest.fixture
def workspace(tmp_path):
    return stock(tmp_path / "site")


def test_a_request_is_answered_with_the_version_that_comes_of_it(workspace):
    """Who asked learns which version it is; nobody takes the request up twice."""
    assert requests.pending(workspace) is None
    number = requests.ask(workspace, ["recalibrate"], by="ana")
    asked = requests.pending(workspace)
    assert (asked.number, asked.recipes, asked.by) == (number, ("recalibrate",), "ana")
    assert requests.answer(workspace, number) is None
    requests.accept(workspace, asked, "v3")
    assert requests.pending(workspace) is None
    assert requests.answer(workspace, number) == {"version": "v3"}


def test_a_second_request_waits_for_the_first_and_has_a_number_of_its_own(workspace):
    """Two people don't get each other's answers."""
    first = requests.ask(workspace, ["recalibrate"], by="ana")
    with pytest.raises(HomeostatError, match="waits already"):
        requests.ask(workspace, ["linear_probe"], by="ben")
    requests.accept(workspace, requests.pending(workspace), "v1")
    second = requests.ask(workspace, ["linear_probe"], by="ben")
    assert second == first + 1
    assert requests.answer(workspace, first) is None, "the first one's answer was read or is gone, never the second's"
    assert requests.answer(workspace, second) is None


def test_an_error_is_the_answer_and_keeps_its_exit_code(workspace):
    """Too little evidence is 3 for who asked, and no end of the daemon that took it up."""
    number = requests.ask(workspace, ["recalibrate"], by="ana")
    with requests.answered(workspace, requests.pending(workspace)):
        raise NotEnoughEvidence("no labels")
    assert requests.answer(workspace, number) == {"error": "no labels", "exit_code": 3}
    assert requests.pending(workspace) is None


def test_a_request_survives_the_process_that_was_to_take_it_up(workspace):
    """It is in the store; the next start finds it. A fault of the program answers nothing."""
    requests.ask(workspace, ["recalibrate"], by="ana")
    with pytest.raises(ZeroDivisionError), requests.answered(workspace, requests.pending(workspace)):
        raise ZeroDivisionError
    assert requests.pending(workspace) is not None
    with workspace.store.read() as connection:
        events = [row["event"] for row in connection.execute("SELECT event FROM journal")]
    assert events == ["update_requested"]
