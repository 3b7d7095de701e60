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
_TANH_SLOPES = (1.0, 3.0)
_RIDGE = 1e-3
_SAME, _MIN_STD, _LARGEST_EXPONENT = 0.99999, 1e-6, 4.0
INSTALL = "pip install 'metarl-robotics[explain]'"


def sparse_candidates(x: NDArray, y: NDArray, names: Sequence[str], max_terms: int = MAX_TERMS) -> list[Node]:
    """Sums of a few terms.

    Args:
        x: (R, I).
        y: (R,).
        names: of the I inputs.
        max_terms: terms of the largest sum, without the constant.

    Returns:
        Formulas with 0 terms, 1 term and so on, in no particular order, some of them alike.
    """
    terms, columns = _library(x, names)
    deviation = columns.std(0)
    standard = (columns - columns.mean(0)) / deviation  # (R, L)
    target = y - y.mean()
    supports: list[list[int]] = [[]]
    for threshold in THRESHOLDS:
        kept = _thresholded(standard, target, threshold * max(float(y.std()), 1e-12), max_terms)
        while kept:
            supports.append(kept)
            kept = _without_weakest(standard, target, kept)
    unique = sorted(set(map(tuple, supports)))
    return [_sum(terms, columns, y, list(kept)) for kept in unique]


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

    # Half of the tournaments are about length: the front then has short formulas as well.
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


def refitted(node: Node, x: NDArray, y: NDArray, names: Sequence[str], max_evaluations: int = 300) -> Node:
    """The same formula with the constants that fit best nearby, by Levenberg-Marquardt."""
    from scipy.optimize import least_squares

    start = np.array(constants(node))
    if not len(start) or len(y) < len(start):
        return node

    def residual(values: NDArray) -> NDArray:
        return np.nan_to_num(values_of(with_constants(node, values), x, names) - y, nan=1e6, posinf=1e6, neginf=-1e6)

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
    """The same function with constants folded and neutral elements left out."""
    if not isinstance(node, Apply):
        return node
    arguments = tuple(map(simplified, node.arguments))
    if all(isinstance(argument, Number) for argument in arguments):
        value = float(evaluate(Apply(node.operation, arguments), {"": torch.zeros((), dtype=torch.float64)}))
        return Number(value) if np.isfinite(value) else Apply(node.operation, arguments)
    if node.operation in ("+", "-", "*", "/"):
        return _folded(node.operation, *arguments)
    return negative(arguments[0]) if node.operation == "negative" else Apply(node.operation, arguments)


def _folded(operation: str, left: Node, right: Node) -> Node:
    """One operator with simplified arguments, not both of them constant."""
    if operation == "-" and isinstance(right, Number):
        operation, right = "+", Number(-right.value)
    if operation == "/" and isinstance(right, Number) and right.value:
        operation, right = "*", Number(1 / right.value)
    if operation in ("+", "*") and isinstance(right, Number):
        left, right = right, left  # constants stand first
    if isinstance(left, Number):
        if (operation, left.value) in (("+", 0.0), ("*", 1.0)):
            return right
        if (operation, left.value) == ("*", 0.0):
            return Number(0.0)
        inner = right.arguments if isinstance(right, Apply) and right.operation == operation else ()
        if operation in ("+", "*") and inner and isinstance(inner[0], Number):  # a + (b + x), a * (b * x)
            pair = left.value + inner[0].value if operation == "+" else left.value * inner[0].value
            return _folded(operation, Number(pair), inner[1])
    if operation == "+" and isinstance(right, Apply) and right.operation == "negative":
        operation, right = "-", right.arguments[0]
    return Apply(operation, (left, right))


def _library(x: NDArray, names: Sequence[str]) -> tuple[list[Node], NDArray]:
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
    terms: list[Node] = []
    columns: list[NDArray] = []
    for term in offered:
        column = values_of(term, x, names)
        if column.std() < _MIN_STD or any(abs(np.corrcoef(column, other)[0, 1]) > _SAME for other in columns):
            continue
        terms.append(term)
        columns.append(column)
    if not terms:
        raise ConfigError("all inputs of the loss are constant on the experience: there is nothing to find.")
    return terms, np.stack(columns, 1)


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


def _sum(terms: Sequence[Node], columns: NDArray, y: NDArray, kept: Sequence[int]) -> Node:
    """The least-squares combination of terms with a constant."""
    design = np.column_stack([columns[:, list(kept)], np.ones(len(y))])
    *weights, constant = np.linalg.lstsq(design, y, rcond=None)[0]
    total: Node = Number(float(constant))
    for weight, index in sorted(zip(weights, kept, strict=True), key=lambda pair: -abs(pair[0])):
        scaled = Apply("*", (Number(abs(float(weight))), terms[index]))
        total = Apply("+" if weight > 0 else "-", (total, scaled))
    return total


def _renamed(node: Node, names: dict[str, str]) -> Node:
    if isinstance(node, Input):
        return Input(names[node.name])
    return Apply(node.operation, tuple(_renamed(a, names) for a in node.arguments)) if isinstance(node, Apply) else node
