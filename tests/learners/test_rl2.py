"""RL²: memory across a trial, advantages over it, updates, and learning to adapt."""

from dataclasses import replace

import pytest
import torch

from metarl.env import BatchedEnv
from metarl.errors import ConfigError, UnknownNameError
from metarl.learners.rl2 import RL2, RL2Config, without_memory
from metarl.rollout import policy_inputs
from metarl.seeding import make_generator
from metarl.tasks import Parameter, TaskDistribution, Uniform
from tests.probes import countdown, hidden_lever, hidden_target
from tests.slow import slow_but

SMALL = RL2Config(
    total_steps=1, num_worlds=64, episodes_per_trial=2, hidden_dim=32, num_minibatches=2, discount=0.9, gae_lambda=0.9
)


def train(spec, config, num_updates, seed=0):
    torch.set_num_threads(1)
    env, learner = BatchedEnv(spec, config.num_worlds), RL2(spec, config, seed)
    tasks = make_generator(seed, "tasks")
    for update in range(num_updates):
        env.set_tasks(spec.tasks.sample_train(config.num_worlds, tasks))
        learner.update(learner.collect(env), update / num_updates)
    env.set_tasks(spec.tasks.split("test", config.num_worlds))
    return learner.trial(env, config.episodes_per_trial, None).episode_returns().mean(1)  # (K,)


def advantages(learner, rollout):
    return learner._advantages(rollout, learner._seen(rollout))[0]


@pytest.mark.parametrize("spec", [hidden_lever(), hidden_target(), countdown()], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cell": "lstm", "shortcut": True, "critic_sees_task": True},
        {"task_coef": 1.0, "reads_reward_change": True},
        {"memory": False},
    ],
    ids=str,
)
def test_log_probs_recomputed_from_the_start_of_the_trial_are_those_of_the_rollout(spec, changes):
    config = replace(SMALL, **changes)
    learner = RL2(spec, config, 0)
    rollout = learner.collect(BatchedEnv(spec, config.num_worlds))
    with torch.no_grad():
        evaluation = learner.network.evaluate(policy_inputs(rollout, spec.action_space))
    torch.testing.assert_close(evaluation.distribution.log_prob(rollout.action), rollout.log_prob)


def test_what_happened_in_the_first_episode_changes_the_second():
    spec = hidden_lever()
    learner = RL2(spec, SMALL, 0)
    rollout = learner.collect(BatchedEnv(spec, SMALL.num_worlds))
    inputs = policy_inputs(rollout, spec.action_space)
    changed = inputs.prev_reward.clone()
    changed[1] += 1.0
    with torch.no_grad():
        before = learner.network.evaluate(inputs).value
        after = learner.network.evaluate(inputs._replace(prev_reward=changed)).value
    assert torch.equal(before[0], after[0])
    assert (before[spec.horizon :] != after[spec.horizon :]).any(0).all()


def test_without_memory_only_the_observation_counts():
    spec = hidden_lever()
    learner = RL2(spec, replace(SMALL, memory=False), 0)
    inputs = policy_inputs(learner.collect(BatchedEnv(spec, 64)), spec.action_space)
    with torch.no_grad():
        before = learner.network.evaluate(inputs).value
        after = learner.network.evaluate(inputs._replace(prev_reward=inputs.prev_reward + 1)).value
    assert torch.equal(before, after)


def test_an_oracle_sees_the_task():
    spec = hidden_target()
    learner = RL2(spec, replace(SMALL, memory=False, sees_task=True), 0)
    inputs = policy_inputs(learner.collect(BatchedEnv(spec, 64)), spec.action_space)
    with torch.no_grad():
        before = learner.network.evaluate(inputs).value
        after = learner.network.evaluate(inputs._replace(task=inputs.task + 0.5)).value
    assert (before != after).all()


def test_a_critic_that_sees_the_task_leaves_the_policy_blind_to_it():
    spec = hidden_target()
    learner = RL2(spec, replace(SMALL, critic_sees_task=True), 0)
    inputs = policy_inputs(learner.collect(BatchedEnv(spec, 64)), spec.action_space)
    with torch.no_grad():
        before = learner.network.evaluate(inputs)
        after = learner.network.evaluate(inputs._replace(task=inputs.task + 0.5))
    assert (before.value != after.value).all()
    assert torch.equal(before.distribution.mean, after.distribution.mean)


def test_with_a_shortcut_the_policy_reacts_without_its_memory():
    spec = hidden_target()
    learner = RL2(spec, replace(SMALL, shortcut=True), 0)
    inputs = policy_inputs(learner.collect(BatchedEnv(spec, 64)), spec.action_space)
    for weight in learner.network.core.parameters():
        torch.nn.init.zeros_(weight)  # a memory that stays zero
    with torch.no_grad():
        before = learner.network.evaluate(inputs).distribution.mean
        after = learner.network.evaluate(inputs._replace(obs=inputs.obs + 0.5)).distribution.mean
    assert (before != after).all()


def test_the_memory_learns_to_tell_the_task_and_the_policy_is_not_told():
    spec = hidden_target()
    learner = RL2(spec, replace(SMALL, task_coef=1.0, learning_rate=3e-3), 0)
    env, tasks = BatchedEnv(spec, 64), make_generator(0, "tasks")
    losses = []
    for _ in range(13):
        env.set_tasks(spec.tasks.sample_train(64, tasks))
        losses.append(learner.update(learner.collect(env), 0.0).get("task_loss"))
    assert losses[1] > 0.7 and losses[-1] < 0.3  # in variances of the target; the first batch sets the scales
    inputs = policy_inputs(learner.collect(env), spec.action_space)
    with torch.no_grad():
        before = learner.network.evaluate(inputs)
        after = learner.network.evaluate(inputs._replace(task=inputs.task + 0.5))
    assert torch.equal(before.distribution.mean, after.distribution.mean) and torch.equal(before.value, after.value)


def test_what_is_said_of_the_task_is_judged_by_hand():
    spec = hidden_target()
    learner = RL2(spec, replace(SMALL, task_coef=2.0), 0)
    told = torch.tensor([[[1.0], [3.0]], [[0.0], [9.0]]])  # (T, N, P)
    valid = torch.tensor([[True, True], [True, False]])
    loss = learner._task_loss(told, torch.tensor([[0.0], [1.0]]), valid)  # the scales are 0 and 1 still
    assert loss.item() == pytest.approx(2 * (1 + 4 + 0) / 3, abs=1e-6)


def test_a_memory_is_asked_for_the_parameters_that_are_named():
    target = hidden_target().tasks.parameters[0]
    pair = Parameter("pair", "1", Uniform(0.0, 1.0), shape=(2,))
    spec = replace(hidden_target(), tasks=TaskDistribution((target, pair)))
    learner = RL2(spec, replace(SMALL, task_coef=2.0, asked=("pair",)), 0)
    assert learner.asked.tolist() == [1, 2] and learner.network.teller.out_features == 2
    told = torch.tensor([[[1.0, 5.0]]])  # (T, N, told)
    loss = learner._task_loss(told, torch.tensor([[9.0, 0.0, 3.0]]), torch.tensor([[True]]))
    assert loss.item() == pytest.approx(2 * (1 + 4), abs=1e-6)
    learner.update(learner.collect(BatchedEnv(spec, 64)), 0.0)
    assert learner.update(learner.collect(BatchedEnv(spec, 64)), 0.0)["task_loss"] > 0
    with pytest.raises(UnknownNameError, match="Did you mean 'pair'"):
        RL2(spec, replace(SMALL, task_coef=2.0, asked=("pairs",)), 0)
    with pytest.raises(ConfigError, match="asked names pair, but task_coef is 0"):
        replace(SMALL, asked=("pair",))


def test_the_change_of_the_reward_is_read_on_its_own_scale():
    spec = hidden_target()
    learner = RL2(spec, replace(SMALL, reads_reward_change=True), 0)
    rollout = learner.collect(BatchedEnv(spec, 64))
    inputs = policy_inputs(rollout, spec.action_space)
    learner.network.reward_change_normalizer = scale = type(learner.network.reward_change_normalizer)(1)
    learner._update_normalizers(rollout)
    assert scale.var.item() == pytest.approx(inputs.prev_change.var(correction=0).item())
    seen = learner.network.read(inputs)[..., learner.network.encoder_dim - 1]
    assert seen.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    with torch.no_grad():
        before = learner.network.evaluate(inputs).distribution.mean
        after = learner.network.evaluate(inputs._replace(prev_change=inputs.prev_change + 1.0)).distribution.mean
    assert (before != after).any(-1).all()
    blind = RL2(spec, SMALL, 0)
    with torch.no_grad():
        before = blind.network.evaluate(inputs).distribution.mean
        after = blind.network.evaluate(inputs._replace(prev_change=inputs.prev_change + 1.0)).distribution.mean
    assert torch.equal(before, after)


def test_advantages_reach_through_the_reset_between_episodes():
    spec = hidden_target()
    learner = RL2(spec, SMALL, 0)
    rollout = learner.collect(BatchedEnv(spec, 64))
    later = rollout.reward.clone()
    later[spec.horizon] += 1.0  # first step of the second episode
    before = advantages(learner, rollout)
    after = advantages(learner, replace(rollout, reward=later))
    decay = SMALL.discount * SMALL.gae_lambda
    # The later reward also enters the memory, and so the values, of later steps only.
    torch.testing.assert_close((after - before)[spec.horizon - 1], torch.full((64,), decay), atol=0.2, rtol=0)
    assert (after - before)[0].abs().min() > 0


def test_the_end_of_a_trial_is_bootstrapped_only_when_it_is_a_time_limit():
    spec = countdown(horizon=4)
    config = replace(SMALL, episodes_per_trial=1, bootstrap_at_end=True)
    learner, env = RL2(spec, config, 0), BatchedEnv(spec, 64)
    env.set_tasks(spec.tasks.sample("train", 64, torch.Generator().manual_seed(0)))
    rollout = learner.collect(env)
    ran_on = rollout.truncated[-1]
    assert ran_on.any() and not ran_on.all()
    with torch.no_grad():
        value = learner.network.evaluate(policy_inputs(rollout, spec.action_space)).value
    rest = advantages(learner, rollout)[-1] - (rollout.reward[-1] - value[-1])
    assert (rest[ran_on] != 0).all() and rest[~ran_on].abs().max() < 1e-6


def test_the_value_after_a_time_limit_is_that_of_the_same_episode_going_on():
    short, long = countdown(horizon=4), countdown(horizon=5)
    config = replace(SMALL, episodes_per_trial=1, bootstrap_at_end=True)
    learner = RL2(short, config, 0)
    envs = BatchedEnv(short, 64), BatchedEnv(long, 64)
    for env in envs:
        env.set_tasks(torch.full((64, 1), 100.0))
    # Deterministic, so that the longer trial is the shorter one and a step more.
    cut, whole = (learner.trial(env, 1, None) for env in envs)
    assert torch.equal(cut.obs, whole.obs[:4])
    with torch.no_grad():
        value = learner.network.evaluate(policy_inputs(whole, short.action_space)).value
    expected = cut.reward[-1] + config.discount * value[4] - value[3]
    torch.testing.assert_close(advantages(learner, cut)[-1], expected)


def test_the_first_batch_sets_the_scales_and_the_second_moves_every_parameter():
    spec = hidden_target()
    learner, env = RL2(spec, SMALL, 0), BatchedEnv(spec, 64)
    before = {name: p.clone() for name, p in learner.network.named_parameters()}
    learner.update(learner.collect(env), 0.0)
    assert learner.network.reward_normalizer.mean < 0
    assert all(torch.equal(before[name], p) for name, p in learner.network.named_parameters())
    learner.update(learner.collect(env), 0.0)
    for name, parameter in learner.network.named_parameters():
        assert not torch.equal(before[name], parameter), name


def test_a_loss_that_is_not_finite_leaves_weights_and_optimizer_alone():
    spec = hidden_target()
    learner = RL2(spec, SMALL, 0)
    env = BatchedEnv(spec, 64)
    learner.update(learner.collect(env), 0.0)
    rollout = learner.collect(env)
    broken = rollout.log_prob.clone()
    broken[0, :] = float("nan")
    before = {name: p.clone() for name, p in learner.network.named_parameters()}
    metrics = learner.update(replace(rollout, log_prob=broken), 0.0)
    assert metrics["skipped_minibatches"] == SMALL.num_epochs * SMALL.num_minibatches
    assert metrics["gradient_steps"] == 0 and not learner.optimizer.state
    for name, parameter in learner.network.named_parameters():
        assert torch.equal(before[name], parameter), name


def test_the_same_seed_gives_the_same_weights_and_global_randomness_is_untouched():
    spec = hidden_target()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other, third = RL2(spec, SMALL, 0), RL2(spec, SMALL, 0), RL2(spec, SMALL, 1)
    assert torch.equal(torch.rand(1), expected)
    weights = [learner.network.actor[0].weight for learner in (one, other, third)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("cell", slow_but(["gru", "lstm"], "lstm"))
def test_rl2_learns_to_find_the_hidden_lever_and_to_remember_it(cell):
    # 4 steps, 3 levers: the best first episode is 4 - 1 = 3 (0, 1 or 2 wrong pulls), every later one is 4.
    config = replace(SMALL, cell=cell, num_worlds=256, learning_rate=3e-3, entropy_coef=0.01)
    first, second = train(hidden_lever(), config, 60)
    assert first > 2.8 and second > 3.9


def test_without_memory_the_hidden_lever_stays_hidden():
    config = without_memory(replace(SMALL, num_worlds=128, learning_rate=3e-3), sees_task=False)
    (mean,) = train(hidden_lever(), config, 40)
    assert abs(mean - 4 / 3) < 0.35


@pytest.mark.slow
def test_rl2_learns_a_hidden_target_with_continuous_actions():
    config = replace(SMALL, cell="lstm", num_worlds=128, learning_rate=3e-3, num_epochs=8, target_kl=0.1)
    first, second = train(hidden_target(), config, 60)
    assert second > -0.15 and second > first


def test_the_oracle_learns_the_target_it_sees():
    config = without_memory(replace(SMALL, num_worlds=128, learning_rate=3e-3), sees_task=True)
    (mean,) = train(hidden_target(), config, 100)
    assert mean > -0.15


def test_wrong_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="num_worlds must be at least 1, got 0"):
        RL2Config(num_worlds=0)
    with pytest.raises(ConfigError, match=r"discount must lie in \[0, 1\], got 1.5"):
        RL2Config(discount=1.5)
    with pytest.raises(ConfigError, match="a minibatch holds whole trials"):
        RL2Config(num_worlds=2, num_minibatches=4)
    with pytest.raises(ConfigError, match="cell must be gru or lstm, got 'rnn'"):
        RL2Config(cell="rnn")
    with pytest.raises(ConfigError, match="learning_rate must be finite, got nan"):
        RL2Config(learning_rate=float("nan"))
