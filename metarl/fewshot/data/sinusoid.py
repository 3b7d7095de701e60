"""Sines of unknown amplitude and phase, a few points of which are given (Finn et al. 2017, section 5.1).

Amplitude uniform in [0.1, 5], phase in [0, pi] rad, input in [-5, 5]: y = amplitude sin(x - phase). Every split draws
from the same distribution; training, validation and test differ by their generators alone, and tasks never come twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.errors import ConfigError, UnknownNameError
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.types import Episode
from metarl.losses.sines import sample_sines


@dataclass(frozen=True)
class SinusoidOptions:
    """Options of sines."""

    min_amplitude: float = 0.1
    """Smallest amplitude."""
    max_amplitude: float = 5.0
    """Largest amplitude."""

    def __post_init__(self) -> None:
        if not 0 < self.min_amplitude <= self.max_amplitude < math.inf:
            raise ConfigError(f"amplitudes must be positive, got {self.min_amplitude} to {self.max_amplitude}.")


class SinusoidSource:
    """Tasks of `shots` support and `queries` query points; `EpisodeShape.ways` must be 1.

    Args:
        options: the ranges.
        device: of the tasks.
    """

    name = "sinusoid"
    x_shape = (1,)
    splits = ("train", "validation", "test")
    is_regression = True

    def __init__(self, options: SinusoidOptions, device: torch.device | str = "cpu") -> None:
        self._options, self._device = options, device

    def num_classes(self, split: str) -> int:
        """See `EpisodeSource.num_classes`."""
        return 0

    def require(self, split: str, shape: EpisodeShape) -> None:
        """See `EpisodeSource.require`."""
        if split not in self.splits:
            raise UnknownNameError("split of sinusoid", split, self.splits)
        if shape.ways != 1 or shape.unknown_queries or shape.min_shots or shape.pairing != "any":
            raise ConfigError("a sine has no classes: ways must be 1, without unknown queries, min_shots and pairing.")

    def sample(
        self, split: str, shape: EpisodeShape, num_tasks: int, generator: torch.Generator, is_training: bool = False
    ) -> Episode:
        """See `EpisodeSource.sample`; targets are (B, S, 1) and (B, Q, 1) float32."""
        self.require(split, shape)
        points = sample_sines(
            num_tasks,
            generator,
            num_points=shape.shots + shape.queries,
            amplitude=(self._options.min_amplitude, self._options.max_amplitude),
            phase_rad=(0.0, math.pi),
            input_rad=(-5.0, 5.0),
        )

        def part(chosen: slice) -> tuple[Tensor, Tensor, Tensor]:
            x, y = (value[:, chosen].to(self._device) for value in (points.input, points.target))
            return x, y, torch.ones(x.shape[:2], dtype=torch.bool, device=self._device)

        return Episode(*part(slice(shape.shots)), *part(slice(shape.shots, None)), num_ways=1)

    def class_names(self, split: str, shape: EpisodeShape, generator: torch.Generator) -> tuple[str, ...]:
        """See `EpisodeSource.class_names`."""
        return ()
