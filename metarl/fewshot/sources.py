"""Where tasks come from: a data set that is divided into parts, or a distribution that never runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from metarl.fewshot.data.pack import PackedData
from metarl.fewshot.sampler import EpisodeSampler, EpisodeShape, episode_of
from metarl.fewshot.types import Episode

_SAMPLES_AT_ONCE = 100
"""Whose features are computed in one batch; with Conv4 on a CPU larger ones took up to twice as long."""


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

    def class_names(self, split: str, shape: EpisodeShape, generator: torch.Generator) -> tuple[str, ...]:
        """What the classes of a task are called that `sample` would draw next; none where targets are numbers."""
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

    def class_names(self, split: str, shape: EpisodeShape, generator: torch.Generator) -> tuple[str, ...]:
        """See `EpisodeSource.class_names`; turned classes say by how much."""
        draw = self.sampler(split).draw(shape, 1, generator)
        ids, turns = draw.support_ids[0, : shape.ways], draw.support_turns[0, : shape.ways]
        names = (self.data.class_names[int(i)] for i in self.data.class_ids[ids])
        return tuple(f"{name}, {90 * int(turn)}°" if turn else name for name, turn in zip(names, turns, strict=True))


class FeatureSource:
    """The tasks of a packed data set with a function of each sample in its place, which is evaluated once.

    Tasks are those that the packed source draws from the same generator, without augmentation.

    Args:
        source: of the tasks.
        function: samples (N, *X) -> (N, *E), of each sample by itself.

    Attributes:
        x_shape: X, what the function reads.
    """

    is_regression = False

    def __init__(self, source: PackedSource, function: Callable[[Tensor], Tensor]) -> None:
        self._source, self._function = source, function
        self.name, self.splits, self.x_shape = source.name, source.splits, source.x_shape
        self._features: Tensor | None = None  # (M, *E), of the samples that were drawn so far
        self._rows = torch.full((len(source.data.x), 4), -1)  # (N, quarter turns), where those of a sample are

    def num_classes(self, split: str) -> int:
        """See `EpisodeSource.num_classes`."""
        return self._source.num_classes(split)

    def require(self, split: str, shape: EpisodeShape) -> None:
        """See `EpisodeSource.require`."""
        self._source.require(split, shape)

    def class_names(self, split: str, shape: EpisodeShape, generator: torch.Generator) -> tuple[str, ...]:
        """See `EpisodeSource.class_names`."""
        return self._source.class_names(split, shape, generator)

    def sample(
        self, split: str, shape: EpisodeShape, num_tasks: int, generator: torch.Generator, is_training: bool = False
    ) -> Episode:
        """See `EpisodeSource.sample`; samples of the episode are features (*E).

        Raises:
            ValueError: tasks to train on, which are augmented.
        """
        if is_training:
            raise ValueError("features of samples cannot be augmented: train on the samples.")
        sampler = self._source.sampler(split)

        def features(ids: Tensor, turns: Tensor) -> Tensor:
            return self._of(sampler, ids, turns)

        return episode_of(sampler.draw(shape, num_tasks, generator), features, shape.ways)

    @torch.no_grad()
    def _of(self, sampler: EpisodeSampler, ids: Tensor, turns: Tensor) -> Tensor:
        """(M,) indices and (M,) turns -> (M, *E)."""
        is_new = self._rows[ids, turns] < 0
        if bool(is_new.any()):
            new = torch.stack([ids[is_new], turns[is_new]], -1).unique(dim=0)  # (M', 2)
            parts = [self._function(sampler.samples(*part.unbind(-1))) for part in new.split(_SAMPLES_AT_ONCE)]
            known = [] if self._features is None else [self._features]
            start = sum(map(len, known))
            self._features = torch.cat([*known, *parts])
            self._rows[new[:, 0], new[:, 1]] = torch.arange(start, len(self._features))
        assert self._features is not None
        return self._features[self._rows[ids, turns].to(self._features.device)]
