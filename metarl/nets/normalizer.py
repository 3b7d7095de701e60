"""Running normalisation of observations and scaling of rewards."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningNormalizer(nn.Module):
    """Shift and scale to mean 0 and variance 1 over everything seen so far.

    The statistics change in `update` only, so that a rollout and the losses on it see the same numbers.

    Args:
        dim: size of the last dimension.
        clip: results are clipped to [-clip, clip].
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int, clip: float = 10.0):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Merge a batch, (..., dim), into the statistics (Chan et al. 1979, parallel variance)."""
        batch = values.reshape(-1, values.shape[-1]).to(torch.float64)
        batch_mean, batch_var, batch_count = batch.mean(0), batch.var(0, correction=0), len(batch)
        delta = batch_mean - self.mean
        total = self.count + batch_count
        square_sum = self.var * self.count + batch_var * batch_count
        self.var.copy_((square_sum + delta.square() * self.count * batch_count / total) / total)
        self.mean += delta * batch_count / total
        self.count.copy_(total)

    def forward(self, values: Tensor) -> Tensor:
        scale = torch.rsqrt(self.var + 1e-8).to(torch.float32)
        return ((values - self.mean.to(torch.float32)) * scale).clamp(-self.clip, self.clip)


class RewardScaler(nn.Module):
    """Divide rewards by the standard deviation of their discounted sum, so that values are of order one.

    Rewards are not shifted: a shift would change what is optimal where episodes can end early.
    """

    square_mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("square_mean", torch.ones((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Merge a batch of discounted returns of any shape into the statistics."""
        batch = returns.to(torch.float64)
        total = self.count + batch.numel()
        variance = batch.var(correction=0) if batch.numel() > 1 else batch.square().mean()
        self.square_mean += (variance - self.square_mean) * batch.numel() / total
        self.count.copy_(total)

    def forward(self, reward: Tensor) -> Tensor:
        return reward * torch.rsqrt(self.square_mean + 1e-8).to(torch.float32)
