"""From a few-shot configuration to a learner, and from a run folder back to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metarl.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from metarl.errors import CheckpointError, MetarlError
from metarl.fewshot.config import FewShotConfig
from metarl.fewshot.data import open_data
from metarl.fewshot.learners import make_learner
from metarl.fewshot.sources import EpisodeSource
from metarl.fewshot.types import FewShotLearner
from metarl.run import resolve_device
from metarl.run_folder import open_run
from metarl.seeding import make_generator


@dataclass(frozen=True)
class LoadedFewShotRun:
    """A trained few-shot learner.

    Attributes:
        path: the run folder.
        config: what it was trained with.
        learner: with the weights of the checkpoint.
        x_shape: X of the samples that it reads.
        update: the update after which they were saved.
        train_s: seconds that it was trained for; on a CPU those of a busy core.
    """

    path: Path
    config: FewShotConfig
    learner: FewShotLearner
    x_shape: tuple[int, ...]
    update: int
    train_s: float


def is_few_shot_run(path: Path) -> bool:
    """Whether a run folder, or the one that a checkpoint lies in, is of a few-shot learner."""
    try:
        folder = path.absolute().parent.parent if path.name.startswith("ckpt-") else path
        return "learner" in open_run(folder).config
    except (MetarlError, OSError, ValueError):
        return False


def open_source(config: FewShotConfig, data_dir: Path | None = None, skips_broken: bool = False) -> EpisodeSource:
    """The data set of a run."""
    return open_data(config.data, config.data_options, data_dir, skips_broken=skips_broken, device=config.device)


def new_learner(config: FewShotConfig, x_shape: tuple[int, ...], num_ways: int) -> FewShotLearner:
    """A learner with the initial weights of a run's seed, on the run's device."""
    learner = make_learner(config.learner, config.settings, x_shape, num_ways, make_generator(config.seed, "weights"))
    return learner.to(config.device)


def load_few_shot_run(path: Path | str, device: str = "auto") -> LoadedFewShotRun:
    """Load the newest whole checkpoint of a run folder, or the checkpoint that `path` names; no data is needed.

    Raises:
        CheckpointError: the folder is missing, damaged, in another format, or of another kind.
    """
    path = Path(path)
    is_named = path.name.startswith("ckpt-")
    run = open_run(path.absolute().parent.parent if is_named else path)
    config = read_few_shot_config(run.config, run.path, resolve_device(device))
    checkpoint = load_checkpoint(path) if is_named else newest_checkpoint(run.checkpoints)
    x_shape, num_ways = written_shape(checkpoint)
    learner = new_learner(config, x_shape, num_ways)
    restore_weights(learner, checkpoint, config)
    train_s = float(checkpoint.state["train_s"])
    return LoadedFewShotRun(run.path, config, learner, x_shape, checkpoint.step, train_s)


def read_few_shot_config(values: Mapping[str, Any], path: Path, device: str | None = None) -> FewShotConfig:
    """Read the configuration of a run folder; `device` replaces the one it was trained on.

    Raises:
        CheckpointError: it is damaged, or not of a few-shot learner.
    """
    try:
        return FewShotConfig.from_json(dict(values) | ({} if device is None else {"device": device}))
    except MetarlError as error:
        raise CheckpointError(f"{path / 'config.json'} is damaged or of another version: {error}") from error


def written_shape(checkpoint: Checkpoint) -> tuple[tuple[int, ...], int]:
    """X and W that the learner of a checkpoint was made for.

    Raises:
        CheckpointError: it does not say.
    """
    x_shape, num_ways = checkpoint.state.get("x_shape"), checkpoint.state.get("num_ways")
    if isinstance(x_shape, list) and all(type(n) is int for n in x_shape) and isinstance(num_ways, int):
        return tuple(x_shape), num_ways
    raise CheckpointError(f"checkpoint {checkpoint.path} is not of a few-shot learner.")


def restore_weights(learner: FewShotLearner, checkpoint: Checkpoint, config: FewShotConfig) -> None:
    """Give a learner the weights of a checkpoint.

    Raises:
        CheckpointError: the checkpoint belongs to another learner, data set or network size.
    """
    written = (checkpoint.state.get("learner"), checkpoint.state.get("data"))
    if written != (config.learner, config.data):
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is of {written[0]} on {written[1]}, "
            f"the run folder is of {config.learner} on {config.data}."
        )
    try:
        device = torch.device(config.device)
        learner.load_state_dict({name: value.to(device) for name, value in checkpoint.tensors["model"].items()})
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit {config.learner}: {reason}") from error
