"""Conjugate gradients and the trust region step on problems with known solutions."""

import math

import pytest
import torch

from metarl.rl.trpo import Objective, conjugate_gradient, flatten, hessian_product, trust_region_step, unflatten


def positive_definite(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T + size * torch.eye(size, dtype=torch.float64)


def test_conjugate_gradient_solves_a_system_in_as_many_steps_as_it_has_unknowns():
    matrix, solution = positive_definite(6), torch.arange(6, dtype=torch.float64)
    found = conjugate_gradient(lambda v: matrix @ v, matrix @ solution, 6)
    torch.testing.assert_close(found, solution, atol=1e-8, rtol=1e-8)


def test_conjugate_gradient_of_nothing_is_nothing():
    assert conjugate_gradient(lambda v: v, torch.zeros(3), 5).tolist() == [0, 0, 0]


def test_hessian_product_of_a_quadratic_form_is_its_matrix():
    matrix = positive_definite(4)
    leaves = {"a": torch.ones(2, 2, dtype=torch.float64, requires_grad=True)}
    product = hessian_product(lambda p: 0.5 * p["a"].flatten() @ matrix @ p["a"].flatten(), leaves)
    for unit in torch.eye(4, dtype=torch.float64):
        torch.testing.assert_close(product(unit), matrix @ unit)


def test_a_vector_and_the_named_tensors_that_it_holds_are_the_same():
    like = {"b": torch.zeros(2, 3), "a": torch.zeros(())}
    vector = torch.arange(7.0)
    parts = unflatten(vector, like)
    assert parts["b"].tolist() == [[0, 1, 2], [3, 4, 5]] and parts["a"] == 6
    assert torch.equal(flatten(tuple(parts.values()), like), vector)
    assert flatten((None, torch.tensor(2.0)), like).tolist() == [0] * 6 + [2.0]


def quadratic(metric, slope, max_kl, split=1, **options):
    """Loss slope . x, KL x M x / 2 around x = 0: the best step is known."""
    start = {"x": torch.zeros(len(slope), dtype=torch.float64)}

    def objective(p):
        return Objective(slope @ p["x"] / split, 0.5 * p["x"] @ metric @ p["x"] / split)

    parts = [objective] * split
    divergences = [lambda p: objective(p).kl] * split
    return trust_region_step(start, parts, divergences, max_kl, damping=0.0, **options)


@pytest.mark.parametrize("split", [1, 3])
def test_a_step_is_the_best_one_within_the_trust_region(split):
    metric, slope = positive_definite(3), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    step = quadratic(metric, slope, 0.02 * 1.0000001, split)
    natural = torch.linalg.solve(metric, slope)
    expected = -math.sqrt(2 * 0.02 / float(slope @ natural)) * natural
    # The whole step lies on the bound, and rounding may put it a hair outside: then it is shortened once.
    scale = 0.8**step.num_backtracks
    torch.testing.assert_close(step.parameters["x"], scale * expected, atol=1e-6, rtol=1e-6)
    assert step.accepted and step.kl <= 0.02 * 1.0000001 and step.loss_after < step.loss_before == 0.0


def test_a_loss_that_only_rises_is_refused_and_the_parameters_stay():
    start = {"x": torch.zeros(1)}

    def objective(p):  # falls at 0 but is higher everywhere on the way
        x = p["x"].sum()
        return Objective(torch.where(x == 0, -x, x.abs() + 1), 0.5 * x.square())

    step = trust_region_step(start, [objective], [lambda p: 0.5 * p["x"].square().sum()], 0.01, num_backtracks=4)
    assert not step.accepted and step.is_finite and step.num_backtracks == 4
    assert step.parameters["x"].tolist() == [0.0]


def test_a_divergence_that_explodes_shortens_the_step():
    start = {"x": torch.zeros(1, dtype=torch.float64)}

    def objective(p):  # the true KL is 16 times what its curvature at 0 promises once |x| > 0.05
        x = p["x"].sum()
        return Objective(-x, torch.where(x.abs() > 0.05, 8.0, 0.5) * x.square())

    step = trust_region_step(start, [objective], [lambda p: 0.5 * p["x"].square().sum()], 0.01, damping=0.0)
    assert step.accepted and step.num_backtracks > 0 and step.kl <= 0.01 and float(step.parameters["x"]) > 0


def test_a_gradient_that_is_not_finite_is_refused():
    start = {"x": torch.zeros(1)}
    bad = [lambda p: Objective((p["x"] * math.nan).sum(), p["x"].square().sum())]
    step = trust_region_step(start, bad, [lambda p: p["x"].square().sum()], 0.01)
    assert not step.accepted and not step.is_finite and step.parameters["x"].tolist() == [0.0]
