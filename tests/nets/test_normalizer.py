"""Running statistics."""

import torch

from metarl.nets.normalizer import RewardScaler, RunningNormalizer


def test_statistics_of_parts_are_those_of_the_whole():
    values = 3 + 2 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    normalizer = RunningNormalizer(4)
    for part in values.split([10, 1, 60, 29]):
        normalizer.update(part)
    torch.testing.assert_close(normalizer.mean, values.double().mean(0))
    torch.testing.assert_close(normalizer.var, values.double().var(0, correction=0))


def test_normalised_values_have_mean_zero_and_variance_one():
    values = 3 + 2 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    normalizer = RunningNormalizer(2)
    normalizer.update(values)
    result = normalizer(values)
    torch.testing.assert_close(result.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_a_new_normalizer_changes_nothing():
    values = torch.tensor([[1.0, -2.0]])
    torch.testing.assert_close(RunningNormalizer(2)(values), values)


def test_reward_scaler_divides_by_the_deviation_of_returns():
    returns = 7 + 4 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    scaler = RewardScaler()
    scaler.update(returns)
    torch.testing.assert_close(scaler(torch.tensor(1.0)), 1 / returns.std(correction=0))
