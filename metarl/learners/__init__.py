"""Algorithms by name: one explicit table, extended by the entry-point group `metarl.algorithms`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from metarl.errors import UnknownNameError
from metarl.rollout import Adapts

if TYPE_CHECKING:
    from metarl.worlds import Spec, Worlds


class Learner(Adapts, Protocol):
    """What the training loop needs of an algorithm, besides the `trial` of `Adapts`."""

    def collect(self, env: Worlds) -> Any:
        """Gather the experience of one update on the tasks that the environment holds."""
        ...

    def update(self, experience: Any, progress: float) -> dict[str, float]:
        """Learn from it; returns metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: {"model": ..., "optimizer": ..., "rng": ...}."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """How to make a learner.

    Attributes:
        description: one line for `metarl list`.
        settings: "module:class" of its settings, a frozen dataclass with `total_steps`, and as fields or properties
            `num_worlds` (N), `episodes_per_task` (E, neighbouring worlds that share a task) and
            `episodes_per_trial` (K).
        make: "module:function" (spec, settings, seed, device) -> Learner.
        presets: "module:function" env name -> {preset name: settings}.
    """

    description: str
    settings: str
    make: str
    presets: str


def _maml_trpo(description: str, presets: str) -> Algorithm:
    """MAML-TRPO or one of its relatives, which differ in settings only."""
    learner = "metarl.learners.maml_trpo:MAMLTRPO"
    return Algorithm(description, f"{learner}Config", learner, f"metarl.learners.gradient_presets:{presets}")


ALGORITHMS: dict[str, Algorithm] = {
    "rl2": Algorithm(
        "recurrent policy that adapts by remembering a trial (Duan et al. 2016), PPO",
        settings="metarl.learners.rl2:RL2Config",
        make="metarl.learners.rl2:RL2",
        presets="metarl.learners.presets:rl2",
    ),
    "context-rl": Algorithm(
        "policy told an embedding of its recent transitions (after PEARL and FOCAL), PPO",
        settings="metarl.learners.context_rl:ContextConfig",
        make="metarl.learners.context_rl:ContextRL",
        presets="metarl.learners.presets:context_rl",
    ),
    "domain-randomised": Algorithm(
        "the same network and PPO without memory: one policy for all tasks (a baseline)",
        settings="metarl.learners.rl2:RL2Config",
        make="metarl.learners.rl2:RL2",
        presets="metarl.learners.presets:domain_randomised",
    ),
    "ppo": Algorithm(
        "proximal policy optimisation (Schulman et al. 2017), no meta-learning: to try losses (`--loss`) on",
        settings="metarl.learners.rl2:RL2Config",
        make="metarl.learners.rl2:RL2",
        presets="metarl.learners.presets:domain_randomised",
    ),
    "oracle": Algorithm(
        "the policy without memory, given the task parameters (an upper reference)",
        settings="metarl.learners.rl2:RL2Config",
        make="metarl.learners.rl2:RL2",
        presets="metarl.learners.presets:oracle",
    ),
    "maml-trpo": _maml_trpo("an initialisation that adapts by policy gradients (Finn et al. 2017), TRPO", "maml_trpo"),
    "fomaml": _maml_trpo("first-order MAML: inner gradients as constants", "fomaml"),
    "anil": _maml_trpo("MAML whose last layer alone adapts (Raghu et al. 2020)", "anil"),
    "meta-sgd": _maml_trpo("MAML with a learned step size per parameter (Li et al. 2017)", "meta_sgd"),
    "cavia": _maml_trpo("context parameters adapt, the network stays (Zintgraf et al. 2019)", "cavia"),
    "e-maml": _maml_trpo("MAML that credits exploration before adaptation (Stadie et al. 2018)", "e_maml"),
    "promp": Algorithm(
        "proximal meta-policy search (Rothfuss et al. 2019)",
        settings="metarl.learners.promp:ProMPConfig",
        make="metarl.learners.promp:ProMP",
        presets="metarl.learners.gradient_presets:promp",
    ),
    "maml-ppo": Algorithm(
        "MAML with PPO's clipped objective as outer step",
        settings="metarl.learners.promp:ProMPConfig",
        make="metarl.learners.promp:ProMP",
        presets="metarl.learners.gradient_presets:maml_ppo",
    ),
    "reptile": Algorithm(
        "moves the initialisation towards the adapted parameters (Nichol et al. 2018)",
        settings="metarl.learners.reptile:ReptileConfig",
        make="metarl.learners.reptile:Reptile",
        presets="metarl.learners.gradient_presets:reptile",
    ),
    "learned-loss": Algorithm(
        "a loss that is meta-trained, so that a policy learns a task from nothing in a few updates",
        settings="metarl.learners.learned_loss_config:LearnedLossConfig",
        make="metarl.learners.learned_loss:LearnedLossLearner",
        presets="metarl.learners.loss_presets:learned_loss",
    ),
}


def names() -> list[str]:
    """The names of all algorithms, third-party ones included."""
    return [*ALGORITHMS, *(e.name for e in entry_points(group="metarl.algorithms") if e.name not in ALGORITHMS)]


def find(name: str) -> Algorithm:
    """Look an algorithm up.

    Raises:
        UnknownNameError: no such algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    for entry in entry_points(group="metarl.algorithms"):
        if entry.name == name:
            return entry.load()
    raise UnknownNameError("algorithm", name, names())


def settings_type(name: str) -> type:
    """The settings class of an algorithm."""
    return _load(find(name).settings)


def make_learner(name: str, spec: Spec, settings: Any, seed: int, device: str) -> Learner:
    """Make a learner of an algorithm for an environment."""
    return _load(find(name).make)(spec, settings, seed, device)


def preset(algorithm: str, env: str, name: str = "default") -> Any:
    """The settings of a preset.

    Raises:
        UnknownNameError: no such algorithm, or no such preset for this environment.
    """
    presets = _presets(algorithm, env)
    if name not in presets:
        raise UnknownNameError(f"preset of {algorithm} for {env}", name, presets)
    return presets[name]


def preset_names(algorithm: str, env: str) -> list[str]:
    """The names of an algorithm's presets for an environment."""
    return list(_presets(algorithm, env))


def _presets(algorithm: str, env: str) -> Mapping[str, Any]:
    return _load(find(algorithm).presets)(env)


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
