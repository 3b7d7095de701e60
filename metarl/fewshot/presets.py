"""How each learner is trained on each data set: what the papers did, and what was found to work here.

A preset is what differs from the defaults of the learner's settings and of `FewShotTraining`. Data sets say what their
tasks look like, learners how they are optimised, pairs what is particular to both; the later one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from metarl.errors import UnknownNameError
from metarl.fewshot.config import FewShotTraining
from metarl.fewshot.data import find as find_data
from metarl.fewshot.learners import default_settings
from metarl.fewshot.learners import find as find_learner


@dataclass(frozen=True)
class Preset:
    """Differences from the defaults.

    Attributes:
        settings: of the learner.
        training: of `FewShotTraining`.
        source: where they are from.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


METRIC = ("protonet", "matching", "relation", "gnn", "cnp")
"""Learners that compare embeddings, and adapt no weights."""

_OF_DATA: dict[str, Mapping[str, Any]] = {
    "omniglot": {"ways": 5, "shots": 1, "queries": 5},
    "spoken-digits": {
        "ways": 5,
        "shots": 1,
        "queries": 5,
        "pairing": "other-group",
        "meta_batch_size": 8,
        "num_updates": 600,
    },
    "borealtc": {
        "ways": 5,
        "shots": 5,
        "queries": 10,
        "pairing": "other-group",
        "meta_batch_size": 4,
        "num_updates": 400,
    },
    "sinusoid": {"ways": 1, "shots": 5, "queries": 5, "meta_batch_size": 25, "lr_schedule": "constant"},
}

_GRADIENT: dict[str, Mapping[str, Any]] = {
    "omniglot": {"meta_batch_size": 16, "num_updates": 8_000},
    "sinusoid": {"num_updates": 70_000},
}

_PRESETS: dict[tuple[str, str], dict[str, Preset]] = {
    ("protonet", "omniglot"): {
        "default": Preset(
            training={"ways": 60, "shots": 1, "queries": 5, "num_updates": 6_000},
            source="Snell et al. 2017, section 3.1: 60-way episodes, Adam 1e-3; there halved every 2,000 episodes",
        ),
        "5-shot": Preset(training={"ways": 60, "shots": 5, "queries": 5, "num_updates": 4_000}),
    },
    ("maml", "omniglot"): {
        "default": Preset(
            settings={"encoder": "conv4-strided", "inner_lr": 0.4, "num_inner_steps": 1, "num_test_steps": 3},
            training={"meta_batch_size": 32, "queries": 1, "num_updates": 10_000},
            source="Finn et al. 2017, appendix A.1: 32 tasks, 60,000 updates, 3 steps in the test",
        ),
        "20-way": Preset(
            settings={"encoder": "conv4-strided", "inner_lr": 0.1, "num_inner_steps": 5, "num_test_steps": 5},
            training={"ways": 20, "meta_batch_size": 16, "queries": 1, "num_updates": 5_000},
            source="Finn et al. 2017, appendix A.1",
        ),
    },
}

_GRADIENT_SETTINGS: dict[str, Mapping[str, Any]] = {
    "omniglot": {"encoder": "conv4-strided"},
    "sinusoid": {"hidden_dim": 40, "norm": "none", "inner_lr": 0.01},
}
"""Of learners that adapt weights."""


def preset_names(learner: str, data: str) -> list[str]:
    """The presets that there are for a learner on a data set; "default" always."""
    return list({"default": None} | dict.fromkeys(_PRESETS.get((learner, data), {})))


def preset(learner: str, data: str, name: str = "default") -> tuple[Any, FewShotTraining]:
    """Settings and training of a learner on a data set.

    Raises:
        UnknownNameError: no such learner, data set or preset.
    """
    find_learner(learner), find_data(data)
    names = preset_names(learner, data)
    if name not in names:
        raise UnknownNameError(f"preset of {learner} on {data}", name, names)
    chosen = _PRESETS.get((learner, data), {}).get(name, Preset())
    settings = default_settings(learner)
    is_gradient = learner not in METRIC
    general: dict[str, Any] = {}
    if is_gradient:
        general = {key: value for key, value in _GRADIENT_SETTINGS.get(data, {}).items() if _has(settings, key)}
    training = FewShotTraining()
    return (
        replace(settings, **{**general, **chosen.settings}),
        replace(
            training,
            **{**_OF_DATA.get(data, {}), **(_GRADIENT.get(data, {}) if is_gradient else {}), **chosen.training},
        ),
    )


def preset_source(learner: str, data: str, name: str = "default") -> str:
    """Where a preset is from; empty where nothing is known."""
    return _PRESETS.get((learner, data), {}).get(name, Preset()).source


def _has(settings: Any, name: str) -> bool:
    return any(f.name == name for f in fields(settings))
