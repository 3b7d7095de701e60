"""Few-shot learners by name: one explicit table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from metarl.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    import torch

    from metarl.fewshot.types import FewShotLearner


@dataclass(frozen=True)
class LearnerEntry:
    """How to make a learner.

    Attributes:
        description: one line for `metarl list`.
        make: "module:class" (settings, x_shape, num_ways, generator) -> FewShotLearner.
        settings: "module:class" of its settings, a frozen dataclass that inherits from `EncoderSettings`.
        defaults: {field: value} of the settings in which relatives of one class differ.
        needs_classes: whether it compares classes, and so cannot be trained where targets are numbers.
    """

    description: str
    make: str
    settings: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs_classes: bool = False


def _maml(description: str, needs_classes: bool = False, **defaults: Any) -> LearnerEntry:
    """MAML or one of its relatives, which differ in settings only."""
    learner = "metarl.fewshot.learners.maml:MAML"
    return LearnerEntry(description, learner, f"{learner}Settings", defaults, needs_classes)


def _abml(description: str, **defaults: Any) -> LearnerEntry:
    """Amortised Bayesian meta-learning or its relative."""
    learner = "metarl.fewshot.learners.abml:ABML"
    return LearnerEntry(description, learner, f"{learner}Settings", defaults)


LEARNERS: dict[str, LearnerEntry] = {
    "protonet": LearnerEntry(
        "nearest mean of the support's embeddings (Snell et al. 2017)",
        make="metarl.fewshot.learners.protonet:ProtoNet",
        settings="metarl.fewshot.learners.protonet:ProtoNetSettings",
        needs_classes=True,
    ),
    "matching": LearnerEntry(
        "attention over the support's labels (Vinyals et al. 2016)",
        make="metarl.fewshot.learners.matching:Matching",
        settings="metarl.fewshot.learners.matching:MatchingSettings",
        needs_classes=True,
    ),
    "relation": LearnerEntry(
        "a learned comparison of query and class (Sung et al. 2018)",
        make="metarl.fewshot.learners.relation:Relation",
        settings="metarl.fewshot.learners.relation:RelationSettings",
        needs_classes=True,
    ),
    "gnn": LearnerEntry(
        "labels travel along learned edges of a graph (Garcia and Bruna 2018)",
        make="metarl.fewshot.learners.gnn:GNN",
        settings="metarl.fewshot.learners.gnn:GNNSettings",
        needs_classes=True,
    ),
    "maml": _maml("a network that a few gradient steps fit to a task (Finn et al. 2017)"),
    "fomaml": _maml("first-order MAML: inner gradients as constants", first_order=True),
    "anil": _maml("MAML whose last layer alone adapts (Raghu et al. 2020)", adapts="head", num_inner_steps=5),
    "meta-sgd": _maml("MAML with a learned step size for each weight (Li et al. 2017)", step_sizes="parameter"),
    "maml++": _maml(
        "MAML with a loss after every step and step sizes for each layer and step (Antoniou et al. 2019)",
        step_sizes="layer",
        num_inner_steps=5,
        inner_lr=0.1,
        multi_step_share=0.5,
    ),
    "proto-maml": _maml(
        "MAML whose last layer starts from prototypes (Triantafillou et al. 2020)",
        needs_classes=True,
        head="prototypes",
        num_inner_steps=3,
        inner_lr=0.02,
    ),
    "ml3": _maml(
        "MAML whose inner steps descend on a learned loss (Bechtle et al. 2020)",
        inner_loss="weighted-error",
        num_inner_steps=3,
    ),
    "reptile": LearnerEntry(
        "moves the initialisation towards the adapted weights (Nichol et al. 2018)",
        make="metarl.fewshot.learners.reptile:Reptile",
        settings="metarl.fewshot.learners.reptile:ReptileSettings",
    ),
    "abml": _abml("normal distributions over weights, fitted to a task by gradients (Ravi and Beatson 2019)"),
    "vampire": _abml(
        "the same, meta-trained on the queries' likelihood alone (Nguyen et al. 2020)",
        outer_data="query",
        outer_kl_coef=0.0,
    ),
    "bmaml": LearnerEntry(
        "particles that Stein variational gradient descent fits to a task (Yoon et al. 2018)",
        make="metarl.fewshot.learners.bmaml:BMAML",
        settings="metarl.fewshot.learners.bmaml:BMAMLSettings",
        defaults={"num_inner_steps": 5},
    ),
    "platipus": LearnerEntry(
        "a random initialisation, drawn before the gradient steps (Finn et al. 2018)",
        make="metarl.fewshot.learners.platipus:Platipus",
        settings="metarl.fewshot.learners.platipus:PlatipusSettings",
    ),
    "cnp": LearnerEntry(
        "conditional neural process: one network reads the support as a set (Garnelo et al. 2018)",
        make="metarl.fewshot.learners.cnp:CNP",
        settings="metarl.fewshot.learners.cnp:CNPSettings",
    ),
}


def names(*, for_numbers: bool = False) -> list[str]:
    """The names of all few-shot learners, or of those that can be trained where targets are numbers."""
    return [name for name, entry in LEARNERS.items() if not (for_numbers and entry.needs_classes)]


def find(name: str) -> LearnerEntry:
    """Look a learner up.

    Raises:
        UnknownNameError: no such learner.
    """
    if name not in LEARNERS:
        raise UnknownNameError("few-shot learner", name, LEARNERS)
    return LEARNERS[name]


def settings_type(name: str) -> type:
    """The settings class of a learner."""
    return _load(find(name).settings)


def default_settings(name: str) -> Any:
    """The settings that a learner starts from."""
    return settings_type(name)(**find(name).defaults)


def require_targets(name: str, settings: Any, is_regression: bool) -> None:
    """Refuse a learner that does not predict what a data set's targets are.

    Raises:
        ConfigError: numbers where it compares classes, or the other way round.
    """
    targets = "numbers" if is_regression else "classes"
    if getattr(settings, "targets", targets) != targets:  # of a neural process, which is made for one or the other
        raise ConfigError(f"targets here are {targets}, but --targets is {settings.targets}.")
    if is_regression and (find(name).needs_classes or getattr(settings, "head", "") == "prototypes"):
        available = ", ".join(names(for_numbers=True))
        raise ConfigError(f"{name} compares classes, but targets here are numbers. Available: {available}.")


def make_learner(
    name: str, settings: Any, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
) -> FewShotLearner:
    """Make a learner for samples of shape `x_shape` and tasks of `num_ways` classes."""
    return _load(find(name).make)(settings, x_shape, num_ways, generator)


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
