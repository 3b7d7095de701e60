"""Losses of prediction and target: known values, what holds whatever was learned, errors."""

import math

import pytest
import torch

from metarl.losses.ml3 import initial_ml3_loss, initial_weighted_error, ml3_loss, weighted_error
from metarl.losses.regression import mse

LOSSES = [(ml3_loss, initial_ml3_loss), (weighted_error, initial_weighted_error)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(num_points=7, output_dim=1):
    return torch.randn(2, num_points, output_dim, generator=generator(1))


def test_ml3_is_the_published_network():
    parameters = initial_ml3_loss(generator())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {
        "layers.0.weight": (50, 2),
        "layers.1.weight": (50, 50),
        "layers.2.weight": (1, 50),
    }
    layers = []
    for weight in parameters.values():
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.load_state_dict({"weight": weight})
        layers += [linear, torch.nn.ReLU()]
    prediction, target = pairs()
    published = torch.nn.Sequential(*layers[:-1], torch.nn.Softplus())(torch.cat([prediction, target], 1)).mean()
    torch.testing.assert_close(ml3_loss(parameters, prediction, target), published)


def test_ml3_of_zero_is_the_softplus_of_zero():
    zeros = torch.zeros(3, 1)
    assert float(ml3_loss(initial_ml3_loss(generator()), zeros, zeros)) == pytest.approx(math.log(2))


def test_a_weighted_error_with_a_network_of_zeros_is_the_mean_squared_error():
    nothing = {name: torch.zeros_like(value) for name, value in initial_weighted_error(generator()).items()}
    prediction, target = pairs()
    torch.testing.assert_close(weighted_error(nothing, prediction, target), mse({}, prediction, target))


def test_a_weighted_error_vanishes_at_the_target_only():
    parameters = {name: 3 * value for name, value in initial_weighted_error(generator()).items()}
    prediction, target = pairs()
    assert float(weighted_error(parameters, target, target)) == 0.0
    slope = torch.func.grad(lambda x: weighted_error(parameters, x, target))(target)
    assert not slope.any()
    for one, other in zip(prediction, target, strict=True):
        assert float(weighted_error(parameters, one[None], other[None])) > 0


@pytest.mark.parametrize(("loss", "initial"), LOSSES)
def test_parameters_come_from_the_generator(loss, initial):
    one, same, other = initial(generator()), initial(generator()), initial(generator(1))
    assert all((one[name] == same[name]).all() for name in one)
    assert (one["layers.0.weight"] != other["layers.0.weight"]).any()


@pytest.mark.parametrize(("loss", "initial"), LOSSES)
def test_losses_of_many_tasks_are_those_of_one_after_the_other(loss, initial):
    parameters = initial(generator(), output_dim=2)
    prediction, target = torch.randn(2, 4, 7, 2, generator=generator(1))
    together = torch.func.vmap(loss, in_dims=(None, 0, 0))(parameters, prediction, target)
    alone = torch.stack([loss(parameters, *pair) for pair in zip(prediction, target, strict=True)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(("loss", "initial"), LOSSES)
def test_wrong_shapes_are_named(loss, initial):
    prediction, target = pairs(output_dim=3)
    with pytest.raises(ValueError, match=r"one shape \(M, D\), got \(7, 3\) and \(7, 1\)"):
        loss(initial(generator()), prediction, target[:, :1])
    with pytest.raises(ValueError, match=r"got \(7,\) and \(7,\)"):
        loss(initial(generator()), prediction[:, 0], target[:, 0])
    with pytest.raises(ValueError, match=r"predictions of 1 numbers, got 3: .* output_dim=3"):
        loss(initial(generator()), prediction, target)
