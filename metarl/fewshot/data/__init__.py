"""Data sets by name: one explicit table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.config_json import config_from_json
from metarl.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

    from metarl.fewshot.sources import EpisodeSource


@dataclass(frozen=True)
class DataEntry:
    """How to open a data set.

    Attributes:
        description: one line for `metarl list`.
        options: "module:class" of its options, a frozen dataclass.
        open: "module:function" (options, data_dir, skips_broken, device) -> EpisodeSource.
        splits: names of its parts, for `metarl list`.
        licence: of the data, and where it is from.
        is_regression: whether targets are numbers.
    """

    description: str
    options: str
    open: str
    splits: tuple[str, ...]
    licence: str
    is_regression: bool = False


_PARTS = ("train", "validation", "test")

DATA_SETS: dict[str, DataEntry] = {
    "omniglot": DataEntry(
        "1,623 handwritten characters of 50 alphabets, 20 drawings each, 28x28",
        options="metarl.fewshot.data.omniglot:OmniglotOptions",
        open="metarl.fewshot.data.openers:omniglot",
        splits=(*_PARTS, "train+validation", "test-upright"),
        licence="MIT, github.com/brendenlake/omniglot",
    ),
    "spoken-digits": DataEntry(
        "ten digits by six speakers, 50 times each, as 40 mel bands over 0.8 s; test on two unheard speakers",
        options="metarl.fewshot.data.spoken_digits:SpokenDigitsOptions",
        open="metarl.fewshot.data.openers:spoken_digits",
        splits=("train", "test"),
        licence="CC BY-SA 4.0, github.com/Jakobovski/free-spoken-digit-dataset",
    ),
    "borealtc": DataEntry(
        "IMU, motor currents and wheel speeds of a robot on five surfaces, windows of 2 s; test on other runs",
        options="metarl.fewshot.data.borealtc:BorealTCOptions",
        open="metarl.fewshot.data.openers:borealtc",
        splits=("train", "test"),
        licence="CC0 1.0, github.com/norlab-ulaval/BorealTC",
    ),
    "mini-imagenet": DataEntry(
        "100 classes of ImageNet, 600 images each, 84x84; for those who have the images (--data-dir)",
        options="metarl.fewshot.data.mini_imagenet:MiniImageNetOptions",
        open="metarl.fewshot.data.openers:mini_imagenet",
        splits=_PARTS,
        licence="ImageNet's; not downloaded",
    ),
    "objects": DataEntry(
        "camera crops of 160 procedural objects from 20 sides, drawn with MuJoCo; test on unseen objects",
        options="metarl.fewshot.data.objects:ObjectsOptions",
        open="metarl.fewshot.data.openers:objects",
        splits=_PARTS,
        licence="made here",
    ),
    "sinusoid": DataEntry(
        "sines of unknown amplitude and phase: regression on a few points (Finn et al. 2017)",
        options="metarl.fewshot.data.sinusoid:SinusoidOptions",
        open="metarl.fewshot.data.openers:sinusoid",
        splits=_PARTS,
        licence="-",
        is_regression=True,
    ),
}


def names() -> list[str]:
    """The names of all data sets."""
    return list(DATA_SETS)


def find(name: str) -> DataEntry:
    """Look a data set up.

    Raises:
        UnknownNameError: no such data set.
    """
    if name not in DATA_SETS:
        raise UnknownNameError("data set", name, DATA_SETS)
    return DATA_SETS[name]


def options_type(name: str) -> type:
    """The class of a data set's options."""
    return _load(find(name).options)


def make_options(name: str, values: Mapping[str, Any]) -> Any:
    """Options from names and values, strictly.

    Raises:
        ConfigError: an unknown option or a value of the wrong type.
    """
    return config_from_json(options_type(name), dict(values), "data options")


def open_data(
    name: str,
    options: Any = None,
    data_dir: Path | str | None = None,
    *,
    skips_broken: bool = False,
    device: torch.device | str = "cpu",
) -> EpisodeSource:
    """Open a data set: from a local copy where one is named, else from its public home, downloaded once.

    Args:
        name: of the data set.
        options: its options; None: the defaults.
        data_dir: folder of the raw files; None: $METARL_DATA where set, else they are downloaded.
        skips_broken: leave out files that cannot be read, instead of refusing.
        device: where samples are kept.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are missing or broken, or cannot be downloaded.
    """
    entry = find(name)
    chosen = options_type(name)() if options is None else options
    return _load(entry.open)(chosen, None if data_dir is None else Path(data_dir), skips_broken, device)


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
