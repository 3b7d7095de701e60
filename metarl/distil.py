"""Distil a learned loss into a formula, and accept it only if policies learn with it as well as with the network.

The network's head is sampled on the experience of fresh policies, formulas are fitted to it, and each formula on the
front of simplicity against fidelity trains fresh policies on validation tasks. Fidelity does not decide: a formula is
accepted if the return that its policies gain is at least 95 % of what the network's gain.

The target is the head at the typical task: the mean of its parameters over tasks. If policies gain less than 95 % with
that, the loss has to adapt to its task, and so has its formula: then the target is the head as it is on each task, and
one number of the task is found in closed form first (`metarl.distil_task`) and given to formulas as `task`. Where none
is found the target stays the typical one.
Formulas take over the network's step sizes, up to one factor for each formula; the network gets its best factor too, so
that no formula wins by that. Formulas are fitted to what the network credits a step with, which sums up later rewards:
what lasts counts for more in it than what comes and goes. A constant that is added to the head moves no advantage
unless episodes truly end: then formulas have one, and are fitted to the head as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.distil_rows import Rows, sample_rows
from metarl.distil_task import TaskNumber, task_number
from metarl.errors import ConfigError
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.lives import LearnedCredit, Lives, learned_credit, live, name_of, typical
from metarl.losses.adaptive import STEP_SIZE
from metarl.losses.expression import Node, Number, complexity, rounded, to_text
from metarl.losses.formula import PREFIX, Formula, FormulaHead
from metarl.losses.formula_encoding import TASK
from metarl.losses.head import Head
from metarl.losses.learned_advantage import LearnedAdvantage
from metarl.losses.learned_reward import LearnedReward
from metarl.losses.support import Support
from metarl.seeding import make_generator
from metarl.symbolic import (
    Linear,
    has_symbolic_regression,
    pareto_front,
    r_squared,
    refitted,
    simplified,
    sparse_candidates,
    symbolic_candidates,
    values_of,
    without_constant,
)
from metarl.worlds import Spec, make_worlds

ACCEPTED_SHARE = 0.95
STEP_SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
_MORE = 4
_MAX_SEARCH_ROWS, _MAX_TESTED, _DIGITS = 3_000, 10, 4


@dataclass(frozen=True)
class Candidate:
    """A formula that was tested.

    Attributes:
        expression: the formula.
        source: "sparse regression", "symbolic regression", or "nothing learned" for the formula 0.
        complexity: its nodes.
        r_squared: of what the bounded head credits steps with, on tasks that it was not fitted to.
        advantage_correlation: of the advantages that it gives with those of the network, as it is on each task.
        step_scale: factor on the network's step sizes, chosen on training tasks.
        final_return: mean of fresh policies after the last inner update, on validation tasks.
        share: of the network's gain over the start.
        share_ci95: its interval over tasks, by bootstrap.
        is_accepted: whether the share is at least 95 %.
    """

    expression: str
    source: str
    complexity: int
    r_squared: float
    advantage_correlation: float
    step_scale: float
    final_return: float
    share: float
    share_ci95: tuple[float, float]
    is_accepted: bool


@dataclass(frozen=True)
class Distillation:
    """What came of distilling a loss.

    Attributes:
        loss: reward, potential or advantage.
        candidates: from simple to complex.
        formula: the simplest accepted one, None if none was.
        start_return, network_return: mean returns before and after the updates with the network.
        network_step_scale: factor on the network's step sizes, chosen as for the formulas.
        num_validation_tasks: B of the test.
        used_symbolic_regression: whether Operon was there.
        typical_share: of the network's gain that is kept by the network at the typical task, without adaptation.
        task: how formulas adapt; None where they need not, or nothing was found that tells how.
    """

    loss: str
    candidates: list[Candidate]
    formula: Formula | None
    start_return: float
    network_return: float
    network_step_scale: float
    num_validation_tasks: int
    used_symbolic_regression: bool
    typical_share: float = 1.0
    task: TaskNumber | None = None


def distil(
    learner: LearnedLossLearner,
    spec: Spec,
    *,
    num_tasks: int = 32,
    num_validation_tasks: int = 64,
    step_scales: Sequence[float] = STEP_SCALES,
    seed: int = 0,
    made_by: dict[str, Any] | None = None,
) -> Distillation:
    """Find the simplest formula that teaches as well as the network.

    Args:
        learner: with a learned reward, potential or advantage.
        spec: its environment.
        num_tasks: training tasks to sample the network on, and to choose step scales on; half of them are held out
            from the fit. Where the loss has to adapt, it is sampled on four times as many.
        num_validation_tasks: tasks that decide.
        step_scales: factors on the network's step sizes to choose from, for each formula.
        seed: of everything random.
        made_by: what the formula file shall say about its origin.

    Raises:
        ConfigError: the loss is not a network, or policies gain nothing with it.
    """
    credit = learned_credit(learner)
    if not isinstance(credit.head, Head):
        raise ConfigError("this loss is a formula already.")
    if learner.loss.offset_shapes:
        raise ConfigError("learned offsets are no part of a formula: distil a loss without learns_offset.")
    if num_tasks < 2:
        raise ConfigError(f"distillation needs at least two training tasks, got {num_tasks}.")
    tasks = spec.tasks.sample_train(num_tasks, make_generator(seed, "distil"))
    lives = live(learner, spec, tasks.to(learner.device), seed)
    test = _Test(learner, spec, lives, num_validation_tasks, sorted({1.0, *step_scales}), seed)
    typical_share = test.typical_share()
    if typical_share < ACCEPTED_SHARE:  # how tasks differ takes more of them to see
        tasks = spec.tasks.sample_train(_MORE * num_tasks, make_generator(seed, "distil"))
        lives = live(learner, spec, tasks.to(learner.device), seed)
        test.task = task_number(credit, lives)
    rows = sample_rows(credit, lives, test.task, learner.horizon, seed)
    found = _candidates(rows.where(~rows.is_held_out), seed, _has_constant(credit, lives))
    held_out, bound = rows.where(rows.is_held_out), credit.head.bound

    def fidelity(node: Node) -> float:
        value = values_of(node, held_out.x, held_out.names)
        ours, network = (held_out.credited(bound * np.tanh(raw / bound)) for raw in (value, held_out.y))
        return r_squared(ours, network)

    nothing = Number(0.0)  # what the feedback does alone
    front = [(nothing, fidelity(nothing)), *_thinned(pareto_front(list(found), fidelity))]
    candidates = [
        test.of(node, found.get(node, "nothing learned"), score, advantage_correlation(credit, node, lives, test.task))
        for node, score in front
    ]
    chosen = next((one for one in candidates if one.is_accepted), None)
    return Distillation(
        loss=name_of(credit),
        candidates=candidates,
        formula=None if chosen is None else test.formula(chosen, made_by or {}),
        start_return=float(test.start.mean()),
        network_return=float(test.network.mean()),
        network_step_scale=test.network_scale,
        num_validation_tasks=num_validation_tasks,
        used_symbolic_regression=has_symbolic_regression(),
        typical_share=typical_share,
        task=test.task,
    )


def advantage_correlation(credit: LearnedCredit, node: Node, lives: Lives, task: TaskNumber | None = None) -> float:
    """Correlation of the standardised advantages of a formula and of the network, over all tasks and inner updates."""
    # Its decay is the network's.
    ours = replace(credit, head=FormulaHead(node, credit.input_names, credit.head.bound, task is not None))
    shares = []
    for k, support in enumerate(lives.supports[:-1]):
        step = torch.tensor(k, device=support.weight.device)

        def pair(loss: dict[str, Tensor], *fields: Tensor, step: Tensor = step) -> tuple[Tensor, Tensor]:  # of one task
            experience = Support(*fields)
            return credit.advantage(loss, experience, step), ours.advantage(loss, experience, step)

        losses = lives.losses[k] | ({} if task is None else {TASK: task.values[k].unsqueeze(1)})
        network, formula = torch.func.vmap(pair)(losses, *support)
        spread = (support.weight * formula.square()).sum(1) * (support.weight * network.square()).sum(1)
        shares.append((support.weight * network * formula).sum(1) * spread.clamp(min=1e-12).rsqrt())
    return float(torch.stack(shares).mean())


class _Test:
    """Trains fresh policies with formulas on the validation tasks that the network is judged on, from equal starts."""

    def __init__(
        self,
        learner: LearnedLossLearner,
        spec: Spec,
        lives: Lives,
        num_tasks: int,
        scales: Sequence[float],
        seed: int,
    ):
        self.task: TaskNumber | None = None
        self._learner, self._spec, self._scales, self._seed = learner, spec, scales, seed
        self._log_step_size = lives.log_step_size.mean(0)  # (K, 3)
        self._loss = typical(lives.loss)
        self._train_tasks = lives.tasks
        self._tasks = spec.tasks.split("validation", num_tasks, seed).to(learner.device)
        self.network_scale = self._best_scale(lambda scale: with_step_scale(learner, scale))
        returns = self._returns(with_step_scale(learner, self.network_scale), self._tasks)
        self.start, self.network = returns[:, 0], returns[:, -1]
        gain = float((self.network - self.start).mean())
        if not gain > 0:
            raise ConfigError(
                f"policies gain nothing with this loss on validation tasks ({gain:.3g} from {self.start.mean():.3g}): "
                "there is no behaviour that a formula could keep. Train it longer."
            )

    def typical_share(self) -> float:
        """The share of the network's gain that it keeps if it is the same for all tasks."""
        if self._learner.loss.encoding is None:
            return 1.0
        same_for_all = without_adaptation(self._learner)
        scale = self._best_scale(lambda scale: with_step_scale(same_for_all, scale))
        return self._share(self._returns(with_step_scale(same_for_all, scale), self._tasks)[:, -1])[0]

    def of(self, node: Node, source: str, score: float, correlation: float) -> Candidate:
        """Test a formula."""
        text = to_text(node)
        scale = self._best_scale(lambda scale: self._with(text, scale))
        final = self._returns(self._with(text, scale), self._tasks)[:, -1]
        share, interval = self._share(final)
        return Candidate(
            expression=text,
            source=source,
            complexity=complexity(node),
            r_squared=score,
            advantage_correlation=correlation,
            step_scale=scale,
            final_return=float(final.mean()),
            share=share,
            share_ci95=interval,
            is_accepted=share >= ACCEPTED_SHARE,
        )

    def formula(self, chosen: Candidate, made_by: dict[str, Any]) -> Formula:
        """A candidate as a formula file has it."""
        measured = {"share_of_gain": chosen.share, "r_squared": chosen.r_squared, "step_scale": chosen.step_scale}
        return self._formula(chosen.expression, chosen.step_scale, {**made_by, **measured})

    def _formula(self, text: str, scale: float, made_by: dict[str, Any]) -> Formula:
        credit = learned_credit(self._learner)
        discount, gae_lambda = self._learner.config.discount, self._learner.config.inner_lambda
        log_step_size = self._log_step_size if self.task is None else self.task.log_step_size
        if isinstance(credit, LearnedReward):
            decay = float(credit.decay(self._loss))
            if self.task is not None and self.task.decay_logit is not None:
                decay = 1 / (1 + math.exp(-self.task.decay_logit))
            # A learned decay may be slower than the discount.
            discount, gae_lambda = (discount, decay / discount) if decay < discount else (decay, 1.0)
        return Formula(
            loss=name_of(credit),
            expression=text,
            signals=tuple(credit.signals),
            bound=credit.head.bound,
            discount=discount,
            gae_lambda=gae_lambda,
            step_sizes=tuple(tuple(row) for row in (log_step_size.exp() * scale).tolist()),
            made_by=made_by,
            adaptation=None if self.task is None else self.task.adaptation,
        )

    def _with(self, text: str, scale: float) -> LearnedLossLearner:
        return with_formula(self._learner, self._formula(text, scale, {}))

    def _best_scale(self, of_scale: Callable[[float], LearnedLossLearner]) -> float:
        """The factor on step sizes with the best final return on training tasks."""
        tried = {scale: self._returns(of_scale(scale), self._train_tasks)[:, -1].mean() for scale in self._scales}
        return max(tried, key=lambda scale: (tried[scale], scale == 1.0))

    def _returns(self, learner: LearnedLossLearner, tasks: Tensor) -> NDArray:
        """(B, K + 1) of fresh policies, means over episodes."""
        env = make_worlds(
            self._spec, len(tasks) * learner.config.episodes_per_task, device=learner.device, seed=self._seed
        )
        env.set_tasks(tasks)
        generator = make_generator(self._seed, "distil", learner.device)
        rollout = learner.trial(env, learner.config.episodes_per_trial, generator)
        return rollout.episode_returns().unflatten(1, (len(tasks), -1)).mean(2).T.double().cpu().numpy()

    def _share(self, final: NDArray) -> tuple[float, tuple[float, float]]:
        """The share of the network's gain, and its interval over tasks."""
        rows = np.random.default_rng(self._seed).integers(len(final), size=(2000, len(final)))
        gain, network_gain = final - self.start, self.network - self.start
        shares = gain[rows].mean(1) / np.maximum(network_gain[rows].mean(1), 1e-9)
        low, high = np.quantile(shares, [0.025, 0.975])
        return float(gain.mean() / network_gain.mean()), (float(low), float(high))


def with_formula(learner: LearnedLossLearner, formula: Formula) -> LearnedLossLearner:
    """A learner whose policies are like those of another one, and learn with a formula."""
    import json

    content = PREFIX + json.dumps(formula.to_json())
    # A formula says itself which signals it reads.
    config = replace(learner.config, loss=content, signals=())
    other = LearnedLossLearner(learner.spec, config, 0, learner.device)
    other.obs_normalizer.load_state_dict(learner.obs_normalizer.state_dict())
    other.starts = learner.starts
    return other


def with_step_scale(learner: LearnedLossLearner, scale: float) -> LearnedLossLearner:
    """The same learner with all step sizes times a factor."""
    other = _twin(learner)
    other.meta_parameters[STEP_SIZE] = other.meta_parameters[STEP_SIZE] + math.log(scale)
    return other


def without_adaptation(learner: LearnedLossLearner) -> LearnedLossLearner:
    """The same learner, to which every task is the typical one."""
    other = _twin(learner)
    other.loss.encoding = None
    return other


def _twin(learner: LearnedLossLearner) -> LearnedLossLearner:
    other = LearnedLossLearner(learner.spec, learner.config, 0, learner.device)
    other.obs_normalizer.load_state_dict(learner.obs_normalizer.state_dict())
    other.starts = learner.starts
    other.meta_parameters = {name: value.detach() for name, value in learner.meta_parameters.items()}
    other.loss.encoding = learner.loss.encoding
    return other


def _candidates(rows: Rows, seed: int, has_constant: bool) -> dict[Node, str]:
    """Formulas and where they come from."""

    def finished(node: Node) -> Node:
        whole = simplified(node) if has_constant else without_constant(node)
        return simplified(rounded(whole, _DIGITS))  # what is rounded to 1 needs no factor

    found: dict[Node, str] = {}
    names = rows.names
    x, y, credited = _fitted(rows, has_constant)
    for node in sparse_candidates(x, y, names, credited=credited):
        found[finished(node)] = "sparse regression"
    if has_symbolic_regression():
        groups = len(rows.decay)
        few = rows.where(np.arange(groups) < max(1, _MAX_SEARCH_ROWS * groups // len(rows.y)))
        x, y, credited = _fitted(few, has_constant)
        for node in symbolic_candidates(few.x[few.counts], few.y[few.counts], names, seed):
            found.setdefault(finished(refitted(node, x, y, names, credited=credited)), "symbolic regression")
    return found


def _fitted(rows: Rows, has_constant: bool) -> tuple[NDArray, NDArray, Linear | None]:
    """Inputs, the head, and what of it counts: with a constant each step that was made, without one its credit."""
    if has_constant:
        return rows.x[rows.counts], rows.y[rows.counts], None
    return rows.x, rows.y, rows.credited


def _has_constant(credit: LearnedCredit, lives: Lives) -> bool:
    return not isinstance(credit, LearnedAdvantage) and any(bool(support.ended.any()) for support in lives.supports)


def _thinned(front: list[tuple[Node, float]]) -> list[tuple[Node, float]]:
    """At most so many of a front, evenly, with both ends."""
    if len(front) <= _MAX_TESTED:
        return front
    return [front[round(i * (len(front) - 1) / (_MAX_TESTED - 1))] for i in range(_MAX_TESTED)]
