"""ML3 for control: a loss of observation and action that policies descend on through their mean action."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import elu, softplus

from metarl.errors import ConfigError
from metarl.losses.support import Support
from metarl.nets.distributions import ActionDistribution, Gaussian
from metarl.types import Continuous
from metarl.worlds import Spec

_LARGEST_INPUT = 20.0


@dataclass(frozen=True)
class ML3Control:
    """L = E[softplus(M(s, mu(s), cost))], M with two ELU layers, mu the mean action of the policy.

    The gradient reaches the policy through mu alone: no likelihood, no credit for later rewards, no use of the actions
    that were taken. Observations and actions are absolute, so the loss fits one robot, with one meaning of each number.

    Source: Bechtle et al. 2020, ML3, eq. 4, and the reacher of their code. Deviations:
        The states are those that were visited; there they come from a learned model of the dynamics, through which the
        gradient flows as well.
        Policies are stochastic; their deviation is left as it is.
        Layers of 32 units, where they have 400. Inputs beyond +-20 count as that; they divide them by fixed scales.

    Attributes:
        obs_dim: O.
        action_dim: A.
        signals: ("log_distance",), the cost is then the distance to the goal in the state that is acted in; or none,
            it is then minus the reward of the step.
        hidden_dim: D.
    """

    obs_dim: int
    action_dim: int
    signals: tuple[str, ...]
    hidden_dim: int = 32

    @property
    def input_names(self) -> tuple[str, ...]:
        """What M reads of a step."""
        obs = (f"obs_{i}" for i in range(self.obs_dim))
        return (*obs, *(f"mean_action_{i}" for i in range(self.action_dim)), "goal_cost")

    @property
    def robot_parameters(self) -> tuple[str, ...]:
        """See `metarl.losses.adaptive.OneRobotLoss`."""
        return ("obs.weight", "action.weight")

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw M: weights as of Glorot and Bengio (2010), zero biases; its first layer stands in three parts."""
        width, num_inputs = self.hidden_dim, self.obs_dim + self.action_dim + 1

        def uniform(rows: int, columns: int, fan_in: int) -> Tensor:
            bound = math.sqrt(6 / (rows + fan_in))
            return bound * (2 * torch.rand(rows, columns, generator=generator) - 1)

        return {
            "obs.weight": uniform(width, self.obs_dim, num_inputs),
            "action.weight": uniform(width, self.action_dim, num_inputs),
            "cost.weight": uniform(width, 1, num_inputs),
            "hidden.0.bias": torch.zeros(width),
            "hidden.1.weight": uniform(width, width, width),
            "hidden.1.bias": torch.zeros(width),
            "out.weight": uniform(1, width, width),
        }

    def __call__(
        self, parameters: Mapping[str, Tensor], policy: ActionDistribution, support: Support, step: Tensor
    ) -> Tensor:
        """See `metarl.losses.adaptive.InnerLoss`."""
        assert isinstance(policy, Gaussian)
        return (support.weight * self.value(parameters, policy.mean, support)).sum()

    def value(self, parameters: Mapping[str, Tensor], action: Tensor, support: Support) -> Tensor:
        """The loss of taking actions, (M, A), in the states of the support, (M,) and positive."""
        cost = torch.expm1(support.before[:, 0]) if self.signals else -support.reward
        inputs = {"obs": support.obs, "action": action, "cost": cost.unsqueeze(-1)}
        hidden = parameters["hidden.0.bias"]
        for name, numbers in inputs.items():
            hidden = hidden + numbers.clamp(-_LARGEST_INPUT, _LARGEST_INPUT) @ parameters[f"{name}.weight"].mT
        hidden = elu(hidden)
        hidden = elu(hidden @ parameters["hidden.1.weight"].mT + parameters["hidden.1.bias"])
        return softplus(hidden @ parameters["out.weight"].mT).squeeze(-1)


def make_ml3_control(spec: Spec) -> ML3Control:
    """Make it for the robot of an environment.

    Raises:
        ConfigError: the actions are discrete.
    """
    if not isinstance(spec.action_space, Continuous):
        raise ConfigError(
            f"the loss ml3 reaches a policy through its mean action, and {spec.name} has discrete actions. "
            "Take --loss drift or lpg, or another --env."
        )
    given = () if spec.signals is None else spec.signals.names
    signals = tuple(name for name in ("log_distance",) if name in given)
    return ML3Control(spec.obs_dim, spec.action_space.dim, signals)
