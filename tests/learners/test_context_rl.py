"""context-rl: windows along a trial, replay of log-probs, what trains the encoder, what no memoryless policy can."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.learners.context_network import ContextActor
from metarl.learners.context_rl import ENCODER_LOSSES, ContextConfig, ContextRL
from metarl.rollout import collect, policy_inputs
from metarl.seeding import make_generator
from metarl.set_encoder import POOLINGS
from tests.probes import countdown, hidden_lever, hidden_target
from tests.slow import slow_but

SMALL = ContextConfig(
    total_steps=1,
    num_worlds=64,
    episodes_per_trial=2,
    hidden_dim=32,
    num_minibatches=2,
    discount=0.9,
    gae_lambda=0.9,
    window=8,
    encoder_epochs=2,
)
SAMPLED = replace(SMALL, pooling="gaussian", samples_posterior=True)


def after_two_updates(spec, config):
    learner, env = ContextRL(spec, config, 0), BatchedEnv(spec, config.num_worlds)
    tasks = make_generator(0, "tasks")
    for _ in range(2):
        env.set_tasks(spec.tasks.sample_train(config.num_worlds, tasks))
        metrics = learner.update(learner.collect(env), 0.0)
    env.set_tasks(spec.tasks.sample_train(config.num_worlds, tasks))
    return learner, env, metrics


@pytest.mark.parametrize("spec", [hidden_lever(), hidden_target(), countdown()], ids=lambda s: s.name)
@pytest.mark.parametrize("window", [0, 1, 3, 100])
@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, encoder_loss="rl", tells_last=False), SAMPLED],
    ids=["own", "rl", "sampled"],
)
def test_log_probs_recomputed_from_the_rollout_are_those_of_the_policy_that_acted(spec, window, config):
    learner, env, _ = after_two_updates(spec, replace(config, window=window))
    rollout = learner.collect(env)
    learner._noise = learner._draws(rollout.num_episodes, rollout.num_worlds, learner.generators["posterior"])
    with torch.no_grad():
        output, _ = learner._heads(learner._seen(rollout)[:-1], torch.arange(rollout.num_worlds))
    recomputed = learner.network.distribution(output).log_prob(rollout.action)
    torch.testing.assert_close(recomputed, rollout.log_prob)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("window", [0, 3])
def test_the_context_is_that_of_the_last_transitions_by_brute_force(pooling, window):
    spec = countdown()
    learner, env, _ = after_two_updates(spec, replace(SMALL, pooling=pooling, window=window))
    network, rollout = learner.network, learner.collect(env)
    inputs = policy_inputs(rollout, spec.action_space)
    found = network.contexts(network.transitions(inputs))
    obs, waits = network.obs_normalizer(rollout.obs), ~rollout.valid
    for t in range(rollout.num_steps):
        first = max(1, t - window + 1) if window else 1
        members, kept = [torch.zeros(64, network.members_dim)], [torch.zeros(64, dtype=torch.bool)]
        for s in range(first, t + 1):
            done = inputs.prev_done[s].unsqueeze(1)
            change = network.change_normalizer(rollout.obs[s] - rollout.obs[s - 1]) * (1 - done)
            reward = network.reward_normalizer(rollout.reward[s - 1].unsqueeze(1))
            members.append(torch.cat([obs[s - 1], rollout.action[s - 1], reward, change, done], 1))
            kept.append(~waits[s - 1])
        mask = torch.stack(kept, 1)
        expected = network.set_encoder(torch.stack(members, 1), mask)
        torch.testing.assert_close(found[t, :, :8], expected)
        torch.testing.assert_close(found[t, :, 8], (1 + mask.sum(1)).log() / 5)
        torch.testing.assert_close(found[t, :, 9:], members[-1] * mask[:, -1:])


def test_nothing_of_the_future_and_nothing_before_the_window_changes_a_context():
    spec = hidden_target()
    learner, env, _ = after_two_updates(spec, replace(SMALL, window=3, tells_last=False))
    inputs = policy_inputs(learner.collect(env), spec.action_space)
    changed = inputs.prev_reward.clone()
    changed[4] += 1.0  # of the transition that led to step 4
    before, after = (
        learner.network.contexts(learner.network.transitions(i)) for i in (inputs, inputs._replace(prev_reward=changed))
    )
    differs = (before != after).any(-1).any(-1)
    assert differs.tolist() == [4 <= t < 7 for t in range(10)]


def test_a_draw_of_the_posterior_lasts_an_episode_and_its_mean_is_taken_without_a_generator():
    spec = hidden_target()
    learner, env, _ = after_two_updates(spec, SAMPLED)
    noise = torch.zeros(2, 64, 8)
    noise[1] = 1.0  # in the second episode only
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    env.generator.manual_seed(0)
    plain = collect(env, ContextActor(learner.network, None), 2, generators[0])
    drawn = collect(env, ContextActor(learner.network, noise), 2, generators[1])
    assert torch.equal(plain.action[: spec.horizon], drawn.action[: spec.horizon])
    assert (plain.action[spec.horizon :] != drawn.action[spec.horizon :]).all()
    first, second = learner.trial(env, 2, None), learner.trial(env, 2, None)
    assert torch.equal(first.action, second.action)


@pytest.mark.parametrize("loss", ENCODER_LOSSES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_parameter_that_a_loss_trains_moves_and_no_other(loss, pooling):
    spec = hidden_target()
    learner, env = ContextRL(spec, replace(SMALL, encoder_loss=loss, pooling=pooling), 0), BatchedEnv(spec, 64)
    env.set_tasks(spec.tasks.sample_train(64, torch.Generator().manual_seed(0)))
    learner.update(learner.collect(env), 0.0)
    before = {name: p.clone() for name, p in learner.network.named_parameters()}
    metrics = learner.update(learner.collect(env), 0.0)
    assert ("encoder_loss" in metrics) == (loss != "rl")
    for name, parameter in learner.network.named_parameters():
        is_trained = loss == "dynamics" or not name.startswith("predictor")
        assert torch.equal(before[name], parameter) != is_trained, name


@pytest.mark.parametrize("loss", ["dynamics", "focal", "prototypical"])
def test_the_gradient_of_the_policy_stops_at_an_embedding_with_a_loss_of_its_own(loss):
    spec = hidden_target()
    learner, env, _ = after_two_updates(spec, replace(SMALL, encoder_loss=loss))
    rollout = learner.collect(env)
    learner._noise = None
    learner.optimizer.zero_grad(set_to_none=True)
    output, value = learner._heads(learner._seen(rollout), torch.arange(64))
    (output.sum() + value.sum()).backward()
    assert all(p.grad is None for p in learner.network.encoder_parameters())
    assert all(p.grad is not None for p in learner.network.policy_parameters() if p is not learner.network.log_std)


def test_the_kl_to_the_prior_keeps_the_posterior_near_it():
    divergences = []
    for kl_coef in (0.0, 10.0):
        learner, env, _ = after_two_updates(
            hidden_target(), replace(SMALL, pooling="gaussian", encoder_loss="rl", kl_coef=kl_coef, learning_rate=1e-2)
        )
        learner._noise = None
        divergences.append(learner.network.posterior(learner._seen(learner.collect(env))).kl_to_prior().mean())
    assert divergences[1] < 0.5 * divergences[0]


def test_prototypes_are_those_of_the_last_tasks_and_the_nearest_one_is_told():
    spec = hidden_target()
    learner, env, _ = after_two_updates(spec, replace(SMALL, tells_last=False))
    network = learner.network
    assert network.prototypes.shape == (64, 8) and network.prototype_tasks.abs().max() <= 0.8
    assert torch.equal(network.nearest_prototype(network.prototypes + 1e-4), network.prototypes)
    # With one prototype for all, what happens in the trial tells nothing any more.
    network.prototypes.copy_(network.prototypes[:1].expand(64, -1))
    actions = learner.with_prototypes().trial(env, 2, None).action
    assert (actions == actions[:, :1]).all()
    assert (learner.trial(env, 2, None).action[1:] != actions[1:]).any()
    with pytest.raises(ConfigError, match="no prototypes yet"):
        ContextRL(spec, SMALL, 0).with_prototypes()


def test_the_same_seed_gives_the_same_update_and_a_loaded_state_goes_on_with_it():
    spec = hidden_target()
    one, env, _ = after_two_updates(spec, SAMPLED)
    other, *_ = after_two_updates(spec, SAMPLED)
    loaded = ContextRL(spec, SAMPLED, 5)
    loaded.load_state_dict(deepcopy(one.state_dict()))
    rollout = one.collect(env)
    for learner in (one, other, loaded):
        learner.update(rollout, 0.5)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
        assert torch.equal(value, loaded.network.state_dict()[name]), name


def test_a_batch_that_is_not_finite_leaves_encoder_and_optimizer_alone():
    spec = hidden_target()
    learner, env, _ = after_two_updates(spec, SMALL)
    rollout = learner.collect(env)
    before = {name: p.clone() for name, p in learner.network.named_parameters()}
    metrics = learner.update(replace(rollout, reward=rollout.reward + float("nan")), 0.0)
    assert metrics["skipped_minibatches"] > 0
    for name, parameter in learner.network.named_parameters():
        assert torch.equal(before[name], parameter), name


@pytest.mark.parametrize("loss", slow_but(ENCODER_LOSSES, "prototypical", "rl"))
@pytest.mark.parametrize("pooling", slow_but(["mean", "gaussian"], "gaussian"))
def test_it_finds_the_hidden_lever_which_no_memoryless_policy_can(loss, pooling):
    # 4 steps, 3 levers: the best first episode is 3, every later one 4; without memory 4/3 (see test_rl2.py).
    spec, config = hidden_lever(), replace(SMALL, encoder_loss=loss, pooling=pooling, entropy_coef=0.01)
    config = replace(config, num_worlds=256, learning_rate=3e-3, encoder_lr=3e-3, update_threads=1)
    torch.set_num_threads(1)
    learner, env = ContextRL(spec, config, 0), BatchedEnv(spec, config.num_worlds)
    tasks = make_generator(0, "tasks")
    for update in range(50):
        env.set_tasks(spec.tasks.sample_train(config.num_worlds, tasks))
        learner.update(learner.collect(env), update / 50)
    env.set_tasks(spec.tasks.split("test", config.num_worlds))
    first, second = learner.trial(env, 2, None).episode_returns().mean(1)
    assert first > 2.7 and second > 3.9


def test_wrong_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="encoder_loss must be one of dynamics, focal, prototypical, rl, got 'none'"):
        ContextConfig(encoder_loss="none")
    with pytest.raises(ConfigError, match="pooling must be one of mean, attention, gaussian, got 'max'"):
        ContextConfig(pooling="max")
    with pytest.raises(ConfigError, match="samples_posterior needs --pooling gaussian, got 'mean'"):
        ContextConfig(samples_posterior=True)
    with pytest.raises(ConfigError, match="window and kl_coef must be at least 0, got -1"):
        ContextConfig(window=-1)
    with pytest.raises(ConfigError, match="encoder_lr must be positive"):
        ContextConfig(encoder_lr=0.0)
    with pytest.raises(ConfigError, match="num_worlds must be at least 1, got 0"):
        ContextConfig(num_worlds=0)
