"""Settings of the learner of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from metarl.errors import ConfigError
from metarl.losses.hand_designed import HandDesign
from metarl.losses.table import check_loss_name
from metarl.start_policy import RANDOM, check_start


@dataclass(frozen=True)
class LearnedLossConfig:
    """Settings of learned losses, and of hand-designed ones that are used in the same way."""

    total_steps: int = 8_000_000
    """Environment steps of meta-training."""
    loss: str = "reward"
    """What is learned: reward, potential, advantage, drift, rule (lpg) or loss of observation and action (ml3). Or a
    loss of which only step sizes are: feedback, dense, dense-bonus, hand-potential, or formula:FILE, which brings its
    own discount, lambda, bound and first step sizes."""
    given_reward: HandDesign = "feedback"
    """The reward, designed by hand, that a drift takes advantages from and that lpg reads."""
    signals: tuple[str, ...] = ()
    """The signals of the environment that a learned reward, potential or advantage reads; none named: all of them. Few
    are learned from fewer steps."""
    adapts_to_task: bool = True
    """What a task gave so far modulates the loss."""
    learns_step_size: bool = True
    """Learn the size of each inner update."""
    learns_offset: bool = False
    """Learn what an inner update adds to each parameter of the policy (NoRML; loss advantage, fits one robot alone)."""
    meta_batch_size: int = 16
    """Tasks of an update, each with a policy of its own."""
    episodes_per_task: int = 16
    """Episodes before, and after, each inner update."""
    num_inner_steps: int = 10
    """Inner updates that the meta-gradient runs through."""
    lifetime: int = 0
    """Inner updates that a policy lives for in meta-training, in windows of `num_inner_steps`; 0: one window."""
    inner_lr: float = 0.1
    """Size of an inner update, or its start where it is learned: rather too small than too large, for little can be
    learned where actions are at their limits."""
    inner_epochs: int = 1
    """Gradient steps of an inner update; with more than one the objective is PPO's."""
    discount: float = 0.97
    """Discount of rewards."""
    inner_lambda: float = 0.9
    """Decay of credit within the loss; together with the discount."""
    lambda_anneal_steps: int = 0
    """Inner updates over which a potential's lambda rises to 1, so that its bias vanishes; 0: it does not."""
    head_dim: int = 16
    """Hidden units of the loss."""
    bound: float = 10.0
    """Largest magnitude of what the loss adds."""
    outer_lr: float = 2e-2
    """Step size of Adam."""
    step_size_lr: float = 0.0
    """Step size of Adam for the logarithms of the learned step sizes; 0: `outer_lr`. They have a long way to go:
    presets give them more."""
    anneal: bool = True
    """Decrease both linearly to a tenth over the training."""
    max_grad_norm: float = 1.0
    """Largest norm of the meta-gradient, of each task and of their mean."""
    outer: Literal["gradient", "evolution"] = "gradient"
    """How the loss learns: by the gradient through the inner updates, or by evolution strategies, which need no memory
    of them and see how the loss changes what is experienced."""
    true_gradient: Literal["auto", "score", "pathwise"] = "auto"
    """How the true return's gradient by the policies is had: from the likelihood of their actions, or through the
    dynamics, which needs an environment of differentiable tensors and is far less noisy; auto: pathwise if it can."""
    first_order: bool = True
    """Leave out of the gradient how a change of one inner update turns the directions of later ones. That part explodes
    over many long updates: on reach-robots a loss learned several times faster without it."""
    true_episodes: int = 8
    """Episodes of each policy that a pathwise gradient is taken from."""
    sigma: float = 0.05
    """Standard deviation of evolution's perturbations."""
    early_weight: float = 1.0
    """Weight of the return after the first inner update; that after the last one is 1, those between lie on a line.
    With equal weights the loss is trained for a life of 1 to K updates, each length as likely."""
    policy_dims: tuple[int, ...] = (32, 32)
    """Widths of the policies' hidden layers."""
    initial_std: float = 0.5
    """Standard deviation of continuous actions of a fresh policy."""
    start: str = RANDOM
    """What policies start from on every task: random, or policy:RUN, the policy of a run of a gradient learner, or of
    domain-randomised or ppo, which has three hidden layers of one width."""
    change_scale: float = 1.0
    """Factor on the changes of signals within a step, before the network of a learned reward or advantage reads them;
    worth setting where control steps are short, so that changes are far smaller than signals."""
    normalizes_obs: bool = False
    """Shift and scale observations by the statistics of the first batch ever."""
    task_chunk: int = 0
    """Tasks that are differentiated at a time; 0: few on the CPU, all on a GPU."""
    update_threads: int = 2
    """Threads that share the parts of an update on the CPU; the numbers do not depend on them."""

    RENAMED: ClassVar[Mapping[str, str]] = {"drift_reward": "given_reward"}
    """What fields were called before; see `config_from_json`."""

    def __post_init__(self) -> None:
        check_loss_name(self.loss)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{field.name} must be finite, got {value}.")
        counts = ("total_steps", "meta_batch_size", "episodes_per_task", "num_inner_steps", "inner_epochs", "head_dim")
        for name in (*counts, "true_episodes", "update_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("lifetime", "lambda_anneal_steps", "task_chunk", "early_weight", "step_size_lr"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.lifetime % self.num_inner_steps:
            raise ConfigError(f"lifetime ({self.lifetime}) must be a multiple of num_inner_steps.")
        if self.outer == "evolution" and (self.meta_batch_size % 2 or self.lifetime):
            raise ConfigError(
                "evolution takes an even meta_batch_size (pairs), and lifetime 0: num_inner_steps is free."
            )
        for name in ("inner_lr", "bound", "change_scale", "outer_lr", "max_grad_norm", "initial_std", "sigma"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("discount", "inner_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.signals and self.loss not in ("reward", "potential", "advantage"):
            raise ConfigError(f"signals are chosen for a learned reward, potential or advantage, got loss {self.loss}.")
        if len(set(self.signals)) != len(self.signals):
            raise ConfigError(f"signals must differ, got {', '.join(self.signals)}.")
        if self.learns_offset and self.loss != "advantage":
            raise ConfigError(f"learns_offset is of the loss advantage, got {self.loss}.")
        check_start(self.start, self.normalizes_obs)
        if not all(width >= 1 for width in self.policy_dims):
            raise ConfigError(f"policy_dims must be positive, got {self.policy_dims}.")

    @property
    def num_worlds(self) -> int:
        """N = B * E."""
        return self.meta_batch_size * self.episodes_per_task

    @property
    def episodes_per_trial(self) -> int:
        """Phases of a trial."""
        return self.num_inner_steps + 1
