"""A formula as a loss: read from a JSON file, used where a network would be.

    {"format": "metarl-formula", "version": 1, "loss": "reward", "expression": "closing_speed - 0.3 * effort",
     "signals": ["log_distance", "closing_speed"], "bound": 10.0, "discount": 0.97, "gae_lambda": 0.9,
     "step_sizes": [[0.5, 0.5, 0.5]], "made_by": {}}

`step_sizes` has a row for each inner update and a column for each of `STEP_SIZE_GROUPS`. `made_by` says where the
formula comes from and is not read. A formula that adapts has one key more, and may then read `task`:

    "adaptation": {"expression": "tanh(9 * worth_of_log_distance)", "decay": -1.5, "step_sizes": -0.2}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.config_json import config_from_json, config_to_json
from metarl.errors import CheckpointError, ConfigError, MetarlError
from metarl.files import reason, replace_file
from metarl.losses.expression import Node, evaluate, input_names, parse, to_latex, to_sympy, to_text
from metarl.losses.formula_encoding import TASK, FormulaEncoding
from metarl.losses.head import LARGEST_INPUT
from metarl.losses.support import change_of, step_input_names, worth_names

PREFIX = "formula:"
FORMAT, VERSION = "metarl-formula", 1
_NUM_GROUPS = 3
_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Adaptation:
    """How a formula adapts to its task.

    Attributes:
        expression: text of a number, `task`, over what the task's feedback goes along with: `worth_of_NAME` for each of
            the signals, their changes and effort, which are zero as long as nothing is known (`feedback_model`).
        decay: slope of logit(discount gae_lambda) by `task`; of a reward alone.
        step_sizes: slope of the logarithm of step sizes by `task`.
    """

    expression: str
    decay: float = 0.0
    step_sizes: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.decay) and math.isfinite(self.step_sizes)):
            raise ConfigError(f"slopes of an adaptation must be finite, got {self.decay} and {self.step_sizes}.")


@dataclass(frozen=True)
class Formula:
    """A loss in closed form, with all that an inner update needs.

    Attributes:
        loss: what the formula is: a reward, a potential or an advantage; see the learned losses of the same names.
        expression: text over `input_names`.
        signals: the signals that it may read; an environment needs those that it does read (`read_signals`).
        bound: c of c tanh(f / c).
        discount, gae_lambda: of later rewards.
        step_sizes: rows of inner updates, columns of `STEP_SIZE_GROUPS`; later updates take the last row.
        made_by: where it comes from.
        adaptation: how it adapts to its task; None: it is the same for all.
    """

    loss: Literal["reward", "potential", "advantage"]
    expression: str
    signals: tuple[str, ...]
    bound: float
    discount: float
    gae_lambda: float
    step_sizes: tuple[tuple[float, ...], ...]
    made_by: dict[str, Any] = field(default_factory=dict)
    adaptation: Adaptation | None = None

    def __post_init__(self) -> None:
        if not self.bound > 0 or not math.isfinite(self.bound):
            raise ConfigError(f"bound must be positive, got {self.bound}.")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not self.step_sizes or any(len(row) != _NUM_GROUPS for row in self.step_sizes):
            raise ConfigError(f"step_sizes must have rows of {_NUM_GROUPS} numbers, got {self.step_sizes}.")
        if not all(0 < size < math.inf for row in self.step_sizes for size in row):
            raise ConfigError(f"step_sizes must be positive, got {self.step_sizes}.")
        if len(set(self.signals)) != len(self.signals) or not all(name.isidentifier() for name in self.signals):
            raise ConfigError(f"signals must be names, each once, got {self.signals}.")
        if TASK in self.signals:
            raise ConfigError(f"no signal may be called {TASK!r}: that is what a formula knows of its task.")
        self.tree()
        self.encoding()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names that the expression may use."""
        return (*formula_inputs(self.loss, self.signals), *(() if self.adaptation is None else (TASK,)))

    def tree(self) -> Node:
        """The expression, read."""
        return parse(self.expression, self.input_names)

    @property
    def read_signals(self) -> tuple[str, ...]:
        """Those of its signals that the expression reads, itself or their change: an environment needs no others.

        One that adapts needs all of them: what a task's feedback goes along with is told apart between all.
        """
        if self.adaptation is not None:
            return self.signals
        used = input_names(self.tree())
        read = tuple(name for name in self.signals if name in used or change_of(name) in used)
        return read or (self.signals[:1] if self.loss == "potential" else ())  # a potential is a function of something

    def encoding(self) -> FormulaEncoding | None:
        """What it knows of its task, as a loss takes it; None where it does not adapt."""
        if self.adaptation is None:
            return None
        names = worth_names(self.signals)
        tree = parse(self.adaptation.expression, names)
        return FormulaEncoding(tree, names, self.adaptation.decay, self.adaptation.step_sizes)

    def to_text(self, digits: int | None = None) -> str:
        """The expression with constants of so many significant digits; None: all of them."""
        return to_text(self.tree(), digits)

    def to_latex(self, digits: int = 3) -> str:
        """The expression as LaTeX."""
        return to_latex(self.tree(), digits)

    def to_sympy(self) -> Any:
        """The expression for sympy."""
        return to_sympy(self.tree())

    def to_json(self) -> dict[str, Any]:
        """What a formula file holds."""
        values = {"format": FORMAT, "version": VERSION, **config_to_json(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class FormulaHead:
    """c tanh(f(x) / c) with f a formula: takes the place of a `Head`. Its one parameter is `task`, if it adapts.

    Attributes:
        tree: f.
        input_names: names of the numbers it is given, in their order.
        bound: c, the largest magnitude of the output.
        adapts: whether f may read what is known of the task.
    """

    tree: Node
    input_names: tuple[str, ...]
    bound: float
    adapts: bool = False

    def initial_parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`task`, (1,), as long as nothing is known of it; else none."""
        return {TASK: torch.zeros(1)} if self.adapts else {}

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """(..., I) -> (...), in [-c, c]; NaN where the formula has no value, and the update is then left out."""
        inputs = inputs.clamp(-LARGEST_INPUT, LARGEST_INPUT)
        known = {TASK: parameters[TASK].expand(inputs.shape[:-1])} if self.adapts else {}
        value = evaluate(self.tree, dict(zip(self.input_names, inputs.unbind(-1), strict=True)) | known)
        return self.bound * torch.tanh(value / self.bound)


def formula_inputs(loss: str, signals: Sequence[str]) -> tuple[str, ...]:
    """What a formula may read: the signals where it is a potential, else all that is known of a step."""
    return tuple(signals) if loss == "potential" else step_input_names(tuple(signals))


def read_formula(source: str) -> Formula:
    """Read a formula file, or its content.

    Args:
        source: a path, or the JSON itself, which begins with "{".

    Raises:
        ConfigError, UnknownNameError: the file is missing, or says anything that a formula file does not.
    """
    where = "the formula" if _is_content(source) else f"formula file {source}"
    text = source if _is_content(source) else _read_text(Path(source))
    try:
        values = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON: {error}.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ConfigError(f'{where} is no formula: it lacks "format": "{FORMAT}".')
    if values.get("version") != VERSION or isinstance(values["version"], bool):
        raise ConfigError(f"{where} has version {values.get('version')!r}, this metarl reads version {VERSION}.")
    if "made_by" not in values:
        raise ConfigError(f"{where} lacks the key 'made_by'.")
    content = {key: value for key, value in values.items() if key not in ("format", "version")}
    try:
        return config_from_json(Formula, content, "formula")
    except (MetarlError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from error


def write_formula(path: Path, formula: Formula) -> None:
    """Write a formula file.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(formula.to_json(), indent=2, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {reason(error, path.parent)}.") from error


def is_formula(loss: str) -> bool:
    """Whether the name of a loss is "formula:..."."""
    return loss.startswith(PREFIX)


def formula_of(loss: str) -> Formula:
    """The formula that the name of a loss, "formula:FILE" or "formula:{...}", stands for."""
    return read_formula(loss.removeprefix(PREFIX))


def self_contained(loss: str) -> str:
    """The name of a loss with the content of a formula file in place of its path, so that a run needs no file."""
    if not is_formula(loss) or _is_content(loss.removeprefix(PREFIX)):
        return loss
    return PREFIX + json.dumps(formula_of(loss).to_json(), allow_nan=False)


def _is_content(source: str) -> bool:
    return source.lstrip().startswith("{")


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read formula file {str(path)!r}: {cause}.") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"formula file {path} is larger than {_MAX_BYTES:,} bytes.")
    return text


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ConfigError(f"a formula file has finite numbers only, got {text}.")
    return float(text)
