"""The options of `metarl train LEARNER --data DATA` and of `metarl evaluate` on such a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.fewshot.config import FewShotTraining
from metarl.fewshot.sampler import Pairing
from metarl.options import OptionalPath, Run, Split


@dataclass(frozen=True)
class FewShotTrainOptions:
    """Meta-train a few-shot learner on the classes of a data set."""

    learner: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LEARNER")]
    """Few-shot learner: see `metarl list`."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """Data set: see `metarl list`."""
    settings: tyro.conf.OmitArgPrefixes[Any]
    """Settings of the learner."""
    training: tyro.conf.OmitArgPrefixes[FewShotTraining]
    """Tasks and optimiser."""
    data_options: tyro.conf.OmitArgPrefixes[Any]
    """Options of the data set."""
    preset: str = "default"
    """Settings to start from: see `metarl list`."""
    data_dir: OptionalPath = None
    """Folder with the data set's files, or with a folder of them for each data set; default $METARL_DATA where set,
    else they are downloaded."""
    skip_broken: bool = False
    """Leave out files of the data set that cannot be read, instead of stopping."""
    out: OptionalPath = None
    """Run folder; default runs/LEARNER-DATA-seedSEED."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in the folder, from its newest whole checkpoint."""
    torch_threads: int = 1
    """Threads of torch on the CPU."""
    checkpoint_interval_s: float = 60.0
    """Seconds between checkpoints."""
    keep_checkpoints: int = 3
    """Checkpoints to keep."""
    validate_every: int = 500
    """Updates between evaluations on the validation split, 0 for none."""


@dataclass(frozen=True)
class FewShotEvaluateOptions:
    """Let a trained few-shot learner adapt to unseen tasks, and say how often and how surely it is right."""

    run: tyro.conf.Positional[Run]
    """Run folder, or one of its checkpoints."""
    split: Split = "test"
    """Which part of the data set; `metarl list DATA` shows them."""
    ways: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Classes of a task, several numbers for several evaluations; default: 5 (all where there are fewer), or as many as
    the learner has outputs."""
    shots: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = ()
    """Support samples of a class, several numbers for several evaluations; default: 1 5, or as in training where
    targets are numbers."""
    queries: int = 15
    """Query samples of a class."""
    pairing: Annotated[Pairing | None, tyro.conf.arg(metavar="any|other-group")] = None
    """Where queries may come from: any samples, or other groups (runs, speakers) than the support; default: as in
    training."""
    official_runs: bool = False
    """Also judge on Lake's 20 official runs of 20-way one-shot classification (Omniglot, --split-by lake)."""
    num_tasks: int = 1000
    """How many tasks; at least 600 for intervals as published."""
    seed: int = 0
    """Seed of the tasks."""
    compare: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN ...")] = ()
    """Other runs on the same data set, to put beside this one."""
    data_dir: OptionalPath = None
    """Folder with the data set's files; default $METARL_DATA where set, else they are downloaded."""
    skip_broken: bool = False
    """Leave out files of the data set that cannot be read, instead of stopping."""
    json: OptionalPath = None
    """Where the numbers go; default RUN/evaluation.json."""
    pictures: OptionalPath = None
    """Folder of the pictures; default: the run's."""
    torch_threads: int = 1
    """Threads of torch on the CPU."""
    device: str = "auto"
    """auto, cpu or cuda."""
