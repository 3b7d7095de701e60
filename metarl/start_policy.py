"""Policies to start meta-training from: those of finished runs, as parameters of an `MLPPolicy`.

A setting names one as `policy:RUN`. The actor of a policy without memory (`domain-randomised`, `ppo`) is four layers
with tanh between them: an `MLPPolicy` with three hidden layers that acts in the same way. What its critic reads does
not matter; a shortcut past the middle layer does, for an `MLPPolicy` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metarl.checkpoint import newest_checkpoint
from metarl.errors import ConfigError, UnknownNameError
from metarl.nets.mlp_policy import MLPPolicy
from metarl.nets.normalizer import RunningNormalizer
from metarl.run_folder import open_run

PREFIX = "policy:"
RANDOM = "random"

_ACTOR_LAYERS = ("encoder.0", "core.0", "actor.0", "actor.2")
"""Of `metarl.nets.actor_critic.ActorCritic` without memory."""
_NORMALIZER, _STATE = "obs_normalizer.", "start."


class Starts:
    """What policies are before they learn a task: random ones, or all that of a run.

    Args:
        setting: "random" or "policy:RUN".
        policy: what they are parameters of.
        normalizer: of observations; gets the statistics of the run.

    Raises:
        UnknownNameError, CheckpointError, ConfigError: see `start_from`.
    """

    def __init__(self, setting: str, policy: MLPPolicy, normalizer: RunningNormalizer):
        self._policy = policy
        self._given: dict[str, Tensor] = {}
        if setting != RANDOM:
            self._given = start_from(setting, policy.initial_parameters(torch.Generator()), normalizer)

    def draw(self, num_tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Policies for B tasks, (B, ...) each."""
        if self._given:
            return {name: value.expand(num_tasks, *value.shape).clone() for name, value in self._given.items()}
        drawn = [self._policy.initial_parameters(generator) for _ in range(num_tasks)]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; nothing where policies are random."""
        return {_STATE + name: value for name, value in self._given.items()}

    def load(self, model: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, among other tensors."""
        self._given = {name.removeprefix(_STATE): v for name, v in model.items() if name.startswith(_STATE)}


def check_start(setting: str, normalizes_obs: bool) -> None:
    """Refuse settings in which the policy of a run would act on other observations than it learned with.

    Raises:
        ConfigError: observations are not normalised.
    """
    if setting != RANDOM and not normalizes_obs:
        raise ConfigError(f"start {setting} comes with statistics of observations: it needs normalizes_obs.")


def start_from(setting: str, parameters: Mapping[str, Tensor], normalizer: RunningNormalizer) -> dict[str, Tensor]:
    """The parameters that a learner starts with; the statistics of observations are loaded into `normalizer`.

    Args:
        setting: "random" or "policy:RUN".
        parameters: random ones, of an `MLPPolicy`; those that a run's policy has no values for (a context) stay.
        normalizer: of the observations.

    Raises:
        UnknownNameError: another setting.
        CheckpointError: no such run, or a damaged one.
        ConfigError: a policy that remembers, is told its task, has a shortcut or other layers.
    """
    if setting == RANDOM:
        return dict(parameters)
    if not setting.startswith(PREFIX):
        raise UnknownNameError("start", setting, (RANDOM, f"{PREFIX}RUN"))
    path = Path(setting.removeprefix(PREFIX))
    run = open_run(path)
    model: Mapping[str, Tensor] = newest_checkpoint(run.checkpoints).tensors["model"]
    found = _policy(model, path)
    layers = [tuple(value.shape) for name, value in found.items() if name.endswith("weight")]
    wanted = [tuple(value.shape) for name, value in parameters.items() if name.endswith("weight")]
    if layers != wanted:
        hidden = " ".join(str(rows) for rows, _ in layers[:-1])
        raise ConfigError(
            f"start: the policy of {path} has layers {layers}, these settings ask for {wanted}. "
            f"Take the environment that it was trained on, and --hidden-dims {hidden}."
        )
    with torch.no_grad():
        normalizer.load_state_dict({name: model[_NORMALIZER + name] for name in normalizer.state_dict()})
    return dict(parameters) | found


def _reads_the_observation_alone(model: Mapping[str, Tensor]) -> bool:
    """Whether the encoder of an actor-critic has no inputs beside those that are normalised as observations."""
    return model["encoder.0.weight"].shape[1] == len(model[_NORMALIZER + "mean"])


def _policy(model: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Layers and deviations of the actions of a run's policy, by the names of `MLPPolicy`, in the order of layers."""
    if "layers.0.weight" in model:
        names = {name: name for name in model if name.startswith("layers.") or name == "log_std"}
    elif all(f"{layer}.weight" in model for layer in _ACTOR_LAYERS) and _reads_the_observation_alone(model):
        if model["actor.0.weight"].shape[1] != model["core.0.weight"].shape[0]:
            raise ConfigError(
                f"start: the policy of {path} has a shortcut past its middle layer, which policies that adapt by "
                "gradients have not. Train it with --no-shortcut."
            )
        ends = ("weight", "bias")
        names = {f"layers.{i}.{end}": f"{layer}.{end}" for i, layer in enumerate(_ACTOR_LAYERS) for end in ends}
        names |= {"log_std": "log_std"} if "log_std" in model else {}
    else:
        raise ConfigError(
            f"start: {path} has no policy that acts on the observation alone. Name a run of domain-randomised, ppo or "
            "a gradient learner."
        )
    return {name: model[source].to(torch.float32) for name, source in sorted(names.items())}
