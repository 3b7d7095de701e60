"""What holds for every few-shot learner of the table."""

from dataclasses import replace

import pytest
import torch

from metarl.fewshot.learners import LEARNERS, default_settings, make_learner
from metarl.fewshot.types import UpdatesItself
from tests.fewshot.clusters import DIM, NUM_WAYS, cluster_episode


def generator(seed=0):
    return torch.Generator(device="cpu").manual_seed(seed)


def small_learner(name):
    settings = replace(default_settings(name), hidden_dim=16)
    return make_learner(name, settings, (DIM,), NUM_WAYS, generator())


def train(learner, episode, draws):
    """One loss with its gradient, or one update."""
    if isinstance(learner, UpdatesItself):
        return learner.update(episode, draws)
    loss, metrics = learner.loss(episode, draws)
    loss.backward()
    return metrics


@pytest.mark.parametrize("name", LEARNERS)
def test_tensors_are_made_where_the_tasks_are(name):
    """What is made without a device would be on the default one, here one that no tensor can be mixed with."""
    learner, episode = small_learner(name), cluster_episode(2, generator(1))
    with torch.device("meta"):
        assert 0 <= train(learner, episode, generator(3))["accuracy"] <= 1
        assert torch.isfinite(learner.log_probs(episode, generator(3))).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_generator_gives_the_same_numbers(name):
    episode, found = cluster_episode(2, generator(1)), []
    for _ in range(2):
        learner = small_learner(name)
        train(learner, episode, generator(3))
        found.append(learner.log_probs(episode, generator(4)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_parameter_that_is_trained_gets_a_gradient(name):
    learner = small_learner(name)
    if isinstance(learner, UpdatesItself):
        pytest.skip("it follows no gradient")
    train(learner, cluster_episode(4, generator(1)), generator(3))
    without = [n for n, p in learner.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # Normalisation takes away what a bias before it adds.
    assert all(n.endswith("bias") for n in without), without
