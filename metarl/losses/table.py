"""Losses by name."""

from __future__ import annotations

from typing import Literal

from metarl.env import EnvSpec
from metarl.errors import ConfigError
from metarl.losses.adaptive import InnerLoss, PolicyGradientLoss
from metarl.losses.hand_designed import HandDesigned
from metarl.losses.head import Head
from metarl.losses.learned_advantage import LearnedAdvantage
from metarl.losses.learned_potential import LearnedPotential
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.support import step_input_names

LossName = Literal["reward", "potential", "advantage", "feedback", "dense", "dense-bonus", "hand-potential"]


def make_inner_loss(
    name: LossName,
    spec: EnvSpec,
    *,
    discount: float,
    gae_lambda: float,
    lambda_anneal_steps: int,
    hidden_dim: int,
    bound: float,
    num_epochs: int,
) -> InnerLoss:
    """Make a loss that reads the signals of an environment."""
    signals = () if spec.signals is None else spec.signals.names
    if name in ("reward", "potential", "advantage") and not signals:
        raise ConfigError(f"a learned {name} reads signals, and {spec.name} gives none.")
    horizon = spec.horizon
    if name == "reward":
        head = Head(len(step_input_names(signals)), hidden_dim, bound)
        return PolicyGradientLoss(LearnedReward(signals, horizon, discount, gae_lambda, head))
    if name == "potential":
        head = Head(len(signals), hidden_dim, bound)
        return PolicyGradientLoss(LearnedPotential(signals, horizon, discount, gae_lambda, lambda_anneal_steps, head))
    if name == "advantage":
        return PolicyGradientLoss(LearnedAdvantage(signals, Head(len(step_input_names(signals)), hidden_dim, bound)))
    wanted = () if name == "feedback" else ("log_distance",)
    return PolicyGradientLoss(HandDesigned(name, wanted, horizon, discount, gae_lambda))
