"""Advantages and returns against values computed by hand."""

import torch

from metarl.rl.returns import discounted_returns, generalized_advantage


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)  # (T, 1)


def test_gae_of_two_steps_by_hand():
    # delta_1 = 2 + 0.5 * 4 - 1 = 3; delta_0 = 1 + 0.5 * 1 - 0.5 = 1; A_0 = 1 + 0.5 * 0.5 * 3 = 1.75
    advantage = generalized_advantage(column(1, 2), column(0.5, 1), torch.tensor([4.0]), 0.5, 0.5)
    assert advantage.squeeze(1).tolist() == [1.75, 3.0]


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.rand(7, 3, generator=generator), torch.rand(7, 3, generator=generator)
    advantage = generalized_advantage(reward, value, torch.zeros(3), 0.9, 1.0)
    torch.testing.assert_close(advantage, discounted_returns(reward, 0.9) - value)


def test_gae_with_lambda_zero_is_the_one_step_error():
    reward, value = column(1, 2, 3), column(4, 5, 6)
    advantage = generalized_advantage(reward, value, torch.tensor([7.0]), 0.5, 0.0)
    assert advantage.squeeze(1).tolist() == [1 + 2.5 - 4, 2 + 3 - 5, 3 + 3.5 - 6]


def test_nothing_after_a_cut_counts_before_it():
    reward, value = column(1, 2, 3), column(0, 0, 0)
    cut = torch.tensor([[False], [True], [False]])
    advantage = generalized_advantage(reward, value, torch.tensor([100.0]), 1.0, 1.0, cut)
    assert advantage.squeeze(1).tolist() == [3.0, 2.0, 103.0]


def test_discounted_returns_by_hand():
    assert discounted_returns(column(1, 2, 4), 0.5).squeeze(1).tolist() == [3.0, 4.0, 4.0]


def test_worlds_do_not_mix():
    reward, value = torch.rand(5, 4), torch.rand(5, 4)
    order = torch.tensor([2, 0, 3, 1])
    last = torch.rand(4)
    one = generalized_advantage(reward, value, last, 0.9, 0.8)[:, order]
    other = generalized_advantage(reward[:, order], value[:, order], last[order], 0.9, 0.8)
    assert torch.equal(one, other)
