"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people (Lake et al. 2015).

Three ways to split the characters (`split_by`):

    vinyals   1,028 / 172 / 423 characters (Vinyals et al. 2016, as released by Snell et al. 2017). The alphabet
              Gurmukhi is on both sides: characters 1-41 in training, 42-45 in the test.
    lake      the original one (Lake et al. 2015): training on the 964 characters of 30 background alphabets, 5 of which
              are the validation split; test on 20 other alphabets, 659 characters. The hardest.
    maml      1,100 / 100 / 423 characters, shuffled (Finn et al. 2017); alphabets are on all sides. Their shuffle
              starts from the order of a file system, which is unknown; here from the sorted one, with their seed.

In training, validation and test every character counts as four classes, turned by 0, 90, 180 and 270 degrees, as
published. Turned classes are easier to tell apart; `test-upright` is the test without them.

Pixels are 0 for paper and 255 for ink, resized bilinearly to 28 x 28.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from torch import Tensor

from metarl.errors import ConfigError, DataError
from metarl.fewshot.data.images import decode, decode_all
from metarl.fewshot.data.pack import PackedData, Split, cached
from metarl.fewshot.data.source import Files, Remote, locate, open_files
from metarl.fewshot.types import Episode

_HOME = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
REMOTES = (
    Remote("images_background.zip", f"{_HOME}/images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"),
    Remote("images_evaluation.zip", f"{_HOME}/images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
)
RUNS = Remote(
    "all_runs.zip",
    f"{_HOME}/one-shot-classification/all_runs.zip",
    "sha256:437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
)

QUARTERS = (0, 1, 2, 3)
_BACKGROUND, _EVALUATION = "images_background", "images_evaluation"
_NAME = re.compile(r"(images_background|images_evaluation)/([^/]+)/character(\d+)/\d+_(\d+)\.png$")

_VALIDATION = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_VINYALS_TEST = (
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)
_GURMUKHI_IN_TEST = 42
_MAML_SIZES = (1100, 100)


@dataclass(frozen=True)
class OmniglotOptions:
    """Options of Omniglot."""

    split_by: Literal["vinyals", "lake", "maml"] = "vinyals"
    """How characters are divided."""
    image_size: int = 28
    """Pixels of a side."""

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ConfigError(f"image_size must be at least 8 pixels, got {self.image_size}.")


def load(options: OmniglotOptions, data_dir: Path | None = None, skips_broken: bool = False) -> PackedData:
    """Load Omniglot; a group is the alphabet of a character.

    Args:
        options: the split and the size.
        data_dir: folder with the official zip files or what was in them; None: see `locate`.
        skips_broken: leave out images that cannot be read.

    Raises:
        DataError: files are missing, broken or not those of Omniglot.
    """
    folder = locate("omniglot", "omniglot", data_dir, REMOTES)
    files = open_files(
        "omniglot", folder, (".png",), [remote.name for remote in REMOTES], f"({_BACKGROUND}|{_EVALUATION})/"
    )
    key = {"size": options.image_size, "skips_broken": skips_broken, "files": files.fingerprint}
    data = cached("omniglot", key, partial(_read, files, options.image_size, skips_broken))
    return replace(data, splits=_splits(data, options.split_by))


def official_runs(data_dir: Path | None = None, image_size: int = 28) -> Episode:
    """Lake's 20 runs of 20-way one-shot classification within an alphabet, as 20 tasks of one query per class.

    People err in 4.5 %, Bayesian program learning in 3.3 %, Siamese networks in 8.0 % of the 400 trials.

    Args:
        data_dir: folder with all_runs.zip or what is in it; None: see `locate`.
        image_size: pixels of a side.

    Raises:
        DataError: files are missing or broken.
    """
    folder = locate("omniglot", "omniglot", data_dir, [RUNS])
    files = open_files("omniglot runs", folder, (".png", ".txt"), [RUNS.name], r"run\d\d/")
    found = {name[match.start() :]: name for name in files.names if (match := re.search(r"run\d\d/", name))}
    support, query, labels = [], [], []
    for run in range(1, 21):
        text = _text(files, found, f"run{run:02}/class_labels.txt")
        pairs = dict(line.split() for line in text.splitlines() if line.strip())
        for i in range(1, 21):
            test = f"run{run:02}/test/item{i:02}.png"
            support.append(_ink(files, found, f"run{run:02}/training/class{i:02}.png", image_size))
            query.append(_ink(files, found, test, image_size))
            labels.append(int(re.findall(r"class(\d+)\.png", pairs.get(test, "class0.png"))[0]) - 1)
    shape = (20, 20)
    everywhere = torch.ones(shape, dtype=torch.bool)
    return Episode(
        support_x=torch.stack(support).unflatten(0, shape).float() / 255,
        support_y=torch.arange(20).expand(shape).contiguous(),
        support_mask=everywhere,
        query_x=torch.stack(query).unflatten(0, shape).float() / 255,
        query_y=torch.tensor(labels).reshape(shape),
        query_mask=everywhere,
        num_ways=20,
    )


def _text(files: Files, found: Mapping[str, str], name: str) -> str:
    if name not in found:
        raise DataError(f"omniglot runs: {name} is missing in {files.origin}.")
    return files.read(found[name]).decode()


def _ink(files: Files, found: Mapping[str, str], name: str, size: int) -> Tensor:
    if name not in found:
        raise DataError(f"omniglot runs: {name} is missing in {files.origin}.")
    return 255 - decode(files.read(found[name]), name, "omniglot runs", size, is_grey=True)


def _read(files: Files, size: int, skips_broken: bool) -> PackedData:
    names = [name for name in files.names if _NAME.search(name)]
    if not names:
        raise DataError(
            f"omniglot: {files.origin} holds images, but none named as in "
            "images_background/Greek/character01/0394_01.png. Name the right --data-dir."
        )

    def read(name: str) -> Tensor:
        return 255 - decode(files.read(name), name, "omniglot", size, is_grey=True)

    x, kept = decode_all(names, read, skips_broken)
    matches = [match for name in kept if (match := _NAME.search(name))]
    classes = [f"{match[1]}/{match[2]}/character{match[3]}" for match in matches]
    alphabets = [match[2] for match in matches]
    class_names, alphabet_names = sorted(set(classes)), sorted(set(alphabets))
    return PackedData(
        name="omniglot",
        x=x,
        class_ids=_indices(classes, class_names),
        group_ids=_indices(alphabets, alphabet_names),
        class_names=tuple(class_names),
        group_names=tuple(alphabet_names),
        splits={},
    )


def _indices(values: Iterable[str], names: list[str]) -> Tensor:
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index[value] for value in values])


def _splits(data: PackedData, split_by: str) -> dict[str, Split]:
    part = {"vinyals": _vinyals, "lake": _lake, "maml": _maml}[split_by](data.class_names)  # (C,) of 0, 1, 2
    of_sample = part[data.class_ids]  # (N,)
    train, validation, test = ((of_sample == i).nonzero()[:, 0] for i in range(3))
    return {
        "train": Split(train, QUARTERS),
        "validation": Split(validation, QUARTERS),
        "test": Split(test, QUARTERS),
        "train+validation": Split((of_sample < 2).nonzero()[:, 0], QUARTERS),
        "train-upright": Split(train),
        "validation-upright": Split(validation),
        "test-upright": Split(test),
    }


def _vinyals(class_names: tuple[str, ...]) -> Tensor:
    def part(name: str) -> int:
        _, alphabet, character = PurePosixPath(name).parts
        if alphabet == "Gurmukhi":
            return 2 if int(character.removeprefix("character")) >= _GURMUKHI_IN_TEST else 0
        return 2 if alphabet in _VINYALS_TEST else int(alphabet in _VALIDATION)

    return torch.tensor([part(name) for name in class_names])


def _lake(class_names: tuple[str, ...]) -> Tensor:
    def part(name: str) -> int:
        origin, alphabet, _ = PurePosixPath(name).parts
        return 2 if origin == _EVALUATION else int(alphabet in _VALIDATION)

    return torch.tensor([part(name) for name in class_names])


def _maml(class_names: tuple[str, ...]) -> Tensor:
    order = list(range(len(class_names)))
    random.Random(1).shuffle(order)
    part = torch.full((len(class_names),), 2)
    part[order[: _MAML_SIZES[0]]] = 0
    part[order[_MAML_SIZES[0] : sum(_MAML_SIZES)]] = 1
    return part
