"""The recurrent update rule: what its targets depend on, their bounds, meta-gradients, learning."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from metarl.env import BatchedEnv
from metarl.learners.learned_loss import LearnedLossConfig, LearnedLossLearner
from metarl.losses.hand_designed import HandDesigned
from metarl.losses.lpg import LPG, Targets
from metarl.losses.support import Support, relative_to_step
from metarl.nets.distributions import Categorical, Embedded, Gaussian
from metarl.seeding import make_generator
from metarl.transfer import transfer
from tests.probes import hidden_lever, with_feedback

H, E, Y = 5, 3, 4
FEEDBACK = HandDesigned("feedback", (), H, 0.97, 0.9)
RULE = LPG(FEEDBACK, H, 0.97, bound=2.0, hidden_dim=6, num_extra_outputs=Y)
SPEC = envs.make_spec("reach-robots", horizon=6)
B = 4
SMALL = LearnedLossConfig(
    first_order=False,
    total_steps=1,
    loss="lpg",
    given_reward="dense",
    meta_batch_size=B,
    episodes_per_task=3,
    num_inner_steps=2,
    policy_dims=(5,),
    update_threads=1,
)


def drawn_parameters(seed=0, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    parameters = RULE.initial_parameters(generator)
    return {n: (v + scale * torch.randn(v.shape, generator=generator)).double() for n, v in parameters.items()}


PARAMETERS = drawn_parameters()


def experience(action_dim=2, seed=0):
    """A support and the value predictions of its steps; steps are (H, E) before they are flattened."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(H * E, *shape, generator=generator, dtype=torch.float64)

    support = Support(
        obs=drawn(3),
        action=drawn(action_dim),
        log_prob=drawn(),
        before=drawn(0),
        after=drawn(0),
        effort=drawn().square(),
        reward=drawn(),
        ended=torch.zeros(H * E, dtype=torch.float64),
        weight=torch.full((H * E,), 1 / (H * E), dtype=torch.float64),
        episode_means=torch.zeros(H * E),
        episode_feedback=torch.zeros(H * E),
    )
    return support, drawn(Y).softmax(-1)


def changed_steps(one, other):
    """Where the targets of two experiences differ, (H, E); those of actions are standardised over all."""
    differs = (one.log_value != other.log_value).any(-1)
    return differs.unflatten(0, (H, E))


def with_reward(support, step, episode, reward):
    changed = support.reward.clone()
    changed[step * E + episode] = reward
    return support._replace(reward=changed)


@pytest.mark.parametrize("step", range(H))
def test_a_change_of_policy_in_a_step_changes_what_is_wanted_up_to_it_in_its_episode_alone(step):
    support, value = experience()
    log_prob = support.log_prob.clone()
    log_prob[step * E + 1] += 1.0
    one = RULE.rule(PARAMETERS, value, support)
    other = RULE.rule(PARAMETERS, value, support._replace(log_prob=log_prob))
    expected = torch.zeros(H, E, dtype=torch.bool)
    expected[: step + 1, 1] = True
    assert torch.equal(changed_steps(one, other), expected)


def test_a_reward_is_read_also_against_those_of_other_episodes_at_its_step():
    support, _ = experience()
    relative = relative_to_step(support.reward, support.weight, H).view(H, E)
    torch.testing.assert_close(relative.mean(1), torch.zeros(H, dtype=torch.float64), atol=1e-9, rtol=0)
    shifted = support.reward + torch.arange(H).repeat_interleave(E)
    torch.testing.assert_close(relative_to_step(shifted, support.weight, H).view(H, E), relative)


def test_the_actions_that_are_wanted_have_mean_zero_and_unit_deviation():
    support, value = experience()
    for scale in (0.5, 100.0):
        wanted = RULE.rule({n: scale * v for n, v in PARAMETERS.items()}, value, support).action
        torch.testing.assert_close(wanted.mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-6, rtol=0)
        assert float(wanted.std(correction=0)) == pytest.approx(1, abs=0.05)


def test_a_value_changes_what_is_wanted_up_to_its_step():
    support, value = experience()
    other = value.clone()
    other[2 * E] = torch.tensor([0.7, 0.1, 0.1, 0.1])
    expected = torch.zeros(H, E, dtype=torch.bool)
    expected[:3, 0] = True
    found = changed_steps(RULE.rule(PARAMETERS, value, support), RULE.rule(PARAMETERS, other, support))
    assert torch.equal(found, expected)


def ended_after(support, step, episode):
    """The episode truly ends in a step; what stands after it does not count."""
    ended, counts = support.ended.clone(), torch.ones(H, E, dtype=torch.float64)
    ended[step * E + episode] = 1
    counts[step + 1 :, episode] = 0
    return support._replace(ended=ended, weight=(counts / counts.sum()).flatten())


def test_nothing_flows_through_the_end_of_an_episode():
    support, value = experience()
    support = ended_after(support, 2, 1)
    other_value = value.unflatten(0, (H, E)).clone()
    other_value[3:, 1] = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    one = RULE.rule(PARAMETERS, value, support)
    other = RULE.rule(PARAMETERS, other_value.flatten(0, 1), with_reward(support, 3, 1, 9.0))
    assert not changed_steps(one, other)[:3].any()
    assert changed_steps(one, other)[3, 1]


def test_an_end_is_seen_and_the_last_step_of_a_shorter_life_is_read_like_any_last_step():
    support, value = experience()
    plain, ended = (RULE.rule(PARAMETERS, value, s) for s in (support, ended_after(support, 2, 1)))
    assert changed_steps(plain, ended)[:3, 1].all()
    counts = (torch.arange(H) < 3).to(torch.float64).repeat_interleave(E)  # failures that are no ends: weights alone
    cut = support._replace(weight=counts / counts.sum())
    short = replace(RULE, horizon=3, reward=replace(FEEDBACK, horizon=3))
    first = slice(0, 3 * E)
    alone = Support(*(v[first] for v in support))
    expected = short.rule(PARAMETERS, value[first], alone._replace(weight=cut.weight[first]))
    found = RULE.rule(PARAMETERS, value, cut)
    torch.testing.assert_close(found.action[first], expected.action)


def test_what_is_wanted_does_not_depend_on_the_order_of_episodes():
    support, value = experience()
    order = torch.tensor([2, 0, 1])

    def permuted(values):
        return values.unflatten(0, (H, E))[:, order].flatten(0, 1)

    one = RULE.rule(PARAMETERS, value, support)
    other = RULE.rule(PARAMETERS, permuted(value), Support(*map(permuted, support)))
    torch.testing.assert_close(permuted(one.action), other.action)
    torch.testing.assert_close(permuted(one.log_value), other.log_value)


def test_observations_and_actions_of_another_size_change_nothing():
    support, value = experience()
    other = support._replace(obs=torch.zeros(H * E, 9), action=torch.zeros(H * E, 4), log_prob=2 * support.log_prob)
    torch.testing.assert_close(RULE.rule(PARAMETERS, value, support).action, RULE.rule(PARAMETERS, value, other).action)


extreme = st.floats(-1e30, 1e30)


@settings(max_examples=100, deadline=None)
@given(reward=extreme, log_prob=extreme, logit=st.floats(-1e4, 1e4), scale=st.floats(-100, 100), step=st.integers(0, 4))
def test_what_is_wanted_is_bounded_whatever_is_read(reward, log_prob, logit, scale, step):
    support, _ = experience()
    value = torch.full((H * E, Y), logit, dtype=torch.float64)
    value[:, 0] = 0
    support = with_reward(support, step, 1, reward)._replace(log_prob=torch.full_like(support.log_prob, log_prob))
    parameters = {name: scale * v for name, v in PARAMETERS.items()}
    targets = RULE.rule(parameters, value.softmax(-1), support)
    assert bool((targets.action.abs() <= math.sqrt(H * E)).all())  # the largest of numbers of unit deviation
    torch.testing.assert_close(targets.log_value.exp().sum(-1), torch.ones(H * E, dtype=torch.float64))


def test_policies_go_towards_the_targets():
    """Logits and extra outputs as free numbers: the gradient of both parts of the loss by hand."""
    support, _ = experience()
    support = support._replace(action=torch.arange(H * E) % 3)
    generator = torch.Generator().manual_seed(1)
    logits, extra = (torch.randn(H * E, n, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, Y))
    wanted = torch.randn(H * E, Y, generator=generator, dtype=torch.float64).log_softmax(-1)
    targets = Targets(torch.linspace(-1, 1, H * E, dtype=torch.float64), wanted)
    slopes = torch.autograd.grad(RULE.towards(targets, Embedded(Categorical(logits), extra), support), (logits, extra))
    taken = torch.nn.functional.one_hot(support.action, 3)
    by_hand = -targets.action.unsqueeze(1) * (taken - logits.softmax(-1)) / (H * E)
    torch.testing.assert_close(slopes[0], by_hand)
    torch.testing.assert_close(slopes[1], RULE.value_weight * (extra.softmax(-1) - wanted.exp()) / (H * E))


def test_no_gradient_flows_into_the_policy_through_what_the_rule_reads():
    support, _ = experience()
    extra = torch.randn(H * E, Y, dtype=torch.float64).requires_grad_()
    policy = Embedded(Gaussian(torch.zeros_like(support.action), torch.zeros(1, 2)), extra)
    targets = RULE.targets(PARAMETERS, policy, support, torch.tensor(0))
    assert not targets.action.requires_grad and not targets.log_value.requires_grad


def double(values):
    return values.double() if values.is_floating_point() else values


def lives(config, spec=SPEC):
    """A learner, and in double precision: meta-parameters away from their start, phases, goals and starts."""
    learner = LearnedLossLearner(spec, config, 0)
    env = BatchedEnv(spec, config.num_worlds)
    env.set_tasks(spec.tasks.split("test", config.meta_batch_size))
    rollout = learner.collect(env)
    generator = torch.Generator().manual_seed(1)
    meta = {
        name: (v.detach() + 0.2 * torch.randn(v.shape, generator=generator)).double()
        for name, v in learner.meta_parameters.items()
    }
    phases = [Support(*map(double, learner.support(rollout, k, B))) for k in range(rollout.num_episodes)]
    phases = with_feedback(phases, generator)
    goals = [learner.true_advantage(rollout, k, B).double() for k in range(1, rollout.num_episodes)]
    return learner, meta, phases, goals, {name: value.double() for name, value in learner.agents.items()}


@dataclass(frozen=True)
class ReadsRecordedValues:
    """The rule, but what it reads of the policy in update k is what was recorded: no gradient could flow through it."""

    rule: LPG
    recorded: list

    num_extra_outputs = 0
    signals = ("log_distance",)

    def targets(self, parameters, policy, support, step):
        return self.rule.rule(parameters, self.recorded[int(step)], support)

    def towards(self, targets, policy, support):
        return self.rule.towards(targets, policy, support)


@pytest.mark.parametrize("num_inner_steps", [1, 3])
def test_the_meta_gradient_is_that_of_finite_differences_with_what_the_rule_reads_held(num_inner_steps):
    config = replace(SMALL, num_inner_steps=num_inner_steps)
    learner, meta, phases, goals, starts = lives(config)
    learner.meta_parameters = meta
    gradient, _, _ = learner.meta_gradient(starts, learner.ages, phases, goals)
    rule, generator = learner.loss.inner, torch.Generator().manual_seed(2)
    for task in range(B):
        supports = [Support(*(v[task] for v in phase)) for phase in phases]
        of_task = {name: value[task] for name, value in starts.items()}
        recorded, policy = [], of_task
        for k, support in enumerate(supports[:-1]):
            loss, sizes = learner.loss.of_task(meta, supports[: k + 1])
            recorded.append(learner.distribution(policy, support.obs).extra.softmax(-1))
            policy = learner.loss.update(loss, sizes, policy, support, torch.tensor(k), learner.distribution)
        learner.loss.inner = ReadsRecordedValues(rule, recorded)
        for name, value in meta.items():
            direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            ends = [
                learner._lifetime(
                    meta | {name: value + sign * 1e-6 * direction},
                    of_task,
                    torch.tensor(0),
                    supports,
                    [goal[task] for goal in goals],
                )[0]
                for sign in (1, -1)
            ]
            expected, found = (ends[0] - ends[1]) / 2e-6, (gradient[name][task] * direction).sum()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=f"{name}: {found} {expected}")
        learner.loss.inner = rule
    assert all(float(value.abs().max()) > 0 for value in gradient.values())


def test_all_tasks_at_once_are_one_task_after_the_other():
    learner, meta, phases, goals, starts = lives(SMALL)
    learner.meta_parameters = meta
    together = learner.meta_gradient(starts, learner.ages, phases, goals)[0]
    for task in range(B):
        one = slice(task, task + 1)
        supports, wanted = [Support(*(v[one] for v in phase)) for phase in phases], [goal[one] for goal in goals]
        alone = learner.meta_gradient({n: v[one] for n, v in starts.items()}, learner.ages[one], supports, wanted)[0]
        for name, value in together.items():
            torch.testing.assert_close(alone[name][0], value[task])


def test_a_trained_rule_fits_any_robot():
    one = LearnedLossLearner(SPEC, SMALL, 0)
    other = LearnedLossLearner(hidden_lever(), replace(SMALL, given_reward="feedback"), 0)
    assert {n: v.shape for n, v in one.meta_parameters.items() if n.startswith("loss.")} == {
        n: v.shape for n, v in other.meta_parameters.items() if n.startswith("loss.")
    }
    assert not one.loss.fits_one_robot
    other.loss.require_robot(one.meta_parameters)
    taken = transfer(one, envs.make_spec("reach-planar"), 0)
    assert torch.equal(taken.meta_parameters["loss.gru.weight_hh"], one.meta_parameters["loss.gru.weight_hh"])


@pytest.mark.slow
def test_a_rule_that_was_learned_finds_the_lever_that_pays():
    """Fresh policies pull a third of the levers right: 4 / 3."""
    spec = hidden_lever()
    config = LearnedLossConfig(
        first_order=False,
        loss="lpg",
        adapts_to_task=False,
        meta_batch_size=12,
        episodes_per_task=10,
        num_inner_steps=4,
        inner_lr=0.5,
        policy_dims=(8,),
        task_chunk=12,
        update_threads=1,
    )
    learner, env = LearnedLossLearner(spec, config, 0), BatchedEnv(spec, config.num_worlds)
    tasks = make_generator(0, "tasks")
    judge = BatchedEnv(spec, 30 * 10)
    judge.set_tasks(torch.tensor([[0.0], [1.0], [2.0]]).repeat(10, 1))

    def last_return():
        return float(learner.trial(judge, 5, torch.Generator().manual_seed(0)).episode_returns()[-1].mean())

    before = last_return()
    for update in range(60):
        env.set_tasks(spec.tasks.sample_train(config.meta_batch_size, tasks))
        learner.update(learner.collect(env), update / 60)
    assert before > 2.5 and last_return() > 3.7  # it starts as policy gradient; 4 is the optimum
