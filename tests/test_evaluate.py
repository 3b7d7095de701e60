"""The evaluation protocol on environments whose returns are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import envs
from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import ConfigError, UnknownNameError
from metarl.evaluate import evaluate, evaluate_in, table
from metarl.learners.random_policy import RandomPolicy
from metarl.learners.rl2 import RL2Config
from metarl.log import read_metrics
from metarl.rollout import Act, collect
from metarl.run import build, load_run
from metarl.train import train
from tests.probes import countdown, hidden_lever, hidden_target

DOCUMENTED = {
    "env",
    "algorithm",
    "split",
    "num_tasks",
    "num_episodes",
    "seed",
    "returns",
    "success",
    "iqm_return",
    "ci95_return",
    "success_rate",
}
ADDED = {
    *("deterministic", "tasks", "mean_return", "stderr_return", "failed_worlds", "metrics"),
    *("episodes_per_task", "adapts_by", "env_steps_spent"),
}


class Searcher:
    """Pulls lever 0, 1, 2, ... until one pays, and stays with it for the rest of the trial."""

    def initial_memory(self, num_worlds):
        return torch.full((num_worlds,), -1)

    def act(self, inputs, memory, generator):
        lever = torch.where(inputs.prev_reward > 0, memory, memory + 1)
        return Act(lever, torch.zeros(len(lever)), lever)

    def trial(self, env, num_episodes, generator, on_step=None):
        return collect(env, self, num_episodes, generator, on_step)


def untrained(spec_name, factory, monkeypatch, seed=3):
    """An RL² learner with random weights, and its environment."""
    monkeypatch.setattr(envs, "_REGISTERED", {spec_name: factory})
    return build(RunConfig("rl2", spec_name, RL2Config(num_worlds=8, hidden_dim=8), seed=seed))


def test_returns_are_those_of_the_tasks_whatever_the_policy_does():
    spec = countdown(horizon=6)
    found = evaluate(RandomPolicy(spec), spec, algorithm="random", num_tasks=30, num_episodes=2, deterministic=False)
    lives = [task[0] for task in found.tasks]
    assert set(lives) == {2.0, 4.0, 100.0}
    assert found.returns == [[min(life, 6.0)] * 2 for life in lives]
    assert found.mean_return == pytest.approx([np.minimum(lives, 6).mean()] * 2)
    assert found.stderr_return == pytest.approx([np.minimum(lives, 6).std(ddof=1) / np.sqrt(30)] * 2)


def test_a_search_pays_for_its_mistakes_in_the_first_episode_only():
    found = evaluate(Searcher(), hidden_lever(horizon=4), algorithm="search", num_tasks=24, num_episodes=3)
    levers = [task[0] for task in found.tasks]
    assert set(levers) == {0.0, 1.0, 2.0}
    assert found.returns == [[4.0 - lever, 4.0, 4.0] for lever in levers]
    assert found.success == [[True, True, True]] * 24 and found.success_rate == [1.0, 1.0, 1.0]
    # The interquartile mean of 24 sorted returns is that of the 7th to the 18th.
    assert found.iqm_return == pytest.approx([np.sort([4.0 - lever for lever in levers])[6:18].mean(), 4.0, 4.0])
    assert found.ci95_return[1:] == [[4.0, 4.0], [4.0, 4.0]]
    low, high = found.ci95_return[0]
    assert 2.0 <= low < found.iqm_return[0] < high < 4.0


def test_success_counts_the_tasks_in_which_the_criterion_held_at_any_step():
    found = evaluate(Searcher(), hidden_lever(horizon=2), algorithm="search", num_tasks=24, num_episodes=2)
    levers = np.array([task[0] for task in found.tasks])
    assert found.success == [[bool(lever < 2), True] for lever in levers]
    assert found.success_rate == pytest.approx([(levers < 2).mean(), 1.0])


def test_success_is_null_where_the_environment_has_no_criterion():
    spec = hidden_target()
    found = evaluate(RandomPolicy(spec), spec, algorithm="random", num_tasks=4, num_episodes=2, deterministic=False)
    assert found.success is None and found.success_rate is None
    assert json.loads(json.dumps(found.to_json()))["success_rate"] is None
    assert {row[-1] for row in table({"random": found})[1:]} == {"-"}


def test_the_json_has_the_documented_fields_and_shapes():
    values = evaluate(Searcher(), hidden_lever(), algorithm="search", split="test", num_tasks=5, num_episodes=3)
    read = json.loads(json.dumps(values.to_json(), allow_nan=False))
    assert set(read) == DOCUMENTED | ADDED
    assert (read["env"], read["algorithm"], read["split"], read["seed"]) == ("hidden-lever", "search", "test", 0)
    assert (read["num_tasks"], read["num_episodes"], read["failed_worlds"]) == (5, 3, 0)
    assert np.shape(read["returns"]) == np.shape(read["success"]) == (5, 3)
    assert np.shape(read["iqm_return"]) == np.shape(read["success_rate"]) == (3,)
    assert np.shape(read["ci95_return"]) == (3, 2) and np.shape(read["tasks"]) == (5, 1)


def test_a_single_task_has_no_standard_error_and_its_json_is_still_json():
    values = evaluate(Searcher(), hidden_lever(), algorithm="search", num_tasks=1, num_episodes=2).to_json()
    assert json.loads(json.dumps(values, allow_nan=False))["stderr_return"] == [None, None]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(monkeypatch, deterministic):
    spec, learner = untrained("hidden-target", hidden_target, monkeypatch)

    def run(seed):
        protocol = {"num_tasks": 6, "num_episodes": 2, "seed": seed, "deterministic": deterministic}
        return evaluate(learner, spec, algorithm="rl2", **protocol)

    assert run(1) == run(1)
    assert run(1).returns != run(2).returns


def test_the_environment_says_whether_actions_are_sampled_unless_told_otherwise(monkeypatch):
    spec, learner = untrained("hidden-target", hidden_target, monkeypatch)

    def run(spec, **options):
        found = evaluate(learner, spec, algorithm="rl2", num_tasks=6, num_episodes=2, **options)
        return found.deterministic, found.returns

    likeliest, sampled = run(spec, deterministic=True), run(spec, deterministic=False)
    assert likeliest[1] != sampled[1]
    assert run(spec) == likeliest
    sampling = replace(spec, samples_actions=True)
    assert run(sampling) == sampled and run(sampling, deterministic=True) == likeliest


def test_evaluation_leaves_the_learner_as_it_was(monkeypatch):
    spec, learner = untrained("hidden-target", hidden_target, monkeypatch)
    before = {name: value.clone() for name, value in learner.state_dict()["model"].items()}
    rng = {name: value.clone() for name, value in learner.state_dict()["rng"].items()}
    evaluate(learner, spec, algorithm="rl2", num_tasks=4, num_episodes=2, deterministic=False)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict()["model"].items())
    assert all(torch.equal(rng[name], value) for name, value in learner.state_dict()["rng"].items())


def test_tasks_evaluated_together_or_alone_give_the_same_returns(monkeypatch):
    spec, learner = untrained("hidden-target", hidden_target, monkeypatch)
    together = evaluate(learner, spec, algorithm="rl2", num_tasks=5, num_episodes=2)
    world = BatchedEnv(spec, 1)
    for task, returns in zip(together.tasks, together.returns, strict=True):
        world.set_tasks(torch.tensor([task]))
        alone = learner.trial(world, 2, None).episode_returns()[:, 0]
        assert alone.tolist() == pytest.approx(returns, abs=1e-5)


def test_the_first_tasks_do_not_depend_on_how_many_are_evaluated(monkeypatch):
    spec, learner = untrained("hidden-target", hidden_target, monkeypatch)
    for split in spec.tasks.splits():
        few, many = (evaluate(learner, spec, algorithm="rl2", split=split, num_tasks=n) for n in (64, 100))
        assert many.tasks[:64] == few.tasks
        np.testing.assert_allclose(many.returns[:64], few.returns, atol=1e-5)


def test_later_episodes_do_not_change_earlier_ones_nor_the_length_of_training(monkeypatch):
    spec, learner = untrained("hidden-target", hidden_target, monkeypatch)
    short, long = (evaluate(learner, spec, algorithm="rl2", num_tasks=8, num_episodes=k) for k in (2, 7))
    assert np.shape(long.returns) == (8, 7)
    np.testing.assert_allclose(np.array(long.returns)[:, :2], short.returns, atol=1e-6)


def test_worlds_that_were_used_before_give_the_same_evaluation():
    spec = envs.make_spec("reach-planar", horizon=4)
    policy = RandomPolicy(spec)
    fresh = evaluate(policy, spec, algorithm="random", num_tasks=6, num_episodes=2, deterministic=False)
    env = BatchedEnv(spec, 6, seed=9)
    env.reset()
    env.step(torch.ones(6, 2))
    used = evaluate_in(env, policy, algorithm="random", split="test", num_episodes=2, deterministic=False)
    assert used == fresh


def test_the_validation_of_training_is_this_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(envs, "_REGISTERED", {"hidden-lever": hidden_lever})
    settings = RL2Config(total_steps=64 * 8 * 3, num_worlds=64, episodes_per_trial=2, hidden_dim=8)
    outcome = train(
        RunConfig("rl2", "hidden-lever", settings, seed=5), tmp_path / "run", validate_every=1, console=False
    )
    run = load_run(outcome.folder, "cpu")
    found = evaluate(run.learner, run.spec, algorithm="rl2", split="validation", num_tasks=64, num_episodes=2)
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["validation_return_first"] == found.iqm_return[0]
    assert last["validation_return_last"] == found.iqm_return[-1]
    assert last["validation_success_last"] == found.success_rate[-1]


def test_a_world_that_diverges_is_counted_and_keeps_what_it_earned():
    def poisoned():
        spec = countdown()

        def step(task, data, state, action, noise):
            outcome = spec.step(task, data, state, action, noise)
            bad = (task["life"] == 4) & (state["time"] == 2)
            return outcome._replace(reward=torch.where(bad, float("nan"), outcome.reward))

        return replace(spec, step=step)

    found = evaluate(RandomPolicy(poisoned()), poisoned(), algorithm="random", num_tasks=20, deterministic=False)
    lives = [task[0] for task in found.tasks]
    assert found.failed_worlds == lives.count(4.0) > 0
    assert found.returns == [[2.0 if life == 4 else min(life, 6.0)] * 3 for life in lives]


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        ({"num_tasks": 0}, "0, 3 and 1"),
        ({"num_episodes": 0}, "64, 0 and 1"),
        ({"episodes_per_task": 0}, "64, 3 and 0"),
    ],
)
def test_an_evaluation_of_nothing_is_refused(wrong, got):
    with pytest.raises(ConfigError, match=got):
        evaluate(Searcher(), hidden_lever(), algorithm="search", **wrong)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="must not be negative, got -1"):
        evaluate(Searcher(), hidden_lever(), algorithm="search", seed=-1)


def test_a_split_that_the_environment_lacks_is_named_with_those_it_has():
    with pytest.raises(UnknownNameError, match=r"unknown split 'extrapolation'.*Available: test, train, validation"):
        evaluate(Searcher(), hidden_lever(), algorithm="search", split="extrapolation")


def test_the_table_has_a_row_per_policy_and_episode():
    found = evaluate(Searcher(), hidden_lever(), algorithm="search", num_tasks=9, num_episodes=2)
    rows = table({"search": found, "again": found})
    stages = [["search", "episode 1", "0"], ["", "episode 2", "4"]]
    assert [row[:3] for row in rows[1:]] == [*stages, ["again", *stages[0][1:]], stages[1]]
    assert rows[2][3:] == ["4.00", "[4.00, 4.00]", "4.00 ± 0.00", "100 %"]


class GradientSearcher(Searcher):
    """Pretends to adapt by inner steps; keeps the generator that it was given."""

    samples_support = True

    def trial(self, env, num_episodes, generator, on_step=None):
        self.generator = generator
        return super().trial(env, num_episodes, generator, on_step)


def test_the_worlds_of_a_task_are_averaged_and_what_they_cost_is_counted():
    learner = GradientSearcher()
    found = evaluate(learner, hidden_lever(), algorithm="search", num_tasks=6, num_episodes=3, episodes_per_task=4)
    alone = evaluate(Searcher(), hidden_lever(), algorithm="search", num_tasks=6, num_episodes=3)
    assert learner.generator is not None and not found.deterministic
    assert (found.tasks, found.num_tasks, found.episodes_per_task) == (alone.tasks, 6, 4)
    np.testing.assert_allclose(found.returns, alone.returns)  # the searcher does the same in every world
    assert found.env_steps_spent == [0, 4 * 4, 2 * 4 * 4] and alone.env_steps_spent == [0, 4, 8]
    assert [row[1] for row in table({"search": found})[1:]] == ["before", "after 1", "after 2"]
