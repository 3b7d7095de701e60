"""Multi-layer perceptrons as functions of their parameters, which are `layers.I.weight` and `layers.I.bias`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def mlp(parameters: Mapping[str, Tensor], features: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply the layers, with the activation between two of them.

    Args:
        parameters: `layers.I.weight` (D_out, D_in) and, where there is one, `layers.I.bias` (D_out,); any of them
            may have a leading dimension B. Other names are not read.
        features: (M, D), or (B, M, D).
        activation: elementwise.

    Returns:
        (M, D_out) of the last layer, or (B, M, D_out).
    """
    for layer in range(num_layers(parameters)):
        if layer:
            features = activation(features)
        features = features @ parameters[f"layers.{layer}.weight"].mT
        if f"layers.{layer}.bias" in parameters:
            features = features + parameters[f"layers.{layer}.bias"].unsqueeze(-2)  # (..., M, D)
    return features


def num_layers(parameters: Mapping[str, Tensor]) -> int:
    """How many layers the parameters describe."""
    return sum(name.startswith("layers.") and name.endswith(".weight") for name in parameters)


def glorot_mlp(
    dims: Sequence[int], generator: torch.Generator, *, has_bias: bool = True, batch_shape: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Draw weights as of Glorot and Bengio (2010), zero biases; float32 on the CPU.

    Args:
        dims: width of the input, of each hidden layer, of the output.
        generator: where the weights are drawn.
        has_bias: whether layers have biases.
        batch_shape: leading dimensions, each entry a network of its own.
    """
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(dims)):
        bound = math.sqrt(6 / (fan_in + fan_out))
        parameters[f"layers.{layer}.weight"] = _uniform((*batch_shape, fan_out, fan_in), bound, generator)
        if has_bias:
            parameters[f"layers.{layer}.bias"] = torch.zeros(*batch_shape, fan_out)
    return parameters


def uniform_mlp(
    dims: Sequence[int], generator: torch.Generator, *, batch_shape: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Draw weights and biases within 1 / sqrt(fan_in), as `torch.nn.Linear` does; arguments as of `glorot_mlp`."""
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(dims)):
        bound = 1 / math.sqrt(fan_in)
        parameters[f"layers.{layer}.weight"] = _uniform((*batch_shape, fan_out, fan_in), bound, generator)
        parameters[f"layers.{layer}.bias"] = _uniform((*batch_shape, fan_out), bound, generator)
    return parameters


def _uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    return bound * (2 * torch.rand(*shape, generator=generator) - 1)
