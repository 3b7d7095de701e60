"""Learned rewards for stable-baselines3, and the example of docs/learned-loss.md."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import envs
from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.gym_adapter import GymEnv
from metarl.learned_loss import LearnedLoss
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.rollout import Act, collect
from metarl.sb3_adapter import SB3VecEnv, ShapedRewards
from metarl.train import train

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "learned-loss.md"
HORIZON = 4
TINY = LearnedLossConfig(total_steps=4 * 4 * 2 * HORIZON * 3, meta_batch_size=4, episodes_per_task=4, num_inner_steps=1)


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """A learned loss of each kind, from as many runs."""
    folder = tmp_path_factory.mktemp("losses")
    for kind in ("reward", "potential", "advantage"):
        config = RunConfig("learned-loss", "reach-robots", replace(TINY, loss=kind), {"horizon": HORIZON})
        train(config, folder / kind, validate_every=0, console=False)
    return {path.name: LearnedLoss.load(path) for path in folder.iterdir()}


def vec_env(env="reach-robots", num_worlds=3):
    spec = envs.make_spec(env, horizon=HORIZON)
    return SB3VecEnv(spec, num_worlds, task=spec.tasks.split("test", 1)[0])


class Scripted:
    """Takes given actions, (T, N, A)."""

    def __init__(self, actions):
        self.actions = actions

    def initial_memory(self, num_worlds):
        return 0

    def act(self, inputs, memory, generator):
        action = self.actions[memory]
        return Act(action, torch.zeros(len(action)), memory + 1)


@pytest.mark.parametrize("kind", ["reward", "potential"])
@pytest.mark.parametrize("env", ["reach-robots", "reach-planar"])
def test_rewards_are_those_of_a_rollout_of_the_same_actions(losses, kind, env):
    wrapped = ShapedRewards(vec_env(env), losses[kind])
    spec, num_episodes = wrapped.unwrapped.worlds.spec, 2
    actions = (
        torch.rand(num_episodes * HORIZON, 3, spec.action_space.dim, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    wrapped.seed(7)
    wrapped.reset()
    shaped, own = [], []
    for action in actions.numpy():  # through the restart after an episode
        _, reward, done, infos = wrapped.step(action)
        shaped.append(reward)
        own.append([info["reward"] for info in infos])
    assert done.all() and np.stack(shaped).dtype == np.float32

    other = SB3VecEnv(spec, 3, task=spec.tasks.split("test", 1)[0])
    other.seed(7)
    other.reset()
    np.testing.assert_array_equal(np.stack([other.step(action)[1] for action in actions.numpy()]), np.float32(own))

    worlds = BatchedEnv(spec, 3)
    worlds.set_tasks(spec.tasks.split("test", 1))
    worlds.generator.set_state(_generator_after_seeding(spec, 7))
    rollout = collect(worlds, Scripted(actions), num_episodes, None, reads_signals=True)
    np.testing.assert_allclose(np.stack(own), rollout.reward.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.stack(shaped), losses[kind].on(spec).reward(rollout).numpy(), atol=1e-5)


def _generator_after_seeding(spec, seed):
    env = SB3VecEnv(spec, 3)
    env.worlds.seed(seed)
    return env.worlds.env.generator.get_state()


def test_without_a_loss_the_feedback_comes_as_it_is(losses):
    env = ShapedRewards(vec_env(num_worlds=64), None)
    env.reset()
    rewards = np.concatenate([env.step(np.zeros((64, 3)))[1] for _ in range(20)])
    assert set(np.unique(rewards)) <= {0.0, 1.0}


def test_ppo_learns_from_shaped_rewards_while_the_monitor_logs_the_environments(losses):
    env = VecNormalize(ShapedRewards(VecMonitor(vec_env(num_worlds=4)), losses["reward"]))
    model = PPO("MlpPolicy", env, n_steps=HORIZON, batch_size=8, n_epochs=1, seed=0, device="cpu")
    model.learn(8 * HORIZON)
    assert all(info["r"] < 0 for info in model.ep_info_buffer)  # minus the distance to the goal
    assert np.isfinite(model.policy.parameters_to_vector()).all()


def test_an_environment_or_a_loss_that_does_not_fit_is_refused(losses):
    with pytest.raises(ConfigError, match="signals that bandit does not give: log_distance"):
        ShapedRewards(SB3VecEnv("bandit", 2), losses["reward"])
    with pytest.raises(ConfigError, match="a learned advantage shapes no reward"):
        ShapedRewards(vec_env(), losses["advantage"])
    with pytest.raises(ConfigError, match="signals of an SB3VecEnv, got a DummyVecEnv"):
        ShapedRewards(DummyVecEnv([lambda: GymEnv("reach-robots")]), losses["reward"])


def test_the_example_of_the_document_runs(tmp_path, capsys):
    blocks = re.findall(r"```python\n(.*?)\n```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 2 and len(blocks[0].splitlines()) < 40
    names = {"__name__": "example"}
    exec(blocks[0], names)
    names["main"](out=tmp_path / "run", meta_steps=1, steps=1)
    lines = capsys.readouterr().out.splitlines()
    pattern = r": return -\d+\.\d\d before training, -\d+\.\d\d after 1 steps"
    assert [re.sub(pattern, "", line) for line in lines[-2:]] == ["feedback", "learned reward"]


def test_the_fragment_of_the_documentation_adapts_a_loss(tmp_path):
    first, fragment = re.findall(r"```python\n(.*?)\n```", DOCUMENT.read_text(), re.DOTALL)
    small = LearnedLossConfig(
        total_steps=1, meta_batch_size=2, episodes_per_task=4, num_inner_steps=2, policy_dims=(4,), update_threads=1
    )
    train(RunConfig("learned-loss", "reach-either", small), tmp_path / "run", validate_every=0, console=False)
    names = {"__name__": "example"}
    exec(first, names)
    names["task"] = envs.make_spec("reach-either").tasks.split("dynamics", 1)[0]
    exec(fragment.replace("runs/either/adapts-seed0", str(tmp_path / "run")), names)
    assert 0 < names["model"].gamma < 1
    names["model"].learn(1)
