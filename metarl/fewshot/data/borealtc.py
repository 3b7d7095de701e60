"""BorealTC: what a wheeled robot feels on five surfaces (LaRocque et al. 2024, arXiv 2403.16877; CC0).

A Husky A200 drove on asphalt, flooring, ice, sandy loam and snow. A sample is a window of `window_s` seconds:

| channels | what | unit |
|---|---|---|
| 0-2 | angular velocity about x (forward), y (left), z (up), 100 Hz | rad/s |
| 3-5 | acceleration, gravity included, 100 Hz | m/s^2 |
| 6-7 | motor current of the left and right wheels, 6.5 Hz, interpolated to 100 Hz | A |
| 8-9 | speed of the left and right wheels, likewise | m/s |

A group is a run: one recording, a minute or so on one stretch of ground. Windows of a run resemble each other, so that
training and test are divided by run: of the runs of a class that are there with both files, every third is the test,
counted from `fold`, and the others are the training. Tasks whose queries come from other runs than their support
(pairing "other-group") say what a robot can expect on a stretch that it has not been on.

With `held_out` surfaces, the training has none of them and the test has them alone: surfaces that nothing was
trained on.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.errors import ConfigError, DataError, UnknownNameError
from metarl.fewshot.data.pack import PackedData, Split, cached
from metarl.fewshot.data.source import Files, Remote, locate, open_files

_COMMIT = "fe64e386694528899db299e78a859dcab82f6b01"
_FOLDERS = "ASPHALT|FLOORING|ICE|SANDY_LOAM|SNOW"
REMOTES = (
    Remote(
        "borealtc.zip",
        f"https://codeload.github.com/norlab-ulaval/BorealTC/zip/{_COMMIT}",
        "content:1532a7a29f939a491f5a01e82ba36680d2802f6f40058bbcbb1b6df0174075d8",
        # All but three files that some copies lack.
        rf"(?!FLOORING/imu_0[46]|ICE/imu_01)({_FOLDERS})/(imu|pro)_\d+\.csv$",
    ),
)

SURFACES = ("asphalt", "flooring", "ice", "sandy_loam", "snow")
CHANNELS = ("wx", "wy", "wz", "ax", "ay", "az", "curL", "curR", "velL", "velR")
NUM_IMU = 6
RATE_HZ = 100.0
NUM_FOLDS = 3
_NAME = re.compile(rf"({_FOLDERS})/(imu|pro)_(\d+)\.csv$")
_COLUMNS = {"imu": ("time", *CHANNELS[:NUM_IMU]), "pro": ("time", *CHANNELS[NUM_IMU:])}
_RATES_HZ = {"imu": RATE_HZ, "pro": 6.5}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BorealTCOptions:
    """Options of BorealTC."""

    window_s: float = 2.0
    """Seconds of a window."""
    hop_s: float = 0.5
    """Seconds from the start of one window to that of the next."""
    fold: int = 0
    """Which third of the runs of each class is the test: 0, 1 or 2."""
    held_out: tuple[str, ...] = ()
    """Surfaces that are in the test alone, such as ice snow; none: all are in training and test."""

    def __post_init__(self) -> None:
        if not (0.2 <= self.window_s <= 10 and 0.05 <= self.hop_s <= 10):
            raise ConfigError(
                f"window_s must lie in [0.2, 10] and hop_s in [0.05, 10], got {self.window_s} and {self.hop_s}."
            )
        if self.fold not in range(NUM_FOLDS):
            raise ConfigError(f"fold must be 0, 1 or 2, got {self.fold}.")
        for name in self.held_out:
            if name not in SURFACES:
                raise UnknownNameError("surface", name, SURFACES)
        if len(set(self.held_out)) > len(SURFACES) - 2:
            raise ConfigError("at least two surfaces must be left to train on.")


def load(options: BorealTCOptions, data_dir: Path | None = None, skips_broken: bool = False) -> PackedData:
    """Load BorealTC; a group is a run.

    Args:
        options: of the windows and the split.
        data_dir: folder with borealtc.zip or what is in it; None: see `locate`.
        skips_broken: leave out runs with a broken file.

    Raises:
        DataError: files are missing or broken, or of another sampling rate.
    """
    folder = locate("borealtc", "terrain", data_dir, REMOTES)
    files = open_files("borealtc", folder, (".csv",), [REMOTES[0].name], _NAME.pattern)
    key = {"window_s": options.window_s, "hop_s": options.hop_s, "skips_broken": skips_broken}
    made = partial(_read, files, options.window_s, options.hop_s, skips_broken)
    data = cached("borealtc", {**key, "files": files.fingerprint}, made)
    return replace(data, splits=_splits(data, options))


def _read(files: Files, window_s: float, hop_s: float, skips_broken: bool) -> PackedData:
    found: dict[tuple[str, int], dict[str, str]] = {}
    for name in files.names:
        if match := _NAME.search(name):
            found.setdefault((match[1].lower(), int(match[3])), {})[match[2]] = name
    windows: list[Tensor] = []
    class_ids: list[int] = []
    group_ids: list[int] = []
    group_names: list[str] = []
    for (surface, number), kinds in sorted(found.items()):
        if len(kinds) < 2:
            logger.info("borealtc: run %d on %s has no %s file.", number, surface, "imu" if "pro" in kinds else "pro")
            continue
        try:
            signal = _run({kind: read_table(files, name, kind) for kind, name in kinds.items()})  # (10, T)
        except DataError:
            if not skips_broken:
                raise
            continue
        length, hop = round(window_s * RATE_HZ), round(hop_s * RATE_HZ)
        if signal.shape[1] < length:
            continue
        of_run = torch.from_numpy(signal).unfold(1, length, hop).transpose(0, 1)  # (n, 10, L)
        windows.append(of_run.contiguous())
        class_ids += [SURFACES.index(surface)] * len(of_run)
        group_ids += [len(group_names)] * len(of_run)
        group_names.append(f"{surface}/{number:02}")
    if not windows:
        raise DataError(f"borealtc: {files.origin} holds no run with a whole window of {window_s} s.")
    return PackedData(
        name="borealtc",
        x=torch.cat(windows),
        class_ids=torch.tensor(class_ids),
        group_ids=torch.tensor(group_ids),
        class_names=SURFACES,
        group_names=tuple(group_names),
        splits={},
    )


def read_table(files: Files, name: str, kind: str) -> NDArray[np.float64]:
    """A CSV file of the IMU ("imu") or the wheels ("pro"), (T, 1 + channels).

    Raises:
        DataError: other columns, something that is no finite number, time that stands still, another rate.
    """
    header, _, body = files.read(name).decode("utf-8", "replace").partition("\n")
    columns = tuple(part.strip() for part in header.split(","))
    advice = "Use --skip-broken to go on without this run."
    if columns != _COLUMNS[kind]:
        raise DataError(f"borealtc: {name} has the columns {columns}, expected {_COLUMNS[kind]}. {advice}")
    try:
        table = np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2)
    except ValueError as error:
        raise DataError(f"borealtc: {name} is no table of numbers ({error}). {advice}") from error
    if table.shape[0] < 2 or table.shape[1] != len(columns) or not np.isfinite(table).all():
        raise DataError(f"borealtc: {name} has missing values, or no rows. {advice}")
    step_s = np.diff(table[:, 0])
    rate_hz = 1 / max(float(np.median(step_s)), 1e-9)
    expected = _RATES_HZ[kind]
    if step_s.min() <= 0 or not 0.95 * expected < rate_hz < 1.05 * expected:
        raise DataError(f"borealtc: {name} is sampled at {rate_hz:.4g} Hz, expected {expected:g} Hz. {advice}")
    return table


def _run(tables: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    """The channels of one run on the clock of its IMU, (10, T); the end of the shorter recording ends both."""
    imu, wheels = tables["imu"], tables["pro"]
    time_s = imu[imu[:, 0] <= wheels[-1, 0], 0]
    interpolated = [np.interp(time_s, wheels[:, 0], column) for column in wheels[:, 1:].T]
    return np.concatenate([imu[: len(time_s), 1:].T, np.stack(interpolated)]).astype(np.float32)


def _splits(data: PackedData, options: BorealTCOptions) -> dict[str, Split]:
    position: dict[str, int] = {}  # runs of a class seen so far
    is_test_run = []
    for name in data.group_names:
        surface = name.partition("/")[0]
        is_test_run.append(position.get(surface, 0) % NUM_FOLDS == options.fold)
        position[surface] = position.get(surface, 0) + 1
    is_test = torch.tensor(is_test_run)[data.group_ids]  # (N,)
    held_out = torch.tensor([name in options.held_out for name in data.class_names])[data.class_ids]  # (N,)
    in_test = held_out if options.held_out else torch.ones_like(is_test)
    return {
        "train": Split((~is_test & ~held_out).nonzero()[:, 0]),
        "test": Split((is_test & in_test).nonzero()[:, 0]),
    }
