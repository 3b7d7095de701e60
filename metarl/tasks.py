"""Task parameters, their distributions, and the splits on which adaptation is judged.

A task is a row of numbers, one draw of an environment's parameters. Every number is an inverse
cumulative distribution applied to uniform numbers, so the first tasks of a split do not depend on how
many are asked for.

Splits
    train, validation, test  the train range (without its hole); unseen tasks of the same distribution
    interpolation            one parameter in the hole that was cut out of its train range
    extrapolation            one parameter in the shell outside its train range, or at a held-out value
    more by name             `TaskDistribution.shifts`: extrapolation in some of the parameters only
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from metarl.errors import SpecError, UnknownNameError
from metarl.seeding import make_generator

SPLITS = ("train", "validation", "test", "interpolation", "extrapolation")
"""Every environment has the first three, and those of the others for which its parameters hold something out."""
HELD_OUT_SPLITS = ("interpolation", "extrapolation")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high] without `hole`; `shell` lies outside.

    Attributes:
        low, high: the train range.
        hole: an interval inside the range that training never sees (split `interpolation`).
        shell: intervals outside the range that training never sees (split `extrapolation`).
        log: draw uniformly in the logarithm; then all bounds are positive.
    """

    low: float
    high: float
    hole: Interval | None = None
    shell: tuple[Interval, ...] = ()
    log: bool = False

    def __post_init__(self) -> None:
        for part in self.shell:
            if not (isinstance(part, tuple) and len(part) == 2):
                raise SpecError(f"shell must be intervals, ((low, high), ...), got {self.shell}.")
        named = [("range", (self.low, self.high)), *(("shell", part) for part in self.shell)]
        if self.hole is not None:
            named.append(("hole", self.hole))
        bounds = [bound for _, interval in named for bound in interval]
        if not all(math.isfinite(bound) for bound in bounds):
            raise SpecError(f"{self} has a bound that is not finite.")
        for name, (low, high) in named:
            if low >= high:
                raise SpecError(f"{name} ({low}, {high}) is upside down or empty: expected low < high.")
        if self.hole is not None and not (self.low < self.hole[0] and self.hole[1] < self.high):
            raise SpecError(f"hole {self.hole} must lie inside the range ({self.low}, {self.high}).")
        for low, high in self.shell:
            if low < self.high and high > self.low:
                raise SpecError(f"shell ({low}, {high}) overlaps the range ({self.low}, {self.high}).")
        if self.log and min(bounds) <= 0:
            raise SpecError(f"a logarithmic range needs positive bounds, got {min(bounds)}.")

    def train_intervals(self) -> tuple[Interval, ...]:
        """The train range without its hole."""
        if self.hole is None:
            return ((self.low, self.high),)
        return ((self.low, self.hole[0]), (self.hole[1], self.high))

    def draw(self, uniform: Tensor, intervals: Sequence[Interval] | None = None) -> Tensor:
        """Map uniform numbers in [0, 1) to values; `intervals` defaults to the train range."""
        parts = self.train_intervals() if intervals is None else tuple(intervals)
        forward, inverse = (math.log, torch.exp) if self.log else (float, torch.Tensor.clone)
        starts = torch.tensor([forward(low) for low, _ in parts], dtype=uniform.dtype)
        widths = torch.tensor([forward(high) - forward(low) for low, high in parts], dtype=uniform.dtype)
        ends = widths.cumsum(0)
        position = uniform * ends[-1]
        part = torch.searchsorted(ends, position, right=True).clamp(max=len(parts) - 1)
        return inverse(starts[part] + position - (ends - widths)[part])

    def contains(self, value: Tensor, intervals: Sequence[Interval]) -> Tensor:
        """Whether each value lies in one of the intervals (float32 rounding allowed)."""
        slack = 1e-5 * max(abs(self.low), abs(self.high), self.high - self.low)
        inside = torch.zeros_like(value, dtype=torch.bool)
        for low, high in intervals:
            inside |= (value >= low - slack) & (value <= high + slack)
        return inside


@dataclass(frozen=True)
class Choice:
    """One of a few values, all equally likely.

    Attributes:
        values: those of training.
        held_out: values that training never sees (split `extrapolation`).
    """

    values: tuple[float, ...]
    held_out: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values):
            raise SpecError(f"the values of a choice must be there and differ, got {self.values}.")
        if len({*self.values, *self.held_out}) != len(self.values) + len(self.held_out):
            raise SpecError(f"held-out values must differ, also from the values {self.values}, got {self.held_out}.")
        if not all(math.isfinite(value) for value in (*self.values, *self.held_out)):
            raise SpecError(f"a choice has a value that is not finite: {(*self.values, *self.held_out)}.")

    def draw(self, uniform: Tensor, values: Sequence[float] | None = None) -> Tensor:
        """Map uniform numbers in [0, 1) to values; `values` defaults to those of training."""
        among = self.values if values is None else tuple(values)
        index = (uniform * len(among)).long().clamp(max=len(among) - 1)
        return torch.tensor(among, dtype=uniform.dtype)[index]


@dataclass(frozen=True)
class Normal:
    """A normal distribution."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise SpecError(f"a normal distribution needs a finite mean and a positive std, got {self}.")

    def draw(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers in [0, 1) to values."""
        open_interval = uniform.clamp(1e-12, 1 - 1e-12)
        return self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * open_interval - 1)


@dataclass(frozen=True)
class Simplex:
    """A flat Dirichlet distribution over the last dimension of the parameter."""

    def draw(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers in [0, 1), (..., k), to probabilities that sum to one."""
        exponential = -torch.log1p(-uniform.clamp(max=1 - 1e-12))
        return exponential / exponential.sum(-1, keepdim=True)


Distribution = Uniform | Choice | Normal | Simplex


def untrained(distribution: Distribution, split: str) -> tuple[Any, ...]:
    """What training never sees of a distribution and a split with held-out parameters draws; empty where there is none.

    Returns:
        The hole as the only interval (`interpolation`); the intervals of the shell, or held-out values (other splits).
    """
    if isinstance(distribution, Uniform):
        hole = () if distribution.hole is None else (distribution.hole,)
        return hole if split == "interpolation" else distribution.shell
    if isinstance(distribution, Choice) and split != "interpolation":
        return distribution.held_out
    return ()


@dataclass(frozen=True)
class Parameter:
    """A task parameter.

    Attributes:
        name: a Python identifier; the environment reads `task[name]`.
        unit: "m", "rad", "kg", ...; "1" where dimensionless.
        distribution: how tasks draw it, with its held-out ranges.
        description: one line for `metarl list`.
        shape: shape of one draw, () for a number.
    """

    name: str
    unit: str
    distribution: Distribution
    description: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SpecError(f"parameter name {self.name!r} is not a Python identifier.")
        if not isinstance(self.distribution, Distribution):
            kinds = "Uniform, Choice, Normal or Simplex"
            raise SpecError(f"parameter {self.name!r}: distribution must be {kinds}, got {self.distribution!r}.")
        if any(size < 1 for size in self.shape):
            raise SpecError(f"parameter {self.name!r}: shape must be positive, got {self.shape}.")
        if isinstance(self.distribution, Simplex) and not self.shape:
            raise SpecError(f"parameter {self.name!r}: a Simplex needs a shape, such as shape=(3,).")

    @property
    def size(self) -> int:
        """Numbers in one draw."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TaskDistribution:
    """An environment's task parameters and their splits.

    Attributes:
        parameters: in the order of the columns of a (N, P) task tensor.
        fixed: (num_tasks, P) tensors that take the place of drawn tasks for a split, where the
            literature fixed them.
        shifts: further splits by name, {split: names of parameters}. In each of its tasks one of these parameters
            is drawn as in `extrapolation`, all others from their train range.
    """

    parameters: tuple[Parameter, ...]
    fixed: dict[str, Tensor] = field(default_factory=dict)
    shifts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [p.name for p in self.parameters]
        if len(set(names)) != len(names):
            raise SpecError(f"parameter names must differ, got {names}.")
        if not names:
            raise SpecError("a task distribution needs at least one parameter.")
        self._check_shifts()
        for split, tasks in self.fixed.items():
            if split not in (*SPLITS, *self.shifts):
                raise UnknownNameError("split", split, (*SPLITS, *self.shifts))
            if tasks.dim() != 2 or tasks.shape[0] < 1 or tasks.shape[1] != self.dim or tasks.dtype != torch.float32:
                got = f"{tuple(tasks.shape)} {tasks.dtype}"
                raise SpecError(f"fixed[{split!r}] must be (num_tasks, {self.dim}) float32, got {got}.")
            if not bool(torch.isfinite(tasks).all()):
                raise SpecError(f"fixed[{split!r}] contains NaN or infinity.")

    @property
    def dim(self) -> int:
        """P."""
        return sum(p.size for p in self.parameters)

    def splits(self) -> tuple[str, ...]:
        """The splits that these parameters have."""
        known = tuple(s for s in SPLITS if s in self.fixed or s not in HELD_OUT_SPLITS or self._held_out(s))
        return (*known, *self.shifts)

    def held_out(self, split: str) -> tuple[str, ...]:
        """The parameters of which one is outside its train range in each task of a split; none in those of training.

        Raises:
            UnknownNameError: these parameters have no such split.
        """
        if split not in self.splits():
            raise UnknownNameError("split", split, self.splits())
        return tuple(parameter.name for parameter in self._held_out(split))

    def _held_out(self, split: str) -> list[Parameter]:
        if split in self.shifts:
            return [p for p in self.parameters if p.name in self.shifts[split]]
        return [p for p in self.parameters if split in HELD_OUT_SPLITS and untrained(p.distribution, split)]

    def _check_shifts(self) -> None:
        by_name = {p.name: p for p in self.parameters}
        for split, names in self.shifts.items():
            if split in SPLITS:
                raise SpecError(f"shift {split!r} is named like a built-in split; those are {', '.join(SPLITS)}.")
            if not split or not isinstance(names, tuple) or not names:
                raise SpecError(f"shift {split!r} needs a name and a tuple of parameters, (name, ...), got {names!r}.")
            for name in names:
                if name not in by_name:
                    raise UnknownNameError(f"task parameter in shift {split!r}", name, by_name)
                if not untrained(by_name[name].distribution, split):
                    raise SpecError(
                        f"shift {split!r}: parameter {name!r} has no held-out range; "
                        "give its Uniform a shell, or its Choice held_out values."
                    )

    def sample(self, split: str, num_tasks: int, generator: torch.Generator) -> Tensor:
        """Draw tasks of a split.

        Args:
            split: one of `splits()`.
            num_tasks: B.
            generator: a CPU generator.

        Returns:
            (B, P) float32 task parameters.

        Raises:
            UnknownNameError: these parameters have no such split.
        """
        candidates = self._held_out(split)
        if split not in (*SPLITS, *self.shifts) or (split in HELD_OUT_SPLITS and not candidates):
            raise UnknownNameError("split", split, self.splits())
        uniform = torch.rand(num_tasks, 1 + self.dim, generator=generator, dtype=torch.float64)
        held_out = (uniform[:, 0] * max(len(candidates), 1)).long()  # (B,) which parameter is held out
        columns, start = [], 1
        for parameter in self.parameters:
            u = uniform[:, start : start + parameter.size].reshape(num_tasks, *parameter.shape)
            value = parameter.distribution.draw(u)
            if parameter in candidates and isinstance(parameter.distribution, (Uniform, Choice)):
                outside = parameter.distribution.draw(u, untrained(parameter.distribution, split))
                chosen = (held_out == candidates.index(parameter)).reshape(-1, *[1] * len(parameter.shape))
                value = torch.where(chosen, outside, value)
            columns.append(value.reshape(num_tasks, -1))
            start += parameter.size
        return torch.cat(columns, 1).to(torch.float32)

    def split(self, split: str, num_tasks: int, seed: int = 0) -> Tensor:
        """The fixed tasks of a split: the same (B, P) float32 tensor for everybody.

        Where the literature fixed the tasks (`fixed`), these are repeated in turn.

        Raises:
            UnknownNameError: these parameters have no such split.
            SpecError: no task was asked for.
        """
        if num_tasks < 1:
            raise SpecError(f"a split gives at least one task, got num_tasks {num_tasks}.")
        if split in self.fixed:
            tasks = self.fixed[split]
            return tasks[torch.arange(num_tasks) % len(tasks)]
        return self.sample(split, num_tasks, make_generator(seed, f"split/{split}"))

    def sample_train(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """Draw tasks to train on, (B, P) float32: fresh ones, or from the fixed train set."""
        if "train" in self.fixed:
            tasks = self.fixed["train"]
            return tasks[torch.randint(len(tasks), (num_tasks,), generator=generator)]
        return self.sample("train", num_tasks, generator)

    def with_train_tasks(self, num_tasks: int) -> TaskDistribution:
        """The same parameters with the first tasks of the split `train` as the only ones to train on."""
        return replace(self, fixed={**self.fixed, "train": self.split("train", num_tasks)})

    def of_worlds(self, parameters: Tensor, num_worlds: int, name: str) -> Tensor:
        """The task of each of N worlds, (N, P): B tasks, (B, P), for N / B neighbouring worlds each.

        Args:
            parameters: (B, P).
            num_worlds: N.
            name: what the environment is called in messages.

        Raises:
            SpecError: another shape, B does not divide N, or numbers that are not finite.
        """
        shape = tuple(parameters.shape)
        if len(shape) != 2 or shape[1] != self.dim or not shape[0] or num_worlds % shape[0]:
            expected = f"({num_worlds}, {self.dim}), or fewer rows that divide the worlds evenly"
            raise SpecError(f"{name}: tasks must have shape {expected}, got {shape}.")
        if not bool(torch.isfinite(parameters).all()):
            raise SpecError(f"{name}: tasks contain NaN or infinity.")
        return parameters.repeat_interleave(num_worlds // shape[0], 0)

    def columns(self, names: Sequence[str]) -> Tensor:
        """The columns of a task tensor that hold these parameters, in its order, int64.

        Raises:
            UnknownNameError: no such parameter.
        """
        self._check_names(names)
        named = self.unpack(torch.arange(self.dim).unsqueeze(0))
        columns = [int(column) for name in named if name in names for column in named[name].flatten()]
        return torch.tensor(columns, dtype=torch.int64)

    def unpack(self, task: Tensor) -> dict[str, Tensor]:
        """Name the columns of a task tensor: (N, P) -> {name: (N, *shape)}."""
        named, start = {}, 0
        for parameter in self.parameters:
            named[parameter.name] = task[:, start : start + parameter.size].reshape(-1, *parameter.shape)
            start += parameter.size
        return named

    def pack(self, named: Mapping[str, Any], split: str | None = None) -> Tensor:
        """Turn one task by name, {name: number or nested list}, into its row, (P,) float32.

        Args:
            named: the value of every parameter.
            split: values must then come from the train range, its hole included, and with `extrapolation` or a shift
                also from what its parameters hold out; None: any value is taken.

        Raises:
            UnknownNameError: no such parameter or split.
            SpecError: a parameter is missing, has a wrong shape, or lies outside its range.
        """
        may_be_outside = () if split is None else self.held_out(split)
        self._check_names(named)
        columns = []
        for parameter in self.parameters:
            if parameter.name not in named:
                names = [p.name for p in self.parameters]
                raise SpecError(f"task parameter {parameter.name!r} is missing, the task needs all of {names}.")
            value = torch.as_tensor(named[parameter.name], dtype=torch.float32)
            if tuple(value.shape) != parameter.shape:
                shapes = f"{parameter.shape}, got {tuple(value.shape)}"
                raise SpecError(f"task parameter {parameter.name!r} must have shape {shapes}.")
            if split is not None:
                _check_range(parameter, value, split if parameter.name in may_be_outside else "train")
            columns.append(value.reshape(-1))
        return torch.cat(columns)

    def _check_names(self, given: Iterable[str]) -> None:
        names = [p.name for p in self.parameters]
        for name in given:
            if name not in names:
                raise UnknownNameError("task parameter", name, names)


def _check_range(parameter: Parameter, value: Tensor, split: str) -> None:
    """Raise a SpecError for a value outside the declared range; that of training unless the split goes beyond it."""
    prior = parameter.distribution
    outside = () if split == "train" else untrained(prior, split)
    if isinstance(prior, Uniform):
        allowed: tuple[Any, ...] = ((prior.low, prior.high), *outside)
        is_inside = bool(prior.contains(value, allowed).all())
    elif isinstance(prior, Choice):
        allowed = (*prior.values, *outside)
        is_inside = bool(torch.isin(value, torch.tensor(allowed)).all())
    elif isinstance(prior, Simplex):
        allowed = ("probabilities that sum to one",)
        is_inside = bool((value >= 0).all()) and bool(((value.sum(-1) - 1).abs() < 1e-4).all())
    else:
        allowed, is_inside = ("finite numbers",), bool(torch.isfinite(value).all())
    if not is_inside:
        held_out = untrained(prior, "extrapolation") if not outside else ()
        hint = f" Split 'extrapolation' also has {', '.join(map(str, held_out))}." if held_out else ""
        listed = ", ".join(map(str, allowed))
        raise SpecError(f"task parameter {parameter.name!r} must be in {listed}, got {value.tolist()}.{hint}")
