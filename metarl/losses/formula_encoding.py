"""How a formula adapts to its task: one number of the task, itself in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.losses.expression import Node, evaluate
from metarl.losses.support import Support
from metarl.losses.task_encoding import feedback_model

TASK = "task"
"""What formulas call that number; also a parameter of the loss, (1,)."""


@dataclass(frozen=True)
class FormulaEncoding:
    """task = f(w), w the model of what feedback goes along with, in all batches so far (`feedback_model`).

    The loss's formula may read it. It also moves the decay of credit and all step sizes.

    Attributes:
        tree: f.
        input_names: of the entries of w, in their order.
        decay: what it adds to the logit of the decay, times the number.
        step_sizes: what it adds to the logarithm of step sizes, times the number.
    """

    tree: Node
    input_names: tuple[str, ...]
    decay: float
    step_sizes: float

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """It has none."""
        return {}

    def encode(self, parameters: Mapping[str, Tensor], supports: Sequence[Support]) -> Tensor:
        """The number, (1,), of one task after one or more batches of experience."""
        worth = feedback_model(supports)
        value = evaluate(self.tree, dict(zip(self.input_names, worth.unbind(), strict=True)))
        return value.to(worth.dtype).reshape(1)

    def encode_each(self, parameters: Mapping[str, Tensor], supports: Sequence[Support]) -> list[Tensor]:
        """The number after the first batch, after the first two, and so on."""
        return [self.encode(parameters, supports[: k + 1]) for k in range(len(supports))]

    def modulate(
        self, parameters: Mapping[str, Tensor], loss: Mapping[str, Tensor], log_step_size: Tensor, encoding: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The loss's parameters and the logarithms of step sizes for one task; see `TaskEncoding.modulate`."""
        adapted = dict(loss) | {TASK: encoding}
        if "decay" in adapted:
            adapted["decay"] = adapted["decay"] + self.decay * encoding
        return adapted, log_step_size + self.step_sizes * encoding
