"""A trial of K episodes as one gymnasium episode with the inputs of RL²."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import VecMonitor

from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.rollout import collect
from metarl.sb3_adapter import SB3VecEnv
from metarl.trial_env import TrialEnv, TrialVectorEnv
from metarl.types import Act
from tests.probes import countdown, hidden_lever, hidden_target


def test_last_reward_and_done_survive_the_inner_resets_and_only_the_last_episode_ends_the_trial():
    env = TrialEnv(countdown(horizon=6), 2, task={"life": 2.0})
    action = np.array([0.5], np.float32)
    # Columns: time, 1; previous action, reward, done.
    assert env.reset(seed=0)[0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    steps = [env.step(action) for _ in range(4)]
    assert [step[0].tolist() for step in steps] == [
        [1.0, 1.0, 0.5, 1.0, 0.0],
        [0.0, 1.0, 0.5, 1.0, 1.0],
        [1.0, 1.0, 0.5, 1.0, 0.0],
        [2.0, 1.0, 0.5, 1.0, 1.0],
    ]
    assert [step[2] for step in steps] == [False, False, False, True]
    assert not any(step[3] for step in steps)
    assert [step[4]["episode_id"] for step in steps] == [0, 0, 1, 1]
    assert [step[4]["episode_over"] for step in steps] == [False, True, False, True]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(action)
    assert env.reset()[0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_inner_time_limits_do_not_end_the_trial_and_the_last_one_truncates_it():
    env = TrialEnv(hidden_target(horizon=5), 3)
    env.reset(seed=0)
    steps = [env.step(np.array([0.0], np.float32)) for _ in range(15)]
    assert [step[3] for step in steps] == [False] * 14 + [True]
    assert not any(step[2] for step in steps)
    assert [step[0][-1] for step in steps] == [0.0, 0.0, 0.0, 0.0, 1.0] * 3


def test_discrete_previous_action_is_one_hot():
    env = TrialEnv(hidden_lever(), 2, task={"lever": 2.0})
    env.reset(seed=0)
    assert env.step(2)[0].tolist() == [0.25, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert env.step(np.int64(0))[0].tolist() == [0.5, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_episodes_of_a_trial_share_their_task_and_trials_do_not():
    vector = TrialVectorEnv(hidden_target(horizon=2), 3, 2)
    first = vector.reset(seed=0)[1]["task"]["target"]
    tasks = []
    for _ in range(8):
        vector.step(np.zeros((3, 1), np.float32))
        tasks.append(vector.worlds.env.task[:, 0].numpy().copy())
    for t in (0, 1, 2):
        np.testing.assert_array_equal(tasks[t], first)
    assert not (tasks[3] == first).any()
    for t in (4, 5, 6):
        np.testing.assert_array_equal(tasks[t], tasks[3])
    assert not (tasks[7] == tasks[3]).any()


def test_trial_shows_what_collect_shows_to_a_policy():
    spec, num_episodes = hidden_target(horizon=5), 3
    tasks = spec.tasks.split("test", 4)
    shown, actions = [], []

    class Recorder:
        def initial_memory(self, num_worlds):
            return None

        def act(self, inputs, memory, generator):
            signals = torch.stack([inputs.prev_reward, inputs.prev_done], 1)
            shown.append(torch.cat([inputs.obs, inputs.prev_action, signals], 1))
            actions.append(torch.rand(4, 1, generator=generator))
            return Act(actions[-1], torch.zeros(4), memory)

    env = BatchedEnv(spec, 4)
    env.set_tasks(tasks)
    rollout = collect(env, Recorder(), num_episodes, torch.Generator().manual_seed(0))
    vector = TrialVectorEnv(spec, 4, num_episodes)
    obs, _ = vector.reset(options={"task": tasks})
    for t in range(15):
        np.testing.assert_array_equal(obs, shown[t].numpy())
        obs, reward, *_ = vector.step(actions[t].numpy())
        np.testing.assert_array_equal(reward, rollout.reward[t].numpy())


@pytest.mark.parametrize("make_spec", [countdown, hidden_lever])
def test_vector_trials_are_single_trials_side_by_side(make_spec):
    spec = make_spec()
    task = spec.tasks.split("test", 1)[0]
    ours = TrialVectorEnv(spec, 3, 2, task=task)
    theirs = SyncVectorEnv([lambda: TrialEnv(spec, 2, task=task)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    np.testing.assert_array_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    ours.action_space.seed(0)
    ends = 0
    for _ in range(30):
        actions = ours.action_space.sample()
        a, b = ours.step(actions), theirs.step(actions)
        for i in range(4):
            np.testing.assert_array_equal(a[i], b[i])
        for i in np.flatnonzero(a[2] | a[3]):
            np.testing.assert_array_equal(a[4]["final_obs"][i], b[4]["final_obs"][i])
            ends += 1
    assert ends >= 6


def test_trials_end_one_by_one_where_episodes_do():
    vector = TrialVectorEnv(countdown(horizon=6), 2, 2)
    vector.reset(seed=0, options={"task": torch.tensor([[2.0], [4.0]])})
    steps = [vector.step(np.zeros((2, 1), np.float32)) for _ in range(4)]
    terminated = np.array([step[2] for step in steps])
    assert terminated[:, 0].tolist() == [False, False, False, True]
    assert terminated[:, 1].tolist() == [False] * 4
    assert steps[3][4]["_final_obs"].tolist() == [True, False]
    assert steps[3][4]["final_obs"][0].tolist() == [2.0, 1.0, 0.0, 1.0, 1.0]
    # The world whose trial is over sees a fresh start, the other one its second episode.
    assert steps[3][0].tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("spec", [countdown(), hidden_lever(), hidden_target()])
def test_trials_pass_the_checks_of_gymnasium_and_stable_baselines3(spec):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(TrialEnv(spec, 2))
        sb3_check_env(TrialEnv(spec, 2))
    found = [str(warning.message) for warning in caught]
    expected = ("minimum value is -infinity", "maximum value is infinity", "not having a spec")
    assert all(any(part in message for part in expected) for message in found), found


def test_recurrent_ppo_of_sb3_contrib_runs_on_trials():
    env = VecMonitor(SB3VecEnv(TrialVectorEnv(hidden_lever(), 4, 3)))
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=12, batch_size=24, n_epochs=1, seed=0, device="cpu")
    model.learn(96)
    # A trial of 3 episodes of 4 steps is one episode to the learner.
    assert {info["l"] for info in model.ep_info_buffer} == {12}
    assert model.num_timesteps == 96


@pytest.mark.slow
def test_recurrent_ppo_learns_to_remember_the_lever():
    torch.manual_seed(0)
    env = VecMonitor(SB3VecEnv(TrialVectorEnv(hidden_lever(), 32, 2)))
    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=64,
        batch_size=512,
        learning_rate=1e-3,
        ent_coef=0.01,
        policy_kwargs={"lstm_hidden_size": 32},
        seed=0,
        device="cpu",
    )
    model.learn(100_000)
    # 8 steps; at most one pull short of 8 on average is the best there is, 8/3 = 2.7 is what no memory can reach.
    assert np.mean([info["r"] for info in model.ep_info_buffer]) > 6.0


def test_number_of_episodes_must_be_positive():
    with pytest.raises(ConfigError, match="episodes_per_trial must be positive, got 0"):
        TrialEnv(hidden_lever(), 0)
