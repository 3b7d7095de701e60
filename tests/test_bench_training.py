"""scripts/bench_training.py: the two contenders are trained and judged alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from metarl.env import BatchedEnv
from metarl.learners import preset
from metarl.seeding import make_generator
from metarl.trial_env import TrialVectorEnv

NUM_WORLDS = 4
SPEC = envs.make_spec("reach-planar", horizon=5)
SETTINGS = replace(preset("rl2", "reach-planar"), num_worlds=8, num_minibatches=2, num_epochs=1, hidden_dim=8)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import bench_training

    return bench_training


@pytest.mark.parametrize("rival", ["4", "8-shared"])
def test_both_contenders_make_the_same_steps_per_update(bench, rival):
    ours, theirs = bench.Ours(SPEC, SETTINGS, 0), bench.Rival(SPEC, SETTINGS, rival, 0)
    for _ in range(2):
        assert ours.update(0.0) == theirs.update(0.0) == 8 * SETTINGS.episodes_per_trial * 5


def test_an_update_of_recurrent_ppo_changes_its_policy_at_the_annealed_rate(bench):
    rival = bench.Rival(SPEC, SETTINGS, "8", 0)
    before = [parameter.clone() for parameter in rival.model.policy.parameters()]
    rival.update(0.5)
    assert any(bool((a != b).any()) for a, b in zip(before, rival.model.policy.parameters(), strict=True))
    assert rival.model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.55 * SETTINGS.learning_rate)


def test_recurrent_ppo_is_judged_on_what_it_was_trained_on(bench):
    """A trial of the evaluation pays, step for step, what the same policy earns in the training environment."""
    rival = bench.Rival(SPEC, SETTINGS, "8", 0)
    rival.update(0.0)
    task = SPEC.tasks.split("test", 1)[0]

    env = BatchedEnv(SPEC, NUM_WORLDS)
    env.generator = make_generator(3, "env")
    env.set_tasks(task.expand(NUM_WORLDS, -1))
    judged = rival.trial(env, SETTINGS.episodes_per_trial, None).reward.numpy()

    trials = TrialVectorEnv(SPEC, NUM_WORLDS, SETTINGS.episodes_per_trial, task=task)
    seen, _ = trials.reset(seed=3)
    memory, rewards = None, []
    for _ in range(len(judged)):
        action, memory = rival.model.predict(rival.env.normalize_obs(seen), memory, deterministic=True)
        seen, reward, *_ = trials.step(action)
        rewards.append(reward)
    np.testing.assert_allclose(np.stack(rewards), judged, rtol=1e-5, atol=1e-6)


def test_the_clock_gives_the_median_of_the_updates_after_the_first(bench):
    ours = bench.Ours(SPEC, SETTINGS, 0)
    assert bench.Training(ours, steps=[10, 10, 30, 10], seconds=[1e-3, 1.0, 1.0, 10.0]).steps_per_s == 10.0
    assert bench.Training(ours, steps=[10], seconds=[2.0]).steps_per_s == 5.0


def test_networks_are_of_the_same_layers_and_width(bench):
    network = bench.Ours(SPEC, SETTINGS, 0).learner.network
    policy = bench.Rival(SPEC, SETTINGS, "4-shared", 0).model.policy
    width = SETTINGS.hidden_dim
    assert [network.core.hidden_size, policy.lstm_actor.hidden_size, policy.lstm_actor.input_size] == [width] * 3
    ours = [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    theirs = [tuple(layer.weight.shape) for layer in policy.modules() if isinstance(layer, torch.nn.Linear)]
    # stable-baselines3 lists its one shared encoder once per user of it; the heads come last.
    assert sorted(set(ours)) == sorted(set(theirs))
