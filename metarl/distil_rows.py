"""What formulas are fitted to: the head of a loss on the experience of fresh policies, and what it credits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.distil_task import TaskNumber
from metarl.lives import LearnedCredit, Lives, head_inputs, typical
from metarl.losses.formula_encoding import TASK
from metarl.losses.head import LARGEST_INPUT
from metarl.losses.learned_reward import LearnedReward

_MAX_ROWS, _MAX_EPISODES = 20_000, 4
_SATURATED = 0.999


@dataclass(frozen=True)
class Rows:
    """Steps of whole episodes, in G blocks of H steps of E episodes on one task after one update; R = G H E.

    Attributes:
        x: (R, I), inputs.
        y: (R,), the head before its bound.
        counts: (R,) bool, not steps after an episode's end.
        names: of the inputs.
        decay: (G,), of later rewards; 0 where each step is judged for itself.
        is_held_out: (G,), blocks of tasks held out from the fit.
        horizon: H.
    """

    x: NDArray
    y: NDArray
    counts: NDArray
    names: tuple[str, ...]
    decay: NDArray
    is_held_out: NDArray
    horizon: int

    def where(self, chosen: NDArray) -> Rows:
        """Some of the blocks; `chosen` is (G,) bool."""
        groups = len(self.decay)

        def of(values: NDArray) -> NDArray:
            blocks = values.reshape(groups, -1, *values.shape[1:])[chosen]
            return blocks.reshape(-1, *values.shape[1:])

        return Rows(
            of(self.x),
            of(self.y),
            of(self.counts),
            self.names,
            self.decay[chosen],
            self.is_held_out[chosen],
            self.horizon,
        )

    def credited(self, values: NDArray) -> NDArray:
        """What steps are credited with if they are rewarded by values, (R, ...): sums of later ones, which decay, less
        their mean over the episodes at the same step. It is linear."""
        step = np.arange(self.horizon)
        ahead = step - step[:, None]
        decays = np.where(ahead >= 0, self.decay[:, None, None] ** np.maximum(ahead, 0), 0.0)  # (G, H, H)
        counts = self.counts.reshape(-1, *[1] * (values.ndim - 1))
        blocks = np.where(counts, values, 0.0).reshape(len(self.decay), self.horizon, -1)  # (G, H, E ...)
        later = (decays @ blocks).reshape(len(self.decay), self.horizon, -1, *values.shape[1:])
        present = counts.reshape(*later.shape[:3], *counts.shape[1:])
        mean = (present * later).sum(2, keepdims=True) / np.maximum(present.sum(2, keepdims=True), 1)
        return np.where(present, later - mean, 0.0).reshape(values.shape)


def sample_rows(credit: LearnedCredit, lives: Lives, task: TaskNumber | None, horizon: int, seed: int) -> Rows:
    """The head as it is on each task where formulas adapt by a number of the task, else that of the typical task.

    As many blocks are of the first half of the tasks as of the second, which is held out.
    """
    supports = lives.supports[:-1]
    inputs = torch.stack([head_inputs(credit, support) for support in supports])  # (K, B, M, I)
    inputs = inputs.clamp(-LARGEST_INPUT, LARGEST_INPUT)
    num_updates, num_tasks, num_steps, _ = inputs.shape
    losses = lives.losses if task is not None else [_repeated(typical(lives.loss), num_tasks)] * num_updates
    pairs = zip(losses, inputs, strict=True)
    value = torch.stack([torch.func.vmap(credit.head)(dict(loss), x) for loss, x in pairs])  # (K, B, M)
    names = tuple(credit.input_names)
    if task is not None:
        number = task.values.view(num_updates, num_tasks, 1, 1).expand(-1, -1, num_steps, 1)
        inputs, names = torch.cat([inputs, number], -1), (*names, TASK)
    decay = torch.zeros(num_updates, num_tasks, device=inputs.device)
    if isinstance(credit, LearnedReward):
        decay = torch.stack([torch.as_tensor(credit.decay(loss)).view(num_tasks) for loss in losses])
    present = torch.stack([support.weight > 0 for support in supports])
    share = (value.double() / credit.head.bound).clamp(-_SATURATED, _SATURATED)
    blocks = [
        part.unflatten(2, (horizon, -1))[:, :, :, :_MAX_EPISODES].flatten(0, 1).double().cpu().numpy()
        for part in (inputs, (credit.head.bound * torch.atanh(share)).unsqueeze(-1), present.unsqueeze(-1))
    ]  # (K B, H, E, ...)
    held_out = np.tile(np.arange(num_tasks) >= num_tasks // 2, num_updates)
    rng, at_most = np.random.default_rng(seed), max(1, _MAX_ROWS // blocks[1][0].size // 2)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(held_out == part))[:at_most] for part in (False, True)])
    x, y, counts = (block[chosen].reshape(-1, block.shape[-1]) for block in blocks)
    return Rows(
        x, y[:, 0], counts[:, 0] > 0, names, decay.flatten().double().cpu().numpy()[chosen], held_out[chosen], horizon
    )


def _repeated(loss: dict[str, Tensor], num_tasks: int) -> dict[str, Tensor]:
    return {name: value.expand(num_tasks, *value.shape) for name, value in loss.items()}
