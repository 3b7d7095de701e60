"""Sines to learn, the task distribution of Bechtle et al. 2020, and networks that know none of them yet.

| parameter | unit | train task of the paper | test tasks of the paper |
|---|---|---|---|
| amplitude | - | 1 | 0.2 to 5 |
| phase | rad | pi | -pi to pi |
| input | rad | -2 to 2 | -5 to 5 |

Source: Bechtle et al. 2020, released code (`sine_regression_task.py`): y = amplitude sin(x - phase), a ReLU network of
100 and 10 units.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metarl.losses.regression import Points
from metarl.nets.mlp import glorot_mlp, uniform_mlp

NETWORK_DIMS = (1, 100, 10, 1)
"""Widths of the network that learns a sine."""

Range = tuple[float, float]


def sample_sines(
    num_tasks: int,
    generator: torch.Generator,
    *,
    num_points: int = 100,
    amplitude: Range = (0.2, 5.0),
    phase_rad: Range = (-math.pi, math.pi),
    input_rad: Range = (-5.0, 5.0),
) -> Points:
    """Draw B sines of M points each; the defaults are the paper's test tasks.

    Returns:
        Input and target, (B, M, 1) each, float32.
    """
    angle = _uniform((num_tasks, num_points, 1), input_rad, generator)  # (B, M, 1)
    height, shift = (_uniform((num_tasks, 1, 1), bounds, generator) for bounds in (amplitude, phase_rad))
    return Points(angle, height * torch.sin(angle - shift))


def paper_train_sine(generator: torch.Generator, num_points: int = 100) -> Points:
    """The one task, (1, M, 1), that the paper meta-trains on."""
    return sample_sines(
        1, generator, num_points=num_points, amplitude=(1, 1), phase_rad=(math.pi, math.pi), input_rad=(-2, 2)
    )


def untrained_networks(num_tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
    """B networks with PyTorch's initial weights: what the paper meta-tests on."""
    return uniform_mlp(NETWORK_DIMS, generator, batch_shape=(num_tasks,))


def glorot_networks(num_tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
    """B networks with Glorot's initial weights: what the paper meta-trains on."""
    return glorot_mlp(NETWORK_DIMS, generator, batch_shape=(num_tasks,))


def _uniform(shape: tuple[int, ...], bounds: Range, generator: torch.Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(*shape, generator=generator)
