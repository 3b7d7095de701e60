"""A loss with everything an inner update needs: credit, policy objective, adaptation to the task, step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.losses.drift import mirror_objective, ppo_drift
from metarl.losses.formula_encoding import FormulaEncoding
from metarl.losses.support import Support
from metarl.losses.task_encoding import TaskEncoding
from metarl.nets.distributions import ActionDistribution, Embedded, PolicyOutput
from metarl.nets.mlp_policy import Parameters

LOSS, ENCODING, OFFSET, STEP_SIZE = "loss.", "encoding.", "offset.", "log_step_size"

STEP_SIZE_GROUPS = ("hidden", "head", "log_std")
"""Parts of a policy whose step sizes are learned apart; they are there whatever its depth and its robot are."""


class InnerLoss(Protocol):
    """What a policy descends on; written for one task."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals of the environment that it reads, by name."""
        ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """All numbers that it reads of a step."""
        ...

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw its parameters; empty where it has none."""
        ...

    def __call__(
        self, parameters: Mapping[str, Tensor], policy: ActionDistribution, support: Support, step: Tensor
    ) -> Tensor:
        """A number to descend on.

        Args:
            parameters: its own.
            policy: of the parameters in question, in the states of the support, (M, ...).
            support: the experience.
            step: how many inner updates the task has had, scalar int64.
        """
        ...


@runtime_checkable
class UpdateRule(Protocol):
    """An inner loss that sets targets: for the actions, and for further outputs of the policy's network.

    The targets of an update are those that it sees before its first gradient step.
    """

    @property
    def num_extra_outputs(self) -> int:
        """Y, further outputs of the network; the policies that it is given are `Embedded`."""
        ...

    def targets(self, parameters: Mapping[str, Tensor], policy: PolicyOutput, support: Support, step: Tensor) -> Any:
        """What it wants; arguments as of `InnerLoss`."""
        ...

    def towards(self, targets: Any, policy: PolicyOutput, support: Support) -> Tensor:
        """A number to descend on, to come nearer to the targets."""
        ...


@runtime_checkable
class OneRobotLoss(Protocol):
    """An inner loss that reads absolute observations or actions and so fits the robot it was trained on alone."""

    @property
    def robot_parameters(self) -> tuple[str, ...]:
        """Those of its parameters whose shapes are the robot's."""
        ...


class Credit(Protocol):
    """Says how good each step was; the objective of the policy is somebody else's."""

    @property
    def signals(self) -> tuple[str, ...]:
        """See `InnerLoss`."""
        ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """See `InnerLoss`."""
        ...

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """See `InnerLoss`."""
        ...

    def advantage(self, parameters: Mapping[str, Tensor], support: Support, step: Tensor) -> Tensor:
        """How much better than usual each step was, (M,)."""
        ...


Objective = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""(parameters, log ratio (M,), advantage (M,)) -> what the policy ascends on, (M,)."""


def log_prob_objective(parameters: Mapping[str, Tensor], log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """log pi(a|s) A up to a constant: its gradient is the policy gradient."""
    return log_ratio * advantage


def clipped_objective(parameters: Mapping[str, Tensor], log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """PPO's clipped surrogate."""
    return mirror_objective(log_ratio, torch.zeros_like(log_ratio), advantage, ppo_drift)


@dataclass(frozen=True)
class PolicyGradientLoss:
    """L = -E[objective(log pi - log pi_old, A)] with A from a `Credit`.

    Attributes:
        credit: where A comes from.
        objective: what is made of it.
    """

    credit: Credit
    objective: Objective = log_prob_objective

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of the credit."""
        return self.credit.signals

    @property
    def input_names(self) -> tuple[str, ...]:
        """Those of the credit."""
        return self.credit.input_names

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Those of the credit."""
        return self.credit.initial_parameters(generator)

    def __call__(
        self, parameters: Mapping[str, Tensor], policy: ActionDistribution, support: Support, step: Tensor
    ) -> Tensor:
        """See `InnerLoss`."""
        log_ratio = policy.log_prob(support.action) - support.log_prob
        advantage = self.credit.advantage(parameters, support, step)
        return -(support.weight * self.objective(parameters, log_ratio, advantage)).sum()


class AdaptiveLoss:
    """An inner loss, how it adapts to a task, and the sizes of its steps, as functions of their meta-parameters.

    Meta-parameters are `loss.NAME`, `encoding.NAME` where the loss adapts to the task, `offset.NAME` where offsets are
    learned, and `log_step_size`, (K, 3): one for each inner update and each of `STEP_SIZE_GROUPS`.

    Args:
        inner: the loss.
        num_steps: K, inner updates with a step size of their own; later ones take the last.
        step_size: at the start; one for all, or a row for each inner update, with a column for each of
            `STEP_SIZE_GROUPS`. Rows beyond K are left out, missing ones are like the last.
        num_epochs: gradient steps that an inner update makes on the same experience.
        adapts_to_task: let what a task gave so far modulate the loss, by a learned network or by `formula`.
        first_order: where a result is differentiated, take d theta_{k+1} / d theta_k for the identity: what a change of
            the loss does to one update is exact, what that does to the directions of later updates is left out.
        formula: how a loss that is a formula adapts, if it does.
        offset_shapes: shapes of a policy's parameters, to each of which an inner update adds an offset that is
            meta-learned and zero at the start (Yang et al. 2019, NoRML, eq. 6); None for no offsets. With offsets the
            loss fits policies of these shapes alone.
    """

    def __init__(
        self,
        inner: InnerLoss,
        num_steps: int,
        step_size: float | Sequence[Sequence[float]],
        num_epochs: int = 1,
        adapts_to_task: bool = True,
        first_order: bool = False,
        offset_shapes: Mapping[str, torch.Size] | None = None,
        formula: FormulaEncoding | None = None,
    ):
        self.inner = inner
        self.num_steps = num_steps
        self.num_epochs = num_epochs
        self.first_order = first_order
        self.offset_shapes = dict(offset_shapes or {})
        rows = [[step_size] * len(STEP_SIZE_GROUPS)] if isinstance(step_size, int | float) else [*step_size]
        logarithms = [[math.log(size) for size in row] for row in rows]
        self._log_step_size = torch.tensor([logarithms[min(k, len(rows) - 1)] for k in range(num_steps)])
        shapes = {name: value.shape for name, value in inner.initial_parameters(torch.Generator()).items()}
        self.encoding: TaskEncoding | FormulaEncoding | None = None
        if adapts_to_task and shapes:
            self.encoding = formula or TaskEncoding(2 * len(inner.signals) + 2, shapes)

    @property
    def fits_one_robot(self) -> bool:
        """Whether it is of no use on another robot than that it was trained on."""
        return bool(self.offset_shapes) or isinstance(self.inner, OneRobotLoss)

    def require_robot(self, meta: Parameters) -> None:
        """Refuse meta-parameters that were trained on a robot, or with policies, of other shapes.

        Raises:
            ConfigError: they were; losses that fit any robot never are.
        """
        bound = self.inner.robot_parameters if isinstance(self.inner, OneRobotLoss) else ()
        expected = self.initial_parameters(torch.Generator())
        for name in (*(LOSS + name for name in bound), *(OFFSET + name for name in self.offset_shapes)):
            if name not in meta or meta[name].shape != expected[name].shape:
                got = tuple(meta[name].shape) if name in meta else "missing"
                raise ConfigError(
                    f"this loss fits the robot and the policies that it was trained on alone: {name} is {got}, "
                    f"this robot needs {tuple(expected[name].shape)}. Train it here, or take a loss that fits any "
                    "robot: reward, potential, advantage without offset, drift or lpg."
                )

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the meta-parameters."""
        parameters = {LOSS + name: value for name, value in self.inner.initial_parameters(generator).items()}
        if self.encoding is not None:
            drawn = self.encoding.initial_parameters(generator)
            parameters |= {ENCODING + name: value for name, value in drawn.items()}
        parameters |= {OFFSET + name: torch.zeros(shape) for name, shape in self.offset_shapes.items()}
        return parameters | {STEP_SIZE: self._log_step_size.clone()}

    def of_task(self, meta: Parameters, supports: Sequence[Support]) -> tuple[dict[str, Tensor], Tensor]:
        """The loss's parameters and the logarithms of step sizes, (K, 3), for the task that batches were taken on.

        Offsets are among the parameters, as `offset.NAME`.
        """
        if self.encoding is None:
            return self.of_typical_task(meta)
        return self._modulated(meta, self.encoding.encode(encoding_parameters(meta), supports))

    def of_lifetime(self, meta: Parameters, supports: Sequence[Support]) -> list[tuple[dict[str, Tensor], Tensor]]:
        """The same for each update of a task, after the first batch, after the first two, and so on."""
        if self.encoding is None:
            return [self.of_typical_task(meta)] * len(supports)
        return [self._modulated(meta, z) for z in self.encoding.encode_each(encoding_parameters(meta), supports)]

    def of_typical_task(self, meta: Parameters) -> tuple[dict[str, Tensor], Tensor]:
        """The same for a task with the mean encoding: nothing is modulated."""
        offsets = {OFFSET + name: meta[OFFSET + name] for name in self.offset_shapes}
        loss = {name.removeprefix(LOSS): value for name, value in meta.items() if name.startswith(LOSS)}
        return loss | offsets, meta[STEP_SIZE]

    def _modulated(self, meta: Parameters, encoding: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        assert self.encoding is not None
        loss, log_step_size = self.of_typical_task(meta)
        adapted, log_step_size = self.encoding.modulate(encoding_parameters(meta), loss, log_step_size, encoding)
        return loss | adapted, log_step_size

    def encode(self, meta: Parameters, supports: Sequence[Support]) -> Tensor:
        """The task encoding of batches, (Z,); only for a loss that adapts to its task."""
        assert self.encoding is not None
        return self.encoding.encode(encoding_parameters(meta), supports)

    def update(
        self,
        loss: Parameters,
        log_step_size: Tensor,
        policy: Parameters,
        support: Support,
        step: Tensor,
        distribution: Callable[[Parameters, Tensor], PolicyOutput],
    ) -> dict[str, Tensor]:
        """One inner update of one task's policy: theta - alpha_k gradient, `num_epochs` times, and the offset once.

        Args:
            loss, log_step_size: of the task.
            policy: theta.
            support: the experience.
            step: how many updates the task has had.
            distribution: (theta, observations) -> action distribution, with extra outputs where the loss uses them.
        """

        inner_loss = self._descent(loss, policy, support, step, distribution)
        # A sum and not an index: an index of a batch of tasks has no batched second derivative that is quick.
        chosen = torch.arange(self.num_steps, device=step.device) == step.clamp(max=self.num_steps - 1)
        sizes = (chosen.unsqueeze(1) * log_step_size).sum(0).exp()  # (3,)
        step_size = dict(zip(STEP_SIZE_GROUPS, sizes.unbind(), strict=True))
        groups = step_size_groups(policy)
        theta = dict(policy)
        for _ in range(self.num_epochs):
            at = {name: value.detach() for name, value in theta.items()} if self.first_order else theta
            gradient = torch.func.grad(inner_loss)(at)
            theta = {name: value - step_size[groups[name]] * gradient[name] for name, value in theta.items()}
        return theta | {name: theta[name] + loss[OFFSET + name] for name in self.offset_shapes}

    def _descent(
        self,
        loss: Parameters,
        policy: Parameters,
        support: Support,
        step: Tensor,
        distribution: Callable[[Parameters, Tensor], PolicyOutput],
    ) -> Callable[[dict[str, Tensor]], Tensor]:
        """What an inner update descends on, as a function of theta."""
        if isinstance(self.inner, UpdateRule):
            rule = self.inner
            targets = rule.targets(loss, distribution(policy, support.obs), support, step)
            return lambda theta: rule.towards(targets, distribution(theta, support.obs), support)

        def inner_loss(theta: dict[str, Tensor]) -> Tensor:
            output = distribution(theta, support.obs)
            return self.inner(loss, output.actions if isinstance(output, Embedded) else output, support, step)

        return inner_loss


def encoding_parameters(meta: Parameters) -> dict[str, Tensor]:
    """Those of the task encoding among the meta-parameters."""
    return {name.removeprefix(ENCODING): value for name, value in meta.items() if name.startswith(ENCODING)}


def step_size_groups(policy: Parameters) -> dict[str, str]:
    """Which of `STEP_SIZE_GROUPS` each parameter of an `MLPPolicy` belongs to."""
    last = max(int(name.split(".")[1]) for name in policy if name.startswith("layers."))
    of_head = {f"layers.{last}.weight", f"layers.{last}.bias"}
    return {name: name if name == "log_std" else "head" if name in of_head else "hidden" for name in policy}
