"""The gradient learners: meta-gradients against finite differences, adaptation of many tasks at once, learning."""

from dataclasses import replace

import pytest
import torch

from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.learners.gradient import MetaBatch
from metarl.learners.maml_trpo import MAMLTRPO, MAMLTRPOConfig, as_anil, as_cavia, as_e_maml, as_fomaml, as_meta_sgd
from metarl.learners.promp import ProMP, ProMPConfig
from metarl.learners.reptile import Reptile, ReptileConfig
from metarl.rl.inner_loop import Samples
from metarl.seeding import make_generator
from tests.probes import countdown, hidden_lever, hidden_target

B, E = 3, 4
SIZES = {"total_steps": 1, "meta_batch_size": B, "episodes_per_task": E, "hidden_dims": (6, 5), "normalizes_obs": False}
MAML = MAMLTRPOConfig(**SIZES, context_dim=2)
VARIANTS = {
    "maml": MAML,
    "ratio": replace(MAML, inner_surrogate="ratio"),
    "anil": as_anil(MAML),
    "meta-sgd": as_meta_sgd(MAML),
    "cavia": as_cavia(MAML),
    "e-maml": as_e_maml(MAML),
    "every step": replace(MAML, judges_every_step=True),
}


def learner_and_batch(spec, config, make=MAMLTRPO, seed=0):
    """A learner in float64 and what it experienced, after a random shift so that ratios are not all one."""
    learner = make(spec, config, seed)
    env = BatchedEnv(spec, config.num_worlds)
    env.set_tasks(spec.tasks.split("test", config.meta_batch_size))
    rollout = learner.collect(env)
    phases = [learner.samples(rollout, k, config.meta_batch_size) for k in range(rollout.num_episodes)]
    phases = [Samples(*(v.double() if v.is_floating_point() else v for v in phase)) for phase in phases]
    generator = torch.Generator().manual_seed(1)
    learner._constants = {name: value.double() for name, value in learner._constants.items()}
    learner.meta_parameters = {
        name: (v.detach() + 0.05 * torch.randn(v.shape, generator=generator)).double().requires_grad_()
        for name, v in learner.meta_parameters.items()
    }
    with torch.no_grad():
        adapted = learner.unroll(learner.meta_parameters, phases[:-1], config.meta_batch_size)
        policies = zip(adapted, phases, strict=True)
        old = [learner.distribution(learner.meta_parameters, *policy) for policy in policies]
    acted = [type(d)(*(v.expand(d[0].shape).clone() for v in d)) for d in old]
    returns = rollout.episode_returns().unflatten(1, (config.meta_batch_size, -1)).mean(2).double()
    return learner, MetaBatch(phases, phases[:-1], acted, returns)


def assert_gradient_is_that_of_finite_differences(loss, parameters, generator, tolerance=1e-5):
    gradient = torch.autograd.grad(loss(parameters), list(parameters.values()), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradient)
    for (name, value), slope in zip(parameters.items(), gradient, strict=True):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        step = 1e-5
        ends = [{**parameters, name: (value + sign * step * direction).detach()} for sign in (1, -1)]
        high, low = (float(loss({n: v.detach() for n, v in end.items()})) for end in ends)
        expected = (high - low) / (2 * step)
        found = 0.0 if slope is None else float((slope * direction).sum())
        assert abs(found - expected) < tolerance * max(1.0, abs(expected)), name


@pytest.mark.parametrize("num_inner_steps", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_meta_gradient_is_that_of_finite_differences(variant, num_inner_steps):
    config = replace(VARIANTS[variant], num_inner_steps=num_inner_steps)
    learner, batch = learner_and_batch(hidden_target(), config)
    generator = torch.Generator().manual_seed(2)
    moved = {  # away from the acting policy, where the divergence has a slope
        name: (v.detach() + 0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype)).requires_grad_()
        for name, v in learner.meta_parameters.items()
    }
    for part in (0, 1):  # loss and KL divergence
        assert_gradient_is_that_of_finite_differences(
            lambda meta: learner._objective(batch, batch, meta)[part],  # noqa: B023
            moved,
            generator,
        )


@pytest.mark.parametrize("num_inner_steps", [1, 2])
def test_the_gradient_of_promp_is_that_of_finite_differences(num_inner_steps):
    config = ProMPConfig(**SIZES, inner_surrogate="ratio", inner_kl_coef=0.3, num_inner_steps=num_inner_steps)
    learner, batch = learner_and_batch(hidden_target(), config, ProMP)
    learner.inner_kl_coef = learner.inner_kl_coef.double()

    def loss(meta):
        learner.meta_parameters = meta
        return learner._loss(batch, batch)[0]

    generator = torch.Generator().manual_seed(2)
    assert_gradient_is_that_of_finite_differences(loss, dict(learner.meta_parameters), generator)


def test_discrete_actions_have_a_meta_gradient_too():
    learner, batch = learner_and_batch(hidden_lever(), MAML)
    assert_gradient_is_that_of_finite_differences(
        lambda meta: learner._objective(batch, batch, meta).loss, learner.meta_parameters, torch.Generator()
    )


@pytest.mark.parametrize("variant", ["maml", "anil", "meta-sgd", "cavia"])
def test_adapting_all_tasks_at_once_is_adapting_one_after_the_other(variant):
    learner, batch = learner_and_batch(hidden_target(), replace(VARIANTS[variant], num_inner_steps=2))
    together = learner.unroll(learner.meta_parameters, batch.supports, B)[-1]
    for task in range(B):
        alone = learner.unroll(learner.meta_parameters, batch.of_tasks(slice(task, task + 1)).supports, 1)[-1]
        for name, value in together.items():
            torch.testing.assert_close(alone[name][0], value[task])


def test_a_batch_in_parts_has_the_same_loss_and_gradient():
    learner, batch = learner_and_batch(hidden_target(), as_e_maml(MAML))
    leaves = list(learner.meta_parameters.values())
    whole = learner._objective(batch, batch, learner.meta_parameters)
    parts = [learner._objective(chunk, batch, learner.meta_parameters) for chunk in batch.split(2)]
    assert [chunk.num_tasks for chunk in batch.split(2)] == [2, 1]
    for a, b in zip(whole, [sum(p.loss for p in parts), sum(p.kl for p in parts)], strict=True):
        torch.testing.assert_close(a, b)
    one, other = torch.autograd.grad(whole.loss, leaves), torch.autograd.grad(sum(p.loss for p in parts), leaves)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", ["maml", "anil", "meta-sgd", "cavia"])
def test_inner_steps_of_size_zero_change_nothing(variant):
    learner, batch = learner_and_batch(hidden_target(), replace(VARIANTS[variant], inner_lr=0.0))
    for name, value in learner.meta_parameters.items():
        if name.startswith("inner_lr."):
            value.data.zero_()
    before, after = learner.unroll(learner.meta_parameters, batch.supports, B)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_what_adapts_is_changed_by_an_inner_step():
    for variant, names in {"anil": {"layers.2.weight", "layers.2.bias"}, "cavia": {"context"}}.items():
        learner, batch = learner_and_batch(hidden_target(), VARIANTS[variant])
        before, after = learner.unroll(learner.meta_parameters, batch.supports, B)
        assert set(before) == set(after) == names
        assert all((before[name] != after[name]).any() for name in names)


def test_a_first_order_gradient_differs_from_the_second_order_one_and_their_inner_steps_do_not():
    learner, batch = learner_and_batch(hidden_target(), MAML)
    first, same = learner_and_batch(hidden_target(), as_fomaml(MAML))
    torch.testing.assert_close(batch.phases[1].obs, same.phases[1].obs)
    losses = [x._objective(b, b, x.meta_parameters).loss for x, b in ((learner, batch), (first, same))]
    assert losses[0].item() == losses[1].item()
    second, one = (
        torch.autograd.grad(loss, x.meta_parameters["layers.2.bias"])[0]
        for loss, x in zip(losses, (learner, first), strict=True)
    )
    assert not torch.allclose(second, one, rtol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_reaches_everything_that_is_learned(variant):
    learner, batch = learner_and_batch(hidden_target(), VARIANTS[variant])
    loss = learner._objective(batch, batch, learner.meta_parameters).loss
    for name, slope in zip(
        learner.meta_parameters, torch.autograd.grad(loss, list(learner.meta_parameters.values())), strict=True
    ):
        assert float(slope.abs().max()) > 0, name


def test_at_the_acting_policy_promp_follows_the_policy_gradient():
    config = ProMPConfig(**SIZES, inner_lr=0.0, inner_surrogate="ratio")
    learner, batch = learner_and_batch(hidden_target(), config, ProMP)
    learner.inner_kl_coef = learner.inner_kl_coef.double()
    query = batch.phases[-1]
    policy = learner.distribution(
        learner.meta_parameters, learner.unroll(learner.meta_parameters, batch.supports, B)[-1], query
    )
    log_prob = policy.log_prob(query.action)
    at_the_actor = batch._replace(phases=[batch.phases[0], query._replace(log_prob=log_prob.detach())])
    leaves = list(learner.meta_parameters.values())
    found = torch.autograd.grad(learner._loss(at_the_actor, at_the_actor)[0], leaves, retain_graph=True)
    expected = torch.autograd.grad(-(query.weight * query.advantage * log_prob).sum() / B, leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-7)


def test_an_outer_step_of_promp_that_goes_too_far_is_taken_back():
    spec = hidden_target()
    config = ProMPConfig(**SIZES, inner_surrogate="ratio", outer_lr=0.3)
    for max_kl, taken_back in ((1e-6, 1.0), (1e6, 0.0)):
        learner = ProMP(spec, replace(config, max_kl=max_kl), 0)
        before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
        metrics = learner.update(learner.collect(BatchedEnv(spec, config.num_worlds)), 0.0)
        assert metrics["step_taken_back"] == taken_back and metrics["kl"] <= max_kl
        same = all(torch.equal(before[name], value) for name, value in learner.meta_parameters.items())
        assert same == bool(taken_back)


def test_the_weight_of_the_inner_divergence_follows_its_rule():
    learner = ProMP(hidden_target(), ProMPConfig(**SIZES, num_inner_steps=3, adapts_inner_kl=True), 0)
    learner._adjust(torch.tensor([0.005, 0.01, 0.02]))  # target 0.01
    torch.testing.assert_close(learner.inner_kl_coef, 5e-4 * torch.tensor([0.5, 1.0, 2.0]))


def test_advantages_are_normalised_per_task_over_the_steps_that_count():
    spec = countdown()  # worlds live for 2, 4 or 6 steps
    config = MAMLTRPOConfig(**SIZES)
    learner = MAMLTRPO(spec, config, 0)
    env = BatchedEnv(spec, config.num_worlds)
    env.set_tasks(torch.tensor([[2.0], [4.0], [100.0]]))
    rollout = learner.collect(env)
    samples = learner.samples(rollout, 1, B)
    assert samples.obs.shape == (B, spec.horizon * E, 2)
    lives = (samples.weight > 0).sum(1).tolist()
    assert lives == [2 * E, 4 * E, 6 * E]
    torch.testing.assert_close(samples.weight.sum(1), torch.ones(B))
    assert (samples.advantage[samples.weight == 0] == 0).all()
    torch.testing.assert_close((samples.weight * samples.advantage).sum(1), torch.zeros(B), atol=1e-5, rtol=0)


def test_the_worlds_of_a_task_act_with_its_parameters():
    """Log-probabilities of the rollout are those of each phase's parameters, computed again from the samples."""
    spec, config = hidden_target(), replace(MAML, num_inner_steps=2)
    learner = MAMLTRPO(spec, config, 0)
    env = BatchedEnv(spec, config.num_worlds)
    env.set_tasks(spec.tasks.split("test", B))
    rollout = learner.collect(env)
    assert torch.equal(rollout.task, spec.tasks.split("test", B).repeat_interleave(E, 0))
    phases = [learner.samples(rollout, k, B) for k in range(3)]
    for adapted, phase in zip(learner.unroll(learner.meta_parameters, phases[:-1], B), phases, strict=True):
        again = learner.distribution(learner.meta_parameters, adapted, phase).log_prob(phase.action)
        torch.testing.assert_close(again, phase.log_prob)


def test_steps_beyond_those_that_were_meta_trained_are_scaled():
    spec = hidden_target()
    env = BatchedEnv(spec, MAML.num_worlds)
    env.set_tasks(spec.tasks.split("test", B))
    learner = MAMLTRPO(spec, replace(MAML, later_step_scale=0.0), 0)
    rollout = learner.trial(env, 3, make_generator(0, "policy"))
    phases = [learner.samples(rollout, k, B) for k in range(3)]
    once = learner.unroll(learner.meta_parameters, phases[:1], B)[-1]
    again = learner.distribution(learner.meta_parameters, once, phases[2]).log_prob(phases[2].action)
    torch.testing.assert_close(again, phases[2].log_prob)  # the second step had size zero


def test_without_sampling_there_is_nothing_to_adapt_on():
    spec = hidden_target()
    with pytest.raises(ConfigError, match="has to sample its actions"):
        MAMLTRPO(spec, MAML, 0).trial(BatchedEnv(spec, MAML.num_worlds), 2, None)


@pytest.mark.parametrize(
    ("make", "config"),
    [(MAMLTRPO, replace(MAML, metric_share=1.0)), (ProMP, ProMPConfig(**SIZES)), (Reptile, ReptileConfig(**SIZES))],
    ids=["maml-trpo", "promp", "reptile"],
)
def test_a_task_that_is_not_finite_is_dropped_and_counted_and_the_others_learn(make, config):
    spec = hidden_target()
    learner = make(spec, config, 0)
    env = BatchedEnv(spec, config.num_worlds)
    env.set_tasks(spec.tasks.split("test", B))
    rollout = learner.collect(env)
    rollout.reward[2, E] = torch.nan  # the second task
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    metrics = learner.update(rollout, 0.0)
    assert metrics["dropped_tasks"] == 1 and metrics["skipped_minibatches"] == 0
    assert all(bool(torch.isfinite(value).all()) for value in learner.meta_parameters.values())
    assert any((before[name] != value).any() for name, value in learner.meta_parameters.items())


def test_a_batch_without_a_sound_task_changes_nothing():
    spec = hidden_target()
    learner = MAMLTRPO(spec, MAML, 0)
    rollout = learner.collect(BatchedEnv(spec, MAML.num_worlds))
    rollout.reward[:] = torch.nan
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    metrics = learner.update(rollout, 0.0)
    assert metrics["dropped_tasks"] == B and metrics["skipped_minibatches"] == 1
    assert all(torch.equal(before[name], value) for name, value in learner.meta_parameters.items())


def test_an_inner_step_that_explodes_leaves_the_policy_of_its_task_as_it_was():
    spec = hidden_target()
    env = BatchedEnv(spec, MAML.num_worlds)
    env.set_tasks(spec.tasks.split("test", B))
    learner = MAMLTRPO(spec, replace(MAML, inner_lr=1e39), 0)
    rollout = learner.trial(env, 2, make_generator(0, "policy"))
    assert bool(torch.isfinite(rollout.log_prob).all())
    assert learner.update(rollout, 0.0)["dropped_tasks"] == B


def train(spec, make, config, num_updates, seed=0):
    torch.set_num_threads(1)
    env, learner = BatchedEnv(spec, config.num_worlds), make(spec, config, seed)
    tasks = make_generator(seed, "tasks")
    for update in range(num_updates):
        env.set_tasks(spec.tasks.sample_train(config.meta_batch_size, tasks))
        learner.update(learner.collect(env), update / num_updates)
    return learner


BATCH = {"total_steps": 1, "meta_batch_size": 12, "episodes_per_task": 20, "hidden_dims": (16,), "inner_lr": 1.0}
TRUST = {"max_kl": 0.02, "metric_share": 1.0}


@pytest.mark.parametrize(
    ("make", "config", "num_updates"),
    [
        (MAMLTRPO, MAMLTRPOConfig(**BATCH, **TRUST), 40),
        pytest.param(MAMLTRPO, as_fomaml(MAMLTRPOConfig(**BATCH, **TRUST)), 40, marks=pytest.mark.slow),
        pytest.param(MAMLTRPO, as_anil(MAMLTRPOConfig(**BATCH, **TRUST)), 40, marks=pytest.mark.slow),
        pytest.param(MAMLTRPO, as_meta_sgd(MAMLTRPOConfig(**BATCH, **TRUST)), 40, marks=pytest.mark.slow),
        pytest.param(MAMLTRPO, as_cavia(MAMLTRPOConfig(**BATCH, **TRUST)), 40, marks=pytest.mark.slow),
        pytest.param(MAMLTRPO, as_e_maml(MAMLTRPOConfig(**BATCH, **TRUST)), 40, marks=pytest.mark.slow),
        (ProMP, ProMPConfig(**BATCH, outer_lr=0.02, inner_surrogate="ratio"), 40),
        pytest.param(ProMP, ProMPConfig(**BATCH, outer_lr=0.02, inner_kl_coef=0.0), 40, marks=pytest.mark.slow),
        (Reptile, ReptileConfig(**BATCH, num_inner_steps=2), 40),
    ],
    ids=["maml-trpo", "fomaml", "anil", "meta-sgd", "cavia", "e-maml", "promp", "maml-ppo", "reptile"],
)
def test_the_optimum_of_a_hidden_lever_is_found(make, config, num_updates):
    """Before adaptation no policy earns more than horizon / 3 on average, after it the lever is known: horizon."""
    spec = hidden_lever()
    learner = train(spec, make, config, num_updates)
    env = BatchedEnv(spec, 30 * 20)
    env.set_tasks(torch.tensor([[0.0], [1.0], [2.0]]).repeat(10, 1))
    returns = learner.trial(env, config.num_inner_steps + 1, make_generator(0, "evaluation")).episode_returns().mean(1)
    assert float(returns[0]) < spec.horizon / 3 + 0.2
    assert float(returns[-1]) > 0.85 * spec.horizon


def test_reptile_moves_to_the_mean_of_what_tasks_adapt_to():
    config = ReptileConfig(**SIZES, outer_lr=0.5, anneal=False)
    learner, batch = learner_and_batch(hidden_target(), config, Reptile)
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    adapted = learner.unroll(learner.meta_parameters, batch.phases, B)[-1]
    learner.improve(batch, 0.0)
    for name, value in learner.meta_parameters.items():
        torch.testing.assert_close(value, (before[name] + adapted[name].mean(0)) / 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"meta_batch_size": 0},
        {"episodes_per_task": 0},
        {"num_inner_steps": 0},
        {"inner_lr": float("nan")},
        {"inner_lr": -0.1},
        {"hidden_dims": (8, 0)},
        {"max_kl": 0.0},
        {"metric_share": 1.5},
        {"task_chunk": -1},
        {"discount": 1.1},
    ],
)
def test_settings_out_of_their_domain_are_refused_by_name(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(MAML, **changes)


@pytest.mark.parametrize(
    ("make", "config"),
    [(MAMLTRPO, replace(MAML, metric_share=1.0)), (ProMP, ProMPConfig(**SIZES, inner_surrogate="ratio"))],
    ids=["maml-trpo", "promp"],
)
def test_the_number_of_threads_changes_no_bit(make, config):
    spec = hidden_target()
    after = []
    for threads in (1, 2):
        learner = make(spec, replace(config, update_threads=threads, task_chunk=1), 0)
        learner.update(learner.collect(BatchedEnv(spec, config.num_worlds)), 0.0)
        after.append(learner.meta_parameters)
    assert all(torch.equal(after[0][name], value) for name, value in after[1].items())
