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
