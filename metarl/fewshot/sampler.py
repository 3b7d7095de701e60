"""Episodes by indexing one tensor: which classes and which samples of a split a task is made of.

Nothing here loops over tasks, classes or samples. Numbers are drawn on the CPU, so that a seed gives the same episodes
on every device.

Shape key: of `metarl.fewshot.types`; C classes of a split, turns included, M samples of the largest class, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarl.errors import ConfigError, DataError
from metarl.fewshot.data.pack import PackedData, Split, as_float
from metarl.fewshot.types import Episode

Pairing = Literal["any", "other-group"]


@dataclass(frozen=True)
class EpisodeShape:
    """What tasks look like."""

    ways: int = 5
    """Classes of a task."""
    shots: int = 1
    """Support samples of a class."""
    queries: int = 15
    """Query samples of a class."""
    min_shots: int = 0
    """Where positive, each class of each task has between so many and `shots` support samples; 0: all have `shots`."""
    unknown_queries: int = 0
    """Query samples of a task that belong to none of its classes; their label is -1."""
    pairing: Pairing = "any"
    """other-group: the groups of a class (runs, speakers) are divided at random, half of them for its support and the
    others for its queries; any: groups are not looked at."""

    def __post_init__(self) -> None:
        lowest = {"ways": 1, "shots": 1, "queries": 1, "min_shots": 0, "unknown_queries": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in lowest and value < lowest[field.name]:
                raise ConfigError(f"{field.name} must be at least {lowest[field.name]}, got {value}.")
        if self.min_shots > self.shots:
            raise ConfigError(f"min_shots must be at most shots, got {self.min_shots} and {self.shots}.")


class Draw(NamedTuple):
    """Which samples B tasks are made of.

    Attributes:
        support_ids, query_ids: (B, S) and (B, Q) int64, index of a sample in the data set.
        support_turns, query_turns: (B, S) and (B, Q) int64, by how many quarters it is turned.
        support_y, query_y, support_mask, query_mask: as of `Episode`.
    """

    support_ids: Tensor
    support_turns: Tensor
    support_y: Tensor
    support_mask: Tensor
    query_ids: Tensor
    query_turns: Tensor
    query_y: Tensor
    query_mask: Tensor


class EpisodeSampler:
    """Draws tasks from one split of a data set.

    Args:
        data: the data set.
        split: the name of a part of it.
        device: where the samples are kept and episodes are made.
        augment: samples (N, *X) float32 and a generator on their device -> changed samples; None: as they are.
        prepare: samples (N, *X) -> what learners read, (N, *X'); None: the samples.
        x: the data set's samples where they are on the device already.

    Attributes:
        num_classes: C, turned classes counted as classes of their own.
        x_shape: X of the episodes.
    """

    def __init__(
        self,
        data: PackedData,
        split: str,
        device: torch.device | str = "cpu",
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        x: Tensor | None = None,
    ) -> None:
        self.name = f"split {split} of {data.name}"
        self._x = data.x.to(device) if x is None else x
        self._augment, self._prepare = augment, prepare
        part = data.split(split)
        self._turns = torch.tensor(part.quarter_turns)  # (T,)
        self._class_ids, self._table, self._counts, self._groups = _tables(data, part)
        self._class_names = data.class_names
        self.num_classes = len(self._class_ids) * len(self._turns)
        self.x_shape = tuple(self.samples(self._table[:1, 0], torch.zeros(1, dtype=torch.int64)).shape[1:])

    def sample(self, shape: EpisodeShape, num_tasks: int, generator: torch.Generator) -> Episode:
        """Draw tasks.

        Args:
            shape: what they look like.
            num_tasks: B.
            generator: on the CPU.

        Returns:
            Queries lie class by class in turn (0, 1, ..., W - 1, 0, ...), those of no class at the end.

        Raises:
            ConfigError: more ways than there are classes.
            DataError: a class with fewer samples than a task needs, which is named.
        """
        draw = self.draw(shape, num_tasks, generator)
        return episode_of(draw, lambda ids, turns: self.samples(ids, turns, generator), shape.ways)

    def draw(self, shape: EpisodeShape, num_tasks: int, generator: torch.Generator) -> Draw:
        """Say which samples tasks are made of; arguments and errors are those of `sample`."""
        self.require(shape)
        ways, shots, queries = shape.ways, shape.shots, shape.queries
        num_others = min(shape.unknown_queries, self.num_classes - ways)
        chosen = _distinct((num_tasks, self.num_classes), ways + num_others, generator)  # (B, W + O)
        base = chosen // len(self._turns)  # (B, W + O), row of the tables
        turn = self._turns[chosen % len(self._turns)]  # (B, W + O)
        key = torch.rand(*base.shape, self._table.shape[1], generator=generator)  # (B, W + O, M)
        key = torch.where(torch.arange(self._table.shape[1]) < self._counts[base].unsqueeze(-1), key, torch.inf)

        known = base[:, :ways]
        if shape.pairing == "any":
            order, there = _smallest(key[:, :ways], shots + queries)  # (B, W, K + q)
            support, support_there = order[..., :shots], there[..., :shots]
            query, query_there = order[..., shots:], there[..., shots:]
        else:
            is_support = self._halves(known, generator)  # (B, W, M)
            support, support_there = _smallest(key[:, :ways].masked_fill(~is_support, torch.inf), shots)
            query, query_there = _smallest(key[:, :ways].masked_fill(is_support, torch.inf), queries)
        if shape.min_shots:
            wanted = torch.randint(shape.min_shots, shots + 1, known.shape, generator=generator)  # (B, W)
            support_there = support_there & (torch.arange(shots) < wanted.unsqueeze(-1))
        support, query = _cycled(support, support_there), _cycled(query, query_there)

        label = torch.arange(ways).expand(num_tasks, ways)  # (B, W)
        query_parts = [_flat(known, turn[:, :ways], label, query, query_there)]
        if shape.unknown_queries:
            per_class = -(-shape.unknown_queries // num_others)
            other, there = _smallest(key[:, ways:], per_class)  # (B, O, per class)
            none = torch.full((num_tasks, num_others), -1)
            flat = _flat(base[:, ways:], turn[:, ways:], none, _cycled(other, there), there)
            query_parts.append(tuple(value[:, : shape.unknown_queries] for value in flat))
        support_flat = _flat(known, turn[:, :ways], label, support, support_there)
        query_flat = tuple(torch.cat(values, 1) for values in zip(*query_parts, strict=True))
        return Draw(*self._as_ids(*support_flat), *self._as_ids(*query_flat))

    def samples(self, ids: Tensor, turns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Samples (N, *X') as learners read them, on the device.

        Args:
            ids: (N,) int64, index in the data set.
            turns: (N,) int64, by how many quarters each is turned.
            generator: of the augmentation, if there is one; None: samples are left as they are.
        """
        x = as_float(self._x[ids.to(self._x.device)])  # (N, *X)
        if len(self._turns) > 1 or bool(self._turns[0]):
            for quarter in range(1, 4):
                is_turned = (turns == quarter).to(x.device)
                x[is_turned] = torch.rot90(x[is_turned], quarter, (-2, -1))
        if self._augment is not None and generator is not None:
            x = self._augment(x, generator)
        return x if self._prepare is None else self._prepare(x)

    def require(self, shape: EpisodeShape) -> None:
        """Refuse tasks that this split cannot give; raises as `sample` does."""
        asked = shape.ways + bool(shape.unknown_queries)
        if asked > self.num_classes:
            more = " and one more for the queries of no class" if shape.unknown_queries else ""
            raise ConfigError(f"{self.name} has {self.num_classes} classes, too few for {shape.ways} ways{more}.")
        if shape.pairing == "other-group":
            num_groups = self._groups.max(1).values + 1  # (C,)
            if int(num_groups.min()) < 2:
                lonely = self._name(int(num_groups.argmin()))
                raise DataError(f"{self.name}: class {lonely} comes from a single group; pairing must be 'any'.")
        elif int(self._counts.min()) < (needed := (shape.min_shots or shape.shots) + shape.queries):
            worst = int(self._counts.argmin())
            raise DataError(
                f"{self.name}: class {self._name(worst)} has {int(self._counts[worst])} samples, fewer than the "
                f"{needed} of a task ({shape.min_shots or shape.shots} for the support and {shape.queries} queries)."
            )

    def _halves(self, base: Tensor, generator: torch.Generator) -> Tensor:
        """(B, W) classes -> (B, W, M) bool: samples of the random half of its groups that the support is drawn from."""
        groups = self._groups[base]  # (B, W, M)
        num_groups = groups.max(-1).values + 1  # (B, W)
        largest = int(num_groups.max())
        key = torch.rand(*base.shape, largest, generator=generator)
        key = torch.where(torch.arange(largest) < num_groups.unsqueeze(-1), key, torch.inf)
        rank = key.argsort(-1).argsort(-1)  # (B, W, G)
        is_support = rank < (num_groups // 2).unsqueeze(-1)
        return is_support.gather(-1, groups.clamp(min=0))

    def _as_ids(
        self, base: Tensor, turn: Tensor, label: Tensor, sample: Tensor, there: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._table[base, sample], turn, label, there

    def _name(self, row: int) -> str:
        return self._class_names[int(self._class_ids[row])]


def episode_of(draw: Draw, samples: Callable[[Tensor, Tensor], Tensor], num_ways: int) -> Episode:
    """The tasks that were drawn.

    Args:
        draw: which samples they are made of.
        samples: (N,) indices and (N,) turns -> (N, *X) on the device of the episode.
        num_ways: W.
    """

    def x(ids: Tensor, turns: Tensor) -> Tensor:
        return samples(ids.flatten(), turns.flatten()).unflatten(0, ids.shape)

    episode = Episode(
        x(draw.support_ids, draw.support_turns),
        draw.support_y,
        draw.support_mask,
        x(draw.query_ids, draw.query_turns),
        draw.query_y,
        draw.query_mask,
        num_ways,
    )
    return episode.to(episode.support_x.device)


def _tables(data: PackedData, part: Split) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The samples of each class of a split.

    Returns:
        class ids (C,), sample ids (C, M) padded with -1, how many (C,), and the group of each, counted from 0 within
        its class, (C, M) padded with -1.
    """
    if not len(part.samples):
        raise DataError(f"a split of {data.name} is empty.")
    order = data.class_ids[part.samples].argsort(stable=True)
    samples = part.samples[order]  # (N,), class by class
    class_ids, row, counts = data.class_ids[samples].unique_consecutive(return_inverse=True, return_counts=True)
    column = torch.arange(len(samples)) - (counts.cumsum(0) - counts)[row]  # (N,)
    table = torch.full((len(class_ids), int(counts.max())), -1)
    table[row, column] = samples
    # Number the groups of each class: rank of (class, group) among those that occur, less that of the class's first.
    pairs, pair = (row * len(data.group_names) + data.group_ids[samples]).unique(return_inverse=True)
    first = torch.searchsorted(pairs, torch.arange(len(class_ids)) * len(data.group_names))
    groups = torch.full_like(table, -1)
    groups[row, column] = pair - first[row]
    return class_ids, table, counts, groups


def _distinct(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """`count` distinct numbers below `size[1]` in random order, for each of `size[0]` rows."""
    return torch.rand(size, generator=generator).topk(count, dim=1).indices


def _smallest(key: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positions of the `count` smallest keys (..., M) -> (..., count), and which of them are finite."""
    found = key.topk(min(count, key.shape[-1]), dim=-1, largest=False)
    indices, there = found.indices, found.values.isfinite()
    lacking = count - indices.shape[-1]
    if lacking > 0:
        indices = torch.nn.functional.pad(indices, (0, lacking))
        there = torch.nn.functional.pad(there, (0, lacking))
    return indices, there


def _cycled(indices: Tensor, there: Tensor) -> Tensor:
    """Repeat those that are there, which come first, over those that are not: (..., n) -> (..., n)."""
    position = torch.arange(indices.shape[-1]) % there.sum(-1, keepdim=True).clamp(min=1)
    return indices.gather(-1, position)


def _flat(base: Tensor, turn: Tensor, label: Tensor, sample: Tensor, there: Tensor) -> tuple[Tensor, ...]:
    """Values (B, W) of classes and (B, W, n) of samples, as five of (B, n W): class by class in turn."""
    per_sample = [value.unsqueeze(-1).expand_as(sample) for value in (base, turn, label)]
    return tuple(value.transpose(1, 2).flatten(1) for value in (*per_sample, sample, there))
