"""A point that is pushed towards a goal: the smallest environment that learned losses have something to read of."""

import math

import torch

from metarl.env import EnvSpec, Outcome, Signals, Start
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Continuous


def reaching(horizon: int = 12) -> EnvSpec:
    """A point mass in the plane, its goal and its mass drawn anew; feedback only near the goal."""

    def goal(task):
        return task["distance"].unsqueeze(1) * torch.stack([task["angle"].cos(), task["angle"].sin()], 1)

    def apart(task, state):
        return ((goal(task) - state["place"]).square().sum(1) + 1e-10).sqrt()

    def reset(task, noise):
        return Start({"place": 0.02 * noise.normal, "velocity": torch.zeros_like(noise.normal)}, {})

    def observe(task, data, state):
        return torch.cat([(goal(task) - state["place"]) / 0.25, state["velocity"] / 0.25], 1)

    def step(task, data, state, action, noise):
        velocity = 0.9 * state["velocity"] + 0.1 * action / task["mass"].unsqueeze(1)
        after = {"place": state["place"] + 0.1 * velocity, "velocity": velocity}
        distance = apart(task, after)
        return Outcome(after, -distance, torch.zeros_like(distance, dtype=torch.bool), distance < 0.05)

    def signals(task, data, state):
        distance = apart(task, state)
        towards = (goal(task) - state["place"]) / distance.unsqueeze(1)
        return torch.stack([torch.log1p(distance / 0.1), (state["velocity"] * towards).sum(1) / 0.25], 1)

    tasks = TaskDistribution(
        (
            Parameter("angle", "rad", Uniform(-math.pi, math.pi)),
            Parameter("distance", "m", Uniform(0.1, 0.2)),
            Parameter("mass", "kg", Uniform(0.7, 1.4)),
        )
    )
    return EnvSpec(
        "reaching",
        tasks,
        4,
        Continuous(2),
        horizon,
        reset,
        observe,
        step,
        reset_noise=(0, 2),
        signals=Signals(
            ("log_distance", "closing_speed"), signals, lambda task, data, state: (apart(task, state) < 0.05).float()
        ),
    )
