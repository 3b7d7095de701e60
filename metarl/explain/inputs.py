"""What a learned loss makes of its inputs: response curves, maps over two inputs, shares of each input.

`Judge` is the function that is looked at: rows of inputs, (..., I), to one number each, (...).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Judge = Callable[[Tensor], Tensor]


def integrated_gradients(judge: Judge, inputs: Tensor, baseline: Tensor, num_steps: int = 128) -> Tensor:
    """How much each input moves the output away from its value at the baseline, (R, I).

    IG_i = (x_i - b_i) * mean over a in (0, 1) of df/dx_i at b + a (x - b); over i it sums to f(x) - f(b).

    Source: Sundararajan et al. 2017, eq. 1, by the midpoint rule.

    Args:
        judge: f.
        inputs: x, (R, I).
        baseline: b, (I,).
        num_steps: points on the way.
    """
    slope = torch.func.grad(lambda rows: judge(rows).sum())
    total = torch.zeros_like(inputs)
    for step in range(num_steps):
        total += slope(baseline + (step + 0.5) / num_steps * (inputs - baseline))
    return (inputs - baseline) * total / num_steps


def partial_dependence(judge: Judge, inputs: Tensor, index: int, grid: Tensor) -> Tensor:
    """The output for one input at each value of a grid while the others are as they were, (G, R).

    Its mean over rows is Friedman's (2001) partial dependence; the rows are the curves of Goldstein et al. 2015.
    """
    rows = inputs.repeat(len(grid), 1, 1)  # (G, R, I)
    rows[..., index] = grid.unsqueeze(1)
    return judge(rows)


def response_map(judge: Judge, centre: Tensor, first: int, second: int, rows: Tensor, columns: Tensor) -> Tensor:
    """The output over two inputs, (len(columns), len(rows)), while the others are at the centre, (I,)."""
    points = centre.repeat(len(columns), len(rows), 1)
    points[..., first] = rows
    points[..., second] = columns.unsqueeze(1)
    return judge(points)


def usual_range(values: Tensor, num_points: int) -> Tensor:
    """A grid over the middle 98 % of values."""
    low, high = (float(torch.quantile(values, q)) for q in (0.01, 0.99))
    return torch.linspace(low, high, num_points, dtype=values.dtype, device=values.device)
