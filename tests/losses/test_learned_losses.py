"""Learned losses as functions: what they keep, what they are bounded by, how they adapt to a task."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from metarl.errors import ConfigError
from metarl.losses.adaptive import AdaptiveLoss
from metarl.losses.hand_designed import HandDesigned
from metarl.losses.head import Head
from metarl.losses.learned_potential import LearnedPotential
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.support import Support, credit, step_input_names, step_inputs, with_episodes
from metarl.losses.table import make_inner_loss
from metarl.losses.task_encoding import feedback_model, update_statistics
from tests.probes import hidden_lever
from tests.reaching_probe import reaching

H, E, S = 4, 3, 2
SIGNALS = ("log_distance", "closing_speed")


def random_support(seed=0, horizon=H, episodes=E, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    size = horizon * episodes

    def drawn(*shape):
        return torch.randn(size, *shape, generator=generator, dtype=dtype)

    steps = Support(
        obs=drawn(3),
        action=drawn(2),
        log_prob=drawn(),
        before=drawn(S),
        after=drawn(S),
        effort=drawn().square(),
        reward=drawn(),
        ended=torch.zeros(size, dtype=dtype),
        weight=torch.full((size,), 1 / size, dtype=dtype),
        episode_means=torch.zeros(0),
        episode_feedback=torch.zeros(0),
    )
    return with_episodes(steps, horizon)


def drawn_parameters(loss, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    parameters = loss.initial_parameters(generator)
    return {n: (v + scale * torch.randn(v.shape, generator=generator)).double() for n, v in parameters.items()}


def test_credit_is_the_decayed_sum_of_later_rewards_less_the_mean_over_episodes():
    reward = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # two steps of two episodes
    later = torch.tensor([[1.0, 1.0], [0.0, 2.0]])  # decay 1/2
    advantage = later - later.mean(1, keepdim=True)
    expected = (advantage / advantage.square().mean().sqrt()).flatten()
    found = credit(reward.flatten(), torch.full((4,), 0.25), 2, 0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_steps_that_do_not_count_get_no_credit_and_do_not_move_the_others():
    support = random_support()
    counts = torch.ones(H, E, dtype=torch.float64)
    counts[2:, 0] = 0  # the first episode ended early
    weight = (counts / counts.sum()).flatten()
    reward = torch.where(weight > 0, support.reward, 0.0)
    other = torch.where(weight > 0, support.reward, 0.0)
    found = credit(reward, weight, H, 0.9)
    assert bool((found[weight == 0] == 0).all())
    torch.testing.assert_close(found, credit(other, weight, H, 0.9))
    assert abs(float((weight * found).sum())) < 1e-12


def potential_of(num_states, seed):
    return torch.randn(num_states, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def random_mdp(seed, num_states=6, num_actions=3):
    """Transitions (S, A, S) and rewards (S, A); the last state ends the episode."""
    generator = torch.Generator().manual_seed(seed)
    transition = torch.rand(num_states, num_actions, num_states, generator=generator, dtype=torch.float64)
    transition = transition / transition.sum(2, keepdim=True)
    return transition, torch.randn(num_states, num_actions, generator=generator, dtype=torch.float64)


def optimal_actions(transition, reward_of_step, discount=0.9):
    """argmax_a Q(s, a) of the states that do not end, by value iteration; reward_of_step is (S, A, S')."""
    num_states = len(transition)
    value = torch.zeros(num_states, dtype=torch.float64)
    for _ in range(600):
        q = (transition * (reward_of_step + discount * value)).sum(2)
        value = q.max(1).values
        value[-1] = 0.0
    return q[:-1].argmax(1)


def shaped_rewards(loss, parameters, signals, reward, transition):
    """What a loss makes of each transition of an MDP whose states have the given signals, (S, A, S')."""
    num_states, num_actions = reward.shape
    triples = list(itertools.product(range(num_states), range(num_actions), range(num_states)))
    s, a, s2 = (torch.tensor(column) for column in zip(*triples, strict=True))
    size = len(triples)
    support = Support(
        obs=torch.zeros(size, 1),
        action=a,
        log_prob=torch.zeros(size),
        before=signals[s],
        after=signals[s2],
        effort=torch.zeros(size, dtype=torch.float64),
        reward=reward[s, a],
        ended=(s2 == num_states - 1).double(),
        weight=torch.full((size,), 1 / size, dtype=torch.float64),
        episode_means=torch.zeros(0),
        episode_feedback=torch.zeros(0),
    )
    return loss.reward(parameters, support).view(num_states, num_actions, num_states)


@pytest.mark.parametrize("seed", range(5))
def test_a_potential_keeps_the_optimal_actions_of_an_mdp(seed):
    transition, reward = random_mdp(seed)
    signals = torch.randn(6, S, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = LearnedPotential(SIGNALS, H, discount=0.9, gae_lambda=0.7, anneal_steps=0, head=Head(S))
    shaped = shaped_rewards(loss, drawn_parameters(loss, seed, 2.0), signals, reward, transition)
    plain = reward.unsqueeze(2).expand_as(shaped)
    assert float((shaped - plain).abs().max()) > 1
    assert torch.equal(optimal_actions(transition, shaped), optimal_actions(transition, plain))


def test_a_learned_reward_may_change_the_optimal_actions():
    changed = 0
    for seed in range(5):
        transition, reward = random_mdp(seed)
        signals = torch.randn(6, S, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        loss = LearnedReward(SIGNALS, H, discount=0.9, gae_lambda=0.7, head=Head(len(step_input_names(SIGNALS))))
        shaped = shaped_rewards(loss, drawn_parameters(loss, seed, 2.0), signals, reward, transition)
        plain = reward.unsqueeze(2).expand_as(shaped)
        changed += not torch.equal(optimal_actions(transition, shaped), optimal_actions(transition, plain))
    assert changed >= 3


def expected_policy_gradient(transition, reward, potential, gae_lambda, discount=0.9, horizon=3):
    """E[sum_t grad log pi(a_t|s_t) sum_j (discount lambda)^j r~_{t+j}] over all paths of an MDP that ends in time.

    The policy is a softmax over free logits; from the last step but one every path leads into the end.
    """
    num_states, num_actions = reward.shape
    logits = torch.randn(num_states, num_actions, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_pi = logits.log_softmax(1)
    end = num_states - 1
    total = torch.zeros_like(logits)
    paths = [([0], [], 1.0)]
    for step in range(horizon):
        longer = []
        for states, actions, probability in paths:
            for a in range(num_actions):
                for s2 in [end] if step == horizon - 1 else range(num_states - 1):
                    follows = 1.0 if step == horizon - 1 else float(transition[states[-1], a, s2])
                    p = probability * float(log_pi[states[-1], a].exp()) * follows
                    longer.append(([*states, s2], [*actions, a], p))
        paths = longer
    for states, actions, probability in paths:
        shaped = [
            float(reward[s, a]) + discount * float(potential[s2]) - float(potential[s])
            for s, a, s2 in zip(states, actions, states[1:], strict=False)
        ]
        for t, (s, a) in enumerate(zip(states, actions, strict=False)):
            later = sum((discount * gae_lambda) ** (j - t) * shaped[j] for j in range(t, horizon))
            score = -log_pi[s].exp()
            score[a] += 1
            total[s] += probability * later * score
    return total


def test_with_lambda_one_a_potential_does_not_move_the_expected_policy_gradient():
    transition, reward = random_mdp(0, num_states=4, num_actions=2)
    transition[:, :, -1] = 0
    transition = transition / transition.sum(2, keepdim=True)
    potential = potential_of(4, seed=2)
    potential[-1] = 0.0  # Phi(terminal) = 0
    nothing = torch.zeros(4, dtype=torch.float64)
    for gae_lambda, same in ((1.0, True), (0.7, False)):
        plain = expected_policy_gradient(transition, reward, nothing, gae_lambda)
        shaped = expected_policy_gradient(transition, reward, potential, gae_lambda)
        assert torch.allclose(plain, shaped, atol=1e-12) is same


def test_a_potential_is_zero_after_a_true_end_and_counts_at_a_time_limit():
    loss = LearnedPotential(SIGNALS, H, discount=0.5, gae_lambda=0.7, anneal_steps=0, head=Head(S))
    parameters, support = drawn_parameters(loss), random_support()
    before, after = loss.head(parameters, support.before), loss.head(parameters, support.after)
    torch.testing.assert_close(loss.reward(parameters, support), support.reward + 0.5 * after - before)
    ended = support._replace(ended=torch.ones_like(support.ended))
    torch.testing.assert_close(loss.reward(parameters, ended), support.reward - before)


def test_lambda_of_a_potential_rises_to_one():
    loss = LearnedPotential(SIGNALS, H, discount=0.9, gae_lambda=0.6, anneal_steps=4, head=Head(S))
    risen = [round(float(loss.lambda_at(torch.tensor(step))), 6) for step in (0, 1, 2, 4, 9)]
    assert risen == [0.6, 0.7, 0.8, 1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=4, max_size=4), st.floats(0.1, 20), st.integers(0, 1000))
def test_a_head_is_bounded_and_finite_whatever_it_reads(inputs, bound, seed):
    head = Head(4, bound=bound)
    parameters = {
        name: v + 1e3 * torch.randn(v.shape, generator=torch.Generator().manual_seed(seed))
        for name, v in head.initial_parameters(torch.Generator().manual_seed(seed)).items()
    }
    value = head(parameters, torch.tensor(inputs, dtype=torch.float32))
    assert abs(float(value)) <= bound * (1 + 1e-6)


def test_hand_designed_rewards_by_hand():
    support = random_support()._replace(
        before=torch.log1p(torch.tensor([[2.0], [1.0]])),
        after=torch.log1p(torch.tensor([[1.0], [0.5]])),
        reward=torch.tensor([0.0, 1.0]),
        ended=torch.tensor([0.0, 1.0]),
    )
    expected = {
        "feedback": [0.0, 1.0],
        "dense": [-1.0, -0.5],
        "dense-bonus": [-1.0, 9.5],
        "hand-potential": [0.0 + 0.9 * -1.0 + 2.0, 1.0 + 1.0],  # the second step ends the episode
    }
    for kind, values in expected.items():
        found = HandDesigned(kind, ("log_distance",), 2, 0.9, 0.9).reward({}, support)
        torch.testing.assert_close(found, torch.tensor(values), msg=kind)


def adaptive(name="reward", num_steps=3):
    spec = envs.make_spec("reach-robots")
    return AdaptiveLoss(make_inner_loss(name, spec, discount=0.97, gae_lambda=0.9), num_steps, 0.5)


def reach_support(seed=0, num_signals=3):
    support = random_support(seed)
    generator = torch.Generator().manual_seed(seed)
    signals = [torch.randn(H * E, num_signals, generator=generator, dtype=torch.float64) for _ in range(2)]
    return with_episodes(support._replace(before=signals[0], after=signals[1]), H)


@pytest.mark.parametrize("name", ["reward", "potential", "advantage", "drift"])
def test_adaptation_is_the_identity_at_the_start(name):
    loss = adaptive(name)
    meta = {n: v.double() for n, v in loss.initial_parameters(torch.Generator().manual_seed(0)).items()}
    of_task, steps = loss.of_task(meta, [reach_support(num_signals=len(loss.inner.signals))])
    for key, value in of_task.items():
        assert torch.equal(value, meta[f"loss.{key}"])
    assert torch.equal(steps, meta["log_step_size"])


def strong_meta(loss):
    meta = {n: v.double() for n, v in loss.initial_parameters(torch.Generator().manual_seed(0)).items()}
    return meta | {"encoding.strength": torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)}


def test_a_trained_adaptation_differs_between_tasks_and_moves_step_sizes():
    loss = adaptive()
    meta = strong_meta(loss)
    (one, one_steps), (other, other_steps) = (loss.of_task(meta, [reach_support(seed)]) for seed in (0, 1))
    assert all(not torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one_steps, other_steps)


def test_statistics_of_encodings_go_along_with_an_encoder_that_learns():
    before = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    after = 3 * before + 5  # of the same tasks, by the encoder after its update
    parameters = {"mean": before.mean(0), "std": before.std(0)}
    update_statistics(parameters, before, after, 0.1)
    torch.testing.assert_close(parameters["mean"], after.mean(0))
    torch.testing.assert_close(parameters["std"], after.std(0))
    update_statistics(parameters, after, after + 0.0, 0.0)
    torch.testing.assert_close(parameters["mean"], after.mean(0))
    other = after + 2.0  # another batch of tasks, by the same encoder: a tenth of the way
    update_statistics(parameters, other, other, 0.1)
    torch.testing.assert_close(parameters["mean"], after.mean(0) + 0.2)


def test_the_encoding_does_not_depend_on_the_order_of_steps_and_episodes():
    loss, support = adaptive(), reach_support()
    meta = strong_meta(loss)
    generator = torch.Generator().manual_seed(3)
    index = torch.arange(H * E).view(H, E)[:, torch.randperm(E, generator=generator)]  # episodes in another order
    index = torch.stack([index[torch.randperm(H, generator=generator), e] for e in range(E)], 1)  # and their steps
    shuffled = with_episodes(Support(*(value[index.flatten()] for value in support[:-2]), *support[-2:]), H)
    for a, b in zip(loss.of_task(meta, [support])[0].values(), loss.of_task(meta, [shuffled])[0].values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_losses_of_a_lifetime_are_those_of_the_batches_until_then():
    loss, supports = adaptive(), [reach_support(seed) for seed in range(3)]
    meta = strong_meta(loss)
    lifetime = loss.of_lifetime(meta, supports)
    assert len(lifetime) == 3
    for k, (adapted, steps) in enumerate(lifetime):
        expected, expected_steps = loss.of_task(meta, supports[: k + 1])
        assert all(torch.equal(adapted[name], expected[name]) for name in expected)
        assert torch.equal(steps, expected_steps)
    assert not torch.equal(lifetime[0][1], lifetime[2][1])  # what happened later counts


def told_once(first, feedback):
    """Experience whose first signal is `first` and whose feedback comes at the end, (E,) each."""
    support = random_support()
    last = torch.zeros(H, E, dtype=torch.float64)
    last[-1] = feedback
    signals = torch.stack([first.expand(H, E).flatten(), torch.zeros(H * E, dtype=torch.float64)], 1)
    steady = support._replace(before=signals, after=signals, effort=torch.zeros(H * E), reward=last.flatten())
    return with_episodes(steady, H)


def test_what_is_known_of_episodes_are_means_of_their_steps_that_count_and_sums_of_feedback():
    support = random_support()
    counts = torch.ones(H, E, dtype=torch.float64)
    counts[2:, 1] = 0.0  # the second episode ended after two steps
    support = with_episodes(support._replace(weight=(counts / counts.sum()).flatten()), H)
    inputs, reward = step_inputs(support).view(H, E, -1), support.reward.view(H, E)
    torch.testing.assert_close(support.episode_means[0], inputs[:, 0, :-1].mean(0))
    torch.testing.assert_close(support.episode_means[1], inputs[:2, 1, :-1].mean(0))
    torch.testing.assert_close(support.episode_feedback[1], reward[:2, 1].sum())


def test_the_model_of_feedback_is_the_ridge_regression_by_hand():
    first = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    model = feedback_model([told_once(first, 3 * first + 5)])
    # One standardised input that is the standardised feedback: 1 / (1 + 0.03).
    torch.testing.assert_close(model, torch.tensor([1 / 1.03, 0, 0, 0, 0], dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(feedback_model([told_once(first, -first)])[0], -model[0], atol=1e-5, rtol=0)
    assert not feedback_model([told_once(first, torch.ones(E, dtype=torch.float64))]).any()


def test_the_model_of_feedback_learns_from_what_differs_between_batches():
    flat = torch.zeros(E, dtype=torch.float64)
    one, other = told_once(flat, flat), told_once(flat + 1, flat - 2)
    assert not feedback_model([one]).any() and not feedback_model([other]).any()
    assert float(feedback_model([one, other])[0]) == pytest.approx(-1 / 1.03, abs=1e-5)


def test_inputs_have_names_in_their_order():
    support = random_support()
    inputs = step_inputs(support)
    names = step_input_names(SIGNALS)
    assert inputs.shape == (H * E, len(names))
    torch.testing.assert_close(inputs[:, names.index("closing_speed")], support.before[:, 1])
    change = support.after[:, 0] - support.before[:, 0]
    torch.testing.assert_close(inputs[:, names.index("change_of_log_distance")], change)
    torch.testing.assert_close(inputs[:, names.index("effort")], support.effort)


def test_a_loss_that_reads_signals_refuses_an_environment_without_any():
    with pytest.raises(ConfigError, match="reads signals, and hidden-lever gives none"):
        make_inner_loss("reward", hidden_lever(), discount=0.97, gae_lambda=0.9)


@pytest.mark.parametrize("kind", ["reward", "advantage"])
def test_scaled_changes_are_the_same_as_larger_weights_on_them(kind):
    spec = reaching(H)
    num_signals = len(spec.signals.names)
    scaled, plain = (make_inner_loss(kind, spec, discount=0.9, gae_lambda=0.9, change_scale=c).credit for c in (7, 1))
    parameters = plain.initial_parameters(torch.Generator().manual_seed(0))
    larger = {name: value.clone() for name, value in parameters.items()}
    for name in ("hidden.weight", "linear.weight"):
        larger[name][:, num_signals : 2 * num_signals] *= 7
    support = random_support(1, dtype=torch.float32)
    step = torch.tensor(0)
    found, expected = scaled.advantage(parameters, support, step), plain.advantage(larger, support, step)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain.advantage(parameters, support, step), atol=1e-3)
