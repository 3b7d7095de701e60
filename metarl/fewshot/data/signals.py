"""What becomes of signals between a packed data set and a learner: changes of training samples, and features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Standardised:
    """Numbers as deviations from the mean of the training set, in its standard deviations.

    Attributes:
        mean, std: (C, 1), of each channel of samples (N, C, L).
    """

    mean: Tensor
    std: Tensor

    @staticmethod
    def to(x: Tensor) -> Standardised:
        """By the mean and deviation of each channel of (N, C, L)."""
        return Standardised(x.mean((0, 2)).unsqueeze(1), x.std((0, 2)).clamp(min=1e-6).unsqueeze(1))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, L) -> (N, C, L)."""
        return (x - self.mean.to(x.device)) / self.std.to(x.device)


def band_powers(x: Tensor, num_spectra: int, frame: int) -> Tensor:
    """Features of windows of a robot's signals, frame by frame (frames of `frame` steps, a quarter of one apart).

    Of the first `num_spectra` channels the logarithm of the amplitude spectrum, without the mean (Hann window); of all
    channels the mean; of the others the standard deviation.

    Args:
        x: (N, C, L).
        num_spectra: channels with a spectrum.
        frame: steps of a frame.

    Returns:
        (N, num_spectra (frame // 2 + 1) + C + (C - num_spectra), frames).
    """
    frames = x.unfold(-1, frame, frame // 4)  # (N, C, T, frame)
    mean = frames.mean(-1)  # (N, C, T)
    shaking = (frames - mean.unsqueeze(-1))[:, :num_spectra] * torch.hann_window(frame, device=x.device)
    spectrum = torch.fft.rfft(shaking).abs() / math.sqrt(frame)  # (N, spectra, T, bins)
    spectra = (spectrum + 1e-3).log().transpose(-1, -2).flatten(1, 2)  # (N, spectra bins, T)
    return torch.cat([spectra, mean, frames[:, num_spectra:].std(-1)], 1)


def warped(x: Tensor, generator: torch.Generator, stretch: float = 0.12, shift: float = 0.1) -> Tensor:
    """Stretch and shift spectra (N, F, T) along frequency and time, as if another person spoke, faster or later.

    Args:
        x: (N, F, T).
        generator: on the CPU.
        stretch: largest relative change of both lengths.
        shift: largest shift in halves of the whole length; along frequency a quarter of it.
    """
    drawn = 2 * torch.rand(4, len(x), generator=generator) - 1  # (4, N)
    transform = torch.zeros(len(x), 2, 3)
    transform[:, 0, 0], transform[:, 1, 1] = 1 + stretch * drawn[0], 1 + stretch * drawn[1]
    transform[:, 0, 2], transform[:, 1, 2] = shift * drawn[2], 0.25 * shift * drawn[3]
    grid = affine_grid(transform.to(x.device), [len(x), 1, *x.shape[1:]], align_corners=False)
    return grid_sample(x.unsqueeze(1), grid, padding_mode="border", align_corners=False).squeeze(1)
