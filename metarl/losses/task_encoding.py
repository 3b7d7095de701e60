"""A loss that adapts to its task: what was experienced before adaptation modulates the loss's parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.losses.support import Support, step_inputs

_LARGEST_INPUT = 20.0
_LARGEST_ENCODING = 2.0
_SMALLEST_STD = 1e-6
_SMALLEST_SPREAD = 1e-3
_RIDGE = 0.03
"""Of standardised inputs: told three things from two episodes, the model spreads what it cannot tell apart."""

STATISTICS = ("mean", "std")
"""Of encodings over tasks: measured, not learned."""


@dataclass(frozen=True)
class TaskEncoding:
    """phi(z) = (1 + b1 gamma(z)) phi + b2 beta(z), with z = mean e(x_t, x_{t+1} - x_t, |a|^2, r) + V w.

    The mean is over the first batch, of a policy that has not adapted, and says what the robot does. w says what the
    feedback goes along with, in all batches so far: a linear model of an episode's feedback from the means of
    (x_t, x_{t+1} - x_t, |a|^2) in it, see `feedback_model`. From it a loss can tell what pays on this task where
    feedback is too rare or too late to say so of a step; what it took for paying by mistake shows in later batches.

    z is standardised over tasks before it goes on, and nothing after it has a bias: what all tasks have in common is
    learned by phi alone, and the modulation is left with what they differ in. Beyond two deviations z counts as two, so
    that a task unlike all others is treated like the outermost of them. gamma and beta are one number for each row of a
    weight and each bias; weights without bias are only scaled, so that a loss that is zero by construction stays so.
    Learned step sizes are shifted in the logarithm, by b3 delta(z). b1, b2 and b3 are zero at the start: the loss is
    then the same for all tasks. The mean does not depend on the order of steps and episodes.

    Source: Baik et al. 2021, MeTAL, eq. 8 and 9; there the task's state is what the loss reads, here an encoding of it.

    Attributes:
        num_inputs: I, numbers of a step that are encoded.
        shapes: names and shapes of the loss's parameters.
        encoding_dim: Z.
        hidden_dim: width of both networks.
    """

    num_inputs: int
    shapes: Mapping[str, torch.Size]
    encoding_dim: int = 8
    hidden_dim: int = 32

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw parameters; the modulation is the identity."""

        def layer(rows: int, columns: int) -> Tensor:
            bound = math.sqrt(6 / (rows + columns))
            return bound * (2 * torch.rand(rows, columns, generator=generator) - 1)

        return {
            "encode.0.weight": layer(self.hidden_dim, self.num_inputs),
            "encode.0.bias": torch.zeros(self.hidden_dim),
            "encode.1.weight": layer(self.encoding_dim, self.hidden_dim),
            "feedback.weight": layer(self.encoding_dim, self.num_inputs - 1),
            "modulate.0.weight": layer(self.hidden_dim, self.encoding_dim),
            "modulate.1.weight": layer(2 * self._num_rows() + 1, self.hidden_dim),
            "strength": torch.zeros(3),
            "mean": torch.zeros(self.encoding_dim),
            "std": torch.ones(self.encoding_dim),
        }

    def encode(self, parameters: Mapping[str, Tensor], supports: Sequence[Support]) -> Tensor:
        """z, (Z,), of one task after one or more batches of experience."""
        return self._happened(parameters, supports[0]) + parameters["feedback.weight"] @ feedback_model(supports)

    def encode_each(self, parameters: Mapping[str, Tensor], supports: Sequence[Support]) -> list[Tensor]:
        """z, (Z,), of one task after its first batch, after its first two, and so on."""
        happened = self._happened(parameters, supports[0])
        models = [feedback_model(supports[: k + 1]) for k in range(len(supports))]
        return [happened + parameters["feedback.weight"] @ model for model in models]

    def _happened(self, parameters: Mapping[str, Tensor], first: Support) -> Tensor:
        inputs = step_inputs(first).clamp(-_LARGEST_INPUT, _LARGEST_INPUT)
        hidden = torch.tanh(inputs @ parameters["encode.0.weight"].mT + parameters["encode.0.bias"])
        return (first.weight.unsqueeze(-1) * (hidden @ parameters["encode.1.weight"].mT)).sum(0)

    def modulate(
        self, parameters: Mapping[str, Tensor], loss: Mapping[str, Tensor], log_step_size: Tensor, encoding: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The loss's parameters and the logarithms of step sizes, in the shape that they came in, for one task."""
        standard = ((encoding - parameters["mean"]) / parameters["std"]).clamp(-_LARGEST_ENCODING, _LARGEST_ENCODING)
        hidden = torch.tanh(standard @ parameters["modulate.0.weight"].mT)
        numbers = torch.tanh(hidden @ parameters["modulate.1.weight"].mT)
        gain, shift, pace = parameters["strength"].unbind()
        scales, shifts = (numbers[:-1].unflatten(0, (2, -1)) * torch.stack([gain, shift]).unsqueeze(1)).unbind()
        adapted, start = {}, 0
        for name, shape in self.shapes.items():
            rows = slice(start, start + shape[0])
            start += shape[0]
            scale = 1 + scales[rows]
            adapted[name] = scale * loss[name] + shifts[rows] if len(shape) == 1 else scale.unsqueeze(1) * loss[name]
        return adapted, log_step_size + pace * numbers[-1]

    def _num_rows(self) -> int:
        return sum(shape[0] for shape in self.shapes.values())


def feedback_model(supports: Sequence[Support]) -> Tensor:
    """What the feedback of an episode goes along with, (2 S + 1,): a linear model of it by ridge regression.

    It explains the sums of feedback of all episodes of the batches by the means of signals, their changes and effort in
    them, all standardised over the episodes. Where all episodes got the same feedback it is zero.

    Source: Efroni et al. 2021, reinforcement learning with trajectory feedback, section 3 (least squares over
    episodes); there features are visits of states and actions.
    """
    means = _standardised(torch.cat([support.episode_means for support in supports]))
    feedback = _standardised(torch.cat([support.episode_feedback for support in supports]))
    ridge = _RIDGE * torch.eye(means.shape[1], dtype=means.dtype, device=means.device)
    return torch.linalg.solve(means.mT @ means / len(means) + ridge, means.mT @ feedback / len(means))


def _standardised(values: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the first dimension; nearly constant ones stay small."""
    centred = values - values.mean(0)
    return centred * (centred.square().mean(0) + _SMALLEST_SPREAD**2).rsqrt()


def update_statistics(parameters: Mapping[str, Tensor], before: Tensor, after: Tensor, share: float) -> None:
    """Take the running statistics along with an encoding that learns, and towards those of a batch of tasks, in place.

    An encoder moves in one update by more than tasks differ, so statistics that only forget slowly would be those of
    encoders that are gone, and what all tasks have in common would hide what they differ in.

    Args:
        parameters: those of a `TaskEncoding`.
        before: (B, Z), of the tasks with the encoder that the statistics are of.
        after: (B, Z), of the same tasks with the encoder as it is now.
        share: of the batch in the new statistics.
    """
    if len(after) >= 2:
        parameters["mean"].add_(after.mean(0) - before.mean(0)).lerp_(after.mean(0), share)
        spread = after.std(0).clamp(min=_SMALLEST_STD)
        parameters["std"].mul_(spread / before.std(0).clamp(min=_SMALLEST_STD)).lerp_(spread, share)
