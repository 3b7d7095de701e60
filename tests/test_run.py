"""A run on another environment than its own."""

from dataclasses import replace

import pytest
import torch

from metarl.config import RunConfig
from metarl.errors import ConfigError
from metarl.learners.rl2 import RL2Config, without_memory
from metarl.run import load_run, on_env
from metarl.seeding import make_generator
from metarl.train import train
from metarl.worlds import make_worlds

SMALL = RL2Config(total_steps=480, num_worlds=4, episodes_per_trial=1, hidden_dim=8)
QUIET = {"console": False, "validate_every": 0}


def test_a_policy_acts_in_another_simulation_of_its_robot(tmp_path):
    train(RunConfig("rl2", "track", SMALL), tmp_path / "run", **QUIET)
    run = load_run(tmp_path / "run", "cpu")
    there = on_env(run, "track-wheels")
    assert (there.spec.name, there.config.env, run.config.env) == ("track-wheels", "track-wheels", "track")
    assert all(torch.equal(a, b) for a, b in zip(weights(run), weights(there), strict=True))
    env = make_worlds(there.spec, 2, device="cpu")
    env.set_tasks(there.spec.tasks.split("test", 2))
    rollout = there.learner.trial(env, 1, make_generator(0, "policy"))
    assert torch.isfinite(rollout.reward).all() and not rollout.failed.any()


def test_a_policy_acts_on_other_tasks_without_what_training_knew_of_its_own(tmp_path):
    settings = replace(SMALL, critic_sees_task=True, task_coef=0.2, asked=("goal_angle",), reads_reward_change=True)
    train(RunConfig("rl2", "push", settings), tmp_path / "run", **QUIET)
    run = load_run(tmp_path / "run", "cpu")
    there = on_env(run, "door-open")  # 8 task parameters there, 11 here
    own, other = (r.learner.network for r in (run, there))
    assert other.task_normalizer is None and other.teller is None
    for part in ("obs_normalizer", "reward_change_normalizer", "encoder", "core", "actor", "log_std"):
        mine, its = (
            {n: v for n, v in network.state_dict().items() if n.split(".")[0] == part} for network in (own, other)
        )
        assert mine and mine.keys() == its.keys() and all(torch.equal(mine[n], its[n]) for n in mine)
    env = make_worlds(there.spec, 2, device="cpu")
    env.set_tasks(there.spec.tasks.split("test", 2))
    assert torch.isfinite(there.learner.trial(env, 2, make_generator(0, "policy")).reward).all()


def test_a_policy_does_not_fit_another_robot_and_an_oracle_no_other_task(tmp_path):
    train(RunConfig("oracle", "track", without_memory(SMALL, sees_task=True)), tmp_path / "run", **QUIET)
    run = load_run(tmp_path / "run", "cpu")
    with pytest.raises(ConfigError, match=r"16 observations and .* there"):
        on_env(run, "reach-planar")
    with pytest.raises(ConfigError, match=r"oracle on track.*payload: it is told the parameters of its own tasks"):
        on_env(run, "payload")  # observations alike, other task parameters
    blind = replace(run, config=replace(run.config, settings=replace(run.config.settings, sees_task=False)))
    with pytest.raises(ConfigError, match="does not fit surface-shift"):
        on_env(blind, "surface-shift")


def weights(run):
    return run.learner.state_dict()["model"].values()
