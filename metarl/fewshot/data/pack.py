"""A data set as one file of tensors: what loaders make of images, sounds and logs, once, and everything else reads."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor

from metarl.errors import DataError, UnknownNameError
from metarl.fewshot.data.source import cache_folder
from metarl.files import reason, sync_folder, write_new

FORMAT_VERSION = 2
"""Of the packed files; raise it when loaders change what they make, and old caches are made anew."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Part of a data set.

    Attributes:
        samples: (n,) int64, which samples.
        quarter_turns: each image class counts as one class per entry, turned by so many quarters; (0,): upright only.
    """

    samples: Tensor
    quarter_turns: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class PackedData:
    """Samples with their class, and the group that each was recorded in.

    Attributes:
        name: of the data set.
        x: (N, *X), uint8 (0 to 255, read as 0 to 1) or float32.
        class_ids: (N,) int64, index into `class_names`.
        group_ids: (N,) int64, index into `group_names`: the run, the speaker or the drawer of a sample.
        class_names, group_names: what they are called.
        splits: parts by name.
    """

    name: str
    x: Tensor
    class_ids: Tensor
    group_ids: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    splits: Mapping[str, Split]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """X, the shape of one sample."""
        return tuple(self.x.shape[1:])

    def split(self, name: str) -> Split:
        """A part by name.

        Raises:
            UnknownNameError: no such part.
        """
        if name not in self.splits:
            raise UnknownNameError(f"split of {self.name}", name, self.splits)
        return self.splits[name]


def cached(name: str, key: Mapping[str, object], make: Callable[[], PackedData]) -> PackedData:
    """Read a packed data set from the cache, or make it and keep it.

    Args:
        name: of the data set.
        key: what the packed tensors depend on: fingerprint of the raw files, options of the loader.
        make: the loader.

    Raises:
        DataError: the cache cannot be written.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **key}, sort_keys=True, default=str)
    path = cache_folder() / "packed" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    if path.is_file():
        try:
            return load_pack(path)
        except DataError as error:
            logger.warning("%s It is made anew.", error)
    data = make()
    save_pack(path, data)
    return data


def save_pack(path: Path, data: PackedData) -> None:
    """Write a packed data set under a temporary name, then rename it.

    Raises:
        DataError: it cannot be written; what was there before is as it was.
    """
    tensors = {"x": data.x, "class_ids": data.class_ids, "group_ids": data.group_ids}
    tensors |= {f"split.{name}": split.samples for name, split in data.splits.items()}
    description = {
        "name": data.name,
        "class_names": data.class_names,
        "group_names": data.group_names,
        "quarter_turns": {name: split.quarter_turns for name, split in data.splits.items()},
    }
    content = save_safetensors({n: t.contiguous() for n, t in tensors.items()}, {"metarl": json.dumps(description)})
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        write_new(temporary, content)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write packed data {path}: {reason(error, cache_folder())}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_pack(path: Path) -> PackedData:
    """Read a packed data set.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["metarl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        turns = description["quarter_turns"]
        return PackedData(
            name=description["name"],
            x=tensors["x"],
            class_ids=tensors["class_ids"],
            group_ids=tensors["group_ids"],
            class_names=tuple(description["class_names"]),
            group_names=tuple(description["group_names"]),
            splits={name: Split(tensors[f"split.{name}"], tuple(turns[name])) for name in turns},
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"packed data {path} is damaged ({error}).") from error


def as_float(x: Tensor) -> Tensor:
    """Stored samples as float32: bytes from 0 to 255 become 0 to 1."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x.to(torch.float32)


def joined(parts: Mapping[str, Split], *names: str) -> Split:
    """Several parts as one; they must have the same turns."""
    chosen = [parts[name] for name in names]
    return Split(torch.cat([part.samples for part in chosen]).sort().values, chosen[0].quarter_turns)
