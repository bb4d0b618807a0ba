"""The configuration: what is rendered reads back the same, and every error is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config, ConfigErrors, FalseAlarms, parse_config, read_config, render
from agent.errors import HomeostatError
from agent.plan import GATES, RECIPES, RESPONSES

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))

unit = st.floats(0, 1)
rule = st.fixed_dictionaries(
    {"margin": unit, "role": st.sampled_from(["require", "inform"])},
    optional={"burden": st.sampled_from(["non_inferiority", "no_harm_found"])},
)
response = st.fixed_dictionaries(
    {},
    optional={
        "trust": st.sampled_from(["normal", "caution", "suspended"]),
        "recipes": st.lists(st.sampled_from(RECIPES), max_size=3),
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "intake": st.fixed_dictionaries({}, optional={"inbox": st.booleans(), "domain_by": st.just(["scanner"])}),
        "monitors": st.fixed_dictionaries(
            {},
            optional={
                "false_alarms": st.fixed_dictionaries(
                    {
                        "per": st.one_of(
                            st.integers(1, 9999).map("{}d".format), st.integers(1, 99).map("{} cases".format)
                        )
                    }
                ),
                "subgroups": st.lists(st.text(min_size=1, max_size=12).filter(lambda s: s.isprintable()), max_size=3),
            },
        ),
        "plan": st.fixed_dictionaries(
            {},
            optional={
                "mode": st.sampled_from(["observe", "recommend", "bounded_auto"]),
                "responses": st.dictionaries(st.sampled_from(list(RESPONSES)), response),
                "gates": st.dictionaries(st.sampled_from(GATES), rule),
                "alpha": st.floats(1e-9, 0.49),
                "limits": st.fixed_dictionaries({}, optional={"minutes": st.floats(1e-3, 1e6)}),
            },
        ),
        "alerts": st.fixed_dictionaries(
            {}, optional={"channels": st.lists(st.text(max_size=40), max_size=2), "remind_every": st.just("3d")}
        ),
    },
)


@given(documents)
@settings(max_examples=60, deadline=None)
def test_what_is_rendered_reads_back_the_same(document):
    """The resolved file in a workspace means what the site wrote, to the digest that every version cites."""
    try:
        config = parse_config(yaml.safe_dump(document), "given")
    except ConfigErrors:
        return  # a subgroup that gives the site away
    again = parse_config(render(config), "rendered")
    assert again == config
    assert again.plan_digest == config.plan_digest


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_project_reads_and_survives_rendering(path):
    """The files that the documents name can be used as they are."""
    assert len(CONFIGS) >= 3
    config = read_config(path)
    assert parse_config(render(config), "rendered") == config


def test_the_file_of_the_defaults_says_what_the_defaults_are():
    """default.yaml spells the defaults out; an empty file means the same."""
    assert read_config(next(path for path in CONFIGS if path.stem == "default")) == Config()
    assert parse_config("", "empty") == Config()


def test_five_errors_are_told_at_once():
    """A person corrects a file once, not five times."""
    wrong = """
        plan:
          mode: automatic
          alpha: 0.7
          gates: {forgeting: {margin: 0.05}}
          responses: {acquisition: {recipes: [retrain]}}
        monitors:
          subgroups: [site]
          facts: [licence]
        alert: {}
    """
    with pytest.raises(ConfigErrors) as caught:
        parse_config(wrong, "site.yaml")
    said = str(caught.value)
    assert len(caught.value.errors) == 7
    for name in ("plan.mode", "plan.alpha", "forgeting", "retrain", "'site'", "monitors.facts", "alert: no such field"):
        assert name in said
    assert said.startswith("site.yaml has 7 errors: ") and "\n" not in said


@pytest.mark.parametrize(
    "text", ["plan: [", "- a\n- b", "plan: {mode: observe", "\t", "key: !!python/object:os.system x"]
)
def test_what_is_no_yaml_mapping_is_one_sentence(text):
    """Neither a traceback nor code that runs."""
    with pytest.raises(ConfigErrors) as caught:
        parse_config(text, "site.yaml")
    assert "\n" not in str(caught.value) and "site.yaml" in str(caught.value)


def test_a_file_that_is_not_there_is_told_with_the_way_out(tmp_path):
    """It names the option."""
    with pytest.raises(HomeostatError, match="--config"):
        read_config(tmp_path / "none.yaml")


def test_the_digest_is_of_the_plan_alone():
    """A new alert channel makes no new plan; another margin does."""
    assert parse_config("alerts: {remind_every: 2d}", "a").plan_digest == Config().plan_digest
    assert parse_config("plan: {gates: {gain: {margin: 0.1}}}", "a").plan_digest != Config().plan_digest


@pytest.mark.parametrize(
    ("per", "at_most", "ticks"), [("365d", 1, 365), ("365 d", 5, 73), ("3650 cases", 1, 365), ("5cases", 1, 1)]
)
def test_a_budget_counts_decisions(per, at_most, ticks):
    """A day is a decision, and so are ten cases without times."""
    assert FalseAlarms(per=per, at_most=at_most).ticks == ticks


def test_elsewhere_is_taken_where_it_means_something():
    """A burden for other domains is declared, or it is home's; a gate that reads none refuses it."""
    assert parse_config("plan: {gates: {forgetting: {margin: 0.1}}}", "x").plan.gates["forgetting"].elsewhere is None
    with pytest.raises(ConfigErrors, match="'gain' takes no 'elsewhere'"):
        parse_config("plan: {gates: {gain: {margin: 0.0, elsewhere: no_harm_found}}}", "x")
