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
    "mini-imagenet": {"ways": 5, "shots": 1, "queries": 15, "num_updates": 20_000},
    "objects": {"ways": 5, "shots": 1, "queries": 5, "meta_batch_size": 4, "num_updates": 1_500},
    "sinusoid": {"ways": 1, "shots": 5, "queries": 5, "meta_batch_size": 25, "lr_schedule": "constant"},
}

_GRADIENT: dict[str, Mapping[str, Any]] = {
    "omniglot": {"meta_batch_size": 16, "num_updates": 8_000},
    "sinusoid": {"num_updates": 70_000},
    "mini-imagenet": {"meta_batch_size": 4, "num_updates": 30_000},
}

_SNELL = "Snell et al. 2017, section 3.1: 60-way episodes, Adam 1e-3; there halved every 2,000 episodes"
_FINN = "Finn et al. 2017, appendix A.1: 32 tasks, 60,000 updates, 3 steps in the test"
_FINN_SINES = "Finn et al. 2017, section 5.1, and their released code"

_PRESETS: dict[tuple[str, str], dict[str, Preset]] = {
    ("protonet", "omniglot"): {
        "default": Preset(training={"ways": 60, "shots": 1, "queries": 5, "num_updates": 6_000}, source=_SNELL),
        "5-shot": Preset(training={"ways": 60, "shots": 5, "queries": 5, "num_updates": 4_000}, source=_SNELL),
    },
    ("matching", "omniglot"): {
        "default": Preset(
            training={"ways": 60, "shots": 1, "queries": 5, "num_updates": 6_000},
            source=f"episodes as for protonet ({_SNELL}); Vinyals et al. 2016 train on tasks like those of the test",
        ),
        "5-shot": Preset(training={"ways": 60, "shots": 5, "queries": 5, "num_updates": 4_000}, source=_SNELL),
        "cosine": Preset(
            settings={"distance": "cosine", "initial_scale": 10.0, "learns_scale": True},
            training={"ways": 60, "shots": 1, "queries": 5, "num_updates": 6_000},
            source="Vinyals et al. 2016, with a learned scale of the cosine, without which it learns badly",
        ),
        "full-context": Preset(
            settings={"full_context": True},
            training={"ways": 20, "shots": 1, "queries": 5, "meta_batch_size": 2, "num_updates": 6_000},
            source="Vinyals et al. 2016, appendices A.1 and A.2",
        ),
    },
    ("relation", "omniglot"): {
        "default": Preset(
            training={"ways": 20, "shots": 1, "queries": 5, "num_updates": 8_000},
            source="Sung et al. 2018, released code: Adam 1e-3; there ways as in the test, 19 queries a class for 5",
        ),
    },
    ("gnn", "omniglot"): {
        "default": Preset(
            training={"queries": 1, "meta_batch_size": 32, "num_updates": 8_000},
            source="Garcia and Bruna 2018, released code: 100,000 updates of 300 tasks with one query, Adam 1e-3",
        ),
        "20-way": Preset(
            training={"ways": 20, "queries": 1, "meta_batch_size": 4, "num_updates": 8_000},
            source="Garcia and Bruna 2018, released code: 80,000 updates of 100 tasks with one query",
        ),
    },
    ("cnp", "omniglot"): {
        "default": Preset(
            training={"ways": 20, "queries": 3, "meta_batch_size": 4, "num_updates": 8_000},
            source="ours; Garnelo et al. 2018 train on 5 and 20 ways apart",
        ),
    },
    ("cnp", "sinusoid"): {
        "default": Preset(
            settings={"targets": "numbers", "norm": "none", "hidden_dim": 40},
            training={"num_updates": 30_000},
            source="Garnelo et al. 2018, section 4.1, on the sines of Finn et al. 2017",
        ),
    },
    ("maml", "omniglot"): {
        "default": Preset(
            settings={"inner_lr": 0.4, "num_inner_steps": 1, "num_test_steps": 3},
            training={"meta_batch_size": 32, "queries": 1, "num_updates": 10_000},
            source=_FINN,
        ),
        "two-tasks": Preset(
            settings={"inner_lr": 0.4, "num_inner_steps": 1, "num_test_steps": 3},
            training={"meta_batch_size": 2, "queries": 5, "num_updates": 30_000, "lr": 2e-3},
            source="ours, for minutes of a CPU: inner steps as published, but small batches and larger steps of Adam, "
            "chosen on validation tasks; for 5-shot tasks, too",
        ),
        "20-way": Preset(
            settings={"inner_lr": 0.1, "num_inner_steps": 5, "num_test_steps": 5},
            training={"ways": 20, "meta_batch_size": 16, "queries": 1, "num_updates": 5_000},
            source="Finn et al. 2017, appendix A.1",
        ),
    },
    ("fomaml", "omniglot"): {
        "default": Preset(
            settings={"inner_lr": 0.4, "num_inner_steps": 1, "num_test_steps": 3},
            training={"meta_batch_size": 32, "queries": 1, "num_updates": 10_000},
            source=f"as maml ({_FINN})",
        ),
    },
    ("meta-sgd", "omniglot"): {
        "default": Preset(
            settings={"inner_lr": 0.1},
            training={"queries": 1, "meta_batch_size": 32},
            source="Li et al. 2017: one step, tasks as for maml; the start of the sizes is ours",
        ),
    },
    ("maml++", "omniglot"): {
        "default": Preset(
            settings={"encoder": "conv4", "multi_step_share": 0.1},
            training={"queries": 1, "meta_batch_size": 8, "num_updates": 8_000},
            source="Antoniou et al. 2019, released code: 5 steps of 0.1 at the start, max-pooling, 8 tasks, Adam "
            "1e-3 along a cosine, the loss of all steps in the first tenth of 50,000 updates",
        ),
    },
    ("reptile", "omniglot"): {
        "default": Preset(
            settings={"num_inner_steps": 12, "num_test_steps": 86, "inner_lr": 4.4e-4, "minibatch_size": 5},
            training={"shots": 6, "queries": 6, "meta_batch_size": 3, "num_updates": 20_000},
            source="Nichol et al. 2018, released code, 1-shot: 12 samples a class, epsilon to 0; there 200,000 updates",
        ),
        "5-shot": Preset(
            settings={
                "num_inner_steps": 5,
                "num_test_steps": 100,
                "inner_lr": 1.5e-3,
                "minibatch_size": 10,
                "outer_lr": 0.7,
            },
            training={"shots": 5, "queries": 5, "meta_batch_size": 5, "num_updates": 20_000},
            source="Nichol et al. 2018, released code, 5-shot: 10 samples a class; there 100,000 updates",
        ),
    },
    ("reptile", "sinusoid"): {
        "default": Preset(
            settings={
                "inner_optimizer": "sgd",
                "inner_lr": 0.02,
                "num_inner_steps": 5,
                "num_test_steps": 10,
                "minibatch_size": 0,
                "outer_lr": 0.5,
            },
            source="ours; SGD inside, as in the first figure of Nichol et al. 2018",
        ),
    },
    ("meta-sgd", "sinusoid"): {"default": Preset(source=f"sizes of steps start as those of maml ({_FINN_SINES})")},
    ("maml", "sinusoid"): {
        "default": Preset(source=_FINN_SINES),
        "large-steps": Preset(
            training={"num_updates": 25_000, "lr": 3e-3, "lr_schedule": "cosine"},
            source="ours: Adam's step size chosen on validation sines; a third of the published updates",
        ),
    },
    ("fomaml", "sinusoid"): {"default": Preset(source=_FINN_SINES)},
    ("bmaml", "sinusoid"): {
        "default": Preset(
            settings={"adapts": "all", "num_inner_steps": 1},
            source="Yoon et al. 2018, section 5.1: all weights are particles",
        ),
    },
}

_GRADIENT_SETTINGS: dict[str, Mapping[str, Any]] = {
    "omniglot": {"encoder": "conv4-strided"},
    "sinusoid": {"hidden_dim": 40, "norm": "none", "inner_lr": 0.01},
    "mini-imagenet": {"hidden_dim": 32, "inner_lr": 0.01, "num_inner_steps": 5, "num_test_steps": 10},
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
