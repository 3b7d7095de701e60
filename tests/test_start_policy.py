"""Learners that start from the policy of a finished run (`--start policy:RUN`)."""

import shutil
from dataclasses import replace

import pytest
import torch

import envs
from metarl.checkpoint import newest_checkpoint
from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import CheckpointError, ConfigError, UnknownNameError
from metarl.learned_loss import LearnedLoss
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.learners.maml_trpo import MAMLTRPO, MAMLTRPOConfig, as_cavia
from metarl.learners.rl2 import RL2Config, without_memory
from metarl.run import load_run
from metarl.seeding import make_generator
from metarl.train import train
from metarl.transfer import transfer
from metarl.types import PolicyInput

HORIZON = 5
SPEC = envs.make_spec("reach-robots", horizon=HORIZON)
PPO = without_memory(RL2Config(total_steps=16 * HORIZON * 3, num_worlds=16, hidden_dim=8), sees_task=False)
MAML = MAMLTRPOConfig(total_steps=3 * 8 * 2 * HORIZON, meta_batch_size=2, episodes_per_task=4, hidden_dims=(8, 8, 8))
LOSS = LearnedLossConfig(
    total_steps=4 * 4 * 2 * HORIZON * 3,
    meta_batch_size=4,
    episodes_per_task=4,
    num_inner_steps=1,
    policy_dims=(8, 8, 8),
    normalizes_obs=True,
)
QUIET = {"validate_every": 0, "console": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by algorithm."""
    folder = tmp_path_factory.mktemp("starts")
    remembering = replace(PPO, memory=True)
    told = replace(PPO, sees_task=True)
    for name, settings in {"ppo": PPO, "maml-trpo": MAML, "rl2": remembering, "oracle": told}.items():
        train(RunConfig(name, "reach-robots", settings, env_options={"horizon": HORIZON}), folder / name, **QUIET)
    for name in ("critic_sees_task", "shortcut"):
        train(
            RunConfig("ppo", "reach-robots", replace(PPO, **{name: True}), {"horizon": HORIZON}), folder / name, **QUIET
        )
    return folder


def acting(learner, obs):
    return learner._acting(learner.shared(learner.meta_parameters) | learner.meta_parameters, obs)


@pytest.mark.parametrize("source", ["ppo", "critic_sees_task", "maml-trpo"])
def test_a_learner_starts_as_the_policy_that_it_is_given(runs, source):
    learner = MAMLTRPO(SPEC, replace(MAML, start=f"policy:{runs / source}"), seed=3)
    obs = torch.randn(20, SPEC.obs_dim, generator=torch.Generator().manual_seed(0))
    before = load_run(runs / source, "cpu").learner
    if source != "maml-trpo":
        network = before.network
        nothing = torch.zeros(20)
        seen = network.read(PolicyInput(obs, torch.zeros(20, 2), *[nothing] * 3, torch.zeros(20, SPEC.tasks.dim)))
        expected = network.distribution(network.heads(seen.unsqueeze(0))[0][0])
    else:
        expected = acting(before, obs)
    for found, wanted in zip(acting(learner, obs), expected, strict=True):
        torch.testing.assert_close(found, wanted.expand(found.shape))


def test_parameters_that_the_run_does_not_have_stay_as_they_were(runs):
    config = as_cavia(replace(MAML, context_dim=2))
    fresh = MAMLTRPO(SPEC, config, 0).meta_parameters
    assert fresh["layers.0.weight"].shape == (8, SPEC.obs_dim + 2)
    with pytest.raises(ConfigError, match="these settings ask for"):  # it reads two numbers more
        MAMLTRPO(SPEC, replace(config, start=f"policy:{runs / 'ppo'}"), 0)


@pytest.mark.parametrize("source", ["rl2", "oracle"])
def test_a_policy_that_reads_more_than_the_observation_is_refused(runs, source):
    with pytest.raises(ConfigError, match="has no policy that acts on the observation alone"):
        MAMLTRPO(SPEC, replace(MAML, start=f"policy:{runs / source}"), 0)


def test_a_policy_with_a_shortcut_is_refused_with_what_to_train_instead(runs):
    with pytest.raises(ConfigError, match="Train it with --no-shortcut"):
        MAMLTRPO(SPEC, replace(MAML, start=f"policy:{runs / 'shortcut'}"), 0)


def test_other_layers_and_names_are_refused_with_what_would_fit(runs):
    with pytest.raises(ConfigError, match="--hidden-dims 8 8 8"):
        MAMLTRPO(SPEC, replace(MAML, hidden_dims=(8, 8), start=f"policy:{runs / 'ppo'}"), 0)
    with pytest.raises(UnknownNameError, match=r"unknown start 'runs/x'.* Available: policy:RUN, random"):
        MAMLTRPO(SPEC, replace(MAML, start="runs/x"), 0)
    with pytest.raises(CheckpointError, match=r"no such run folder: .*pp\. Did you mean"):
        MAMLTRPO(SPEC, replace(MAML, start=f"policy:{runs / 'pp'}"), 0)


def test_a_run_no_longer_needs_the_one_that_it_started_from(runs, tmp_path):
    source = shutil.copytree(runs / "ppo", tmp_path / "source")
    config = RunConfig("maml-trpo", "reach-robots", replace(MAML, start=f"policy:{source}"), {"horizon": HORIZON})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole, checkpoint_interval_s=0, keep_checkpoints=100, **QUIET)
    shutil.rmtree(source)
    shutil.copytree(whole, cut)
    _, *later = sorted((cut / "checkpoints").iterdir())
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    train(config, cut, resume=True, **QUIET)
    one, other = (newest_checkpoint(folder / "checkpoints").tensors["model"] for folder in (whole, cut))
    assert later
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    shutil.rmtree(cut / "checkpoints")
    with pytest.raises(CheckpointError, match="no such run folder"):
        train(config, cut, resume=True, **QUIET)


def test_the_policies_of_a_learned_loss_start_as_the_one_they_are_given(runs, tmp_path):
    source = shutil.copytree(runs / "ppo", tmp_path / "source")
    config = RunConfig("learned-loss", "reach-robots", replace(LOSS, start=f"policy:{source}"), {"horizon": HORIZON})
    train(config, tmp_path / "run", **QUIET)
    given = MAMLTRPO(SPEC, replace(MAML, start=f"policy:{source}"), seed=3)
    shutil.rmtree(source)
    learner = load_run(tmp_path / "run", "cpu").learner
    seen = []
    env = BatchedEnv(SPEC, 3 * 4)
    env.set_tasks(SPEC.tasks.split("test", 3))
    learner.trial(env, 2, make_generator(0, "policy"), on_policies=seen.append)
    for name, value in given.meta_parameters.items():
        assert torch.equal(seen[0][name], value.expand(3, *value.shape))
    assert not torch.equal(seen[1]["layers.3.bias"], seen[0]["layers.3.bias"])
    assert all(
        torch.equal(v, given.obs_normalizer.state_dict()[n]) for n, v in learner.obs_normalizer.state_dict().items()
    )
    assert LearnedLoss.load(tmp_path / "run").kind == "reward"  # the start is part of the run


def test_on_another_environment_policies_are_random_again(runs):
    learner = LearnedLossLearner(SPEC, replace(LOSS, start=f"policy:{runs / 'ppo'}"), 0)
    first, other = transfer(learner, envs.make_spec("reach-planar"), 0).fresh(2, torch.Generator())["layers.3.weight"]
    assert not torch.equal(first, other)


def test_a_start_needs_the_observations_that_its_policy_learned_with():
    for config in (LOSS, MAML):
        with pytest.raises(ConfigError, match="it needs normalizes_obs"):
            replace(config, start="policy:run", normalizes_obs=False)
