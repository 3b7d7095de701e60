"""Formulas as small trees: read from text without running it, evaluated in torch, shown as text, LaTeX and sympy.

Grammar: numbers, input names, + - * /, ** with a whole number, and the functions of `FUNCTIONS`. Python's own parser
makes the syntax tree; whatever is not in this list is refused before anything is computed.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.errors import ConfigError, UnknownNameError

FUNCTIONS: dict[str, int] = {"tanh": 1, "exp": 1, "log1p": 1, "abs": 1, "sqrt": 1, "min": 2, "max": 2}
"""Names of functions and how many arguments each takes."""

MAX_TEXT, MAX_NODES, MAX_DEPTH, MAX_POWER = 10_000, 1_000, 60, 9

_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negative": 3, "**": 4}
_ATOM = 5
_TORCH: dict[str, Callable[..., Tensor]] = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.div,
    "negative": torch.neg,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log1p": torch.log1p,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "min": torch.minimum,
    "max": torch.maximum,
}


@dataclass(frozen=True)
class Number:
    """A constant; finite."""

    value: float


@dataclass(frozen=True)
class Input:
    """A named input."""

    name: str


@dataclass(frozen=True)
class Apply:
    """An operator ("+", "-", "*", "/", "negative"), a function of `FUNCTIONS`, or "**" with a whole `Number`."""

    operation: str
    arguments: tuple[Node, ...]


Node = Number | Input | Apply


def parse(text: str, inputs: Sequence[str]) -> Node:
    """Read a formula.

    Args:
        text: such as "2 * log_distance - tanh(effort) ** 2".
        inputs: the names that it may use.

    Raises:
        UnknownNameError: an input or a function that does not exist.
        ConfigError: no formula, or one that uses anything else.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"a formula has at most {MAX_TEXT:,} characters, got {len(text):,}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        cause = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise ConfigError(f"{_excerpt(text)} is no formula: {cause}.") from error
    node = _Reader(inputs).read(tree.body, 0)
    if complexity(node) > MAX_NODES:
        raise ConfigError(f"a formula has at most {MAX_NODES:,} nodes, got {complexity(node):,}.")
    return node


def evaluate(node: Node, inputs: Mapping[str, Tensor]) -> Tensor:
    """The value of a formula, in the shape of the inputs; NaN or infinite where the formula is."""
    like = next(iter(inputs.values()))

    def value(node: Node) -> Tensor:
        if isinstance(node, Number):
            return torch.full_like(like, node.value)
        if isinstance(node, Input):
            return inputs[node.name]
        if node.operation == "**":
            return value(node.arguments[0]) ** int(_exponent(node))
        return _TORCH[node.operation](*map(value, node.arguments))

    return value(node)


def to_text(node: Node, digits: int | None = None) -> str:
    """The formula as `parse` reads it.

    Args:
        node: the formula.
        digits: significant digits of constants; None: all, so that reading it gives the same formula.
    """
    return _text(node, digits)[0]


def to_sympy(node: Node) -> Any:
    """The formula as a sympy expression of real symbols."""
    import sympy

    return _sympy(node, sympy.tanh)


def _sympy(node: Node, tanh: Any) -> Any:
    import sympy

    if isinstance(node, Number):
        return sympy.Integer(int(node.value)) if node.value.is_integer() else sympy.Float(node.value)
    if isinstance(node, Input):
        return sympy.Symbol(node.name, real=True)
    of = [_sympy(argument, tanh) for argument in node.arguments]
    functions: dict[str, Callable[..., Any]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "**": lambda a, b: a**b,
        "negative": lambda a: -a,
        "log1p": lambda a: sympy.log(1 + a),
        "tanh": tanh,
        "exp": sympy.exp,
        "abs": sympy.Abs,
        "sqrt": sympy.sqrt,
        "min": sympy.Min,
        "max": sympy.Max,
    }
    return functions[node.operation](*of)


def to_latex(node: Node, digits: int = 3) -> str:
    """The formula as LaTeX, with rounded constants and the inputs' names upright."""
    import sympy

    expression = readable(node, digits)
    names = {symbol: rf"\mathrm{{{symbol.name}}}".replace("_", r"\_") for symbol in expression.free_symbols}
    return str(sympy.latex(expression, symbol_names=names))


def readable(node: Node, digits: int = 3) -> Any:
    """The formula for sympy to show: with rounded constants, and tanh(x) where sympy would turn that into -tanh(-x)."""
    import sympy

    expression = _sympy(rounded(node, digits), sympy.Function("tanh"))
    # Sympy multiplies constants out, which gives them more digits.
    short = {number: sympy.Float(f"{float(number):.{digits}g}") for number in expression.atoms(sympy.Float)}
    return expression.xreplace(short)


def rounded(node: Node, digits: int) -> Node:
    """The same formula with constants of so many significant digits."""
    return with_constants(node, [float(f"{value:.{digits}g}") for value in constants(node)])


def complexity(node: Node) -> int:
    """How many nodes a formula has: constants, inputs, operators and functions."""
    return sum(1 for _ in _nodes(node))


def input_names(node: Node) -> set[str]:
    """The inputs that a formula uses."""
    return {part.name for part in _nodes(node) if isinstance(part, Input)}


def constants(node: Node) -> list[float]:
    """The constants of a formula from left to right, without exponents."""
    if isinstance(node, Number):
        return [node.value]
    if isinstance(node, Input):
        return []
    arguments = node.arguments[:1] if node.operation == "**" else node.arguments
    return [value for argument in arguments for value in constants(argument)]


def with_constants(node: Node, values: Sequence[float]) -> Node:
    """The same formula with other `constants`."""
    remaining = iter(values)

    def replaced(node: Node) -> Node:
        if isinstance(node, Number):
            return Number(next(remaining))
        if isinstance(node, Input):
            return node
        if node.operation == "**":
            return Apply("**", (replaced(node.arguments[0]), node.arguments[1]))
        return Apply(node.operation, tuple(map(replaced, node.arguments)))

    return replaced(node)


class _Reader:
    """Turns Python's syntax tree into ours, and refuses the rest."""

    def __init__(self, inputs: Sequence[str]):
        self._inputs = inputs

    def read(self, tree: ast.expr, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ConfigError(f"a formula is nested at most {MAX_DEPTH} deep.")
        if isinstance(tree, ast.Constant):
            return Number(self._number(tree.value))
        if isinstance(tree, ast.Name):
            if tree.id not in self._inputs:
                raise UnknownNameError("input of the formula", tree.id, self._inputs)
            return Input(tree.id)
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
            operand = self.read(tree.operand, depth + 1)
            return negative(operand) if isinstance(tree.op, ast.USub) else operand
        if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
            return self._operator(_OPERATORS[type(tree.op)], tree, depth)
        if isinstance(tree, ast.Call):
            return self._call(tree, depth)
        raise ConfigError(
            f"{_excerpt(ast.unparse(tree))} cannot be part of a formula. Allowed: numbers, {', '.join(self._inputs)}, "
            f"+ - * / **, {', '.join(FUNCTIONS)}."
        )

    def _operator(self, operation: str, tree: ast.BinOp, depth: int) -> Node:
        left, right = self.read(tree.left, depth + 1), self.read(tree.right, depth + 1)
        if operation == "**" and not (
            isinstance(right, Number) and right.value.is_integer() and abs(right.value) <= MAX_POWER
        ):
            got = _excerpt(ast.unparse(tree.right))
            raise ConfigError(f"an exponent must be a whole number between -{MAX_POWER} and {MAX_POWER}, got {got}.")
        return Apply(operation, (left, right))

    def _call(self, tree: ast.Call, depth: int) -> Node:
        name = tree.func.id if isinstance(tree.func, ast.Name) else ast.unparse(tree.func)
        if name not in FUNCTIONS:
            raise UnknownNameError("function of the formula", name[:100], FUNCTIONS)
        if tree.keywords or len(tree.args) != FUNCTIONS[name]:
            got = _excerpt(ast.unparse(tree))
            raise ConfigError(f"{name} takes {FUNCTIONS[name]} argument{'s' * (FUNCTIONS[name] > 1)}, got {got}.")
        return Apply(name, tuple(self.read(argument, depth + 1) for argument in tree.args))

    def _number(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"a formula has numbers as constants, got {_excerpt(repr(value))}.")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"a constant of a formula must be finite, got {_excerpt(repr(value))}.")
        return number


def negative(node: Node) -> Node:
    """-x; of a constant the negative constant."""
    return Number(-node.value) if isinstance(node, Number) else Apply("negative", (node,))


def _text(node: Node, digits: int | None) -> tuple[str, int]:
    """The text and how tightly its outermost operator binds."""
    if isinstance(node, Number):
        text = repr(node.value) if digits is None else f"{node.value:.{digits}g}"
        return text.removesuffix(".0"), _PRECEDENCE["negative"] if text.startswith("-") else _ATOM
    if isinstance(node, Input):
        return node.name, _ATOM
    if node.operation in FUNCTIONS:
        return f"{node.operation}({', '.join(_text(a, digits)[0] for a in node.arguments)})", _ATOM
    binds = _PRECEDENCE[node.operation]
    if node.operation == "negative":
        # -(2 ** x) would read as a number and then a power; a minus before a number belongs to the number.
        return f"-{_inside(node.arguments[0], digits, binds)}", binds
    if node.operation == "**":
        return f"{_inside(node.arguments[0], digits, _ATOM)} ** {int(_exponent(node))}", binds
    left, right = node.arguments
    return f"{_inside(left, digits, binds)} {node.operation} {_inside(right, digits, binds + 1)}", binds


def _inside(node: Node, digits: int | None, at_least: int) -> str:
    text, binds = _text(node, digits)
    return text if binds >= at_least else f"({text})"


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for argument in node.arguments if isinstance(node, Apply) else ():
        yield from _nodes(argument)


def _exponent(node: Apply) -> float:
    exponent = node.arguments[1]
    assert isinstance(exponent, Number)
    return exponent.value


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
