"""Evolution strategies on functions whose gradients and optima are known."""

import math

import pytest
import torch

from metarl.rl.evolution import centred_rank_utility, estimate_gradient, perturb, signed_rank_utility

SHAPINGS = [centred_rank_utility, signed_rank_utility]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weights():
    drawn = generator(7)
    return {"a": torch.randn(3, 4, generator=drawn), "b": torch.randn(5, generator=drawn)}


def linear(population, slope):
    return sum((population[name] * slope[name]).flatten(1).sum(1) for name in slope)


def cosine(one, other):
    flat = [torch.cat([values[name].flatten() for name in ("a", "b")]) for values in (one, other)]
    return float(torch.cosine_similarity(*flat, dim=0))


def test_neighbours_in_a_population_are_antithetic():
    parameters = weights()
    population, noise = perturb(parameters, 6, 0.1, generator())
    for name, value in parameters.items():
        assert population[name].shape == (12, *value.shape) and noise[name].shape == (6, *value.shape)
        torch.testing.assert_close((population[name][::2] + population[name][1::2]) / 2, value.expand(6, *value.shape))
        torch.testing.assert_close(population[name][::2] - value, 0.1 * noise[name], atol=1e-6, rtol=1e-5)


def test_the_same_seed_gives_the_same_population():
    one, other, third = (perturb(weights(), 3, 0.1, generator(seed))[0] for seed in (0, 0, 1))
    assert all(torch.equal(one[name], other[name]) and not torch.equal(one[name], third[name]) for name in one)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_the_estimate_of_a_linear_function_points_along_its_slope(shaping):
    slope = {name: torch.randn(value.shape, generator=generator(3)) for name, value in weights().items()}
    population, noise = perturb(weights(), 1000, 0.1, generator())
    step = estimate_gradient(noise, linear(population, slope), 0.1, shaping)
    assert cosine(step.gradient, slope) > 0.95 and step.dropped_pairs == 0


def test_without_shaping_the_estimate_is_the_slope():
    slope = {name: torch.ones_like(value) for name, value in weights().items()}
    population, noise = perturb(weights(), 20_000, 0.1, generator())
    fitness = linear(population, slope)
    step = estimate_gradient(noise, fitness, 0.1, lambda pairs: (pairs[:, 0] - pairs[:, 1]) / 2)
    for name, value in slope.items():
        torch.testing.assert_close(step.gradient[name], value, atol=0.1, rtol=0)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_steps_lead_to_the_optimum_of_a_quadratic(shaping):
    optimum = weights()
    parameters = {name: torch.zeros_like(value) for name, value in optimum.items()}
    draws = generator()

    def distance(values):
        return sum((values[name] - optimum[name]).square().flatten(-optimum[name].dim()).sum(-1) for name in optimum)

    start, sigma = float(distance(parameters)), 0.05
    for step in range(200):
        population, noise = perturb(parameters, 32, sigma, draws)
        estimate = estimate_gradient(noise, -distance(population), sigma, shaping)
        if step == 0:
            assert cosine(estimate.gradient, optimum) > 0.7
        lr = 0.05 * (1 - step / 200)
        parameters = {name: value + lr * estimate.gradient[name] for name, value in parameters.items()}
    assert float(distance(parameters)) < 1e-3 * start


def test_utilities_by_hand():
    fitness = torch.tensor([[4.0, 1.0], [2.0, 3.0]])  # ranks 1/2, -1/2 and -1/6, 1/6
    torch.testing.assert_close(centred_rank_utility(fitness), torch.tensor([1 / 2, -1 / 6]))
    torch.testing.assert_close(signed_rank_utility(fitness), torch.tensor([1 / 2, -1 / 4]))


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_equal_fitness_gives_no_direction(shaping):
    assert torch.equal(shaping(torch.full((5, 2), 3.0)), torch.zeros(5))


@pytest.mark.parametrize("increasing", [lambda x: 3 * x + 7, torch.exp, lambda x: x**3, torch.atan])
def test_centred_ranks_do_not_change_with_an_increasing_transformation(increasing):
    fitness = torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    assert torch.equal(centred_rank_utility(increasing(fitness)), centred_rank_utility(fitness))


def test_signed_ranks_do_not_change_with_the_difficulty_of_a_pairs_task():
    fitness = torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    difficulty = 100 * torch.randn(20, 1, generator=generator(1), dtype=torch.float64)
    assert torch.equal(signed_rank_utility(fitness + difficulty), signed_rank_utility(fitness))
    assert not torch.equal(centred_rank_utility(fitness + difficulty), centred_rank_utility(fitness))


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_exchanging_the_members_of_all_pairs_turns_the_estimate_around(shaping):
    _, noise = perturb(weights(), 9, 0.1, generator())
    fitness = torch.randn(18, generator=generator(1))
    step = estimate_gradient(noise, fitness, 0.1, shaping).gradient
    turned = estimate_gradient(noise, fitness.unflatten(0, (-1, 2)).flip(1).flatten(), 0.1, shaping).gradient
    assert all(torch.equal(step[name], -turned[name]) for name in step)


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_pairs_that_are_not_finite_drop_out_and_are_counted(shaping, broken):
    _, noise = perturb(weights(), 5, 0.1, generator())
    fitness = torch.randn(10, generator=generator(1))
    fitness[3] = fitness[8] = broken  # pairs 1 and 4
    step = estimate_gradient(noise, fitness, 0.1, shaping)
    kept = torch.tensor([0, 2, 3])
    left = {name: value[kept] for name, value in noise.items()}
    expected = estimate_gradient(left, fitness.unflatten(0, (-1, 2))[kept].flatten(), 0.1, shaping)
    assert step.dropped_pairs == 2 and expected.dropped_pairs == 0
    assert all(torch.equal(step.gradient[name], expected.gradient[name]) for name in noise)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_a_population_without_a_finite_pair_gives_a_step_of_zero(shaping):
    parameters = weights()
    _, noise = perturb(parameters, 3, 0.1, generator())
    step = estimate_gradient(noise, torch.full((6,), math.nan), 0.1, shaping)
    assert step.dropped_pairs == 3
    assert all(torch.equal(step.gradient[name], torch.zeros_like(value)) for name, value in parameters.items())
