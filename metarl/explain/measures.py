"""All numbers of an explanation, from the lives of fresh policies under the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from metarl.errors import ConfigError
from metarl.explain.gradients import Landscape, alignment, landscape, rank_correlation
from metarl.explain.inputs import Judge, integrated_gradients, partial_dependence, response_map, usual_range
from metarl.learners.learned_loss import LearnedLossLearner
from metarl.lives import LearnedCredit, Lives, head_inputs, learned_credit, live, name_of, typical
from metarl.losses.formula import is_formula
from metarl.worlds import Spec

_MAX_ROWS, _MAX_CURVES, _NUM_MAPPED = 4000, 400, 4
_POINTS, _MAP_POINTS = 41, 61


@dataclass(frozen=True)
class InputMeasures:
    """What the loss makes of its inputs, at the typical task.

    Attributes:
        names: of the I inputs.
        rows: (R, I), inputs that were experienced.
        shares: (I,), of the mean absolute integrated gradients; they sum to 1.
        slopes: (I,), rank correlation of each input with its integrated gradient; its sign is the direction.
        order: inputs by falling share, without those that never change.
        grids: input -> (G,).
        curves: input -> (G, R'), partial dependence of single rows.
        maps: (first, second) -> (y grid points, x grid points), over pairs of the strongest inputs.
        map_grids: input -> grid of the maps.
    """

    names: tuple[str, ...]
    rows: Tensor
    shares: Tensor
    slopes: Tensor
    order: list[int]
    grids: dict[int, Tensor]
    curves: dict[int, Tensor]
    maps: dict[tuple[int, int], Tensor]
    map_grids: dict[int, Tensor]


@dataclass(frozen=True)
class TaskMeasures:
    """How the loss differs between tasks.

    Attributes:
        adapts: whether it can.
        strengths: of the modulation: gain, shift, step size; empty where it cannot.
        spread: mean over tasks of the deviation from the typical task's loss, relative to that loss's own spread.
        axis: the input along which responses are shown.
        grid: (G,), its values.
        responses: (B, G).
        parameter: the task parameter that goes most with the responses, and its unit.
        parameter_values: (B,).
        parameter_correlation: rank correlation with the first principal component of the responses.
        step_sizes: (B, K, 3).
    """

    adapts: bool
    strengths: list[float]
    spread: float
    axis: str
    grid: Tensor
    responses: Tensor
    parameter: tuple[str, str]
    parameter_values: Tensor
    parameter_correlation: float
    step_sizes: Tensor


@dataclass(frozen=True)
class Measures:
    """All that is shown, but for the formula.

    Attributes:
        loss: its name.
        num_tasks, num_updates: B and K.
        returns: (B, K + 1), true returns of the lives that all was measured on.
        inputs: see `InputMeasures`.
        landscapes: at the start, in the middle and at the end of one life.
        landscape_task: which.
        cosines: name -> (K, B), see `metarl.explain.gradients.alignment`.
        tasks: see `TaskMeasures`.
    """

    loss: str
    num_tasks: int
    num_updates: int
    returns: Tensor
    inputs: InputMeasures
    landscapes: list[Landscape]
    landscape_task: int
    cosines: dict[str, Tensor]
    tasks: TaskMeasures


@torch.no_grad()
def measure(learner: LearnedLossLearner, spec: Spec, tasks: Tensor, seed: int) -> Measures:
    """Measure a learned loss on the lives of fresh policies.

    Args:
        learner: with a learned reward, potential or advantage, or a formula of one.
        spec: its environment.
        tasks: (B, P), B at least 2.
        seed: of everything random.

    Raises:
        ConfigError: another loss, or one task only.
    """
    credit = learned_credit(learner)
    if len(tasks) < 2:
        raise ConfigError(f"an explanation compares tasks: it needs at least 2, got {len(tasks)}.")
    lives = live(learner, spec, tasks.to(learner.device), seed)
    updates = len(lives.policies) - 1
    inputs = _inputs(credit, lives, seed)
    middle = int(lives.returns[:, -1].argsort()[len(tasks) // 2])
    moments = sorted({0, updates // 2, updates})
    return Measures(
        loss=f"{name_of(credit)} in closed form" if is_formula(learner.config.loss) else f"learned {name_of(credit)}",
        num_tasks=len(tasks),
        num_updates=updates,
        returns=lives.returns,
        inputs=inputs,
        landscapes=[landscape(learner, spec, lives, middle, k, seed=seed) for k in moments],
        landscape_task=middle,
        cosines=alignment(learner, spec, lives, seed),
        tasks=_tasks(learner, spec, credit, lives, inputs),
    )


def judge_of(credit: LearnedCredit, loss: Mapping[str, Tensor]) -> Judge:
    """The head of a credit with its parameters."""
    return lambda inputs: credit.head(loss, inputs)


def _inputs(credit: LearnedCredit, lives: Lives, seed: int) -> InputMeasures:
    rows = torch.cat([head_inputs(credit, s)[s.weight > 0] for s in lives.supports[:-1]])
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:_MAX_ROWS]
    rows = rows[chosen.to(rows.device)]
    judge, centre = judge_of(credit, typical(lives.loss)), rows.median(0).values
    with torch.enable_grad():
        effects = integrated_gradients(judge, rows, centre).detach()
    sizes = effects.abs().mean(0)
    shares = sizes / sizes.sum().clamp(min=1e-12)
    slopes = torch.tensor([rank_correlation(rows[:, i], effects[:, i]) for i in range(rows.shape[1])])
    varying = (rows.std(0) > 1e-6).tolist()
    order = [int(i) for i in shares.argsort(descending=True) if varying[int(i)]]
    grids = {i: usual_range(rows[:, i], _POINTS) for i in order}
    map_grids = {i: usual_range(rows[:, i], _MAP_POINTS) for i in order[:_NUM_MAPPED]}
    return InputMeasures(
        names=credit.input_names,
        rows=rows,
        shares=shares,
        slopes=slopes,
        order=order,
        grids=grids,
        curves={i: partial_dependence(judge, rows[:_MAX_CURVES], i, grid) for i, grid in grids.items()},
        maps={
            (i, j): response_map(judge, centre, i, j, map_grids[i], map_grids[j])
            for i, j in combinations(order[:_NUM_MAPPED], 2)
        },
        map_grids=map_grids,
    )


def _tasks(
    learner: LearnedLossLearner, spec: Spec, credit: LearnedCredit, lives: Lives, inputs: InputMeasures
) -> TaskMeasures:
    num_tasks = len(lives.tasks)
    own = [{name: value[b] for name, value in lives.loss.items()} for b in range(num_tasks)]
    sample, usual = inputs.rows[:_MAX_CURVES], typical(lives.loss)
    outputs = torch.stack([credit.head(one, sample) for one in own])  # (B, R')
    reference = credit.head(usual, sample)
    spread = (outputs - reference).std(1).mean() / reference.std().clamp(min=1e-12)
    axis = inputs.order[0]
    points = inputs.rows.median(0).values.repeat(_POINTS, 1)
    points[:, axis] = inputs.grids[axis]
    responses = torch.stack([credit.head(one, points) for one in own])
    component = torch.pca_lowrank((outputs - outputs.mean(0)).double().cpu(), q=1, niter=8)[0][:, 0]
    named = {column: lives.tasks[:, i] for i, column in enumerate(_columns(spec))}
    correlations = {name: rank_correlation(values.cpu(), component) for name, values in named.items()}
    varying = [name for name, values in named.items() if float(values.std()) > 0] or list(named)
    chosen = max(varying, key=lambda name: abs(correlations[name]))
    strength = learner.meta_parameters.get("encoding.strength")
    return TaskMeasures(
        adapts=learner.loss.encoding is not None,
        strengths=[] if strength is None else strength.detach().tolist(),
        spread=float(spread),
        axis=inputs.names[axis],
        grid=inputs.grids[axis],
        responses=responses,
        parameter=chosen,
        parameter_values=named[chosen],
        parameter_correlation=correlations[chosen],
        step_sizes=lives.log_step_size.exp(),
    )


def _columns(spec: Spec) -> list[tuple[str, str]]:
    """Name and unit of each column of a task tensor."""
    return [(p.name if p.size == 1 else f"{p.name}[{i}]", p.unit) for p in spec.tasks.parameters for i in range(p.size)]
