"""Spoken digits: ten words by six speakers, 50 times each (Free Spoken Digit Dataset; CC BY-SA 4.0).

A sample is the logarithm of `NUM_MELS` mel bands over `NUM_FRAMES` moments of the word. What tells microphones, rooms
and speakers apart more than words is taken out: loudness, noise more than 45 dB below the loudest band, silence before
and after, the speed (the frames between are stretched to `NUM_FRAMES`), and the mean of each band over the word.

A group is a speaker. Two of the six speakers are the test, the others the training; `fold` says which two. With
`held_out` digits the training has none of them and the test has them alone.
"""

from __future__ import annotations

import io
import re
import wave
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metarl.errors import ConfigError, DataError, UnknownNameError
from metarl.fewshot.data.images import decode_all
from metarl.fewshot.data.pack import PackedData, Split, cached
from metarl.fewshot.data.source import Files, Remote, locate, open_files

_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
REMOTES = (
    Remote(
        "recordings.zip",
        f"https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/zip/{_COMMIT}",
        "content:99aa5e3a7c822ab55b2a3b47e0b05aeb9f011c54837a12e3831ad24108330829",
        r"\d_[a-z]+_\d+\.wav$",
    ),
)

RATE_HZ = 8000
NUM_MELS, NUM_FRAMES = 40, 48
DIGITS = tuple("0123456789")
_FRAME, _HOP, _FFT = 256, 64, 512
_PRE_EMPHASIS = 0.95
_RANGE_DB = 45.0
_SPEECH_SHARE = 0.4
"""A frame is part of the word where its mean level is so far from the quietest to the loudest one."""
_MARGIN = 3
"""Frames kept around the word."""
_LOW_HZ, _HIGH_HZ = 60.0, 3800.0
_SPEAKERS_IN_TEST = 2
_NUM_FOLDS = 3
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav$")


@dataclass(frozen=True)
class SpokenDigitsOptions:
    """Options of spoken digits."""

    fold: int = 0
    """Which two of the six speakers are the test: 0, 1 or 2."""
    held_out: tuple[str, ...] = ()
    """Digits that are in the test alone, such as 0 1 2 3 4; none: all are in training and test."""

    def __post_init__(self) -> None:
        if self.fold not in range(_NUM_FOLDS):
            raise ConfigError(f"fold must be 0, 1 or 2, got {self.fold}.")
        for digit in self.held_out:
            if digit not in DIGITS:
                raise UnknownNameError("digit", digit, DIGITS)
        if len(set(self.held_out)) > len(DIGITS) - 2:
            raise ConfigError("at least two digits must be left to train on.")


def load(options: SpokenDigitsOptions, data_dir: Path | None = None, skips_broken: bool = False) -> PackedData:
    """Load spoken digits; a group is a speaker.

    Args:
        options: of the split.
        data_dir: folder with recordings.zip or what is in it; None: see `locate`.
        skips_broken: leave out recordings that cannot be read.

    Raises:
        DataError: files are missing or broken, or of another sampling rate.
    """
    folder = locate("spoken-digits", "spoken_digits", data_dir, REMOTES)
    files = open_files("spoken-digits", folder, (".wav",), [REMOTES[0].name], _NAME.pattern)
    key = {"skips_broken": skips_broken, "files": files.fingerprint}
    data = cached("spoken-digits", key, partial(_read, files, skips_broken))
    return replace(data, splits=_splits(data, options))


def _read(files: Files, skips_broken: bool) -> PackedData:
    x, kept = decode_all(files.names, lambda name: log_mel(recording(files.read(name), name)), skips_broken)
    matches = [match for name in kept if (match := _NAME.search(name))]
    speakers = sorted({match[2] for match in matches})
    return PackedData(
        name="spoken-digits",
        x=x,
        class_ids=torch.tensor([int(match[1]) for match in matches]),
        group_ids=torch.tensor([speakers.index(match[2]) for match in matches]),
        class_names=DIGITS,
        group_names=tuple(speakers),
        splits={},
    )


def recording(content: bytes, name: str) -> Tensor:
    """The samples of a WAV file, (T,) float32, the largest amplitude 1.

    Raises:
        DataError: it is no WAV file, of another rate or kind, or empty.
    """
    advice = "Use --skip-broken to go on without it."
    try:
        with wave.open(io.BytesIO(content)) as file:
            rate_hz, kind = file.getframerate(), (file.getnchannels(), 8 * file.getsampwidth())
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError, ValueError) as error:
        raise DataError(
            f"spoken-digits: recording {name} cannot be read ({error or 'it ends early'}). {advice}"
        ) from error
    if rate_hz != RATE_HZ:
        raise DataError(f"spoken-digits: recording {name} is sampled at {rate_hz} Hz, expected {RATE_HZ} Hz. {advice}")
    if kind != (1, 16):
        raise DataError(
            f"spoken-digits: recording {name} has {kind[0]} channels of {kind[1]} bits, expected 1 of 16. {advice}"
        )
    sound = torch.from_numpy(np.frombuffer(frames[: len(frames) // 2 * 2], dtype="<i2").astype(np.float32))
    if not len(sound):
        raise DataError(f"spoken-digits: recording {name} is empty. {advice}")
    return sound / sound.abs().max().clamp(min=1.0)


def log_mel(sound: Tensor) -> Tensor:
    """The features of a word: (T,) -> (NUM_MELS, NUM_FRAMES), natural logarithms without their mean over time."""
    sound = torch.cat([sound[:1], sound[1:] - _PRE_EMPHASIS * sound[:-1]])
    sound = torch.nn.functional.pad(sound, (0, max(0, 2 * _FRAME - len(sound))))
    frames = sound.unfold(0, _FRAME, _HOP) * torch.hann_window(_FRAME)  # (F, _FRAME)
    power = torch.fft.rfft(frames, n=_FFT).abs().square() @ mel_filters()  # (F, NUM_MELS)
    loudest = power.max().clamp(min=torch.finfo(power.dtype).tiny)
    mel = power.clamp(min=float(loudest) * 10 ** (-_RANGE_DB / 10)).log()
    loudness = mel.mean(1)  # (F,)
    threshold = loudness.min() + _SPEECH_SHARE * (loudness.max() - loudness.min())
    heard = (loudness >= threshold).nonzero()[:, 0]
    word = mel[max(0, int(heard[0]) - _MARGIN) : int(heard[-1]) + 1 + _MARGIN]
    stretched = torch.nn.functional.interpolate(word.mT.unsqueeze(0), NUM_FRAMES, mode="linear", align_corners=False)[0]
    return stretched - stretched.mean(1, keepdim=True)


def mel_filters() -> Tensor:
    """Triangles of equal width on the mel scale, 2595 log10(1 + f / 700), (bins, NUM_MELS)."""

    def mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz / 700)

    low, high = mel(torch.tensor([_LOW_HZ, _HIGH_HZ])).tolist()
    edges = torch.linspace(low, high, NUM_MELS + 2)  # mel
    of_bin = mel(torch.linspace(0, RATE_HZ / 2, _FFT // 2 + 1)).unsqueeze(1)  # (bins, 1)
    rising = (of_bin - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - of_bin) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def _splits(data: PackedData, options: SpokenDigitsOptions) -> dict[str, Split]:
    first = _SPEAKERS_IN_TEST * options.fold
    in_test = (data.group_ids >= first) & (data.group_ids < first + _SPEAKERS_IN_TEST)
    held_out = torch.tensor([name in options.held_out for name in data.class_names])[data.class_ids]  # (N,)
    judged = held_out if options.held_out else torch.ones_like(in_test)
    return {
        "train": Split((~in_test & ~held_out).nonzero()[:, 0]),
        "test": Split((in_test & judged).nonzero()[:, 0]),
    }
