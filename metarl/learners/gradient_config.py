"""Settings of the inner loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from metarl.errors import ConfigError
from metarl.start_policy import RANDOM, check_start

LEARNED_CREDITS = ("reward", "potential", "advantage")
"""What inner steps may follow that is meta-trained together with the policy."""


@dataclass(frozen=True)
class GradientConfig:
    """Settings of the inner loop, which all gradient learners share."""

    total_steps: int = 16_000_000
    """Environment steps of meta-training, those before adaptation included."""
    meta_batch_size: int = 40
    """Tasks of an update."""
    episodes_per_task: int = 20
    """Episodes on each task before, and after, each inner step."""
    num_inner_steps: int = 1
    """Inner policy-gradient steps that are meta-trained."""
    inner_lr: float = 0.1
    """Size of an inner step; where step sizes are learned, their start."""
    learns_inner_lr: bool = False
    """Learn a step size for each parameter (Meta-SGD)."""
    judges_every_step: bool = False
    """The outer step improves the policies after each inner step; else those after the last one only."""
    later_step_scale: float = 0.5
    """Factor on inner steps beyond those that were meta-trained; MAML's protocol halves them."""
    adapts: Literal["all", "head", "context"] = "all"
    """What inner steps change: all parameters, the last layer (ANIL) or context parameters (CAVIA)."""
    context_dim: int = 10
    """Context parameters, where these are what adapts."""
    task_chunk: int = 0
    """Tasks that are differentiated at a time; 0: few on the CPU, so that they stay in its cache, all on a GPU."""
    update_threads: int = 2
    """Threads that share the parts of an update on the CPU; the numbers do not depend on them."""
    first_order: bool = False
    """Take inner gradients as constants (first-order MAML)."""
    inner_surrogate: Literal["log-prob", "ratio", "dice"] = "log-prob"
    """Loss of the inner steps: MAML's, ProMP's, or DiCE."""
    inner_reward: str = "own"
    """What inner steps maximise: own, the environment's reward; or reward, potential or advantage, a loss of this kind
    that reads the environment's signals and is meta-trained together with the policy; or learned:RUN, feedback as the
    loss of a run of learned-loss shapes it, or formula:FILE, as a formula does. The outer objective keeps the
    environment's reward."""
    change_scale: float = 1.0
    """Factor on the changes of signals within a step, before a meta-trained inner reward or advantage reads them."""
    start: str = RANDOM
    """Policy that meta-training starts from: random, or policy:RUN, that of a run of a gradient learner, or of
    domain-randomised or ppo, which has three hidden layers of one width."""
    hidden_dims: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of the hidden layers."""
    initial_std: float = 1.0
    """Standard deviation of continuous actions at the start; actions lie in [-1, 1]."""
    normalizes_obs: bool = True
    """Shift and scale observations by running statistics."""
    discount: float = 0.99
    """Discount factor."""
    gae_lambda: float = 1.0
    """Decay of the advantage estimator; 1 in the papers."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{field.name} must be finite, got {value}.")
        counts = ("total_steps", "meta_batch_size", "episodes_per_task", "num_inner_steps", "context_dim")
        for name in (*counts, "update_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.task_chunk < 0:
            raise ConfigError(f"task_chunk must not be negative, got {self.task_chunk}.")
        if not all(width >= 1 for width in self.hidden_dims):
            raise ConfigError(f"hidden_dims must be positive, got {self.hidden_dims}.")
        for name in ("inner_lr", "later_step_scale"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not self.initial_std > 0:
            raise ConfigError(f"initial_std must be positive, got {self.initial_std}.")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        check_start(self.start, self.normalizes_obs)
        if self.first_order and self.inner_reward in LEARNED_CREDITS:
            raise ConfigError(
                f"inner_reward {self.inner_reward} is learned through the inner gradients, which first_order takes as "
                "constants. Leave one of them out."
            )

    @property
    def num_worlds(self) -> int:
        """N = B * E."""
        return self.meta_batch_size * self.episodes_per_task

    @property
    def episodes_per_trial(self) -> int:
        """Phases of a trial."""
        return self.num_inner_steps + 1
