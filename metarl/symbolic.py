"""Formulas for data: sparse regression over a small library of terms, and symbolic regression.

Sparse regression is sequentially thresholded least squares (Brunton et al. 2016, SINDy) followed by leaving out one
term after the other, so that every number of terms up to the largest is on offer. Symbolic regression is Operon's
(Burlacu et al. 2020), an optional dependency. Constants are refitted by Levenberg-Marquardt at the end.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.errors import ConfigError
from metarl.losses.expression import (
    Apply,
    Input,
    Node,
    Number,
    complexity,
    constants,
    evaluate,
    negative,
    parse,
    with_constants,
)

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Coefficients of standardised terms below these shares of the target's deviation are dropped."""

MAX_TERMS = 12
_ONE = Number(1.0)
_TANH_SLOPES = (1.0, 3.0)
_RIDGE = 1e-3
Linear = Callable[[NDArray], NDArray]
"""Values of rows, (R, ...), to as many."""

_SAME, _MIN_STD, _LARGEST_EXPONENT = 0.99999, 1e-6, 4.0
INSTALL = "pip install 'metarl-robotics[explain]'"


def sparse_candidates(
    x: NDArray, y: NDArray, names: Sequence[str], max_terms: int = MAX_TERMS, credited: Linear | None = None
) -> list[Node]:
    """Sums of a few terms.

    Args:
        x: (R, I).
        y: (R,).
        names: of the I inputs.
        max_terms: terms of the largest sum, without the constant.
        credited: of values of rows what counts, a linear map under which a constant is nothing; sums then have none.
            None: the values themselves.

    Returns:
        Formulas with 1 term, 2 terms and so on, in no particular order, some of them alike.
    """
    terms, columns = _library(x, names, credited or _centred)
    standard = columns / columns.std(0)  # (R, L)
    target = (credited or _centred)(y)
    supports: list[list[int]] = []
    for threshold in THRESHOLDS:
        kept = _thresholded(standard, target, threshold * max(float(y.std()), 1e-12), max_terms)
        while kept:
            supports.append(kept)
            kept = _without_weakest(standard, target, kept)
    unique = sorted(set(map(tuple, supports)))
    sums = [_sum(terms, columns, target, kept) for kept in unique]
    return sums if credited else [_with_constant(one, x, y, names) for one in sums]


def symbolic_candidates(
    x: NDArray, y: NDArray, names: Sequence[str], seed: int, *, generations: int = 60, population_size: int = 500
) -> list[Node]:
    """The Pareto front of a genetic search over trees.

    Args:
        x, y, names: see `sparse_candidates`.
        seed: of the search.
        generations, population_size: of the search.

    Raises:
        ConfigError: Operon is not installed.
    """
    if not has_symbolic_regression():
        raise ConfigError(f"symbolic regression needs pyoperon: {INSTALL}")
    from pyoperon.sklearn import SymbolicRegressor

    search = SymbolicRegressor(
        allowed_symbols="add,sub,mul,div,tanh,exp,abs,constant,variable",
        objectives=["r2", "length"],
        max_length=30,
        max_depth=7,
        population_size=population_size,
        pool_size=population_size,
        generations=generations,
        optimizer_iterations=5,
        n_threads=1,
        random_state=seed,
    )
    search.fit(x, y)
    short = [f"X{i + 1}" for i in range(x.shape[1])]
    found = []
    for member in search.pareto_front_:
        tree = parse(search.get_model_string(member["tree"], 8), short)
        found.append(simplified(_renamed(tree, dict(zip(short, names, strict=True)))))
    return found


def has_symbolic_regression() -> bool:
    """Whether Operon is installed."""
    return importlib.util.find_spec("pyoperon") is not None


def values_of(node: Node, x: NDArray, names: Sequence[str]) -> NDArray:
    """The formula on rows of inputs, (R, I) -> (R,)."""
    columns = {name: torch.from_numpy(np.ascontiguousarray(x[:, i])) for i, name in enumerate(names)}
    return evaluate(node, columns).numpy()


def refitted(
    node: Node,
    x: NDArray,
    y: NDArray,
    names: Sequence[str],
    max_evaluations: int = 300,
    credited: Linear | None = None,
) -> Node:
    """The same formula with the constants that fit best nearby, by Levenberg-Marquardt; see `sparse_candidates`."""
    from scipy.optimize import least_squares

    start = np.array(constants(node))
    if not len(start) or len(y) < len(start):
        return node

    def residual(values: NDArray) -> NDArray:
        found = values_of(with_constants(node, values.tolist()), x, names)
        wrong = np.nan_to_num(found - y, nan=1e6, posinf=1e6, neginf=-1e6)
        return wrong if credited is None else credited(wrong)

    fit = least_squares(residual, start, method="lm", max_nfev=max_evaluations)
    better = np.isfinite(fit.x).all() and fit.cost <= 0.5 * float(np.square(residual(start)).sum())
    return with_constants(node, [float(value) for value in fit.x]) if better else node


def r_squared(predicted: NDArray, y: NDArray) -> float:
    """Share of the variance that is explained; -inf where the prediction is not finite."""
    if not np.isfinite(predicted).all():
        return -np.inf
    return float(1 - np.square(y - predicted).sum() / max(np.square(y - y.mean()).sum(), 1e-12))


def pareto_front(
    candidates: Sequence[Node], score: Callable[[Node], float], shrink: float = 0.9
) -> list[tuple[Node, float]]:
    """Candidates from simple to complex, each with a clearly better score than the one before.

    Args:
        candidates: formulas.
        score: at most 1, higher is better.
        shrink: what is missing to 1 must shrink to this share or less.
    """
    front: list[tuple[Node, float]] = []
    scored = [(node, score(node)) for node in dict.fromkeys(candidates)]
    for node, value in sorted(scored, key=lambda pair: (complexity(pair[0]), -pair[1])):
        if np.isfinite(value) and (not front or 1 - value < shrink * (1 - front[-1][1])):
            front.append((node, value))
    return front


def simplified(node: Node) -> Node:
    """The same function as a sum of terms that differ, each with one constant, inside and out."""
    return _weighted_sum(_linear(node))


def without_constant(node: Node) -> Node:
    """A simplified formula without the constant that is added to it."""
    return _weighted_sum({term: weight for term, weight in _linear(node).items() if term != _ONE})


def _linear(node: Node) -> dict[Node, float]:
    """A formula as weights of terms; the constant is the weight of `_ONE`."""
    if isinstance(node, Number):
        return {_ONE: node.value}
    if isinstance(node, Input):
        return {node: 1.0}
    parts = [_linear(argument) for argument in node.arguments]
    if node.operation == "negative":
        return _scaled(parts[0], -1.0)
    if node.operation in ("+", "-"):
        total = dict(parts[0])
        for term, weight in _scaled(parts[1], 1.0 if node.operation == "+" else -1.0).items():
            total[term] = total.get(term, 0.0) + weight
        return total
    if node.operation == "*":
        for one, other in (parts, parts[::-1]):
            if set(one) <= {_ONE}:
                return _scaled(other, one.get(_ONE, 0.0))
        if all(len(part) == 1 for part in parts):  # (a x) (b y) = a b (x y)
            (left, a), (right, b) = (next(iter(part.items())) for part in parts)
            return {Apply("*", (left, right)): a * b}
    if node.operation == "/" and set(parts[1]) == {_ONE} and parts[1][_ONE]:
        return _scaled(parts[0], 1 / parts[1][_ONE])
    if node.operation == "tanh" and max(parts[0].values(), default=0.0) < 0:  # tanh(-x) = -tanh(x)
        return {Apply("tanh", (_weighted_sum(_scaled(parts[0], -1.0)),)): -1.0}
    return {Apply(node.operation, tuple(map(_weighted_sum, parts))): 1.0}


def _scaled(weights: dict[Node, float], factor: float) -> dict[Node, float]:
    return {term: factor * weight for term, weight in weights.items()}


def _weighted_sum(weights: dict[Node, float]) -> Node:
    """Terms by falling weight, a positive one first, the constant last."""
    order = sorted(
        (item for item in weights.items() if item[1]), key=lambda item: (item[0] == _ONE, item[1] < 0, -abs(item[1]))
    )
    total: Node | None = None
    for term, weight in order:
        is_negative = weight < 0 and total is not None
        size = Number(abs(weight) if is_negative else weight)
        part: Node = size if term == _ONE else term if size.value == 1 else Apply("*", (size, term))
        total = part if total is None else Apply("-" if is_negative else "+", (total, part))
    return Number(0.0) if total is None else total


def _library(x: NDArray, names: Sequence[str], credited: Linear) -> tuple[list[Node], NDArray]:
    """Terms and their values, (R, L): the simplest first, without constants and without doubles."""
    inputs = [Input(name) for name in names]
    offered: list[Node] = [*inputs]
    offered += [Apply("abs", (one,)) for one in inputs]
    offered += [Apply("**", (one, Number(2.0))) for one in inputs]
    for slope in _TANH_SLOPES:
        offered += [Apply("tanh", (one if slope == 1 else Apply("*", (Number(slope), one)),)) for one in inputs]
    for position, one in enumerate(inputs):
        if x[:, position].min() > -_LARGEST_EXPONENT:
            offered.append(Apply("exp", (negative(one),)))
    offered += [Apply("*", pair) for pair in combinations(inputs, 2)]
    values = credited(np.stack([values_of(term, x, names) for term in offered], 1))
    size = np.sqrt(np.square(values).mean(0))
    correlations = np.abs(values.T @ values) / len(x) / np.maximum(np.outer(size, size), _MIN_STD**2)
    kept: list[int] = []
    for index in np.flatnonzero(size >= _MIN_STD):
        if not (correlations[index, kept] > _SAME).any():
            kept.append(int(index))
    if not kept:
        raise ConfigError("all inputs of the loss are constant on the experience: there is nothing to find.")
    return [offered[index] for index in kept], values[:, kept]


def _thresholded(standard: NDArray, target: NDArray, threshold: float, max_terms: int) -> list[int]:
    """Sequentially thresholded ridge regression, then the strongest of what is left."""
    kept = list(range(standard.shape[1]))
    while True:
        weights = _ridge(standard[:, kept], target)
        strong = [index for index, weight in zip(kept, weights, strict=True) if abs(weight) >= threshold]
        if len(strong) == len(kept) or not strong:
            break
        kept = strong
    kept = strong
    while len(kept) > max_terms:
        kept = _without_weakest(standard, target, kept)
    return kept


def _without_weakest(standard: NDArray, target: NDArray, kept: Sequence[int]) -> list[int]:
    """Leave out the term that is missed least: with Gram matrix G and weights w the error grows by w_i^2 / G^-1_ii."""
    chosen = standard[:, list(kept)]
    inverse = np.linalg.pinv(chosen.T @ chosen + _RIDGE * np.eye(len(kept)))
    weights = inverse @ (chosen.T @ target)
    weakest = int(np.argmin(np.square(weights) / np.diag(inverse)))
    return [index for position, index in enumerate(kept) if position != weakest]


def _ridge(columns: NDArray, target: NDArray) -> NDArray:
    gram = columns.T @ columns / len(target) + _RIDGE * np.eye(columns.shape[1])
    return np.linalg.solve(gram, columns.T @ target / len(target))


def _sum(terms: Sequence[Node], columns: NDArray, target: NDArray, kept: Sequence[int]) -> Node:
    """The least-squares combination of terms."""
    weights = np.linalg.lstsq(columns[:, list(kept)], target, rcond=None)[0]
    return _weighted_sum({terms[i]: float(weight) for weight, i in zip(weights, kept, strict=True)})


def _with_constant(node: Node, x: NDArray, y: NDArray, names: Sequence[str]) -> Node:
    return simplified(Apply("+", (node, Number(float((y - values_of(node, x, names)).mean())))))


def _centred(values: NDArray) -> NDArray:
    return values - values.mean(0)


def _renamed(node: Node, names: dict[str, str]) -> Node:
    if isinstance(node, Input):
        return Input(names[node.name])
    return Apply(node.operation, tuple(_renamed(a, names) for a in node.arguments)) if isinstance(node, Apply) else node
