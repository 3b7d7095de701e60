"""mini-ImageNet: 100 classes of ImageNet, 600 images of each, 84 x 84 (Vinyals et al. 2016).

The images are under ImageNet's licence and cannot be downloaded here; who has them names their folder:

    train.csv val.csv test.csv images/*.jpg      as released by Ravi and Larochelle 2017: 64 / 16 / 20 classes, with the
                                                 columns filename,label
    train/n0*/*.jpg val/n0*/*.jpg test/n0*/*.jpg a folder per class
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import torch

from metarl.errors import ConfigError, DataError
from metarl.fewshot.data.images import decode, decode_all
from metarl.fewshot.data.pack import PackedData, Split, cached
from metarl.fewshot.data.source import Files, locate, open_files

NUM_CLASSES = {"train": 64, "validation": 16, "test": 20}
_PART = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class MiniImageNetOptions:
    """Options of mini-ImageNet."""

    image_size: int = 84
    """Pixels of a side."""

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise ConfigError(f"image_size must be at least 16 pixels, got {self.image_size}.")


def load(options: MiniImageNetOptions, data_dir: Path | None = None, skips_broken: bool = False) -> PackedData:
    """Load mini-ImageNet from images that the user has; all are of one group.

    Args:
        options: the size.
        data_dir: their folder, in one of the two layouts above; None: see `locate`.
        skips_broken: leave out images that cannot be read.

    Raises:
        DataError: there are no images, or other classes than in the split, or a broken one.
    """
    folder = locate("mini-imagenet", "mini-imagenet", data_dir, ())
    if not folder.is_dir():
        raise DataError(
            "mini-imagenet: the images are under ImageNet's licence and cannot be downloaded. Name the folder of your "
            "copy with --data-dir: train.csv, val.csv, test.csv and images/, or train/CLASS/, val/CLASS/, test/CLASS/."
        )
    files = open_files("mini-imagenet", folder, (*_IMAGES, ".csv"), ())
    key = {"size": options.image_size, "skips_broken": skips_broken, "files": files.fingerprint}
    return cached("mini-imagenet", key, partial(_read, files, options.image_size, skips_broken))


def _read(files: Files, size: int, skips_broken: bool) -> PackedData:
    listed = _listed(files)  # image -> (part, class)

    def read(name: str) -> torch.Tensor:
        return decode(files.read(name), name, "mini-imagenet", size, is_grey=False)

    x, kept = decode_all(sorted(listed), read, skips_broken)
    class_names = sorted({label for _, label in listed.values()})
    splits = {}
    for part, expected in NUM_CLASSES.items():
        found = {label for of_part, label in listed.values() if of_part == part}
        if len(found) != expected:
            raise DataError(f"mini-imagenet: {files.origin} has {len(found)} classes for {part}, expected {expected}.")
        splits[part] = Split(torch.tensor([i for i, name in enumerate(kept) if listed[name][0] == part]))
    return PackedData(
        name="mini-imagenet",
        x=x,
        class_ids=torch.tensor([class_names.index(listed[name][1]) for name in kept]),
        group_ids=torch.zeros(len(kept), dtype=torch.int64),
        class_names=tuple(class_names),
        group_names=("all",),
        splits=splits,
    )


def _listed(files: Files) -> dict[str, tuple[str, str]]:
    """Part and class of each image, from the lists where there are any, else from the folders."""
    by_name = {PurePosixPath(name).name: name for name in files.names if not name.endswith(".csv")}
    lists = {PurePosixPath(name).stem: name for name in files.names if name.endswith(".csv")}
    listed: dict[str, tuple[str, str]] = {}
    for stem in ("train", "val", "test"):
        if stem not in lists:
            continue
        for row in csv.DictReader(io.StringIO(files.read(lists[stem]).decode("utf-8", "replace"))):
            if not {"filename", "label"} <= row.keys():
                raise DataError(f"mini-imagenet: {lists[stem]} lacks the columns filename,label.")
            if row["filename"] not in by_name:
                raise DataError(f"mini-imagenet: {row['filename']} of {lists[stem]} is missing in {files.origin}.")
            listed[by_name[row["filename"]]] = (_PART[stem], row["label"])
    if listed:
        return listed
    for name in files.names:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-3] in _PART:
            listed[name] = (_PART[parts[-3]], parts[-2])
    if not listed:
        raise DataError(
            f"mini-imagenet: {files.origin} holds images, but neither train.csv, val.csv and test.csv nor folders such "
            "as train/n01532829/. Name the right --data-dir."
        )
    return listed
