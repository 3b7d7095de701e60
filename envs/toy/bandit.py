"""bandit: Bernoulli arms whose probabilities are hidden, one pull per episode.

TASK PARAMETER (interpolation and extrapolation: none, the probabilities already fill [0, 1])
    probability   1   (num_arms,) independent U[0, 1]   the probability that an arm pays

ACTION       0 .. num_arms - 1, the arm to pull
OBSERVATION  1 number, always 0: what a policy knows, it knows from its previous actions and rewards
REWARD       1 with the arm's probability, else 0
END          after 1 control step; a trial is n episodes, the paper's n pulls
SUCCESS      none

Source: Duan et al. 2016, "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.env import EnvSpec, Noise, Outcome, Start
from metarl.errors import SpecError
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Discrete


def make_spec(num_arms: int = 5) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        num_arms: k; the paper has 5, 10 and 50.

    Raises:
        SpecError: fewer than two arms.
    """
    if num_arms < 2:
        raise SpecError(f"bandit: num_arms must be at least 2, got {num_arms}.")
    probability = Parameter("probability", "1", Uniform(0.0, 1.0), "that an arm pays", shape=(num_arms,))
    return EnvSpec(
        name="bandit",
        tasks=TaskDistribution((probability,)),
        obs_dim=1,
        action_space=Discrete(num_arms),
        horizon=1,
        reset=_reset,
        observe=lambda task, data, state: torch.zeros_like(task["probability"][:, :1]),
        step=_step,
        step_noise=(1, 0),
        description=f"Bernoulli bandit, {num_arms} arms",
    )


def _reset(task: Arrays, noise: Noise) -> Start:
    return Start(state={}, writes={})


def _step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    probability = task["probability"].gather(1, action.unsqueeze(1)).squeeze(1)  # (N,)
    reward = (noise.uniform[:, 0] < probability).to(torch.float32)
    return Outcome(state={}, reward=reward, terminated=torch.ones_like(reward, dtype=torch.bool))
