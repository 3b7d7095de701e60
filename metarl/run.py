"""From a configuration to a learner, and from a run folder back to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.checkpoint import Checkpoint, has_checkpoint, load_checkpoint, newest_checkpoint
from metarl.config import RunConfig
from metarl.errors import CheckpointError, ConfigError, DeviceError, MetarlError
from metarl.learned_loss import LossRun
from metarl.learners import Learner, make_learner
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.learners.rl2 import RL2, RL2Config, policy_alone
from metarl.named_loss import FOLDER, PREFIX
from metarl.nested_state import flatten_state, unflatten_state
from metarl.run_folder import open_run
from metarl.start_policy import RANDOM
from metarl.transfer import transfer
from metarl.worlds import Spec


@dataclass(frozen=True)
class LoadedRun:
    """A trained learner.

    Attributes:
        path: the run folder.
        config: what it was trained with.
        spec: its environment.
        learner: with the weights of the checkpoint.
        update: the update after which they were saved.
        env_steps: environment steps of training up to there.
    """

    path: Path
    config: RunConfig
    spec: Spec
    learner: Learner
    update: int
    env_steps: int


def resolve_device(name: str) -> str:
    """Turn "auto" into the best device there is, and check any other.

    Raises:
        DeviceError: this machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise DeviceError(f"unknown device {name!r}. Available: auto, cpu, cuda, cuda:0, ...")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= count:
        usable = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DeviceError(f"no device {name!r}: this machine has {count} CUDA devices. Available: {usable}.")
    return name


def build(config: RunConfig, folder: Path | None = None) -> tuple[Spec, Learner]:
    """Make the environment's specification and a new learner.

    Args:
        config: of the run.
        folder: of the run, where it was started already: a learned loss that it trains with is then read from the
            copy in the folder (`keep_learned_loss`), and the run that it came from is no longer needed. Nor is that of
            a policy to start from once there is a checkpoint.

    Raises:
        CheckpointError: a learned loss that is missing or damaged.
    """
    import envs

    spec = envs.make_spec(config.env, **config.env_options)
    settings = config.settings
    for name, value in vars(settings).items():
        if folder is not None and isinstance(value, str) and value.startswith(PREFIX):
            copy = folder / FOLDER
            if not copy.is_dir():
                raise CheckpointError(f"{copy} is missing: there the run kept its copy of the loss {value}.")
            settings = replace(settings, **{name: f"{PREFIX}{copy}"})
    if folder is not None and hasattr(settings, "start") and has_checkpoint(folder / "checkpoints"):
        settings = replace(settings, start=RANDOM)  # its weights are in the checkpoint
    return spec, make_learner(config.algorithm, spec, settings, config.seed, config.device)


def keep_learned_loss(learner: Learner, folder: Path) -> None:
    """Copy the learned loss that a learner trains with, if any, into its run folder; its config holds a formula."""
    on_env = getattr(learner, "learned_loss", None)
    if on_env is not None and isinstance(on_env.loss.source, LossRun):
        on_env.loss.source.save(folder / FOLDER)


def load_run(path: Path | str, device: str = "auto") -> LoadedRun:
    """Load the newest whole checkpoint of a run folder, or the checkpoint that `path` names.

    Raises:
        CheckpointError: the folder is missing, damaged, in another format, or of another algorithm.
    """
    path = Path(path)
    named = path.name.startswith("ckpt-")
    run = open_run(path.absolute().parent.parent if named else path)
    config = read_config(run.config, run.path, resolve_device(device))
    checkpoint = load_checkpoint(path) if named else newest_checkpoint(run.checkpoints)
    spec, learner = build(config, run.path)
    restore(learner, checkpoint, config)
    return LoadedRun(run.path, config, spec, learner, checkpoint.step, int(checkpoint.state["env_steps"]))


def on_env(run: LoadedRun, env: str) -> LoadedRun:
    """A run as if it were one on another environment.

    A learned loss trains fresh policies there (`metarl.learned_loss.transfer`); any other learner acts there as it is,
    where observations and actions have the same shapes: from one simulation of a robot to another one of it, or to
    other tasks of it. What a critic, or the head that tells the task, knew of other task parameters stays behind.

    Raises:
        UnknownNameError: no such environment.
        ConfigError: a learned loss reads signals that the environment does not give; a policy does not fit.
    """
    import envs

    spec = envs.make_spec(env)
    config = replace(run.config, env=env, env_options={})
    if isinstance(run.learner, LearnedLossLearner):
        learner: Learner = transfer(run.learner, spec, run.config.seed, run.config.device)
    else:
        _refuse_other_layout(run, spec)
        settings, state = run.config.settings, run.learner.state_dict()
        knew_others = isinstance(settings, RL2Config) and _parameters(spec) != _parameters(run.spec)
        if knew_others:
            config = replace(config, settings=policy_alone(settings))
        spec, learner = build(config, run.path)
        if knew_others and isinstance(learner, RL2):
            learner.load_policy(state)
        else:
            learner.load_state_dict(state)
    return replace(run, config=config, spec=spec, learner=learner)


def _refuse_other_layout(run: LoadedRun, spec: Spec) -> None:
    """Raise ConfigError where a policy cannot act in another environment."""
    shapes = [f"{e.obs_dim} observations and {e.action_space}" for e in (run.spec, spec)]
    if shapes[0] != shapes[1]:
        reason = f"{shapes[0]} there, {shapes[1]} here"
    elif getattr(run.config.settings, "sees_task", False) and _parameters(run.spec) != _parameters(spec):
        reason = "it is told the parameters of its own tasks, which are others"
    else:
        return
    raise ConfigError(
        f"the policy of {run.path} ({run.config.algorithm} on {run.spec.name}) does not fit {spec.name}: {reason}. "
        "Only a learned loss goes to another robot."
    )


def _parameters(spec: Spec) -> list[tuple[str, int]]:
    """Names and sizes of the task parameters."""
    return [(p.name, p.size) for p in spec.tasks.parameters]


def read_config(values: Mapping[str, Any], path: Path, device: str | None = None) -> RunConfig:
    """Read the configuration of a run folder; `device` replaces the one it was trained on.

    Raises:
        CheckpointError: it is damaged, or of a few-shot learner.
    """
    if "learner" in values and "algorithm" not in values:
        raise CheckpointError(
            f"{path} is a run of the few-shot learner {values['learner']} on {values.get('data')}: "
            "`metarl evaluate` takes it, other commands do not."
        )
    try:
        return RunConfig.from_json(dict(values) | ({} if device is None else {"device": device}))
    except MetarlError as error:
        raise CheckpointError(f"{path / 'config.json'} is damaged or of another version: {error}") from error


def learner_tensors(learner: Learner) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Split a learner's state into groups of tensors and JSON, for a checkpoint."""
    state = learner.state_dict()
    optimizer, structure = flatten_state(state["optimizer"])
    return {"model": state["model"], "optimizer": optimizer, "rng": state["rng"]}, {"optimizer": structure}


def restore(learner: Learner, checkpoint: Checkpoint, config: RunConfig) -> None:
    """Give a learner the state of a checkpoint.

    Raises:
        CheckpointError: the checkpoint belongs to another algorithm, environment or network size.
    """
    written = (checkpoint.state.get("algorithm"), checkpoint.state.get("env"))
    if written != (config.algorithm, config.env):
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is of {written[0]} on {written[1]}, "
            f"the run folder is of {config.algorithm} on {config.env}."
        )
    try:
        optimizer = unflatten_state(checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        learner.load_state_dict({**checkpoint.tensors, "optimizer": optimizer})
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"checkpoint {checkpoint.path} does not fit {config.algorithm}: {reason}") from error
