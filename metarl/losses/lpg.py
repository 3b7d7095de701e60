"""Learned policy gradient: a recurrent rule that says, step by step, where actions and value predictions should go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.losses.hand_designed import HandDesigned
from metarl.losses.support import Support, credit, relative_to_step, standardised
from metarl.nets.distributions import Embedded, PolicyOutput
from metarl.nets.gru_cell import gru_inputs, gru_step, initial_gru_cell

_LARGEST_REWARD = 20.0
_LARGEST_LOG_PROB = 3.0
_NUM_INPUTS = 7


class Targets(NamedTuple):
    """What the rule wants of M steps.

    Attributes:
        action: (M,), pi_hat, of mean 0 and at most unit deviation; the action becomes likelier where it is positive.
        log_value: (M, Y), logarithm of y_hat, a distribution over the Y entries of the value prediction.
    """

    action: Tensor
    log_value: Tensor


@dataclass(frozen=True)
class LPG:
    """L = -E[log pi(a|s) pi_hat] + alpha_y E[KL(y_hat || y(s))], with pi_hat and y_hat from a GRU that runs backwards.

    y(s), the value prediction, is a softmax over Y further outputs of the policy's network; what it means is up to
    the rule. The GRU runs from the last step of each episode to the first and starts anew at its end. Of a step it
    reads [reward, reward against that of the task's other episodes, 1 - ended, discount, log pi(a|s), emb(y(s)),
    emb(y(s'))], and no gradient flows through these, to the policy or from later updates to the rule. Nothing depends
    on the sizes of observation and action.

    Source: Oh et al. 2020, eq. 2 and 3, and the code of Jackson et al. 2023 (GROOVE). Deviations:
        log pi(a|s) per number of the action, bounded by 3 tanh(. / 3), where they read pi(a|s) of discrete actions:
        a density has no bound and grows with the action's size.
        pi_hat is the advantage by the given reward, as in plain policy gradient, plus c tanh(. / c) of the rule; and
        standardised over the batch, where they penalise its square in the meta-objective. So a young rule is policy
        gradient, and step sizes alone say how far an update goes: a rule that wants the same of all steps cannot drive
        a policy away. Entropies of policy and y, and y_hat, are not penalised.
        It reads the reward also as the deviation from the mean over the task's episodes at the same step: within ten
        updates there is no time to learn values that could be the baseline.
        alpha_y = 0.05, where they have 0.5: y shares the hidden layers of the policy.
        KL(y_hat || y), that of a likelihood, where their eq. 2 has KL(y || y_hat).
        emb(y(s')) is 0 after the last step of an episode, also at a time limit: no state is recorded after it.
        One network has both outputs, with the step sizes of its layers, where they have two.
        GRU of 32 units and Y = 8, where they have an LSTM or GRU of 256 and Y = 30 (GROOVE: 8).

    Attributes:
        reward: what is read as reward.
        horizon: H.
        discount: is read as it is.
        bound: c.
        hidden_dim: D of the GRU.
        num_extra_outputs: Y.
        value_weight: alpha_y.
    """

    reward: HandDesigned
    horizon: int
    discount: float
    bound: float = 1.0
    hidden_dim: int = 32
    num_extra_outputs: int = 8
    value_weight: float = 0.05

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of the reward."""
        return self.reward.signals

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the GRU reads of a step."""
        return ("reward", "relative_reward", "continues", "discount", "log_prob", "value", "next_value")

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the rule; what it wants is small to begin with."""

        def uniform(rows: int, columns: int, gain: float = 1.0) -> Tensor:
            bound = gain * math.sqrt(6 / (rows + columns))
            return bound * (2 * torch.rand(rows, columns, generator=generator) - 1)

        width = 2 * self.num_extra_outputs
        cell = initial_gru_cell(_NUM_INPUTS, self.hidden_dim, generator)
        return {f"gru.{name}": value for name, value in cell.items()} | {
            "embed.0.weight": uniform(width, self.num_extra_outputs),
            "embed.0.bias": torch.zeros(width),
            "embed.1.weight": uniform(1, width),
            "action.weight": uniform(1, self.hidden_dim, 0.3),
            "value.weight": uniform(self.num_extra_outputs, self.hidden_dim, 0.3),
        }

    def __call__(
        self, parameters: Mapping[str, Tensor], policy: PolicyOutput, support: Support, step: Tensor
    ) -> Tensor:
        """See `metarl.losses.adaptive.InnerLoss`."""
        return self.towards(self.targets(parameters, policy, support, step), policy, support)

    def targets(
        self, parameters: Mapping[str, Tensor], policy: PolicyOutput, support: Support, step: Tensor
    ) -> Targets:
        """See `metarl.losses.adaptive.UpdateRule`."""
        assert isinstance(policy, Embedded)
        return self.rule(parameters, policy.extra.detach().softmax(-1), support)

    def rule(self, parameters: Mapping[str, Tensor], value: Tensor, support: Support) -> Targets:
        """What the rule wants, from the experience and the value predictions y(s), (M, Y), of its steps."""
        goes_on = self._goes_on(support)  # (H, E)
        cell = {name.removeprefix("gru."): v for name, v in parameters.items() if name.startswith("gru.")}
        projected = gru_inputs(cell, self._inputs(parameters, value, support, goes_on))  # (H, E, 3 D)
        hidden = projected.new_zeros(projected.shape[1], self.hidden_dim)
        states = []
        for inputs, stays in zip(projected.flip(0).unbind(), goes_on.flip(0).unbind(), strict=True):
            hidden = gru_step(cell, inputs, stays.unsqueeze(-1) * hidden)
            states.append(hidden)
        features = torch.stack(states[::-1]).flatten(0, 1)  # (M, D)
        action = (features @ parameters["action.weight"].mT).squeeze(-1)
        log_value = (features @ parameters["value.weight"].mT).log_softmax(-1)
        # pi_hat = A + c tanh(GRU / c): policy gradient and what was learned beside it
        decay = self.reward.discount * self.reward.gae_lambda
        usual = credit(self._reward(support) * (support.weight > 0), support.weight, self.horizon, decay)
        wanted = usual + self.bound * torch.tanh(action / self.bound)
        return Targets(standardised(wanted, support.weight), log_value)

    def towards(self, targets: Targets, policy: PolicyOutput, support: Support) -> Tensor:
        """See `metarl.losses.adaptive.UpdateRule`."""
        assert isinstance(policy, Embedded)
        objective = policy.log_prob(support.action) * targets.action
        # KL(y_hat || y) = sum y_hat (log y_hat - log y)
        difference = targets.log_value - policy.extra.log_softmax(-1)
        divergence = (targets.log_value.exp() * difference).sum(-1)
        return (support.weight * (self.value_weight * divergence - objective)).sum()

    def _reward(self, support: Support) -> Tensor:
        return self.reward.reward({}, support).clamp(-_LARGEST_REWARD, _LARGEST_REWARD)

    def _goes_on(self, support: Support) -> Tensor:
        """1 where an episode goes on after a step, else 0, (H, E)."""
        counts = (support.weight > 0).to(support.reward.dtype).unflatten(0, (self.horizon, -1))
        later = torch.cat([counts[1:], torch.zeros_like(counts[:1])])
        return later * (1 - support.ended.unflatten(0, (self.horizon, -1)))

    def _inputs(self, parameters: Mapping[str, Tensor], value: Tensor, support: Support, goes_on: Tensor) -> Tensor:
        """What the GRU reads, (H, E, 7)."""
        hidden = torch.tanh(value @ parameters["embed.0.weight"].mT + parameters["embed.0.bias"])
        embedding = (hidden @ parameters["embed.1.weight"].mT).squeeze(-1)
        reward = self._reward(support)
        relative = relative_to_step(reward, support.weight, self.horizon)
        size = support.action.shape[-1] if support.action.is_floating_point() else 1
        log_prob = _LARGEST_LOG_PROB * torch.tanh(support.log_prob / (_LARGEST_LOG_PROB * size))
        discount = torch.full_like(reward, self.discount)
        rows = torch.stack([reward, relative, 1 - support.ended, discount, log_prob, embedding], -1)
        rows = rows.unflatten(0, (self.horizon, -1))  # (H, E, 6)
        after = torch.cat([rows[1:, :, -1], torch.zeros_like(rows[:1, :, -1])]) * goes_on
        return torch.cat([rows, after.unsqueeze(-1)], -1)
