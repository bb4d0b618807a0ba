"""The story as one HTML file that needs nothing else: no script, no font, no network; for screen, paper, telephone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape

from agent.demo.charts import both, curves, interval, timeline
from agent.demo.record import CandidateCard, Figure, Gallery, GateRow, Picture, Step, Story
from agent.report.frame import framed

WIDE = 912  # the width of the text, less a card's padding


def page(story: Story) -> str:
    """The whole page; a pure function of its story."""
    body = "\n".join(
        (
            _header(story),
            _galleries(story),
            _timeline(story),
            _curves(story),
            _gates(story),
            _trials(story),
            _steps(story),
        )
    )
    footer = f"<footer><p>{escape(story.made)}</p></footer>"
    return framed(story.headline, f"{body}\n{footer}")


def _header(story: Story) -> str:
    return (
        '<header><p class="eyebrow">Homeostat &middot; the story of one change</p>'
        f'<h1>{escape(story.headline)}</h1><p class="lead">{escape(story.subline)}</p>'
        f'<dl class="figures">{"".join(map(_figure, story.figures))}</dl></header>'
    )


def _figure(figure: Figure) -> str:
    return f'<div class="figure {figure.tone}"><dt>{escape(figure.means)}</dt><dd>{escape(figure.value)}</dd></div>'


def _galleries(story: Story) -> str:
    shown = "".join(map(_gallery, story.galleries))
    return _section(
        "What changed",
        "Cases before and after the change, with the truth and what each model said of them.",
        f'<div class="galleries">{shown}</div>',
    )


def _gallery(gallery: Gallery) -> str:
    pictures = "".join(_picture(picture, gallery.title) for picture in gallery.pictures)
    return f'<div><h3>{escape(gallery.title)}</h3><div class="pictures">{pictures}</div></div>'


def _picture(picture: Picture, where: str) -> str:
    answers = "".join(
        f'<span class="answer">{escape(model)}: <span class="{"right" if answer == picture.truth else "wrong"}">'
        f"{'✓' if answer == picture.truth else '✗'} {escape(answer)}</span></span>"
        for model, answer in picture.answers
    )
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    return (
        f'<figure class="picture"><img src="{source}" alt="{escape(f"{picture.truth}, {where}", quote=True)}">'
        f"<figcaption><b>{escape(picture.truth)}</b>{answers}</figcaption></figure>"
    )


def _timeline(story: Story) -> str:
    return _section(
        "When it was noticed",
        "All monitors share one budget of false alarms. Their joint evidence stays low while nothing has changed, "
        "and must reach the dashed line before anybody is called. Below: which version answered, how far to trust it.",
        f'<div class="card">{both(lambda width: timeline(story.timeline, width), WIDE)}</div>',
    )


def _curves(story: Story) -> str:
    cases, change = story.timeline.cases, story.timeline.change.case
    panels = "".join(
        f'<div class="card">{both(lambda width, panel=panel: curves(panel, width, cases, change), 430)}</div>'  # type: ignore[misc]
        for panel in story.panels
    )
    return _section("What it was worth", story.measured_on, f'<div class="panels">{panels}</div>')


def _gates(story: Story) -> str:
    cards = "".join(map(_candidate, story.candidates))
    return _section(
        "Who was let through",
        "Every candidate is compared with the model as deployed and with the live one, on patients that no model has "
        "learnt from. Bars are intervals of the change: to the right is better, and the tinted zone is too much harm.",
        cards,
    )


def _candidate(card: CandidateCard) -> str:
    ends = [abs(v) for row in card.gates for v in (row.low, row.high, row.margin) if v is not None]
    reach = min(max([0.05, *ends]) * 1.08, 3 * max([0.05, *(row.margin for row in card.gates)]))
    head = (
        f"<header><h3>{escape(card.version)}</h3><code>{escape(card.recipe)}</code>"
        f'<span class="badge {card.tone}">{escape(card.outcome)}</span></header><p>{escape(card.says)}</p>'
    )
    columns = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("gate", ""), ("verdict", ""), ("patients", ' class="number"'), ("before", ' class="number"'),
            ("after", ' class="number"'), ("change, with its interval", ""),
        )
    )  # fmt: skip
    rows = "".join(_gate_row(row, reach) for row in card.gates)
    table = f'<table class="gates"><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>' if card.gates else ""
    return f'<section class="card candidate">{head}{table}</section>'


def _gate_row(row: GateRow, reach: float) -> str:
    return (
        f'<tr><td><span class="gate">{escape(row.gate.replace("_", " ").replace(":", " · "))}</span>'
        f'<span class="role">{"required" if row.role == "require" else "informs"}</span></td>'
        f'<td><span class="badge {row.verdict}">{row.verdict}</span></td>'
        f'<td class="number" data-name="patients">{row.n}</td>'
        f'<td class="number" data-name="before">{_share(row.before)}</td>'
        f'<td class="number" data-name="after">{_share(row.after)}</td>'
        f'<td class="bars">{interval(row, reach)}<span class="says">{escape(row.says)}</span></td></tr>'
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _trials(story: Story) -> str:
    cards = "".join(
        f'<div class="card"><h3>{escape(step.title)}</h3><p>{escape(step.says)}</p>{_command(step)}</div>'
        for step in story.steps
        if step.trial
    )
    return _section(
        "What was broken on purpose", "A deployment is judged by its bad days.", f'<div class="trials">{cards}</div>'
    )


def _steps(story: Story) -> str:
    rows = "".join(
        f"<tr><td>{number}</td><td><b>{escape(step.title)}</b>{escape(step.says)}{_command(step)}</td>"
        f'<td class="number">{step.seconds:.1f} s</td></tr>'
        for number, step in enumerate(story.steps, 1)
    )
    return _section(
        "Step by step",
        "Every step is a command that anybody can give.",
        f'<div class="card candidate"><table class="story"><tbody>{rows}</tbody></table></div>',
    )


def _command(step: Step) -> str:
    return f'<code class="command">{escape(step.command)}</code>' if step.command else ""


def _section(title: str, says: str, *content: Iterable[str] | str) -> str:
    inside = "".join("".join(part) for part in content)
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(says)}</p>{inside}</section>'
