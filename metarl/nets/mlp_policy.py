"""The policy of the gradient learners: an MLP whose parameters are given, one set per task or one for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metarl.nets.distributions import ActionDistribution, Categorical, Embedded, Gaussian, PolicyOutput
from metarl.nets.mlp import glorot_mlp, mlp
from metarl.types import ActionSpace, Continuous

Parameters = Mapping[str, Tensor]
"""Name -> tensor. A leading dimension B makes them the parameters of B tasks."""

CONTEXT = "context"
"""The parameters that are read like a part of the observation (Zintgraf et al. 2019)."""

_ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
_MIN_LOG_STD = math.log(1e-6)


class MLPPolicy:
    """Maps parameters and observations to action distributions; keeps no parameters of its own.

    Parameters are `layers.I.weight` (D_out, D_in), `layers.I.bias` (D_out,), for continuous actions `log_std`
    (A,), and `context` (C,) where there is one. Any of them may have a leading dimension B while others do not.

    Args:
        obs_dim: O.
        action_space: what the policy chooses from.
        hidden_dims: widths of the hidden layers.
        activation: "tanh" or "relu".
        context_dim: C, numbers appended to each observation; 0 for none.
        initial_std: standard deviation of continuous actions at the start.
        num_extra_outputs: Y, outputs of the last layer beside those of the actions; see `output`.
    """

    def __init__(
        self,
        obs_dim: int,
        action_space: ActionSpace,
        hidden_dims: Sequence[int],
        activation: str = "tanh",
        context_dim: int = 0,
        initial_std: float = 1.0,
        num_extra_outputs: int = 0,
    ):
        self.is_continuous = isinstance(action_space, Continuous)
        self.action_dim = action_space.input_dim
        self.dims = [obs_dim + context_dim, *hidden_dims, self.action_dim + num_extra_outputs]
        self.num_extra_outputs = num_extra_outputs
        self.context_dim = context_dim
        self.initial_std = initial_std
        self._activation = _ACTIVATIONS[activation]

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw parameters: weights as of Glorot and Bengio (2010), zero biases; float32 on the CPU."""
        parameters = glorot_mlp(self.dims, generator)
        if self.is_continuous:
            parameters["log_std"] = torch.full((self.action_dim,), math.log(self.initial_std))
        if self.context_dim:
            parameters[CONTEXT] = torch.zeros(self.context_dim)
        return parameters

    def head(self) -> tuple[str, ...]:
        """The names of the last layer's parameters."""
        last = len(self.dims) - 2
        return (f"layers.{last}.weight", f"layers.{last}.bias")

    def distribution(self, parameters: Parameters, obs: Tensor) -> ActionDistribution:
        """The action distribution in M states of one task, (M, ...), or of each of B tasks, (B, M, ...).

        Args:
            parameters: of one task, or with a leading dimension B.
            obs: (M, O), or (B, M, O).
        """
        return self._actions(parameters, self._outputs(parameters, obs)[..., : self.action_dim])

    def output(self, parameters: Parameters, obs: Tensor) -> PolicyOutput:
        """The action distribution, with the extra outputs where there are some; see `distribution`."""
        if not self.num_extra_outputs:
            return self.distribution(parameters, obs)
        outputs, extra = self._outputs(parameters, obs).split([self.action_dim, self.num_extra_outputs], -1)
        return Embedded(self._actions(parameters, outputs), extra)

    def _outputs(self, parameters: Parameters, obs: Tensor) -> Tensor:
        features = obs
        if self.context_dim:
            context = parameters[CONTEXT].unsqueeze(-2)  # (..., 1, C)
            features = torch.cat([obs, context.expand(*obs.shape[:-1], self.context_dim)], -1)
        return mlp(parameters, features, self._activation)  # (..., M, D)

    def _actions(self, parameters: Parameters, outputs: Tensor) -> ActionDistribution:
        if not self.is_continuous:
            return Categorical(outputs)
        return Gaussian(outputs, parameters["log_std"].unsqueeze(-2).clamp(min=_MIN_LOG_STD))
