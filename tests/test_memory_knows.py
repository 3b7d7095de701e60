"""scripts/memory_knows.py and memory_could_know.py: how much of each task parameter a memory tells, or could tell."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metarl.config import RunConfig
from metarl.env import BatchedEnv
from metarl.errors import ConfigError, UnknownNameError
from metarl.learners.rl2 import RL2, RL2Config
from metarl.run import LoadedRun
from metarl.tasks import Parameter, TaskDistribution, Uniform
from tests.probes import hidden_target

CONFIG = RL2Config(num_worlds=64, hidden_dim=16, episodes_per_trial=2, num_minibatches=2, task_coef=1.0)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import memory_knows

    return memory_knows


def loaded(settings, spec):
    learner = RL2(spec, settings, 0)
    if settings.task_coef:
        learner.update(learner.collect(BatchedEnv(spec, 64)), 0.0)  # sets the scales
    return LoadedRun(Path("run"), RunConfig("rl2", spec.name, settings), spec, learner, update=0, env_steps=0)


def test_a_memory_that_says_the_mean_tells_nothing_and_one_that_reads_the_task_tells_all(script):
    spec = hidden_target()
    run = loaded(CONFIG, spec)
    network = run.learner.network
    torch.nn.init.zeros_(network.teller.weight)
    truth = network.task_normalizer(spec.tasks.split("validation", 32))
    torch.nn.init.constant_(network.teller.bias, truth.mean().item())
    found = script.known(run, "validation", 32, [0, 7, 99])
    assert found["steps"] == [0, 7]  # a trial has ten steps
    assert found["told"]["target"] == pytest.approx([0.0, 0.0], abs=1e-3)
    network.teller = torch.nn.Module()
    network.teller.forward = lambda features: truth.expand(*features.shape[:2], 1)
    assert script.known(run, "validation", 32, [0, 7])["told"]["target"] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_parameters_of_several_numbers_are_told_on_average(script):
    target = hidden_target().tasks.parameters[0]
    pair = Parameter("pair", "1", Uniform(0.0, 1.0), shape=(2,))
    spec = replace(hidden_target(), tasks=TaskDistribution((pair, target)))
    run = loaded(CONFIG, spec)
    network = run.learner.network
    truth = network.task_normalizer(spec.tasks.split("validation", 32))
    half = torch.stack([truth[:, 0], torch.full((32,), truth[:, 1].mean()), truth[:, 2]], 1)  # one of the pair
    network.teller = torch.nn.Module()
    network.teller.forward = lambda features: half.expand(*features.shape[:2], 3)
    told = script.known(run, "validation", 32, [0])["told"]
    assert told["pair"] == pytest.approx([0.5], abs=1e-3) and told["target"] == pytest.approx([1.0], abs=1e-3)


def test_only_what_was_asked_is_shown(script):
    pair = Parameter("pair", "1", Uniform(0.0, 1.0), shape=(2,))
    spec = replace(hidden_target(), tasks=TaskDistribution((*hidden_target().tasks.parameters, pair)))
    run = loaded(replace(CONFIG, asked=("pair",)), spec)
    network = run.learner.network
    truth = network.task_normalizer(spec.tasks.split("validation", 32))[:, 1:]
    network.teller = torch.nn.Module()
    network.teller.forward = lambda features: truth.expand(*features.shape[:2], 2)
    assert script.known(run, "validation", 32, [0])["told"] == {"pair": pytest.approx([1.0], abs=1e-3)}


def test_a_memory_that_was_not_asked_is_refused(script):
    with pytest.raises(ConfigError, match="train rl2 with --task-coef"):
        script.known(loaded(replace(CONFIG, task_coef=0.0), hidden_target()), "validation", 4, [0])


@pytest.fixture
def learns(script):
    import memory_could_know

    return memory_could_know


def asked_to_learn(*names, **changes):
    counts = {"gradient_steps": 150, "num_tasks": 128, "num_judged": 64, "steps": [0, 4, 99], "seed": 0}
    return Namespace(asked=list(names), **(counts | changes))


def test_a_new_memory_learns_what_the_trials_of_a_run_show_and_nothing_else(learns):
    # The reward of `hidden_target` tells the target; `pair` does nothing in it.
    pair = Parameter("pair", "1", Uniform(0.0, 1.0), shape=(2,))
    spec = replace(hidden_target(), tasks=TaskDistribution((*hidden_target().tasks.parameters, pair)))
    run = loaded(replace(CONFIG, task_coef=0.0, learning_rate=3e-3), spec)  # a run that was asked nothing
    found = learns.could_know(run, asked_to_learn())
    assert found["steps"] == [0, 4]
    assert found["told"]["target"][0] < 0.2 and found["told"]["target"][1] > 0.6
    assert max(found["told"]["pair"]) < 0.2
    named = learns.could_know(run, asked_to_learn("target", gradient_steps=300))
    assert list(named["told"]) == ["target"] and named["told"]["target"][1] > 0.8
    untrained = learns.could_know(run, asked_to_learn("target", gradient_steps=0))
    assert untrained["told"]["target"][1] < 0.3


def test_a_run_without_memory_and_an_unknown_parameter_are_refused(learns):
    with pytest.raises(ConfigError, match="has no memory"):
        learns.could_know(loaded(replace(CONFIG, memory=False, task_coef=0.0), hidden_target()), asked_to_learn())
    with pytest.raises(UnknownNameError, match="Did you mean 'target'"):
        learns.could_know(loaded(CONFIG, hidden_target()), asked_to_learn("targett"))
