"""Losses of prediction and target that are small networks, descended on in place of the task loss.

`ml3_loss` is that of Bechtle et al. 2020, "Meta-Learning via Learned Loss", and their released code
(`ML3_SineRegressionLoss`). `weighted_error` is ours: the network only weights the squared error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarl.nets.mlp import glorot_mlp, mlp

_UNIT_WEIGHT = math.log(math.e - 1)
"""softplus of this is 1"""


def initial_ml3_loss(
    generator: torch.Generator, output_dim: int = 1, hidden_dims: Sequence[int] = (50, 50)
) -> dict[str, Tensor]:
    """Draw the parameters of an `ml3_loss` of predictions of `output_dim` numbers: weights, no biases."""
    return glorot_mlp((2 * output_dim, *hidden_dims, 1), generator, has_bias=False)


def ml3_loss(parameters: Mapping[str, Tensor], prediction: Tensor, target: Tensor) -> Tensor:
    """mean softplus(M(prediction, target)), M of ReLU layers without biases; written for one task.

    Without biases M is homogeneous: twice the error gives twice the value, so far from the target its slope does
    not grow with the error. Nothing puts its minimum at the target.

    Args:
        parameters: of M, as `initial_ml3_loss` draws them.
        prediction: (M, D), any unit.
        target: (M, D), same unit.

    Returns:
        A scalar > 0.

    Raises:
        ValueError: prediction, target and M do not fit together.

    Source: Bechtle et al. 2020, released code.
    """
    pairs = _pairs(parameters, prediction, target)  # (M, 2 D)
    return softplus(mlp(parameters, pairs, torch.relu)).mean()


def initial_weighted_error(
    generator: torch.Generator, output_dim: int = 1, hidden_dims: Sequence[int] = (50, 50)
) -> dict[str, Tensor]:
    """Draw the parameters of a `weighted_error` of predictions of `output_dim` numbers: weights and biases."""
    return glorot_mlp((2 * output_dim, *hidden_dims, 1), generator)


def weighted_error(
    parameters: Mapping[str, Tensor], prediction: Tensor, target: Tensor, *, scale: float = 2.0
) -> Tensor:
    """mean softplus(M(prediction / scale, target / scale) + c) |prediction - target|^2; written for one task.

    M has tanh layers with biases, and c makes the weight 1 where M is 0, so the loss starts near the mean squared
    error. It is zero where the prediction is the target and positive elsewhere, whatever was learned.

    Args:
        parameters: of M, as `initial_weighted_error` draws them.
        prediction: (M, D), any unit.
        target: (M, D), same unit.
        scale: the size of a typical target, same unit.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: prediction, target and M do not fit together.

    Source: ours. Deviations from `ml3_loss`: the squared error as a factor, inputs scaled, tanh, biases.
    """
    pairs = _pairs(parameters, prediction, target)  # (M, 2 D)
    weight = softplus(mlp(parameters, pairs / scale, torch.tanh) + _UNIT_WEIGHT)  # (M, 1)
    return (weight * (prediction - target).square()).mean()


def _pairs(parameters: Mapping[str, Tensor], prediction: Tensor, target: Tensor) -> Tensor:
    """Prediction and target beside each other, (M, 2 D)."""
    if prediction.ndim != 2 or prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape (M, D), got {(*prediction.shape,)} and {(*target.shape,)}."
        )
    expected = parameters["layers.0.weight"].shape[-1] // 2
    if prediction.shape[1] != expected:
        raise ValueError(
            f"this loss reads predictions of {expected} numbers, got {prediction.shape[1]}: "
            f"draw its parameters with output_dim={prediction.shape[1]}."
        )
    return torch.cat([prediction, target], -1)
