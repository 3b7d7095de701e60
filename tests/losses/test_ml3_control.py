"""ML3 for control: how its gradient reaches the policy, its sign, whom it refuses, meta-gradients, learning."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from metarl.env import BatchedEnv
from metarl.errors import ConfigError
from metarl.learners.learned_loss import LearnedLossConfig, LearnedLossLearner
from metarl.losses.ml3_control import ML3Control, make_ml3_control
from metarl.losses.support import Support
from metarl.nets.distributions import Gaussian
from metarl.transfer import transfer
from tests.probes import hidden_lever, hidden_target, with_feedback

M = 6
LOSS = ML3Control(3, 2, ("log_distance",), hidden_dim=5)
SPEC = envs.make_spec("reach-robots", horizon=6)
B = 4
SMALL = LearnedLossConfig(
    first_order=False,
    total_steps=1,
    loss="ml3",
    meta_batch_size=B,
    episodes_per_task=3,
    num_inner_steps=2,
    policy_dims=(5,),
    update_threads=1,
)
LOSSES = pytest.mark.parametrize(
    "changes", [{"loss": "ml3"}, {"loss": "advantage", "learns_offset": True}], ids=["ml3", "offset"]
)


def drawn_parameters(seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    parameters = LOSS.initial_parameters(generator)
    return {n: (v + scale * torch.randn(v.shape, generator=generator)).double() for n, v in parameters.items()}


def experience(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(M, *shape, generator=generator, dtype=torch.float64)

    weight = torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64) / 4
    signals, unread = [drawn(1).abs(), drawn(1).abs()], torch.zeros(M)
    return Support(drawn(3), drawn(2), drawn(), *signals, drawn().square(), drawn(), unread, weight, unread, unread)


def test_it_is_the_network_that_its_parameters_describe():
    parameters, support = drawn_parameters(), experience()
    action = torch.randn(M, 2, dtype=torch.float64)
    inputs = torch.cat([support.obs, action, torch.expm1(support.before)], 1)
    first = torch.cat([parameters["obs.weight"], parameters["action.weight"], parameters["cost.weight"]], 1)
    elu, softplus = torch.nn.functional.elu, torch.nn.functional.softplus
    hidden = elu(inputs @ first.T + parameters["hidden.0.bias"])
    hidden = elu(hidden @ parameters["hidden.1.weight"].T + parameters["hidden.1.bias"])
    expected = softplus(hidden @ parameters["out.weight"].T)[:, 0]
    torch.testing.assert_close(LOSS.value(parameters, action, support), expected)


def test_the_gradient_reaches_the_policy_through_its_mean_action_in_states_that_count_alone():
    parameters, support = drawn_parameters(), experience()
    mean = torch.zeros(M, 2, dtype=torch.float64, requires_grad=True)
    log_std = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = LOSS(parameters, Gaussian(mean, log_std), support, torch.tensor(0))
    slopes = torch.autograd.grad(loss, (mean, log_std), allow_unused=True)
    assert slopes[1] is None
    assert bool((slopes[0][:4] != 0).all()) and bool((slopes[0][4:] == 0).all())


def test_what_was_done_and_what_came_of_it_does_not_matter():
    parameters, support = drawn_parameters(), experience()
    other = support._replace(action=5 + support.action, reward=-support.reward, after=2 * support.after)
    policy = Gaussian(torch.zeros(M, 2, dtype=torch.float64), torch.zeros(1, 2))
    assert LOSS(parameters, policy, support, torch.tensor(0)) == LOSS(parameters, policy, other, torch.tensor(0))


def test_without_a_distance_the_cost_is_minus_the_reward():
    loss = make_ml3_control(hidden_target())
    assert loss.signals == () and loss.input_names == ("obs_0", "mean_action_0", "goal_cost")
    parameters = {name: v.double() for name, v in loss.initial_parameters(torch.Generator().manual_seed(0)).items()}
    support = experience()._replace(obs=torch.zeros(M, 1, dtype=torch.float64))
    with_distance = replace(loss, signals=("log_distance",))
    same = support._replace(
        before=torch.log1p(-support.reward.clamp(max=0)).unsqueeze(1), reward=support.reward.clamp(max=0)
    )
    action = torch.zeros(M, 1, dtype=torch.float64)
    torch.testing.assert_close(loss.value(parameters, action, same), with_distance.value(parameters, action, same))


extreme = st.floats(-1e30, 1e30)


@settings(max_examples=100, deadline=None)
@given(obs=extreme, action=extreme, log_distance=st.floats(0, 1e3), scale=st.floats(-100, 100))
def test_it_is_finite_and_not_negative_whatever_it_reads(obs, action, log_distance, scale):
    support = experience()._replace(
        obs=torch.full((M, 3), obs, dtype=torch.float64), before=torch.full((M, 1), log_distance, dtype=torch.float64)
    )
    parameters = {name: scale * v for name, v in drawn_parameters().items()}
    value = LOSS.value(parameters, torch.full((M, 2), action, dtype=torch.float64), support)
    assert bool((value >= 0).all()) and bool(torch.isfinite(value).all())


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="hidden-lever has discrete actions"):
        LearnedLossLearner(hidden_lever(), SMALL, 0)


def test_another_robot_is_refused_whose_numbers_add_up_to_the_same():
    learner = LearnedLossLearner(SPEC, SMALL, 0)
    assert learner.loss.fits_one_robot
    learner.loss.require_robot(learner.meta_parameters)
    other = replace(learner.loss.inner, obs_dim=12, action_dim=4)
    parameters = {f"loss.{n}": v for n, v in other.initial_parameters(torch.Generator()).items()}
    with pytest.raises(ConfigError, match=r"alone: loss\.obs\.weight is \(32, 12\), this robot needs \(32, 13\)\."):
        learner.loss.require_robot(parameters)
    target = LearnedLossLearner(hidden_target(), SMALL, 0)
    with pytest.raises(ConfigError, match="fits the robot and the policies that it was trained on alone"):
        target.load_state_dict(learner.state_dict())


@LOSSES
def test_it_is_not_taken_to_another_environment(changes):
    learner = LearnedLossLearner(SPEC, replace(SMALL, **changes), 0)
    assert transfer(learner, SPEC, 1).loss.fits_one_robot
    with pytest.raises(ConfigError, match="fits the robot that it was trained on alone, that of reach-robots"):
        transfer(learner, envs.make_spec("reach-planar"), 1)
    with pytest.raises(ConfigError, match="fits the robot"):
        transfer(learner, replace(SPEC, obs_dim=12), 1)


def double(values):
    return values.double() if values.is_floating_point() else values


def lives(config):
    """A learner, and in double precision: meta-parameters away from their start, and what they are judged on."""
    learner = LearnedLossLearner(SPEC, config, 0)
    env = BatchedEnv(SPEC, config.num_worlds)
    env.set_tasks(SPEC.tasks.split("test", B))
    rollout = learner.collect(env)
    generator = torch.Generator().manual_seed(1)
    meta = {
        name: (v.detach() + 0.2 * torch.randn(v.shape, generator=generator)).double()
        for name, v in learner.meta_parameters.items()
    }
    phases = [Support(*map(double, learner.support(rollout, k, B))) for k in range(rollout.num_episodes)]
    phases = with_feedback(phases, generator)
    goals = [learner.true_advantage(rollout, k, B).double() for k in range(1, rollout.num_episodes)]
    return learner, meta, ({n: v.double() for n, v in learner.agents.items()}, learner.ages, phases, goals)


@pytest.mark.parametrize("num_inner_steps", [1, 3])
@LOSSES
def test_the_meta_gradient_is_that_of_finite_differences(changes, num_inner_steps):
    learner, meta, lifetime = lives(replace(SMALL, num_inner_steps=num_inner_steps, **changes))
    learner.meta_parameters = meta
    gradient, generator = learner.meta_gradient(*lifetime)[0], torch.Generator().manual_seed(2)
    for name, value in meta.items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            learner.meta_parameters = meta | {name: value + sign * 1e-6 * direction}
            ends.append(learner.meta_gradient(*lifetime)[2])
        expected, found = (ends[0] - ends[1]) / 2e-6, (gradient[name] * direction).flatten(1).sum(1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=f"{name}: {found} {expected}")
        assert float(found.abs().max()) > 0, name


@LOSSES
def test_all_tasks_at_once_are_one_task_after_the_other(changes):
    learner, meta, (starts, ages, phases, goals) = lives(replace(SMALL, **changes))
    learner.meta_parameters = meta
    together = learner.meta_gradient(starts, ages, phases, goals)[0]
    for task in range(B):
        one = slice(task, task + 1)
        supports, wanted = [Support(*(v[one] for v in phase)) for phase in phases], [goal[one] for goal in goals]
        alone = learner.meta_gradient({n: v[one] for n, v in starts.items()}, ages[one], supports, wanted)[0]
        for name, value in together.items():
            torch.testing.assert_close(alone[name][0], value[task])


def test_offsets_change_nothing_at_the_start_and_are_added_once_per_update():
    config = replace(SMALL, loss="advantage", inner_epochs=2)
    plain, _, _ = lives(config)
    learner, _, (starts, _, phases, _) = lives(replace(config, learns_offset=True))
    starts = {name: value[0] for name, value in starts.items()}
    support, step = Support(*(v[0] for v in phases[0])), torch.tensor(0)

    def updated(learner, meta):
        meta = {name: v.detach().double() for name, v in meta.items()}
        loss, sizes = learner.loss.of_task(meta, [support])
        return learner.loss.update(loss, sizes, starts, support, step, learner.distribution)

    before, same = updated(plain, plain.meta_parameters), updated(learner, learner.meta_parameters)
    assert all(torch.equal(before[name], value) for name, value in same.items())
    moved = updated(learner, learner.meta_parameters | {"offset.layers.1.bias": torch.tensor([0.5, -0.25, 0.0])})
    for name, value in moved.items():
        expected = before[name] + (torch.tensor([0.5, -0.25, 0.0]).double() if name == "layers.1.bias" else 0)
        torch.testing.assert_close(value, expected)


def test_offsets_fit_policies_of_one_shape_alone():
    config = replace(SMALL, loss="advantage", learns_offset=True)
    learner = LearnedLossLearner(SPEC, config, 0)
    other = LearnedLossLearner(SPEC, replace(config, policy_dims=(7,)), 0)
    assert (
        learner.loss.fits_one_robot
        and not LearnedLossLearner(SPEC, replace(SMALL, loss="advantage"), 0).loss.fits_one_robot
    )
    with pytest.raises(
        ConfigError, match=r"alone: offset\.layers\.0\.weight is \(5, 13\), this robot needs \(7, 13\)\."
    ):
        other.load_state_dict(learner.state_dict())


def test_offsets_are_of_the_learned_advantage():
    with pytest.raises(ConfigError, match="learns_offset is of the loss advantage, got reward"):
        LearnedLossConfig(learns_offset=True)


@pytest.mark.slow
def test_a_loss_that_was_learned_brings_robots_to_their_goals():
    config = LearnedLossConfig(
        first_order=False,
        loss="ml3",
        adapts_to_task=False,
        meta_batch_size=8,
        episodes_per_task=8,
        num_inner_steps=4,
        update_threads=1,
    )
    spec = envs.make_spec("reach-robots", horizon=20)
    learner, env, generator = (
        LearnedLossLearner(spec, config, 0),
        BatchedEnv(spec, 64),
        torch.Generator().manual_seed(0),
    )
    judge = BatchedEnv(spec, 64 * 8)

    def last_return():
        judge.generator.manual_seed(0)
        judge.set_tasks(spec.tasks.split("test", 64))
        return float(learner.trial(judge, 5, torch.Generator().manual_seed(0)).episode_returns()[-1].mean())

    before = last_return()
    for update in range(40):
        env.set_tasks(spec.tasks.sample_train(8, generator))
        learner.update(learner.collect(env), update / 40)
    # Fresh policies earn about -6; the untrained loss makes them worse, down to -8.
    assert last_return() > before + 2.0
