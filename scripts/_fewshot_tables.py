"""What `reproduce_fewshot.py` trains and judges, and where the published numbers are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metarl.fewshot.presets import METRIC

Kind = tuple[int, int]
"""(ways, shots)."""


AS_SHOTS = 0


@dataclass(frozen=True)
class Row:
    """One learner of a table.

    Attributes:
        learner: its name.
        kinds: tasks that it is judged on.
        preset: what it is trained with.
        training, settings: differences from the preset.
        label: what tells it from other rows of the learner.
        queries: of a class, in the judgement; several for several evaluations; `AS_SHOTS`: as many as shots.
    """

    learner: str
    kinds: Sequence[Kind]
    preset: str = "default"
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    queries: Sequence[int] = (15,)

    @property
    def name(self) -> str:
        """For files and tables."""
        return f"{self.learner}-{self.label}" if self.label else self.learner


@dataclass(frozen=True)
class FewShotTable:
    """A table of learners on one data set.

    Attributes:
        data: name of the data set.
        rows: the learners.
        variants: options of the data set; every seed is trained with each of them (folds, surfaces that are held out).
        splits: parts that are judged.
        published: row or method -> kind of task -> accuracy in per cent.
        source: where those numbers are from.
        has_official_runs: judge on Lake's 20 official runs too.
        pairings: where queries come from, in the judgement; several for several evaluations.
    """

    data: str
    rows: Sequence[Row]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    splits: Sequence[str] = ("test",)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    source: str = ""
    has_official_runs: bool = False
    pairings: Sequence[str] = ("any",)


FOUR: tuple[Kind, ...] = ((5, 1), (5, 5), (20, 1), (20, 5))
FIVE: tuple[Kind, ...] = ((5, 1), (5, 5))
FOLDS = {f"fold{fold}": {"fold": fold} for fold in range(3)}
ALL = (
    "protonet",
    "matching",
    "relation",
    "gnn",
    "cnp",
    "maml",
    "fomaml",
    "anil",
    "meta-sgd",
    "maml++",
    "proto-maml",
    "ml3",
    "reptile",
    "abml",
    "vampire",
    "bmaml",
    "platipus",
)
SHORT = {"meta_batch_size": 4, "queries": 5, "lr": 2e-3}
"""Of learners that adapt weights, where a training lasts a minute: MAML then came to 88 % on 200 validation tasks, with
8 tasks and Adam 1e-3 to 85 % (one seed)."""
BAYESIAN = ("maml", "abml", "vampire", "bmaml", "platipus", "protonet", "cnp")

_SURFACES = ("asphalt", "flooring", "ice", "sandy_loam", "snow")


def _kinds(*accuracies: float, kinds: Sequence[Kind] = FOUR) -> dict[str, float]:
    return {f"{ways}-way {shots}-shot": a for (ways, shots), a in zip(kinds, accuracies, strict=True)}


TABLES: dict[str, FewShotTable] = {
    "omniglot": FewShotTable(
        data="omniglot",
        rows=(
            Row("protonet", FOUR),
            Row("matching", FOUR),
            # MAML was published with as many queries as shots, which one batch of the normalisation consists of.
            Row("maml", ((5, 1),), queries=(15, 1)),
            Row("maml", ((5, 1),), training=SHORT, label="small-batches", queries=(15, 1)),
            Row("maml", FIVE, preset="two-tasks", label="two-tasks", queries=(15, AS_SHOTS)),
            Row("maml", ((5, 5),), training={"shots": 5}, label="5-shot", queries=(15, 5)),
            Row("maml", ((20, 1),), preset="20-way", label="20-way", queries=(15, 1)),
        ),
        splits=("test", "test-upright"),
        published={
            "ProtoNet, paper": _kinds(98.8, 99.7, 96.0, 98.9),
            "ProtoNet, reproduced (oscarknagg/few-shot)": _kinds(98.2, 99.4, 95.8, 98.6),
            "ProtoNet, reproduced (official code, issue 2)": _kinds(98.4, 99.6, 94.9, 98.6),
            "Matching L2, reproduced (oscarknagg/few-shot)": _kinds(98.3, 99.8, 92.8, 97.8),
            "MAML, paper": _kinds(98.7, 99.9, 95.8, 98.9),
            "MAML, reproduced (oscarknagg/few-shot)": _kinds(98.1, 99.8, 91.6, 95.9),
        },
        source="Snell et al. 2017; Finn et al. 2017; README of oscarknagg/few-shot; jakesnell/prototypical-networks #2",
    ),
    "omniglot-lake": FewShotTable(
        data="omniglot",
        rows=(Row("protonet", FOUR),),
        variants={"lake": {"split_by": "lake"}},
        splits=("test", "test-upright"),
        published={"VAMPIRE": {"5-way 1-shot": 96.27}},
        source="Nguyen et al. 2020, original split",
        has_official_runs=True,
    ),
    "omniglot-calibration": FewShotTable(
        data="omniglot",
        rows=tuple(Row(name, ((5, 1),), training={} if name in (*METRIC, "reptile") else SHORT) for name in ALL),
    ),
    "borealtc": FewShotTable(
        data="borealtc",
        rows=(Row("protonet", ((5, 1), (5, 5), (5, 20), (4, 5))),),
        variants=FOLDS,
        published={
            "hand-made features, nearest prototype": _kinds(42.8, 52.4, 56.7, kinds=((5, 1), (5, 5), (5, 20))),
        },
        pairings=("other-group", "any"),
        source="5 band powers of 6 axes in 1.7 s, queries from other runs than the support, measured here",
    ),
    "borealtc-calibration": FewShotTable(
        data="borealtc",
        rows=tuple(Row(name, ((5, 5),)) for name in BAYESIAN),
        variants=FOLDS,
        pairings=("other-group",),
    ),
    "borealtc-held-out": FewShotTable(
        data="borealtc",
        rows=(Row("protonet", ((2, 1), (2, 5), (2, 20)), training={"ways": 3}),),
        pairings=("other-group",),
        variants={
            f"{first}+{second}": {"held_out": (first, second)}
            for i, first in enumerate(_SURFACES)
            for second in _SURFACES[i + 1 :]
        },
    ),
    "spoken-digits": FewShotTable(
        data="spoken-digits",
        rows=(Row("protonet", FIVE),),
        variants=FOLDS,
        pairings=("any", "other-group"),
        published={
            "log-mel cepstra, nearest prototype, any speaker": _kinds(47.6, 73.2, kinds=FIVE),
            "log-mel cepstra, nearest prototype, another speaker": _kinds(54.0, 65.0, kinds=FIVE),
        },
        source="no learning, measured here",
    ),
    "spoken-digits-held-out": FewShotTable(
        data="spoken-digits",
        rows=(Row("protonet", FIVE),),
        pairings=("any", "other-group"),
        variants={
            **{f"fold{f}-low": {"fold": f, "held_out": ("0", "1", "2", "3", "4")} for f in range(3)},
            **{f"fold{f}-high": {"fold": f, "held_out": ("5", "6", "7", "8", "9")} for f in range(3)},
        },
    ),
    "objects": FewShotTable(data="objects", rows=tuple(Row(name, FIVE) for name in ("protonet", "matching", "gnn"))),
}
