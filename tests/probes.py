"""Probe environments without physics, whose optimal returns are known."""

from __future__ import annotations

import torch

from metarl.env import EnvSpec, Noise, Outcome, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Continuous, Discrete


def hidden_lever(horizon: int = 4, num_levers: int = 3) -> EnvSpec:
    """One of a few levers pays 1 per step, the others 0; which one is the task and is not observed.

    Without memory the best return of an episode is horizon / num_levers. With memory the expected return of
    the first episode is horizon minus the expected number of wrong pulls, that of later ones is the horizon.
    """

    def reset(task, noise: Noise) -> Start:
        return Start({"time": torch.zeros_like(task["lever"])}, {})

    def observe(task, data, state):
        return (state["time"] / horizon).unsqueeze(1)

    def step(task, data, state, action, noise) -> Outcome:
        reward = (action == task["lever"].long()).to(torch.float32)
        never = torch.zeros_like(reward, dtype=torch.bool)
        return Outcome({"time": state["time"] + 1}, reward, never, reward > 0)

    lever = Parameter("lever", "1", Choice(tuple(float(i) for i in range(num_levers))))
    return EnvSpec("hidden-lever", TaskDistribution((lever,)), 1, Discrete(num_levers), horizon, reset, observe, step)


def hidden_target(horizon: int = 5) -> EnvSpec:
    """Reward -(action - target)^2 with a hidden target in [-0.8, 0.8]; the best return is 0."""

    def reset(task, noise: Noise) -> Start:
        return Start({"time": torch.zeros_like(task["target"])}, {})

    def observe(task, data, state):
        return (state["time"] / horizon).unsqueeze(1)

    def step(task, data, state, action, noise) -> Outcome:
        error = action[:, 0] - task["target"]
        never = torch.zeros_like(error, dtype=torch.bool)
        return Outcome({"time": state["time"] + 1}, -error.square(), never)

    target = Parameter("target", "1", Uniform(-0.8, 0.8, hole=(-0.1, 0.1), shell=((0.8, 1.0),)))
    return EnvSpec("hidden-target", TaskDistribution((target,)), 1, Continuous(1), horizon, reset, observe, step)


def countdown(horizon: int = 6) -> EnvSpec:
    """The episode ends after `life` steps, each of which pays 1: returns are known exactly."""

    def reset(task, noise: Noise) -> Start:
        return Start({"time": torch.zeros_like(task["life"])}, {})

    def observe(task, data, state):
        return torch.stack([state["time"], torch.ones_like(state["time"])], 1)

    def step(task, data, state, action, noise) -> Outcome:
        time = state["time"] + 1
        return Outcome({"time": time}, torch.ones_like(time), time >= task["life"])

    life = Parameter("life", "steps", Choice((2.0, 4.0, 100.0)))
    return EnvSpec("countdown", TaskDistribution((life,)), 2, Continuous(1), horizon, reset, observe, step)


def with_feedback(phases, generator):
    """Phases of learned losses whose episodes got some feedback: no policy finds a goal by chance in a few steps."""
    return [
        phase._replace(episode_feedback=torch.randn(phase.episode_feedback.shape, generator=generator).double())
        for phase in phases
    ]
