"""Decode images with pillow into bytes of one size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.errors import DataError


def decode(content: bytes, name: str, data_set: str, size: int, is_grey: bool) -> Tensor:
    """An image as (C, size, size) uint8, resized bilinearly; one channel where it is grey, else three.

    Raises:
        DataError: it is no image, or a damaged one; the message names it.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            converted = image.convert("L" if is_grey else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{data_set}: image {name} cannot be read ({error}). Use --skip-broken to go on without it."
        ) from error
    if converted.size != (size, size):
        converted = converted.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(converted)
    return torch.from_numpy(array.copy()).reshape(size, size, -1).permute(2, 0, 1)


def decode_all(
    names: Sequence[str], decode_one: Callable[[str], Tensor], skips_broken: bool
) -> tuple[Tensor, list[str]]:
    """Decode samples one by one.

    Args:
        names: of the files.
        decode_one: name -> tensor; raises DataError.
        skips_broken: leave out what cannot be read.

    Returns:
        The stacked samples, and the names that were read.

    Raises:
        DataError: a file is broken and `skips_broken` is not set, or all are.
    """
    samples, kept, last = [], [], None
    for name in names:
        try:
            samples.append(decode_one(name))
        except DataError as error:
            if not skips_broken:
                raise
            last = error
            continue
        kept.append(name)
    if not samples:
        raise last or DataError("there is no file to read.")
    return torch.stack(samples), kept
