"""Encoders that the learners share: images, signals and features to vectors.

All are modules (N, *X) -> (N, D) that work under `torch.func.functional_call` and `torch.func.vmap` where `norm` is not
"running". Initial weights are torch's own distributions, drawn from a generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metarl.errors import ConfigError

Norm = Literal["batch", "running", "group", "none"]
"""How activations are normalised.

batch: by the statistics of the batch at hand, in training and afterwards (MAML); a query then sees the other queries.
running: by the batch in training, by running averages afterwards (Prototypical Networks); not for inner loops.
group: by each sample's own statistics, in groups of channels.
none: not at all.
"""

EncoderName = Literal["auto", "conv4", "conv4-strided", "conv1d", "mlp"]


@dataclass(frozen=True)
class EncoderSettings:
    """Settings that all few-shot learners have; theirs inherit from this."""

    encoder: EncoderName = "auto"
    """Network from a sample to its embedding; auto: conv4 for images, conv1d for signals, mlp for features."""
    hidden_dim: int = 64
    """Channels of a convolution, or units of a hidden layer."""
    norm: Norm = "batch"
    """Normalisation: batch (of the batch at hand, always), running (averages in evaluation), group or none."""

    def __post_init__(self) -> None:
        if self.hidden_dim < 1:
            raise ConfigError(f"hidden_dim must be positive, got {self.hidden_dim}.")
        if self.norm == "group" and self.hidden_dim % _NUM_GROUPS:
            raise ConfigError(f"norm group needs a hidden_dim that {_NUM_GROUPS} divides, got {self.hidden_dim}.")


_NUM_GROUPS = 8
_RANK = {"conv4": 3, "conv4-strided": 3, "conv1d": 2, "mlp": 1}
_AUTO = {3: "conv4", 2: "conv1d", 1: "mlp"}
_KIND = {3: "images (C, H, W)", 2: "signals (C, L)", 1: "features (F,)"}


def make_encoder(
    settings: EncoderSettings, x_shape: tuple[int, ...], generator: torch.Generator, *, num_halved: int = 4
) -> Encoder:
    """Make the encoder of a learner.

    Args:
        settings: of the learner.
        x_shape: X, the shape of one sample.
        generator: of the initial weights, on the CPU.
        num_halved: how many of the four blocks of an image encoder halve.

    Returns:
        A module with `embedding_dim`, D.

    Raises:
        ConfigError: an encoder that does not take such samples.
    """
    rank = len(x_shape)
    if rank not in _AUTO:
        raise ConfigError(f"samples must be (C, H, W), (C, L) or (F,), got shape {x_shape}.")
    name = _AUTO[rank] if settings.encoder == "auto" else settings.encoder
    if _RANK[name] != rank:
        fitting = ", ".join(n for n, r in _RANK.items() if r == rank)
        raise ConfigError(
            f"encoder {name} takes {_KIND[_RANK[name]]}, but samples here are {_KIND[rank]}. Available: {fitting}."
        )
    dim, norm = settings.hidden_dim, settings.norm
    encoder: Encoder
    if name == "mlp":
        encoder = Mlp(x_shape[0], dim, norm=norm)
    elif name == "conv1d":
        encoder = Conv1d(x_shape, dim, norm=norm)
    else:
        encoder = Conv4(x_shape, dim, norm=norm, is_strided=name == "conv4-strided", num_halved=num_halved)
    initialise(encoder, generator)
    return encoder


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation, ReLU and halving.

    Args:
        x_shape: (C, H, W).
        hidden_dim: channels of each block.
        norm: normalisation.
        is_strided: halve by a stride of two and average over space at the end, as MAML does on Omniglot (Finn et al.
            2017, section 5.2); else by 2x2 max-pooling (Vinyals et al. 2016), and the last map is flattened: 1x1 for
            28x28 images, 5x5 for 84x84.
        num_halved: how many of the blocks halve; Relation Networks halve two (Sung et al. 2018).

    Raises:
        ConfigError: images that are too small to be halved so often.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...],
        hidden_dim: int = 64,
        *,
        norm: Norm = "batch",
        is_strided: bool = False,
        num_halved: int = 4,
    ) -> None:
        super().__init__()
        channels, height, width = x_shape
        blocks: list[nn.Module] = []
        for index in range(4):
            is_halved = index < num_halved
            stride = 2 if is_halved and is_strided else 1
            inputs = channels if index == 0 else hidden_dim
            blocks += [nn.Conv2d(inputs, hidden_dim, 3, stride, padding=1), *norm_layers(hidden_dim, norm, 2)]
            if is_halved:
                rounded = 1 if is_strided else 0
                height, width = (height + rounded) // 2, (width + rounded) // 2
                blocks += [] if is_strided else [nn.MaxPool2d(2)]
            # The maximum of ReLUs is the ReLU of the maximum, on a quarter of the numbers.
            blocks.append(nn.ReLU())
        if min(height, width) < 1:
            raise ConfigError(f"images of {x_shape[1]}x{x_shape[2]} are too small to be halved {num_halved} times.")
        self.blocks = nn.Sequential(*blocks)
        self.is_averaged = is_strided
        self.map_shape = (hidden_dim, height, width)
        self.embedding_dim = hidden_dim if is_strided else hidden_dim * height * width

    def maps(self, x: Tensor) -> Tensor:
        """Feature maps (N, *map_shape) of images (N, C, H, W)."""
        return self.blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of images (N, C, H, W)."""
        maps = self.blocks(x)
        return maps.mean((-2, -1)) if self.is_averaged else maps.flatten(1)


class Conv1d(nn.Module):
    """Four blocks of convolution along time, normalisation, ReLU and max-pooling, then the mean over what is left.

    The mean lets it read signals of any length, and makes it blind to when in the window something happened.

    Args:
        x_shape: (C, L), channels and time steps.
        hidden_dim: channels of each block.
        norm: normalisation.
        kernel_size: steps that a convolution reaches over.

    Raises:
        ConfigError: signals that are too short to be halved four times.
    """

    def __init__(
        self, x_shape: tuple[int, ...], hidden_dim: int = 64, *, norm: Norm = "batch", kernel_size: int = 5
    ) -> None:
        super().__init__()
        channels, length = x_shape
        if length < 16:
            raise ConfigError(f"signals must have at least 16 steps to be halved four times, got {length}.")
        blocks: list[nn.Module] = []
        for index in range(4):
            convolution = nn.Conv1d(channels if index == 0 else hidden_dim, hidden_dim, kernel_size, padding="same")
            blocks += [convolution, *norm_layers(hidden_dim, norm, 1), nn.MaxPool1d(2), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.map_shape = (hidden_dim, length // 16)
        self.embedding_dim = hidden_dim

    def maps(self, x: Tensor) -> Tensor:
        """Feature maps (N, D, L // 16) of signals (N, C, L)."""
        return self.blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of signals (N, C, L)."""
        return self.blocks(x).mean(-1)


class Mlp(nn.Module):
    """Two hidden layers with normalisation and ReLU.

    Args:
        in_dim: F, features of a sample.
        hidden_dim: units of each layer.
        norm: normalisation.
    """

    def __init__(self, in_dim: int, hidden_dim: int = 64, *, norm: Norm = "batch") -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs in (in_dim, hidden_dim):
            blocks += [nn.Linear(inputs, hidden_dim), *norm_layers(hidden_dim, norm, 0), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.map_shape = (hidden_dim,)
        self.embedding_dim = hidden_dim

    def maps(self, x: Tensor) -> Tensor:
        """The embeddings (N, D): features have no maps."""
        return self.blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of features (N, F)."""
        return self.blocks(x)


Encoder = Conv4 | Conv1d | Mlp


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all linear, convolutional and recurrent layers again, from a generator.

    The distributions are torch's own: uniform in +-1 / sqrt(fan_in), of recurrent layers +-1 / sqrt(units).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            fan_in = layer.weight[0].numel()
        elif isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            fan_in = layer.hidden_size
        else:
            continue
        bound = 1 / math.sqrt(fan_in)
        with torch.no_grad():
            for parameter in layer.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)


def norm_layers(channels: int, norm: Norm, space_dims: int) -> list[nn.Module]:
    """The normalisation of activations (N, C, *space), at most one layer."""
    if norm == "none":
        return []
    if norm == "group":
        return [nn.GroupNorm(_NUM_GROUPS, channels)]
    batch_norm = nn.BatchNorm2d if space_dims == 2 else nn.BatchNorm1d
    return [batch_norm(channels, track_running_stats=norm == "running")]
