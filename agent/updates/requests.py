"""A person's request for an update, handed to whichever process works on the workspace: the daemon, or the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from agent.errors import HomeostatError
from agent.store import journal
from agent.workspace import Workspace, get_setting, put_setting

KEY = "update_request"


@dataclass(frozen=True)
class Request:
    """An update that a person asked for."""

    number: int
    recipes: Sequence[str]
    by: str


def ask(workspace: Workspace, recipes: Sequence[str], *, by: str) -> int:
    """Leaves a request; returns its number. Raises HomeostatError while another one waits."""
    with workspace.store.transaction() as connection:
        last = get_setting(connection, KEY) or {"number": 0, "state": "answered"}
        if last["state"] == "asked":
            raise HomeostatError("another request for an update waits already: let it finish first")
        number = last["number"] + 1
        put_setting(connection, KEY, {"number": number, "state": "asked", "recipes": list(recipes), "by": by})
        body = {"recipes": list(recipes)}
        journal.append(connection, "update_requested", at=workspace.now(), by=by, body=body)
    return number


def pending(workspace: Workspace) -> Request | None:
    """The request that nobody has taken up yet."""
    with workspace.store.read() as connection:
        asked = get_setting(connection, KEY)
    if not asked or asked["state"] != "asked":
        return None
    return Request(asked["number"], tuple(asked["recipes"]), asked["by"])


def accept(workspace: Workspace, request: Request, version: str) -> None:
    _answer(workspace, request, {"version": version})


@contextmanager
def answered(workspace: Workspace, request: Request) -> Iterator[None]:
    """An error while it is taken up is the answer to the request, not the end of the cycle."""
    try:
        yield
    except HomeostatError as error:
        _answer(workspace, request, {"error": str(error), "exit_code": error.exit_code})


def answer(workspace: Workspace, number: int) -> dict[str, object] | None:
    """{"version"} or {"error", "exit_code"} once the request is taken up, None until then."""
    with workspace.store.read() as connection:
        asked = get_setting(connection, KEY)
    return asked["answer"] if asked and asked["number"] == number and asked["state"] == "answered" else None


def _answer(workspace: Workspace, request: Request, said: dict[str, object]) -> None:
    with workspace.store.transaction() as connection:
        put_setting(connection, KEY, {"number": request.number, "state": "answered", "answer": said})
