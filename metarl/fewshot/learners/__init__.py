"""Few-shot learners by name: one explicit table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from metarl.errors import UnknownNameError

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
        training: {field: value} of `metarl.fewshot.config.TrainSettings` that it is usually trained with.
    """

    description: str
    make: str
    settings: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


LEARNERS: dict[str, LearnerEntry] = {
    "protonet": LearnerEntry(
        "nearest mean of the support's embeddings (Snell et al. 2017)",
        make="metarl.fewshot.learners.protonet:ProtoNet",
        settings="metarl.fewshot.learners.protonet:ProtoNetSettings",
    ),
}


def names() -> list[str]:
    """The names of all few-shot learners."""
    return list(LEARNERS)


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


def make_learner(
    name: str, settings: Any, x_shape: tuple[int, ...], num_ways: int, generator: torch.Generator
) -> FewShotLearner:
    """Make a learner for samples of shape `x_shape` and tasks of `num_ways` classes."""
    return _load(find(name).make)(settings, x_shape, num_ways, generator)


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)
