"""Losses by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from metarl.errors import ConfigError, UnknownNameError, closest
from metarl.losses.adaptive import Credit, InnerLoss, PolicyGradientLoss, clipped_objective, log_prob_objective
from metarl.losses.formula import PREFIX, Formula, FormulaHead, formula_inputs, formula_of, is_formula
from metarl.losses.hand_designed import HandDesign, HandDesigned
from metarl.losses.head import Head
from metarl.losses.learned_advantage import LearnedAdvantage
from metarl.losses.learned_drift import LearnedDrift
from metarl.losses.learned_potential import LearnedPotential
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.lpg import LPG
from metarl.losses.ml3_control import make_ml3_control
from metarl.losses.support import step_input_names
from metarl.worlds import Spec

LOSS_NAMES = (
    "reward",
    "potential",
    "advantage",
    "drift",
    "lpg",
    "ml3",
    "feedback",
    "dense",
    "dense-bonus",
    "hand-potential",
)


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
    spec: Spec,
    *,
    discount: float,
    gae_lambda: float,
    lambda_anneal_steps: int = 0,
    hidden_dim: int = 16,
    bound: float = 10.0,
    num_epochs: int = 1,
    given_reward: HandDesign = "feedback",
    reads: Sequence[str] = (),
    change_scale: float = 1.0,
) -> InnerLoss:
    """Make a loss that reads the signals of an environment.

    Args:
        name: which; "formula:FILE" for a formula, which brings its own discount, lambda and bound.
        spec: the environment.
        discount, gae_lambda: of later rewards.
        lambda_anneal_steps: of a potential.
        hidden_dim, bound: of the network inside a learned reward, potential or advantage.
        num_epochs: gradient steps on the same experience; from two on the objective is PPO's.
        given_reward: what the advantages of a learned drift are computed from, and the reward that lpg reads.
        change_scale: factor on the changes of signals that the network inside a learned reward or advantage reads.
        reads: the signals that a learned reward, potential or advantage reads; none: all that the environment gives.

    Raises:
        ConfigError: the loss reads signals and the environment gives none, or needs continuous actions, or a formula
            cannot be read.
        UnknownNameError: no such loss.
    """
    check_loss_name(name)
    signals = tuple(reads) or (() if spec.signals is None else spec.signals.names)
    signal_columns(spec, reads)  # refuses one that the environment does not give
    if name in ("reward", "potential", "advantage") and not signals:
        raise ConfigError(
            f"a learned {name} reads signals, and {spec.name} gives none. Take --loss drift, or another --env."
        )
    horizon = spec.horizon
    if name == "drift":
        return LearnedDrift(_hand_designed(given_reward, horizon, discount, gae_lambda))
    if name == "lpg":
        return LPG(_hand_designed(given_reward, horizon, discount, gae_lambda), horizon, discount)
    if name == "ml3":
        return make_ml3_control(spec)
    scales = () if change_scale == 1 else (*[1.0] * len(signals), *[change_scale] * len(signals), 1.0, 1.0)
    step_head = Head(len(step_input_names(signals)), hidden_dim, bound, scales)
    credit: Credit
    if is_formula(name):
        credit = formula_credit(formula_of(name), horizon, lambda_anneal_steps)
    elif name == "reward":
        credit = LearnedReward(signals, horizon, discount, gae_lambda, step_head)
    elif name == "potential":
        head = Head(len(signals), hidden_dim, bound)
        credit = LearnedPotential(signals, horizon, discount, gae_lambda, lambda_anneal_steps, head)
    elif name == "advantage":
        credit = LearnedAdvantage(signals, step_head)
    else:
        credit = _hand_designed(cast(HandDesign, name), horizon, discount, gae_lambda)
    return PolicyGradientLoss(credit, clipped_objective if num_epochs > 1 else log_prob_objective)


def signal_columns(spec: Spec, wanted: Sequence[str]) -> list[int]:
    """Where the signals that a loss reads stand among those of an environment.

    Raises:
        ConfigError: the environment does not give one of them.
    """
    given = () if spec.signals is None else spec.signals.names
    if missing := [name for name in wanted if name not in given]:
        raise ConfigError(
            f"the loss reads signals that {spec.name} does not give: {', '.join(missing)}.{closest(missing[0], given)} "
            f"Available: {', '.join(given) or 'none'}."
        )
    return [given.index(name) for name in wanted]


def formula_credit(
    formula: Formula, horizon: int, lambda_anneal_steps: int
) -> LearnedReward | LearnedPotential | LearnedAdvantage:
    """A reward, potential or advantage in closed form; nothing in it is learned."""
    signals, discount, gae_lambda = formula.read_signals, formula.discount, formula.gae_lambda
    adapts = formula.adaptation is not None
    head = FormulaHead(formula.tree(), formula_inputs(formula.loss, signals), formula.bound, adapts)
    if formula.loss == "reward":
        return LearnedReward(signals, horizon, discount, gae_lambda, head, learns_decay=adapts)
    if formula.loss == "potential":
        return LearnedPotential(signals, horizon, discount, gae_lambda, lambda_anneal_steps, head)
    return LearnedAdvantage(signals, head)


def _hand_designed(kind: HandDesign, horizon: int, discount: float, gae_lambda: float) -> HandDesigned:
    wanted = () if kind == "feedback" else ("log_distance",)
    return HandDesigned(kind, wanted, horizon, discount, gae_lambda)
