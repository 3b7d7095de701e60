"""A GRU cell in plain operations: those of torch have no rule for vmap, and no second derivative on a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def initial_gru_cell(input_dim: int, hidden_dim: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw parameters in the names, shapes and ranges of `torch.nn.GRUCell`; rows are reset, update, candidate.

    Args:
        input_dim: I.
        hidden_dim: D.
        generator: of the CPU.

    Returns:
        weight_ih (3 D, I), weight_hh (3 D, D), bias_ih and bias_hh (3 D,), float32.
    """
    bound = 1 / math.sqrt(hidden_dim)
    rows = 3 * hidden_dim
    shapes = {"weight_ih": (rows, input_dim), "weight_hh": (rows, hidden_dim), "bias_ih": (rows,), "bias_hh": (rows,)}
    return {name: bound * (2 * torch.rand(shape, generator=generator) - 1) for name, shape in shapes.items()}


def gru_inputs(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """W_i x + b_i, (..., I) -> (..., 3 D): the part of a cell that does not wait for the step before."""
    return inputs @ parameters["weight_ih"].mT + parameters["bias_ih"]


def gru_step(parameters: Mapping[str, Tensor], projected: Tensor, hidden: Tensor) -> Tensor:
    """The next hidden state, (..., D).

    Source: Cho et al. 2014, in the form of `torch.nn.GRUCell`.

    Args:
        parameters: see `initial_gru_cell`.
        projected: (..., 3 D), see `gru_inputs`.
        hidden: (..., D).
    """
    size = hidden.shape[-1]
    recurrent = hidden @ parameters["weight_hh"].mT + parameters["bias_hh"]
    # r, z = sigmoid(W_i x + b_i + W_h h + b_h)
    gates = torch.sigmoid(projected[..., : 2 * size] + recurrent[..., : 2 * size])
    reset, update = gates[..., :size], gates[..., size:]
    # n = tanh(W_in x + b_in + r (W_hn h + b_hn))
    candidate = torch.tanh(projected[..., 2 * size :] + reset * recurrent[..., 2 * size :])
    # h' = (1 - z) n + z h
    return candidate + update * (hidden - candidate)
