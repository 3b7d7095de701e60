"""Configs to JSON and back: nothing lost, nothing guessed."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from metarl.config_json import config_from_json, config_to_json
from metarl.errors import ConfigError
from metarl.run_folder import write_json


@dataclass(frozen=True)
class Optimizer:
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Training:
    env: str
    total_steps: int = 1000
    device: Literal["auto", "cpu", "cuda"] = "auto"
    optimizer: Optimizer = field(default_factory=Optimizer)
    hidden: tuple[int, ...] = (64,)
    clip: float | None = None
    options: dict[str, int | float | str] = field(default_factory=dict)
    out: Path | None = None


def test_a_config_comes_back_from_its_file_as_it_was(tmp_path):
    config = Training(
        "bandit",
        hidden=(64, 32),
        optimizer=Optimizer(lr=1e-3),
        options={"num_arms": 10, "scale": 2.0},
        out=Path("runs/a"),
    )
    write_json(tmp_path / "config.json", config_to_json(config))
    assert config_from_json(Training, json.loads((tmp_path / "config.json").read_bytes())) == config


def test_an_integer_stays_one_only_where_the_field_takes_it():
    config = config_from_json(Training, {"env": "x", "clip": 1, "options": {"num_arms": 5}})
    assert type(config.clip) is float and type(config.options["num_arms"]) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"env": "x", "totl_steps": 3}, "unknown key 'totl_steps'. Did you mean 'total_steps'"),
        ({"env": "x", "optimizer": {"learning": 1}}, "config.optimizer has an unknown key 'learning'. Available: lr"),
        ({}, "lacks the key 'env'"),
        ({"env": 3}, "config.env is 3, expected str"),
        ({"env": "x", "total_steps": True}, "config.total_steps is True, expected int"),
        ({"env": "x", "total_steps": 1.5}, "config.total_steps is 1.5, expected int"),
        ({"env": "x", "clip": "high"}, "config.clip is 'high', expected float"),
        ({"env": "x", "device": "gpu"}, "config.device is 'gpu'; available: 'auto', 'cpu', 'cuda'"),
        ({"env": "x", "hidden": [64, "a"]}, r"config\.hidden\[1\] is 'a', expected int"),
        ({"env": "x", "optimizer": {"betas": [0.9]}}, "config.optimizer.betas has 1 entries, expected 2"),
        ({"env": "x", "optimizer": [1]}, "expected the fields of Optimizer"),
        (["env"], "expected the fields of Training"),
    ],
)
def test_a_config_that_does_not_fit_is_named_by_its_key(value, message):
    with pytest.raises(ConfigError, match=message):
        config_from_json(Training, value)


def test_a_config_that_json_cannot_keep_is_refused():
    with pytest.raises(TypeError, match="holds a set"):
        config_to_json(Training("x", options={1, 2}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Renamed:
    new: int = 0
    RENAMED: ClassVar[dict[str, str]] = {"old": "new"}


def test_a_field_that_has_another_name_now_is_read_by_the_old_one():
    assert config_from_json(Renamed, {"old": 3}) == config_from_json(Renamed, {"new": 3}) == Renamed(3)
    assert config_to_json(Renamed(3)) == {"new": 3}
    with pytest.raises(ConfigError, match="unknown key 'older'"):
        config_from_json(Renamed, {"older": 3})
