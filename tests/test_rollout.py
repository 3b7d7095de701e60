"""Collecting trials: what a policy sees, and what a rollout records."""

import pytest
import torch

from metarl.env import BatchedEnv
from metarl.errors import SpecError
from metarl.rollout import collect, policy_inputs
from metarl.types import Act, Discrete
from tests.probes import countdown, hidden_lever, hidden_target


class Recorder:
    """Acts with given numbers and remembers what it saw."""

    def __init__(self, actions):
        self.actions, self.seen = actions, []

    def initial_memory(self, num_worlds):
        return torch.zeros(num_worlds)

    def act(self, inputs, memory, generator):
        self.seen.append(inputs)
        action = self.actions[len(self.seen) - 1]
        return Act(action, torch.zeros(len(memory)), memory + 1)


@pytest.mark.parametrize("spec", [hidden_lever(), hidden_target(), countdown()], ids=lambda s: s.name)
def test_policy_inputs_are_what_the_policy_saw(spec):
    num_steps = 3 * spec.horizon
    if isinstance(spec.action_space, Discrete):
        actions = torch.randint(3, (num_steps, 5))
    else:
        actions = torch.rand(num_steps, 5, 1)
    policy = Recorder(actions)
    rollout = collect(BatchedEnv(spec, 5), policy, 3, None)
    inputs = policy_inputs(rollout, spec.action_space)
    for field in ("obs", "prev_action", "prev_reward", "prev_done", "prev_change"):
        assert torch.equal(getattr(inputs, field), torch.stack([getattr(s, field) for s in policy.seen])), field


def test_previous_action_reward_and_done_survive_the_reset_between_episodes():
    spec = hidden_lever(horizon=2)
    env = BatchedEnv(spec, 3)
    env.set_tasks(torch.tensor([[0.0], [1.0], [2.0]]))
    policy = Recorder(torch.ones(4, 3, dtype=torch.int64))
    collect(env, policy, 2, None)
    first, second_episode = policy.seen[0], policy.seen[2]
    assert not first.prev_action.any() and not first.prev_reward.any() and not first.prev_done.any()
    assert second_episode.prev_action.tolist() == [[0, 1, 0]] * 3
    assert second_episode.prev_reward.tolist() == [0, 1, 0]
    assert second_episode.prev_done.tolist() == [1, 1, 1]
    assert second_episode.obs.tolist() == [[0]] * 3


def test_the_change_of_the_reward_is_zero_at_the_start_and_across_a_reset():
    spec = hidden_target(horizon=3)
    env = BatchedEnv(spec, 1)
    env.set_tasks(torch.tensor([[0.0]]))
    policy = Recorder(torch.tensor([0.1, 0.3, 0.2, 0.7, 0.0, 0.1]).view(6, 1, 1))  # rewards: minus their squares
    collect(env, policy, 2, None)
    changes = torch.stack([s.prev_change for s in policy.seen])[:, 0]
    # Before the fifth action: -0.49 followed the end of the first episode, with which it is not compared.
    torch.testing.assert_close(changes, torch.tensor([0.0, 0.0, -0.08, 0.05, 0.0, 0.49]))


def test_done_stays_up_while_an_ended_episode_waits_for_the_others():
    env = BatchedEnv(countdown(horizon=4), 2)
    env.set_tasks(torch.tensor([[2.0], [100.0]]))
    policy = Recorder(torch.zeros(8, 2, 1))
    rollout = collect(env, policy, 2, None)
    assert [s.prev_done.tolist() for s in policy.seen[:6]] == [[0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [0, 0]]
    assert rollout.episode_returns().tolist() == [[2, 4], [2, 4]]
    assert rollout.valid[:4, 0].tolist() == [True, True, False, False]
    assert rollout.terminated[:4, 0].tolist() == [False, True, False, False]
    assert rollout.truncated[:4].tolist() == [[False, False]] * 3 + [[False, True]]


def test_final_observations_are_those_before_the_reset():
    env = BatchedEnv(countdown(horizon=3), 1)
    env.set_tasks(torch.tensor([[100.0]]))
    rollout = collect(env, Recorder(torch.zeros(6, 1, 1)), 2, None)
    assert rollout.obs[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert rollout.final_obs[:, 0, 0].tolist() == [3, 3]


def test_a_step_without_an_episode_is_refused():
    spec = hidden_target(horizon=2)
    env = BatchedEnv(spec, 2)
    env.set_tasks(spec.tasks.split("test", 2))
    with pytest.raises(SpecError, match="no episode is running, call reset"):
        env.step(torch.zeros(2, 1))
    env.reset()
    env.step(torch.zeros(2, 1))
    env.step(torch.zeros(2, 1))
    with pytest.raises(SpecError, match="no episode is running, call reset"):
        env.step(torch.zeros(2, 1))
