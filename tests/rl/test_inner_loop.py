"""Inner steps and their surrogates: equal first derivatives, right or wrong second ones, by enumeration."""

import pytest
import torch

from metarl.rl.inner_loop import SURROGATES, Samples, adapt

ADVANTAGE = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)


def enumerated(logits):
    """One step in which every one of three actions occurs with its probability: expectations are exact."""
    probability = logits.detach().softmax(-1)
    return Samples(torch.zeros(3, 1), torch.arange(3), probability.log(), ADVANTAGE, probability)


def expected_loss(logits):
    return -(logits.softmax(-1) * ADVANTAGE).sum()


@pytest.mark.parametrize("name", SURROGATES)
def test_the_gradient_of_every_surrogate_is_the_policy_gradient(name):
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    samples = enumerated(logits)
    found = torch.func.grad(lambda x: SURROGATES[name](x.log_softmax(-1), samples, 1))(logits)
    torch.testing.assert_close(found, torch.func.grad(expected_loss)(logits))


@pytest.mark.parametrize(("name", "is_right"), [("log-prob", False), ("ratio", True), ("dice", True)])
def test_curvature_is_that_of_the_return_with_the_ratio_and_dice_only(name, is_right):
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    samples = enumerated(logits)
    found = torch.func.hessian(lambda x: SURROGATES[name](x.log_softmax(-1), samples, 1))(logits)
    assert torch.allclose(found, torch.func.hessian(expected_loss)(logits)) == is_right


def test_dice_knows_that_an_early_action_changes_which_later_ones_are_seen():
    """Two steps, two actions; reward at the end depends on both: all four paths with their probabilities."""
    reward = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    logits = torch.tensor([[0.2, -0.3], [0.4, 0.1]], dtype=torch.float64)  # of the first and the second step

    def expected(x):
        p = x.softmax(-1)
        return -torch.einsum("i,j,ij->", p[0], p[1], reward)

    p = logits.softmax(-1)
    weight = (p[0][:, None] * p[1][None]).flatten()  # of the four paths (E)
    first, second = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    gain = reward.flatten()

    def surrogate(x):
        log_p = x.log_softmax(-1)
        log_prob = torch.cat([log_p[0][first], log_p[1][second]])  # M = H * E, step after step
        samples = Samples(
            torch.zeros(8, 1), torch.cat([first, second]), log_prob.detach(), gain.repeat(2), weight.repeat(2)
        )
        return SURROGATES["dice"](log_prob, samples, 2)

    torch.testing.assert_close(torch.func.grad(surrogate)(logits), torch.func.grad(expected)(logits))
    torch.testing.assert_close(torch.func.hessian(surrogate)(logits), torch.func.hessian(expected)(logits))


def quadratic(parameters, samples):
    return 0.5 * (samples.weight * (parameters["x"] - samples.advantage).square()).sum()


def on_targets(*targets):
    count = len(targets)
    zeros = torch.zeros(count)
    return Samples(zeros[:, None], zeros[:, None], zeros, torch.tensor(targets), torch.full((count,), 1 / count))


def test_a_step_by_hand():
    # d/dx mean((x - t)^2) / 2 = x - mean(t) = 3 - 1 = 2
    assert float(adapt({"x": torch.tensor(3.0)}, on_targets(0.0, 2.0), quadratic, 0.25)["x"]) == 2.5
    assert float(adapt({"x": torch.tensor(3.0)}, on_targets(0.0, 2.0), quadratic, {"x": torch.tensor(0.5)})["x"]) == 2.0


def test_a_step_of_size_zero_is_the_identity():
    assert float(adapt({"x": torch.tensor(3.0)}, on_targets(0.0, 2.0), quadratic, 0.0)["x"]) == 3.0


def test_first_order_drops_the_curvature():
    def slope(first_order):
        adapted = lambda x: adapt({"x": x}, on_targets(0.0, 2.0), quadratic, 0.25, first_order)["x"]  # noqa: E731
        return float(torch.func.grad(adapted)(torch.tensor(3.0)))

    assert slope(first_order=False) == 0.75 and slope(first_order=True) == 1.0


def test_first_order_is_exact_where_the_curvature_vanishes():
    def linear(parameters, samples):
        return (samples.weight * samples.advantage * parameters["x"]).sum()

    for first_order in (False, True):
        adapted = lambda x: adapt({"x": x}, on_targets(1.0, 3.0), linear, 0.25, first_order)["x"] ** 2  # noqa: B023, E731
        assert float(torch.func.grad(adapted)(torch.tensor(3.0))) == 2 * (3.0 - 0.25 * 2.0)
