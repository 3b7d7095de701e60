"""SVGD: the formula by hand, and particles that become samples of a known normal distribution."""

import math

import pytest
import torch

from metarl.fewshot.svgd import bandwidth, svgd_direction


def test_the_direction_of_two_particles_by_hand():
    # Particles 0 and 1, squared distance 1: h = 1 / log 3, k = exp(-log 3) = 1/3.
    particles = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    scores = torch.tensor([[3.0], [6.0]], dtype=torch.float64)
    # First: (3 + 6/3 - 2 log 3 (1 - 0) / 3) / 2; second: (3/3 + 6 + 2 log 3 / 3) / 2.
    push = 2 * math.log(3) / 3
    expected = torch.tensor([[(5 - push) / 2], [(7 + push) / 2]], dtype=torch.float64)
    torch.testing.assert_close(svgd_direction(particles, scores), expected)


def test_one_particle_follows_its_score():
    score = torch.tensor([[1.0, -2.0]])
    torch.testing.assert_close(svgd_direction(torch.zeros(1, 2), score), score)


def test_particles_in_one_place_have_a_finite_direction():
    scores = torch.ones(3, 2)
    torch.testing.assert_close(svgd_direction(torch.zeros(3, 2), scores), scores)


def test_at_temperature_zero_nothing_pushes_particles_apart():
    particles = torch.tensor([[0.0], [1.0]])
    assert not svgd_direction(particles, torch.zeros(2, 1), 0.0).any()


def test_the_repulsion_is_the_gradient_of_the_kernel():
    particles = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    width = bandwidth((particles[:, None] - particles[None]).square().sum(-1))

    def kernel_sum(moved, i):  # sum_j k(x_j, x_i) of x_j that move while x_i stays
        return (-(moved - particles[i]).square().sum(-1) / width).exp().sum()

    expected = torch.stack([torch.func.grad(kernel_sum)(particles, i).sum(0) for i in range(4)]) / 4
    torch.testing.assert_close(svgd_direction(particles, torch.zeros_like(particles)), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_particles_become_samples_of_a_normal_distribution(temperature):
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    particles = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(500):
        scores = -torch.linalg.solve(covariance, (particles - mean).mT).mT
        particles = particles + 0.5 * svgd_direction(particles, scores, temperature)
    torch.testing.assert_close(particles.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(particles.mT.cov(), temperature * covariance, atol=0.06, rtol=0)


def test_particles_of_several_tasks_at_once_are_those_of_each():
    particles = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    together = torch.func.vmap(svgd_direction)(particles, -particles)
    each = torch.stack([svgd_direction(p, -p) for p in particles])
    torch.testing.assert_close(together, each)
