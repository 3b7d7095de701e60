"""MAML and its relatives: a network that a few inner steps of SGD fit to a task.

    theta_0 = theta                                            what is meta-learned
    theta_{k+1} = theta_k - alpha_k * grad L_inner(theta_k; support)      k = 0 ... K - 1
    loss = sum_k w_k L(theta_k; query)                         w = (0, ..., 0, 1) but for the multi-step loss

The relatives are settings:

| name | settings | source |
|---|---|---|
| maml | | Finn et al. 2017 |
| fomaml | `first_order` | Finn et al. 2017, section 5.2 |
| anil | `adapts="head"` | Raghu et al. 2020 |
| meta-sgd | `step_sizes="parameter"` | Li et al. 2017 |
| maml++ | `step_sizes="layer"`, `multi_step_share` > 0 | Antoniou et al. 2019 |
| proto-maml | `head="prototypes"` | Triantafillou et al. 2020 |
| ml3 | `inner_loss="ml3"` | Bechtle et al. 2020 |

Of MAML++ these are the multi-step loss and the step sizes; batch normalisation has no parameters for each step here.

As in the papers, batch normalisation uses the statistics of the batch at hand, and queries are one batch: predictions
of one query depend on the others (transduction).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.fewshot.inner_loop import StepSize, descend, is_alone
from metarl.fewshot.learners.gradient import GradientLearner, InnerSettings, Parameters, as_prediction
from metarl.fewshot.named_tensors import group, module_of
from metarl.fewshot.tasks import Examples, Task, class_shares, indicators, prediction_loss, query_metrics
from metarl.losses.ml3 import initial_ml3_loss, initial_weighted_error, ml3_loss, weighted_error


@dataclass(frozen=True)
class MAMLSettings(InnerSettings):
    """Settings of MAML; the defaults are those of Finn et al. 2017 for 5-way Omniglot."""

    step_sizes: Literal["fixed", "parameter", "layer"] = "fixed"
    """Step sizes of inner steps: inner_lr, one learned for each weight (Meta-SGD), or one learned for each layer's
    weight and bias and each step (MAML++)."""
    head: Literal["learned", "zero", "prototypes"] = "learned"
    """The last layer before the first inner step: meta-learned, zero, or made of the support's prototypes
    (Proto-MAML)."""
    inner_loss: Literal["task", "ml3", "weighted-error"] = "task"
    """What inner steps descend on: cross-entropy (squared error where targets are numbers), or a meta-learned loss."""
    multi_step_share: float = 0.0
    """Share of the training over which the loss moves from the mean over all inner steps to that after the last one;
    0: the last one from the start."""
    first_order_share: float = 0.0
    """Share of the training, from its start, in which inner gradients are taken as constants (MAML++'s annealing of the
    order of derivatives): with many shots such updates take about half the time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("multi_step_share", "first_order_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")


class MAML(GradientLearner):
    """Learner: what adapts, by which loss and with which steps are settings; see the module.

    Args:
        settings, x_shape, num_ways, generator: as of `GradientLearner`.
    """

    settings: MAMLSettings

    def __init__(
        self, settings: MAMLSettings, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
    ) -> None:
        super().__init__(settings, x_shape, num_ways, generator)
        self.progress = 0.0
        network = self.network
        if settings.head != "learned":
            network.head.requires_grad_(False)
            network.head.weight.zero_()
            network.head.bias.zero_()
        adapted = {name: value for name, value in network.named_parameters() if name in self.adapted_names}
        if settings.step_sizes == "parameter":
            self.step_size = module_of({name: torch.full_like(v, settings.inner_lr) for name, v in adapted.items()})
        elif settings.step_sizes == "layer":
            start = torch.full((max(1, settings.num_inner_steps),), settings.inner_lr)
            self.step_size = module_of(dict.fromkeys(adapted, start))
        if settings.inner_loss != "task":
            initial = {"ml3": initial_ml3_loss, "weighted-error": initial_weighted_error}[settings.inner_loss]
            self.learned_loss = module_of(initial(generator))

    def set_progress(self, progress: float) -> None:
        """See `FollowsProgress.set_progress`; the multi-step loss and the order of derivatives follow it."""
        self.progress = progress

    def task_loss(self, meta: Parameters, task: Task) -> tuple[Tensor, dict[str, Tensor]]:
        """See `GradientLearner.task_loss`."""
        path = self.path(meta, task.support, self.settings.num_inner_steps)
        judged = path[1:] if self.settings.multi_step_share and len(path) > 1 else path[-1:]
        predictions = [self.outputs(network, task.query.x) for network in judged]
        losses = [prediction_loss(prediction, task.query) for prediction in predictions]
        if len(losses) == 1:
            loss = losses[0]
        else:
            loss = (self.step_weights(len(losses), losses[0].device) * torch.stack(losses)).sum()
        return loss, query_metrics(predictions[-1], task.query)

    def task_prediction(self, meta: Parameters, task: Task, num_steps: int) -> Tensor:
        """See `GradientLearner.task_prediction`."""
        network = self.path(meta, task.support, num_steps)[-1]
        return as_prediction(self.outputs(network, task.query.x), task.query)

    @property
    def is_first_order(self) -> bool:
        """Whether inner gradients are constants, at this point of the training."""
        return self.settings.first_order or self.progress < self.settings.first_order_share

    def path(self, meta: Parameters, support: Examples, num_steps: int) -> list[dict[str, Tensor]]:
        """The network's parameters after 0 ... `num_steps` inner steps on one task."""
        start = group(meta, "network")
        if self.settings.head == "prototypes":
            start |= prototype_head(self.encode(start, support.x), support, len(start["head.bias"]))
        model, support = self.inner_problem(start, support)

        def loss(adapted: Parameters, examples: Examples) -> Tensor:
            return self.inner_loss(meta, model(adapted, examples.x), examples)

        adapted = {name: start[name] for name in self.adapted_names}
        sizes = partial(self.step_size_of, meta)
        is_transformed = not is_alone()
        path = descend(adapted, support, loss, sizes, num_steps, self.is_first_order, is_transformed)
        return [start | adapted for adapted in path]

    def step_size_of(self, meta: Parameters, step: int) -> StepSize:
        """The size of one inner step; steps beyond those that were meta-trained are like the last one."""
        if self.settings.step_sizes == "fixed":
            return self.settings.inner_lr
        sizes = group(meta, "step_size")
        if self.settings.step_sizes == "parameter":
            return sizes
        return {name: value[min(step, len(value) - 1)] for name, value in sizes.items()}

    def inner_loss(self, meta: Parameters, prediction: Tensor, examples: Examples) -> Tensor:
        """What inner steps descend on, () of one task."""
        if self.settings.inner_loss == "task":
            return prediction_loss(prediction, examples)
        return learned_prediction_loss(
            {"ml3": ml3_loss, "weighted-error": weighted_error}[self.settings.inner_loss],
            group(meta, "learned_loss"),
            prediction,
            examples,
        )

    def step_weights(self, count: int, device: torch.device | None = None) -> Tensor:
        """Weights of the losses after `count` inner steps, which sum to one.

        Those before the last fall from 1 / K to 0.03 / K over `multi_step_share` of the training, as in the released
        code of MAML++.
        """
        elapsed = min(1.0, self.progress / self.settings.multi_step_share)
        weights = torch.full((count,), max(1 - elapsed, 0.03) / count, device=device)
        weights[-1] = 1 - weights[:-1].sum()
        return weights


def prototype_head(embedding: Tensor, support: Examples, num_ways: int) -> dict[str, Tensor]:
    """The linear layer whose logits are minus squared distances to the prototypes, but for a constant of the query.

    -|z - c|^2 = 2 c z - |c|^2 - |z|^2 (Snell et al. 2017, eq. 8). Gradients of the meta-loss flow into the prototypes.

    Args:
        embedding: (S, Z) of the support of one task.
        support: its labels.
        num_ways: W.
    """
    share = class_shares(support, num_ways).to(embedding)  # (S, W)
    prototype = share.mT @ embedding  # (W, Z)
    return {"head.weight": 2 * prototype, "head.bias": -prototype.square().sum(-1)}


def learned_prediction_loss(function, parameters: Parameters, prediction: Tensor, examples: Examples) -> Tensor:
    """A learned loss of pairs of numbers, averaged over a task's examples.

    The pairs are probability and indicator of each class, so that the loss treats classes alike and fits any number of
    them; where targets are numbers, prediction and target.

    Args:
        function: of `metarl.losses.ml3`: (parameters, prediction (M, 1), target (M, 1)) -> ().
        parameters: of the loss.
        prediction: (M, W) logits, or (M, D) numbers.
        examples: of one task.
    """
    target = examples.y
    if not target.is_floating_point():
        target = indicators(target, prediction.shape[-1]).to(prediction)  # (M, W)
        prediction = prediction.softmax(-1)

    def of_example(prediction: Tensor, target: Tensor) -> Tensor:
        return function(parameters, prediction[:, None], target[:, None])

    return (examples.weight * torch.func.vmap(of_example)(prediction, target)).sum()
