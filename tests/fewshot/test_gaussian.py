"""Normal distributions over weights: the divergence against numerical integration, draws, averaged probabilities."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from metarl.fewshot.gaussian import Gaussian, kl, log_mean_prob, sample, standard_noise


def gaussian(mean, std):
    return Gaussian({"w": torch.tensor(mean, dtype=torch.float64)}, {"w": torch.tensor(std, dtype=torch.float64).log()})


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (-1.0, 2.0), (0.0, 1.0)])
def test_the_divergence_is_that_of_numerical_integration(mean, std):
    posterior, prior = norm(mean, std), norm(0.2, 0.9)
    integral, _ = quad(
        lambda x: posterior.pdf(x) * (posterior.logpdf(x) - prior.logpdf(x)), mean - 12 * std, mean + 12 * std
    )
    assert float(kl(gaussian([mean], [std]), gaussian([0.2], [0.9]))) == pytest.approx(integral, abs=1e-8)


def test_the_divergence_sums_over_entries_and_tensors():
    one = float(kl(gaussian([0.3], [0.5]), gaussian([0.2], [0.9])))
    two = kl(
        Gaussian({n: torch.tensor([0.3, 0.3]) for n in "ab"}, {n: torch.tensor([0.5, 0.5]).log() for n in "ab"}),
        Gaussian({n: torch.tensor([0.2, 0.2]) for n in "ab"}, {n: torch.tensor([0.9, 0.9]).log() for n in "ab"}),
    )
    assert float(two) == pytest.approx(4 * one, rel=1e-5)


def test_a_distribution_does_not_diverge_from_itself():
    same = gaussian([0.3, -2.0], [0.5, 3.0])
    assert float(kl(same, same)) == 0.0


def test_draws_have_the_mean_and_the_deviation():
    of = gaussian([1.0, -2.0], [0.5, 2.0])
    noise = standard_noise(of.mean, (20_000,), torch.Generator().manual_seed(0))
    drawn = sample(of, noise)["w"]  # (S, 2)
    torch.testing.assert_close(drawn.mean(0), of.mean["w"], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), of.log_std["w"].exp(), atol=0.03, rtol=0)


def test_averaged_log_probabilities_are_those_of_averaged_probabilities():
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    torch.testing.assert_close(log_mean_prob(probability.log()), torch.tensor([0.55, 0.45]).log())
    assert float(log_mean_prob(torch.tensor([[-1000.0], [-1000.0 + math.log(3)]]))) == pytest.approx(
        -1000 + math.log(2)
    )
