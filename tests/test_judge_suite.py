"""scripts/judge_suite.py: what is kept of a judgement, and what is not judged twice."""

from dataclasses import replace
from pathlib import Path

import pytest

import envs
from metarl.config import RunConfig
from metarl.evaluate import evaluate
from metarl.learners import preset
from metarl.learners.random_policy import RandomPolicy
from metarl.run import LoadedRun, build

SPEC = envs.make_spec("point-navigation", horizon=5)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import judge_suite

    return judge_suite


def test_the_gain_is_taken_task_by_task(script):
    judged = evaluate(RandomPolicy(SPEC), SPEC, algorithm="random", num_tasks=2, num_episodes=2)
    kept = script.kept(replace(judged, returns=[[1.0, 3.0], [10.0, 12.0]]))
    assert kept["second_minus_first"] == {"iqm": 2.0, "ci95": [2.0, 2.0]}


def test_references_that_are_known_are_not_judged_again(script, monkeypatch):
    monkeypatch.setattr(script, "NUM_TASKS", 8)
    config = RunConfig("rl2", "point-navigation", preset("rl2", "point-navigation"), env_options={"horizon": 5})
    spec, learner = build(config)
    run = LoadedRun(Path("run"), config, spec, learner, update=0, env_steps=0)
    known = {"random": {"iqm_return": "as it was"}}
    assert script.judged(run, "test", known)["random"] == known["random"]
    assert len(script.judged(run, "test", {})["random"]["iqm_return"]) == script.NUM_EPISODES
