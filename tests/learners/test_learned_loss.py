"""The learner of losses: meta-gradients against finite differences, lives, evolution, learning."""

import gc
from dataclasses import replace

import pytest
import torch

import envs
from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.learned_loss_config import LearnedLossConfig
from metarl.learners.unroll_memory import refuse_beyond_memory, unroll_bytes
from metarl.losses.support import Support
from tests.probes import hidden_lever, with_feedback

B, E = 4, 3
SMALL = LearnedLossConfig(
    total_steps=1,
    meta_batch_size=B,
    episodes_per_task=E,
    num_inner_steps=2,
    head_dim=4,
    policy_dims=(5,),
    first_order=False,
    update_threads=1,
)
SPEC = envs.make_spec("reach-robots", horizon=6)


def collected(config, spec=SPEC, seed=0):
    learner = LearnedLossLearner(spec, config, seed)
    env = BatchedEnv(spec, config.num_worlds)
    env.set_tasks(spec.tasks.split("test", config.meta_batch_size))
    return learner, env, learner.collect(env)


def double(values):
    return values.double() if values.is_floating_point() else values


@pytest.mark.parametrize("num_inner_steps", [1, 3])
@pytest.mark.parametrize("loss", ["reward", "potential", "advantage", "drift", "dense"])
def test_the_meta_gradient_is_that_of_finite_differences(loss, num_inner_steps):
    epochs = 2 if loss == "drift" else 1
    config = replace(SMALL, loss=loss, num_inner_steps=num_inner_steps, inner_epochs=epochs, given_reward="dense")
    learner, _, rollout = collected(config)
    generator = torch.Generator().manual_seed(1)
    meta = {
        name: (v.detach() + 0.3 * torch.randn(v.shape, generator=generator)).double()
        for name, v in learner.meta_parameters.items()
    }
    phases = [Support(*map(double, learner.support(rollout, k, B))) for k in range(rollout.num_episodes)]
    phases = with_feedback(phases, generator)
    goals = [learner.true_advantage(rollout, k, B).double() for k in range(1, rollout.num_episodes)]
    starts = {name: value.double() for name, value in learner.agents.items()}
    learner.meta_parameters = meta
    gradient, grown, _ = learner.meta_gradient(starts, learner.ages, phases, goals)
    assert set(gradient) == set(meta) and grown["log_std"].shape == (B, 3)
    for name, value in meta.items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            learner.meta_parameters = meta | {name: value + sign * 1e-6 * direction}
            ends.append(learner.meta_gradient(starts, learner.ages, phases, goals)[2])
        expected = (ends[0] - ends[1]) / 2e-6  # of each task
        found = (gradient[name] * direction).flatten(1).sum(1)
        is_close = torch.isclose(found, expected, rtol=1e-3 if loss == "drift" else 1e-4, atol=1e-6)
        # A kink of clipping may lie within the finite difference of a task.
        assert int(is_close.sum()) >= (B - 1 if loss == "drift" else B), f"{name}: {found} {expected}"
        assert float(found.abs().max()) > 0, name


def test_all_tasks_at_once_are_one_task_after_the_other():
    learner, _, rollout = collected(SMALL)
    phases = [learner.support(rollout, k, B) for k in range(rollout.num_episodes)]
    goals = [learner.true_advantage(rollout, k, B) for k in range(1, rollout.num_episodes)]
    together = learner.meta_gradient(learner.agents, learner.ages, phases, goals)[0]
    for task in range(B):
        one = slice(task, task + 1)
        alone = learner.meta_gradient(
            {name: value[one] for name, value in learner.agents.items()},
            learner.ages[one],
            [Support(*(value[one] for value in phase)) for phase in phases],
            [goal[one] for goal in goals],
        )[0]
        for name, value in together.items():
            torch.testing.assert_close(alone[name][0], value[task], rtol=1e-3, atol=1e-5)


def test_the_unrolled_policies_are_those_that_acted():
    learner, _, rollout = collected(SMALL)
    phases = [learner.support(rollout, k, B) for k in range(rollout.num_episodes)]
    goals = [learner.true_advantage(rollout, k, B) for k in range(1, rollout.num_episodes)]
    _, grown, _ = learner.meta_gradient(learner.agents, learner.ages, phases, goals)
    acted = torch.func.vmap(learner.distribution)(grown, phases[-1].obs).log_prob(phases[-1].action)
    torch.testing.assert_close(acted, phases[-1].log_prob, rtol=1e-4, atol=1e-4)


def test_the_policies_that_are_differentiated_are_those_that_acted_when_the_loss_adapts():
    learner, env, rollout = collected(replace(SMALL, lifetime=4))
    learner.update(rollout, 0.0)
    learner.meta_parameters["encoding.strength"].data.fill_(1.0)
    learner.agents = learner.fresh(B, torch.Generator().manual_seed(3))
    learner.ages.zero_()
    env.set_tasks(SPEC.tasks.split("validation", B))
    rollout = learner.collect(env)
    last = learner.support(rollout, 2, B)
    learner.update(rollout, 0.5)  # in the middle of their lives, so the policies stay
    acted = torch.func.vmap(learner.distribution)(learner.agents, last.obs).log_prob(last.action)
    torch.testing.assert_close(acted, last.log_prob, rtol=1e-4, atol=1e-4)


def test_a_loss_reads_the_signals_that_were_chosen():
    config = replace(SMALL, signals=("lateral_speed", "log_distance"))
    learner, _, rollout = collected(config)
    names = [SPEC.signals.names.index(name) for name in config.signals]
    given = rollout.signals[0][:-1][..., names].unflatten(1, (B, E)).transpose(0, 1).flatten(1, 2)
    torch.testing.assert_close(learner.support(rollout, 0, B).before, given)
    assert learner.loss.inner.input_names[:2] == config.signals and len(learner.loss.inner.input_names) == 6
    learner.update(rollout, 0.0)
    with pytest.raises(ConfigError, match=r"does not give: lateral_sped\. Did you mean 'lateral_speed'"):
        LearnedLossLearner(SPEC, replace(SMALL, signals=("lateral_sped",)), 0)
    with pytest.raises(ConfigError, match="signals are chosen for a learned reward, potential or advantage"):
        replace(SMALL, loss="drift", signals=("log_distance",))


def test_step_sizes_learn_at_a_rate_of_their_own():
    learner, _, rollout = collected(replace(SMALL, outer_lr=1e-3, step_size_lr=0.1, anneal=False))
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    learner.update(rollout, 0.0)
    moved = {
        name: float((value.detach() - before[name]).abs().max()) for name, value in learner.meta_parameters.items()
    }
    # The first step of Adam is as long as its step size.
    assert moved["log_step_size"] == pytest.approx(0.1, rel=0.05)
    assert moved["loss.hidden.weight"] == pytest.approx(1e-3, rel=0.05)


def test_policies_start_from_nothing_and_differ_between_tasks_and_updates():
    learner, _, rollout = collected(SMALL)
    first = learner.agents["layers.0.weight"].clone()
    assert not torch.equal(first[0], first[1])
    learner.update(rollout, 0.0)
    assert not torch.equal(first, learner.agents["layers.0.weight"])
    assert bool((learner.ages == 0).all())


def test_policies_of_a_long_life_keep_their_tasks_and_what_they_learned():
    config = replace(SMALL, lifetime=4)
    learner, env, rollout = collected(config)
    tasks = rollout.task[::E].clone()
    learner.update(rollout, 0.0)
    assert learner.ages.tolist() == [2] * B
    env.set_tasks(SPEC.tasks.split("validation", B))
    second = learner.collect(env)
    assert torch.equal(second.task[::E], tasks)
    learner.update(second, 0.5)
    assert learner.ages.tolist() == [0] * B
    env.set_tasks(SPEC.tasks.split("validation", B))
    assert torch.equal(learner.collect(env).task[::E], SPEC.tasks.split("validation", B))


def test_a_task_that_is_not_finite_is_left_out():
    learner, _, rollout = collected(SMALL)
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    rollout.signals[1, 2, 0] = float("nan")  # a world of the first task
    metrics = learner.update(rollout, 0.0)
    assert metrics["dropped_tasks"] == 1 and metrics["skipped_minibatches"] == 0
    assert all(bool(torch.isfinite(value).all()) for value in learner.meta_parameters.values())
    assert any(not torch.equal(before[name], value) for name, value in learner.meta_parameters.items())


def test_an_update_without_a_finite_task_changes_nothing():
    learner, _, rollout = collected(SMALL)
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    rollout.signals[:] = float("nan")
    metrics = learner.update(rollout, 0.0)
    assert metrics["dropped_tasks"] == B and metrics["skipped_minibatches"] == 1
    assert all(torch.equal(before[name], value) for name, value in learner.meta_parameters.items())


def test_a_policy_goes_on_with_what_it_had_where_an_update_is_not_finite():
    learner, env, _ = collected(SMALL)
    with torch.no_grad():
        learner.meta_parameters["log_step_size"].fill_(float("inf"))
    rollout = learner.trial(env, 3, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(rollout.action).all())


def test_the_pairs_of_evolution_share_task_and_start():
    config = replace(SMALL, outer="evolution")
    learner, _, rollout = collected(config)
    tasks = rollout.task[::E]
    assert torch.equal(tasks[0::2], tasks[1::2])
    before = {name: value.detach().clone() for name, value in learner.meta_parameters.items()}
    metrics = learner.update(rollout, 0.0)
    assert metrics["dropped_tasks"] == 0
    assert any(not torch.equal(before[name], value) for name, value in learner.meta_parameters.items())


def test_evolution_and_the_gradient_agree_on_the_size_of_a_step():
    """One parameter, the step size of a single update on a fixed reward: both outer loops must point the same way."""
    common = {"loss": "dense", "num_inner_steps": 1, "meta_batch_size": 64, "episodes_per_task": 8, "inner_lr": 0.05}
    config = replace(SMALL, adapts_to_task=False, **common)
    by_gradient, _, rollout = collected(config)
    by_gradient.update(rollout, 0.0)
    by_evolution, _, rollout = collected(replace(config, outer="evolution", sigma=1.0))
    by_evolution.update(rollout, 0.0)
    start = torch.tensor(0.05).log()
    # Far below the best size; so the mean over the three groups of parameters has to rise.
    assert float((by_gradient.meta_parameters["log_step_size"].detach() - start).mean()) > 0
    assert float((by_evolution.meta_parameters["log_step_size"].detach() - start).mean()) > 0


def test_a_discrete_policy_can_learn_by_a_drift():
    config = replace(SMALL, loss="drift", inner_epochs=2)
    learner, _, rollout = collected(config, hidden_lever())
    assert learner.update(rollout, 0.0)["dropped_tasks"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_inner_steps": 0}, "num_inner_steps must be at least 1"),
        ({"lifetime": 3}, "lifetime .3. must be a multiple"),
        ({"outer": "evolution", "meta_batch_size": 3}, "even meta_batch_size"),
        ({"inner_lr": 0.0}, "inner_lr must be positive"),
        ({"discount": 1.5}, "discount must lie in"),
        ({"outer_lr": float("nan")}, "outer_lr must be finite"),
    ],
)
def test_wrong_settings_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        replace(SMALL, **change)


def test_what_would_not_fit_into_memory_is_refused_with_the_number():
    with pytest.raises(ConfigError, match=r"would take about \d+\.\d GiB, and \d+\.\d GiB are there.*evolution"):
        LearnedLossLearner(SPEC, replace(SMALL, num_inner_steps=200_000, task_chunk=4, policy_dims=(1000,)), 0)
    LearnedLossLearner(SPEC, replace(SMALL, num_inner_steps=200_000, outer="evolution", policy_dims=(1000,)), 0)


def test_the_estimate_of_memory_grows_with_what_is_kept():
    config = replace(SMALL, first_order=True, head_dim=16, num_inner_steps=10)
    needed = unroll_bytes(config, 2, 6, (13, 32, 32, 3))
    assert needed == 4 * (2 * E * 6) * 10 * 4 * (96 + 32)  # the policy and the head; the encoder
    assert unroll_bytes(replace(config, adapts_to_task=False), 2, 6, (13, 32, 32, 3)) == needed * 96 // 128
    longer = replace(config, num_inner_steps=20, inner_epochs=2, first_order=False)
    assert unroll_bytes(longer, 2, 6, (13, 32, 32, 3)) == 10 * needed
    refuse_beyond_memory(needed, torch.device("cpu"), available=2 * needed)
    with pytest.raises(ConfigError, match="GiB"):
        refuse_beyond_memory(needed, torch.device("cpu"), available=needed)


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_meta_steps():
    config = replace(SMALL, lifetime=4, episodes_per_task=2, meta_batch_size=2)
    learner = LearnedLossLearner(envs.make_spec("reach-robots", horizon=3), config, 0)
    env = BatchedEnv(learner.spec, config.num_worlds)
    tasks = learner.spec.tasks.split("train", 2)
    alive = {}
    for step in range(1000):
        env.set_tasks(tasks)
        learner.update(learner.collect(env), step / 1000)
        if step in (100, 500, 999):
            gc.collect()
            alive[step] = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
    assert max(alive.values()) - min(alive.values()) <= 5, alive


def test_a_reward_without_a_slope_is_refused_where_the_gradient_goes_through_the_dynamics():
    def step(task, data, state, action, noise):
        return SPEC.step(task, data, state, action.detach().sign(), noise)

    learner, _, rollout = collected(SMALL, replace(SPEC, step=step))
    with pytest.raises(ConfigError, match="no differentiable function of actions"):
        learner.update(rollout, 0.0)


def test_signals_that_an_environment_lacks_are_named():
    with pytest.raises(ConfigError, match="log_distance"):
        LearnedLossLearner(envs.make_spec("half-cheetah-dir"), replace(SMALL, loss="dense"), 0)


def test_a_loss_that_is_learned_is_better_than_what_it_started_from():
    config = LearnedLossConfig(
        meta_batch_size=8, episodes_per_task=8, num_inner_steps=4, adapts_to_task=False, update_threads=1, outer_lr=3e-2
    )
    spec = envs.make_spec("reach-robots", horizon=20)
    learner = LearnedLossLearner(spec, config, 0)
    env, generator = BatchedEnv(spec, config.num_worlds), torch.Generator().manual_seed(0)
    judge = BatchedEnv(spec, 64 * 8)

    def judged():
        judge.generator.manual_seed(0)
        judge.set_tasks(spec.tasks.split("test", 64))
        return learner.trial(judge, 5, torch.Generator().manual_seed(0)).episode_returns().mean(1)

    before = judged()
    for _ in range(15):
        env.set_tasks(spec.tasks.sample_train(8, generator))
        learner.update(learner.collect(env), 0.0)
    after = judged()
    assert torch.equal(before[0], after[0])  # the same fresh policies
    assert float(before[-1] - before[0]) < 0.5 * float(after[-1] - after[0])
