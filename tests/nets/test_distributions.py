"""Action distributions against torch.distributions and by sampling."""

import torch
from torch import distributions

from metarl.nets.distributions import Categorical, Gaussian


def test_gaussian_agrees_with_torch_distributions():
    mean, log_std, action = torch.randn(5, 3), torch.randn(3), torch.randn(5, 3)
    reference = distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)
    ours = Gaussian(mean, log_std)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(), reference.entropy())


def test_categorical_agrees_with_torch_distributions():
    logits, action = torch.randn(5, 4), torch.tensor([0, 3, 2, 1, 0])
    reference = distributions.Categorical(logits=logits)
    ours = Categorical(logits)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(), reference.entropy())


def test_categorical_samples_follow_the_probabilities():
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    samples = Categorical(probabilities.log().expand(20_000, 3)).sample(torch.Generator().manual_seed(0))
    frequency = torch.bincount(samples, minlength=3) / len(samples)
    torch.testing.assert_close(frequency, probabilities, atol=0.015, rtol=0)


def test_gaussian_samples_have_the_mean_and_deviation():
    samples = Gaussian(torch.full((20_000, 1), 2.0), torch.tensor([0.5]).log()).sample(torch.Generator().manual_seed(0))
    assert abs(samples.mean() - 2.0) < 0.02 and abs(samples.std() - 0.5) < 0.02


def test_without_a_generator_the_likeliest_action_is_taken():
    assert Categorical(torch.tensor([[0.0, 2.0, 1.0]])).sample(None).tolist() == [1]
    mean = torch.randn(2, 3)
    assert torch.equal(Gaussian(mean, torch.zeros(3)).sample(None), mean)
