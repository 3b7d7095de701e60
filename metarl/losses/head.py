"""The network inside a learned loss: one hidden layer beside a linear path, with a bounded output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_INPUT = 20.0


@dataclass(frozen=True)
class Head:
    """Maps numbers to one number: c tanh(f(x) / c) with f(x) = s x + v tanh(W x + b).

    The linear path keeps a slope where the hidden units saturate, so that what was learned on near goals still
    points the right way on far ones; inputs beyond 20 count as 20.

    Attributes:
        num_inputs: I.
        hidden_dim: D.
        bound: c, the largest magnitude of the output.
        scales: factors on the inputs, I of them; none: all are 1.
    """

    num_inputs: int
    hidden_dim: int = 16
    bound: float = 10.0
    scales: tuple[float, ...] = ()

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw parameters; a small output to begin with."""

        def uniform(rows: int, columns: int, gain: float) -> Tensor:
            bound = gain * math.sqrt(6 / (rows + columns))
            return bound * (2 * torch.rand(rows, columns, generator=generator) - 1)

        return {
            "hidden.weight": uniform(self.hidden_dim, self.num_inputs, 1.0),
            "hidden.bias": torch.zeros(self.hidden_dim),
            "out.weight": uniform(1, self.hidden_dim, 0.1),
            "linear.weight": uniform(1, self.num_inputs, 0.1),
        }

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """(..., I) -> (...), in [-c, c]."""
        if self.scales:
            inputs = inputs * inputs.new_tensor(self.scales)
        inputs = inputs.clamp(-LARGEST_INPUT, LARGEST_INPUT)
        hidden = torch.tanh(inputs @ parameters["hidden.weight"].mT + parameters["hidden.bias"])
        value = hidden @ parameters["out.weight"].mT + inputs @ parameters["linear.weight"].mT
        return self.bound * torch.tanh(value.squeeze(-1) / self.bound)
