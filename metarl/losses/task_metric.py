"""What trains an encoder to tell tasks apart: losses on embeddings whose tasks are known."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_power_loss(embeddings: Tensor, task_ids: Tensor, epsilon: float = 0.1) -> Tensor:
    """Draw embeddings of a task together and push those of different tasks apart, most where they are near.

    Source: Li et al. 2021, FOCAL, the inverse-power distance metric: |z_i - z_j|^2 for pairs of one task,
    1 / (|z_i - z_j|^2 + epsilon) for pairs of two tasks. Deviation: each of the two kinds is a mean over its pairs, so
    that their balance does not depend on how many tasks a batch has.

    Args:
        embeddings: (M, E), at least two of some task and two tasks.
        task_ids: (M,) int64.
        epsilon: bounds what a pair of different tasks can cost by 1 / epsilon.
    """
    distance = (embeddings.unsqueeze(0) - embeddings.unsqueeze(1)).square().sum(-1)  # (M, M)
    is_same = task_ids.unsqueeze(0) == task_ids.unsqueeze(1)
    is_pair = ~torch.eye(len(task_ids), dtype=torch.bool, device=task_ids.device)
    same, different = is_same & is_pair, ~is_same
    near = (distance * same).sum() / same.sum().clamp(min=1)
    far = (different / (distance + epsilon)).sum() / different.sum().clamp(min=1)
    return near + far


def prototypical_loss(support: Tensor, query: Tensor, task_ids: Tensor) -> Tensor:
    """Cross-entropy of finding the task of each query by the distance to the tasks' prototypes.

    Source: Snell et al. 2017, eq. 2: p(k | x) = softmax_k(-|z(x) - c_k|^2), c_k the mean of the support of task k.

    Args:
        support: (M, E).
        query: (M, E).
        task_ids: (M,) int64, of both.
    """
    unique, labels = task_ids.unique(return_inverse=True)  # (W,), (M,)
    belongs = (labels.unsqueeze(0) == torch.arange(len(unique), device=labels.device).unsqueeze(1)).to(support.dtype)
    prototypes = belongs @ support / belongs.sum(1, keepdim=True)  # (W, E)
    distance = (query.unsqueeze(1) - prototypes.unsqueeze(0)).square().sum(-1)  # (M, W)
    return torch.nn.functional.cross_entropy(-distance, labels)
