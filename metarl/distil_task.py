"""Find in closed form how a loss adapts: one number of the task, in terms of what the task's feedback goes along with.

Between tasks the slopes of a loss's head by its inputs differ. Their first principal component is what the number has
to tell, and tanh of a weighted sum of a few entries of `feedback_model` is fitted to it. It is zero as long as nothing
is known of a task, and saturates where the task's experience leaves little doubt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.lives import LearnedCredit, Lives, head_inputs
from metarl.losses.expression import Apply, Input, Node, Number, to_text
from metarl.losses.formula import Adaptation
from metarl.losses.head import LARGEST_INPUT
from metarl.losses.support import worth_names
from metarl.losses.task_encoding import feedback_model
from metarl.symbolic import r_squared, simplified

MAX_INPUTS = 6
_DIGITS, _SHRINK, _EVERY = 3, 0.9, 4
_RIDGE = 1e-4
"""Of the squared weights, in shares of the component's variance: tasks that can be told apart give them no end."""


@dataclass(frozen=True)
class TaskNumber:
    """How a loss adapts, as far as one number of the task tells.

    Attributes:
        adaptation: the number in closed form, and what it does to credit and step sizes.
        values: (K, B), of each task at each of the K updates.
        log_step_size: (K, 3), where the number is zero.
        decay_logit: of a reward, where the number is zero; else None.
        share: of what the slopes of the loss differ by between tasks and updates, that the first component makes up.
        r_squared: of the number, for that component, on tasks that it was not fitted to.
    """

    adaptation: Adaptation
    values: Tensor
    log_step_size: Tensor
    decay_logit: float | None
    share: float
    r_squared: float


def task_number(credit: LearnedCredit, lives: Lives) -> TaskNumber | None:
    """Fit the number on the first half of the tasks.

    None where nothing that the feedback goes along with tells what the loss makes of the others.
    """
    component, share = _first_component(credit, lives)
    num_updates, num_tasks = component.shape
    supports = lives.supports[:-1]
    worth = torch.stack([torch.func.vmap(feedback_model)(supports[: k + 1]) for k in range(num_updates)])  # (K, B, W)
    is_held_out = np.tile(np.arange(num_tasks) >= num_tasks // 2, num_updates)
    w, y = worth.flatten(0, 1).double().cpu().numpy(), component.flatten().double().cpu().numpy()
    weights, score = _few_inputs(w, y, is_held_out)
    if not score > 0:
        return None
    tree = _tanh_of_sum(weights, worth_names(tuple(credit.signals)))
    number = torch.from_numpy(np.tanh(w @ weights)).view(num_updates, num_tasks)
    pace, log_step_size = _line(number[-1], lives.log_step_size.double().cpu().flatten(1))
    slope, decay_logit = 0.0, None
    if "decay" in lives.losses[0]:
        logits = torch.stack([loss["decay"].double().cpu() for loss in lives.losses]).flatten(0, 1)  # (K B, 1)
        slopes, intercept = _line(number.flatten(), logits)
        slope, decay_logit = float(slopes), float(intercept)
    adaptation = Adaptation(to_text(tree), round(slope, _DIGITS), round(float(pace.mean()), _DIGITS))
    shape = lives.log_step_size.shape[1:]
    return TaskNumber(
        adaptation, number.to(lives.tasks.device, torch.float32), log_step_size.view(shape), decay_logit, share, score
    )


def _first_component(credit: LearnedCredit, lives: Lives) -> tuple[Tensor, float]:
    """Of the head's mean slopes on each task and update, times the deviations of inputs, (K, B), and its share."""

    def slopes(loss: dict[str, Tensor], inputs: Tensor) -> Tensor:  # of one task, (I,)
        return torch.func.grad(lambda x: credit.head(loss, x).sum())(inputs).mean(0)

    inputs = torch.stack([head_inputs(credit, support) for support in lives.supports[:-1]])[:, :, ::_EVERY]
    inputs = inputs.clamp(-LARGEST_INPUT, LARGEST_INPUT)  # (K, B, M, I)
    found = torch.stack([torch.func.vmap(slopes)(dict(loss), x) for loss, x in zip(lives.losses, inputs, strict=True)])
    rows = (found * inputs.flatten(0, 2).std(0)).flatten(0, 1).double()  # (K B, I)
    scores, sizes, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    share = float(sizes[0].square() / sizes.square().sum().clamp(min=1e-12))
    return (scores[:, 0] * sizes[0]).view(found.shape[:2]), share


def _few_inputs(w: NDArray, y: NDArray, is_held_out: NDArray) -> tuple[NDArray, float]:
    """The weights v of y = a + b tanh(v w), by forward selection, and R^2 on what is held out.

    An entry is added as long as what is missing to 1 shrinks to nine tenths or less, on what it was fitted to: what is
    held out does not choose.
    """
    kept: list[int] = []
    best: tuple[NDArray, float, float] | None = None
    while len(kept) < MAX_INPUTS:
        fits = {j: _fit(w[:, [*kept, j]], y, is_held_out) for j in range(w.shape[1]) if j not in kept}
        new = max(fits, key=lambda j: fits[j][1])
        if best is not None and 1 - fits[new][1] > _SHRINK * (1 - best[1]):
            break
        kept.append(new)
        best = fits[new]
    assert best is not None
    weights = np.zeros(w.shape[1])
    weights[kept] = best[0]
    weights *= np.sign(weights[np.abs(weights).argmax()])  # the sign of a component says nothing
    return np.array([float(f"{value:.{_DIGITS}g}") for value in weights]), best[2]


def _fit(w: NDArray, y: NDArray, is_held_out: NDArray) -> tuple[NDArray, float, float]:
    """v, R^2 of the fit, and R^2 on what is held out, of a + b tanh(v w) by Levenberg-Marquardt from the linear fit."""
    from scipy.optimize import least_squares

    x, target = w[~is_held_out], y[~is_held_out]
    spread = max(float(target.std()), 1e-12)
    line = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), target, rcond=None)[0]

    def model(values: NDArray, inputs: NDArray) -> NDArray:
        return values[0] + values[1] * np.tanh(inputs @ values[2:])

    def residual(values: NDArray) -> NDArray:
        return np.concatenate([model(values, x) - target, math.sqrt(_RIDGE * len(x)) * spread * values[2:]])

    start = np.concatenate([[line[-1], spread], line[:-1] / spread])
    found = least_squares(residual, start, method="lm", max_nfev=300).x
    scores = [r_squared(model(found, w[rows]), y[rows]) for rows in (~is_held_out, is_held_out)]
    return found[2:], scores[0], scores[1]


def _line(number: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts of values, (R, V), by the number, (R,)."""
    centred = number - number.mean()
    slope = (centred.unsqueeze(1) * values).sum(0) / centred.square().sum().clamp(min=1e-12)
    return slope, values.mean(0) - slope * number.mean()


def _tanh_of_sum(weights: NDArray, names: tuple[str, ...]) -> Node:
    total: Node = Number(0.0)
    for weight, name in zip(weights, names, strict=True):
        if weight:
            total = Apply("+", (total, Apply("*", (Number(float(weight)), Input(name)))))
    return Apply("tanh", (simplified(total),))
