"""The PPO loss against values computed by hand and against the policy gradient."""

import math

import torch

from metarl.rl.ppo import normalize_advantage, ppo_loss


def loss(log_prob, old, advantage, valid=None, value=0.0, target=0.0, clip=0.2):
    log_prob, old, advantage = (
        torch.as_tensor(x, dtype=torch.float64).reshape(1, -1) for x in (log_prob, old, advantage)
    )
    valid = torch.ones_like(log_prob, dtype=torch.bool) if valid is None else torch.tensor([valid])
    value, target = torch.full_like(log_prob, value), torch.full_like(log_prob, target)
    return ppo_loss(log_prob, torch.zeros_like(log_prob), value, old, advantage, target, valid, clip)


def test_surrogate_is_clipped_for_good_actions_that_became_likelier():
    assert math.isclose(loss([math.log(1.5)], [0.0], [2.0]).policy, -1.2 * 2.0)


def test_surrogate_is_not_clipped_for_bad_actions_that_became_likelier():
    assert math.isclose(loss([math.log(1.5)], [0.0], [-2.0]).policy, 1.5 * 2.0)


def test_surrogate_is_clipped_for_bad_actions_that_became_less_likely():
    assert math.isclose(loss([math.log(0.5)], [0.0], [-2.0]).policy, 0.8 * 2.0)


def test_value_loss_is_half_the_squared_error():
    assert math.isclose(loss([0.0], [0.0], [0.0], value=3.0, target=1.0).value, 2.0)


def test_kl_and_clip_fraction_by_hand():
    parts = loss([math.log(1.5), 0.0], [0.0, 0.0], [1.0, 1.0])
    assert math.isclose(parts.kl, (0.5 - math.log(1.5)) / 2)
    assert math.isclose(parts.clip_fraction, 0.5)


def test_steps_after_the_end_of_an_episode_do_not_count_for_the_policy():
    masked = loss([0.1, 5.0], [0.0, 0.0], [1.0, 100.0], valid=[True, False])
    alone = loss([0.1], [0.0], [1.0])
    assert math.isclose(masked.policy, alone.policy) and math.isclose(masked.kl, alone.kl)


def test_gradient_at_the_acting_policy_is_the_policy_gradient():
    log_prob = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    advantage = torch.tensor([[1.0, -3.0, 2.0]])
    zeros, valid = torch.zeros_like(advantage), torch.ones(1, 3, dtype=torch.bool)
    parts = ppo_loss(log_prob, zeros, zeros, log_prob.detach(), advantage, zeros, valid, 0.2)
    (gradient,) = torch.autograd.grad(parts.policy, log_prob)
    torch.testing.assert_close(gradient, -advantage / 3)


def test_normalised_advantages_have_mean_zero_and_variance_one_over_valid_steps():
    generator = torch.Generator().manual_seed(1)
    advantage = 5 + 3 * torch.randn(10, 7, generator=generator)
    valid = torch.rand(10, 7, generator=generator) < 0.7
    normal = normalize_advantage(advantage, valid)[valid]
    assert abs(normal.mean()) < 1e-5 and abs(normal.std(correction=0) - 1) < 1e-5
