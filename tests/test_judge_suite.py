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


def test_actions_are_sampled_where_that_is_asked(script, monkeypatch):
    monkeypatch.setattr(script, "NUM_TASKS", 8)
    config = RunConfig("rl2", "reach-planar", preset("rl2", "reach-planar"), env_options={"horizon": 5})
    run = LoadedRun(Path("run"), config, *build(config), update=0, env_steps=0)
    likeliest, sampled = (
        script.judged(run, "test", {"random": {}, "expert": {}}, deterministic)["rl2"]["iqm_return"]
        for deterministic in (None, False)
    )
    assert likeliest != sampled


def test_a_policy_without_memory_is_judged_under_its_own_name(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "NUM_TASKS", 8)
    algorithm = "domain-randomised"
    config = RunConfig(algorithm, "point-navigation", preset(algorithm, "point-navigation"), env_options={"horizon": 5})
    spec, learner = build(config)
    run = LoadedRun(Path("run"), config, spec, learner, update=0, env_steps=0)
    splits = {"test": script.judged(run, "test", {"expert": {"iqm_return": [7.0]}, "random": {"iqm_return": [-9.0]}})}
    script.keep_judgement(tmp_path / "out.json", run, splits)
    script.show_all(tmp_path / "out.json")
    value = script.read_results(tmp_path / "out.json")["point-navigation"]["test"][algorithm]["iqm_return"][0]
    assert f"{value:.1f} [" in capsys.readouterr().out
