"""Learners where targets are numbers: which can be trained, how they are judged, on the command line too."""

import json
from dataclasses import replace

import pytest
import torch

from metarl.cli import main
from metarl.errors import ConfigError
from metarl.fewshot import learners
from metarl.fewshot.config import FewShotConfig
from metarl.fewshot.data.sinusoid import SinusoidOptions, SinusoidSource
from metarl.fewshot.listing import details
from metarl.fewshot.presets import preset
from metarl.fewshot.regression import STEPS, RegressionEvaluation, evaluate_regression, table
from metarl.fewshot.run import new_learner
from metarl.fewshot.sampler import EpisodeShape
from metarl.fewshot.train import FewShotLoop

COMPARE_CLASSES = ("protonet", "matching", "relation", "gnn", "proto-maml")
SHAPE = EpisodeShape(ways=1, shots=5, queries=10)


def config(learner, **settings):
    chosen, training = preset(learner, "sinusoid")
    chosen = replace(chosen, hidden_dim=8, **settings)
    return FewShotConfig(learner, "sinusoid", chosen, replace(training, meta_batch_size=2), SinusoidOptions())


def judged(learner, **options) -> RegressionEvaluation:
    source = SinusoidSource(SinusoidOptions())
    return evaluate_regression(learner, source, SHAPE, name="it", **options)


@pytest.mark.parametrize("name", [n for n in learners.names() if n not in COMPARE_CLASSES])
def test_every_learner_without_classes_trains_and_is_judged(name):
    loop = FewShotLoop(config(name), SinusoidSource(SinusoidOptions()))
    loop.advance()
    found = judged(loop.learner, num_tasks=4)
    assert found.num_steps == ((None,) if name == "cnp" else STEPS)
    assert all(estimate.mean > 0 for estimate in found.mse)


def test_only_learners_without_classes_are_listed_for_numbers():
    shown = "\n".join(details("sinusoid"))
    assert "    maml: default" in shown and not any(f"    {name}:" in shown for name in COMPARE_CLASSES)
    assert not any("sinusoid" in line for line in details("proto-maml"))


@pytest.mark.parametrize("name", COMPARE_CLASSES)
def test_learners_that_compare_classes_are_refused(name):
    with pytest.raises(ConfigError, match=rf"{name} compares classes, but targets here are numbers. Available: maml"):
        FewShotLoop(config(name), SinusoidSource(SinusoidOptions()))


def test_a_neural_process_for_classes_is_refused():
    with pytest.raises(ConfigError, match="targets here are numbers, but --targets is classes"):
        FewShotLoop(config("cnp", targets="classes"), SinusoidSource(SinusoidOptions()))


def test_saying_zero_costs_the_mean_square_of_the_sines():
    learner = new_learner(config("maml", inner_lr=0.0), (1,), 1)
    with torch.no_grad():
        learner.network.head.weight.zero_(), learner.network.head.bias.zero_()
    found = judged(learner, num_tasks=1000)
    # E[A^2] = (5^3 - 0.1^3) / (3 * 4.9), and over x in [-5, 5] and phases in [0, pi] E[sin^2] = 1/2.
    for estimate in found.mse:
        assert abs(estimate.mean - 8.503 / 2) < 2 * estimate.ci95 and estimate.ci95 < 0.35


def test_an_error_that_is_not_finite_is_said_so():
    learner = new_learner(config("maml", inner_lr=1e30), (1,), 1)
    found = judged(learner, num_tasks=4)
    assert found.mse[0] is not None and found.mse[-1] is None
    assert table([found])[1][-1] == "diverges" and found.to_json()["mse"][-1] is None


def test_the_command_line_judges_each_number_of_steps(tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code

    out = tmp_path / "run"
    small = ("--num-updates", 2, "--meta-batch-size", 2, "--hidden-dim", 8)
    assert run("train", "maml", "--data", "sinusoid", "--out", out, *small) == 0
    assert run("evaluate", out, "--num-tasks", 4) == 0
    (found,) = json.loads((out / "evaluation.json").read_text())["evaluations"]
    assert found["shape"]["shots"] == 5 and found["num_steps"] == list(STEPS) and len(found["mse"]) == len(STEPS)
    assert (out / "curves.png").stat().st_size > 5_000
    assert run("evaluate", out, "--ways", 5) == 2
    assert "sinusoid has no classes: leave out --ways 5" in capsys.readouterr().err
