"""Losses by name."""

from __future__ import annotations

from typing import cast

from metarl.env import EnvSpec
from metarl.errors import ConfigError, UnknownNameError
from metarl.losses.adaptive import InnerLoss, PolicyGradientLoss
from metarl.losses.formula import PREFIX, FormulaHead, formula_of, is_formula
from metarl.losses.hand_designed import HandDesign, HandDesigned
from metarl.losses.head import Head
from metarl.losses.learned_advantage import LearnedAdvantage
from metarl.losses.learned_potential import LearnedPotential
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.support import step_input_names

LEARNED = ("reward", "potential", "advantage")
LOSS_NAMES = (*LEARNED, "feedback", "dense", "dense-bonus", "hand-potential")


def check_loss_name(name: str) -> None:
    """Refuse a name that stands for no loss; reads the file of a formula.

    Raises:
        UnknownNameError: no such loss.
        ConfigError: a formula that cannot be read.
    """
    if is_formula(name):
        formula_of(name)
    elif name not in LOSS_NAMES:
        raise UnknownNameError("loss", name, (*LOSS_NAMES, f"{PREFIX}FILE"))


def make_inner_loss(
    name: str,
    spec: EnvSpec,
    *,
    discount: float,
    gae_lambda: float,
    lambda_anneal_steps: int,
    hidden_dim: int,
    bound: float,
    num_epochs: int,
) -> InnerLoss:
    """Make a loss that reads the signals of an environment. A formula brings its own discount, lambda and bound."""
    check_loss_name(name)
    horizon = spec.horizon
    if is_formula(name):
        formula = formula_of(name)
        judge = FormulaHead(formula.tree(), formula.input_names, formula.bound)
        return _learned(
            formula.loss,
            formula.signals,
            horizon,
            formula.discount,
            formula.gae_lambda,
            lambda_anneal_steps,
            judge,
        )
    signals = () if spec.signals is None else spec.signals.names
    if name in LEARNED:
        if not signals:
            raise ConfigError(f"a learned {name} reads signals, and {spec.name} gives none.")
        num_inputs = len(signals) if name == "potential" else len(step_input_names(signals))
        head = Head(num_inputs, hidden_dim, bound)
        return _learned(name, signals, horizon, discount, gae_lambda, lambda_anneal_steps, head)
    wanted = () if name == "feedback" else ("log_distance",)
    return PolicyGradientLoss(HandDesigned(cast(HandDesign, name), wanted, horizon, discount, gae_lambda))


def _learned(
    name: str,
    signals: tuple[str, ...],
    horizon: int,
    discount: float,
    gae_lambda: float,
    lambda_anneal_steps: int,
    head: Head | FormulaHead,
) -> InnerLoss:
    """A reward, a potential or an advantage around what judges steps or states."""
    if name == "reward":
        return PolicyGradientLoss(LearnedReward(signals, horizon, discount, gae_lambda, head))
    if name == "potential":
        return PolicyGradientLoss(LearnedPotential(signals, horizon, discount, gae_lambda, lambda_anneal_steps, head))
    return PolicyGradientLoss(LearnedAdvantage(signals, head))
