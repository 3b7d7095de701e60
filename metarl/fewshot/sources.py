"""Where tasks come from: a data set that is divided into parts, or a distribution that never runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from metarl.fewshot.data.pack import PackedData
from metarl.fewshot.sampler import EpisodeSampler, EpisodeShape
from metarl.fewshot.types import Episode


class EpisodeSource(Protocol):
    """What training and evaluation draw tasks from.

    Attributes:
        name: of the data set.
        x_shape: X, the shape of one sample.
        splits: names of its parts.
        is_regression: whether targets are numbers, (B, S, D) float32; then W is D.
    """

    @property
    def name(self) -> str: ...
    @property
    def x_shape(self) -> tuple[int, ...]: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def is_regression(self) -> bool: ...

    def num_classes(self, split: str) -> int:
        """How many classes a part has; 0 where targets are numbers."""
        ...

    def require(self, split: str, shape: EpisodeShape) -> None:
        """Refuse tasks that a part cannot give, as `sample` would."""
        ...

    def sample(
        self, split: str, shape: EpisodeShape, num_tasks: int, generator: torch.Generator, is_training: bool = False
    ) -> Episode:
        """Draw tasks; samples are augmented in training only. The generator lives on the CPU."""
        ...


class PackedSource:
    """Tasks of a packed data set.

    Args:
        data: the data set.
        device: where samples are kept.
        augment, prepare: as of `EpisodeSampler`.
    """

    is_regression = False

    def __init__(
        self,
        data: PackedData,
        device: torch.device | str = "cpu",
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.data, self._device, self._augment, self._prepare = data, device, augment, prepare
        self._samplers: dict[tuple[str, bool], EpisodeSampler] = {}
        self._x = data.x.to(device)
        self.x_shape = self.sampler(self.splits[0]).x_shape

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.data.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its parts."""
        return tuple(self.data.splits)

    def sampler(self, split: str, is_training: bool = False) -> EpisodeSampler:
        """What draws tasks from one part."""
        if (split, is_training) not in self._samplers:
            augment = self._augment if is_training else None
            made = EpisodeSampler(self.data, split, self._device, augment, self._prepare, x=self._x)
            self._samplers[split, is_training] = made
        return self._samplers[split, is_training]

    def num_classes(self, split: str) -> int:
        """See `EpisodeSource.num_classes`."""
        return self.sampler(split).num_classes

    def require(self, split: str, shape: EpisodeShape) -> None:
        """See `EpisodeSource.require`."""
        self.sampler(split).require(shape)

    def sample(
        self, split: str, shape: EpisodeShape, num_tasks: int, generator: torch.Generator, is_training: bool = False
    ) -> Episode:
        """See `EpisodeSource.sample`."""
        return self.sampler(split, is_training).sample(shape, num_tasks, generator)
