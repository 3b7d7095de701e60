"""The stable-baselines3 VecEnv and PPO from scratch."""

import random
import warnings

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from metarl.baselines import scratch_curve, train_from_scratch
from metarl.errors import ConfigError, SpecError
from metarl.gym_adapter import GymEnv, GymVectorEnv
from metarl.sb3_adapter import SB3VecEnv
from tests.probes import countdown, hidden_lever, hidden_target


@pytest.mark.parametrize("env", ["reach-planar", "tabular-mdp", countdown(), hidden_lever(), hidden_target()])
def test_single_worlds_pass_the_check_of_stable_baselines3_without_warning(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(GymEnv(env))


@pytest.mark.parametrize("make_spec", [countdown, hidden_lever])
def test_vec_env_is_the_same_as_stable_baselines3s_own_around_single_worlds(make_spec):
    spec = make_spec()
    task = spec.tasks.split("test", 1)[0]
    ours, theirs = SB3VecEnv(spec, 3, task=task), DummyVecEnv([lambda: GymEnv(spec, task=task)] * 3)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ours.action_space.seed(0)
    ends = 0
    for _ in range(20):
        actions = np.stack([ours.action_space.sample() for _ in range(3)])
        a, b = ours.step(actions), theirs.step(actions)
        for i in range(3):
            np.testing.assert_array_equal(a[i], b[i])
        for x, y in zip(a[3], b[3], strict=True):
            assert x["TimeLimit.truncated"] == y["TimeLimit.truncated"]
            assert (x["success"], x["failed"]) == (y["success"], y["failed"])
            assert ("terminal_observation" in x) == ("terminal_observation" in y)
            if "terminal_observation" in x:
                np.testing.assert_array_equal(x["terminal_observation"], y["terminal_observation"])
                assert x["task"] == y["task"]
                ends += 1
    assert ends >= 6


def test_terminal_observation_and_time_limit_where_lives_differ():
    env = SB3VecEnv(countdown(horizon=3), 3)
    env.set_options([{"task": {"life": life}} for life in (2.0, 4.0, 100.0)])
    assert env.reset()[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert [info["task"]["life"] for info in env.reset_infos] == [2.0, 4.0, 100.0]
    action = np.zeros((3, 1), np.float32)
    env.step(action)
    obs, reward, done, infos = env.step(action)
    assert done.tolist() == [True, False, False]
    assert infos[0]["terminal_observation"].tolist() == [2.0, 1.0]
    assert obs[:, 0].tolist() == [0.0, 2.0, 2.0]
    assert reward.tolist() == [1.0, 1.0, 1.0]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False, False]
    _, _, done, infos = env.step(action)
    # The limit of 3 steps cuts lives of 4 and 100.
    assert done[1:].tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos[1:]] == [True, True]


def test_success_of_an_episode_is_success_at_any_of_its_steps():
    env = SB3VecEnv(hidden_lever(horizon=2), 2, task={"lever": 1.0})
    env.reset()
    env.step(np.array([1, 0]))
    *_, infos = env.step(np.array([0, 0]))
    assert [info["is_success"] for info in infos] == [True, False]
    env.step(np.array([0, 0]))
    *_, infos = env.step(np.array([0, 1]))
    assert [info["is_success"] for info in infos] == [False, True]


def test_seed_repeats_the_tasks():
    env = SB3VecEnv(hidden_target(), 4)

    def tasks(seed):
        env.seed(seed)
        env.reset()
        return [info["task"]["target"] for info in env.reset_infos]

    assert tasks(1) == tasks(1)
    assert tasks(1) != tasks(2)


def test_worlds_share_attributes_and_have_no_methods_of_their_own():
    env = SB3VecEnv(hidden_target(), 2)
    assert env.get_attr("num_envs") == [2, 2]
    assert env.get_attr("num_envs", indices=0) == [2]
    assert not env.has_attr("no_such_attribute")
    assert env.env_is_wrapped(Monitor) == [False, False]
    env.set_attr("note", 1)
    assert env.get_attr("note") == [1, 1]
    with pytest.raises(ConfigError, match="all of them"):
        env.set_attr("note", 2, indices=[0])
    with pytest.raises(ConfigError, match="cannot be called on single worlds"):
        env.env_method("render")
    env.close()
    env.close()


def test_frames_of_all_worlds_are_tiled():
    env = SB3VecEnv("reach-planar", 4, render_mode="rgb_array", width=32, height=24)
    env.reset()
    assert env.render().shape == (48, 64, 3)
    env.close()
    assert SB3VecEnv(hidden_target(), 2).get_images() == [None, None]


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="num_worlds is missing"):
        SB3VecEnv("reach-planar")
    with pytest.raises(ConfigError, match="SAME_STEP"):
        SB3VecEnv(GymVectorEnv(hidden_target(), 2))
    env = SB3VecEnv(hidden_target(), 2)
    env.set_options([{"task": {"target": 0.1}}, {}])
    with pytest.raises(ConfigError, match="all 2 worlds or for none, got 1"):
        env.reset()


def test_ppo_of_stable_baselines3_learns_the_known_optimum():
    # The fixed lever pays 1 per step: the best return is 4, a random policy has 4/3.
    env = VecMonitor(SB3VecEnv(hidden_lever(), 16, task={"lever": 2.0}))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, learning_rate=1e-3, seed=0, device="cpu")
    model.learn(12_000)
    returns = [info["r"] for info in model.ep_info_buffer]
    assert np.mean(returns[-50:]) > 3.8


def test_training_from_scratch_gives_a_curve_that_rises_from_the_return_of_a_random_policy():
    records = []
    curve = train_from_scratch(hidden_lever(), torch.tensor([1.0]), 6_000, seed=0, on_record=records.append)
    assert curve == records
    # 8 worlds, whole episodes of 4 steps, at least 2048 steps per update: 64 episodes in each world.
    assert [record.env_steps for record in curve] == [2048, 4096, 6144]
    assert [record.episodes for record in curve] == [512, 512, 512]
    # A random policy has 4/3 and finds the lever at least once with 1 - (2/3)^4; the best return is 4.
    assert curve[0].episode_return == pytest.approx(4 / 3, abs=0.2)
    assert curve[0].success_rate == pytest.approx(1 - (2 / 3) ** 4, abs=0.1)
    assert curve[0].episode_return < curve[1].episode_return < curve[2].episode_return
    assert curve[2].episode_return > 2.0


def test_training_from_scratch_repeats_and_leaves_the_global_generators_alone():
    spec, task = hidden_lever(), {"lever": 1.0}
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    first = train_from_scratch(spec, task, 2000, seed=1)
    assert random.getstate() == expected[0]
    assert np.random.get_state()[1].tolist() == expected[1]
    assert torch.equal(torch.get_rng_state(), expected[2])
    assert train_from_scratch(spec, task, 2000, seed=1) == first
    assert train_from_scratch(spec, task, 2000, seed=2) != first
    assert 0.0 < first[0].success_rate <= 1.0


def test_training_from_scratch_names_wrong_arguments():
    with pytest.raises(ConfigError, match="total_steps must be positive, got 0"):
        train_from_scratch(hidden_lever(), {"lever": 1.0}, 0, seed=0)
    with pytest.raises(SpecError, match=r"shape \(1,\), got \(3,\)"):
        train_from_scratch(hidden_lever(), torch.zeros(3), 100, seed=0)


@pytest.mark.slow
def test_scratch_curves_of_several_tasks_are_put_together():
    spec, tasks = hidden_target(), torch.tensor([[-0.5], [0.2], [0.7]])
    curve = scratch_curve(spec, tasks, 4100, 3)
    alone = [train_from_scratch(spec, task, 4100, 3) for task in tasks]
    assert curve.returns == [[record.episode_return for record in records] for records in alone]
    assert curve.env_steps_spent == [0, alone[0][0].env_steps]
    for value, (low, high) in zip(curve.iqm_return, curve.ci95_return, strict=True):
        assert low <= value <= high
