"""Gradients through the dynamics, against a reward whose slope is known."""

from __future__ import annotations

from dataclasses import replace

import torch

import envs
from metarl.env import Outcome
from metarl.learners.pathwise import pathwise_gradient
from metarl.nets.distributions import Gaussian

SPEC = envs.make_spec("reach-robots", horizon=1)
SLOPES = torch.tensor([1.0, -1.0, 2.0])


def linear_step(task, data, state, action, noise):
    reward = action @ SLOPES
    return Outcome(state, reward=reward, terminated=torch.zeros(len(reward), dtype=torch.bool), success=reward > 0)


def gradient_at(mean):
    """Of the return of a policy that always does the same, times its smallest deviation of returns."""
    parameters = {"mean": torch.tensor([mean])}

    def distribution(leaves, obs):
        return Gaussian(leaves["mean"].unsqueeze(1).expand(1, obs.shape[1], 3), torch.tensor(-30.0))

    slopes = pathwise_gradient(
        replace(SPEC, step=linear_step),
        SPEC.tasks.split("train", 1),
        parameters,
        distribution,
        4,
        torch.Generator().manual_seed(0),
    )
    return slopes["mean"][0] * 1e-3


def test_the_gradient_within_the_limits_is_that_of_the_return():
    torch.testing.assert_close(gradient_at([0.9, -0.9, 0.0]), SLOPES)


def test_an_action_beyond_a_limit_is_drawn_back_but_never_further_out():
    torch.testing.assert_close(gradient_at([1.5, 1.5, 1.5]), torch.tensor([0.0, -1.0, 0.0]))
    torch.testing.assert_close(gradient_at([-1.5, -1.5, -1.5]), torch.tensor([1.0, 0.0, 2.0]))
