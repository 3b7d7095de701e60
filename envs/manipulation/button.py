"""button: find a button that the camera sees in a wrong place, and press it down.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    frame_x, frame_y  m      -.1 .. .1                     +-.1-.14   place of the button, seen with an error
    view_x            m      -.05 .. .05    (-.01, .01)    +-.05-.065 error of the observed button, forwards, hidden
    view_y            m      -.05 .. .05                   +-.05-.065 the same to the left, hidden
    frictionloss      N      .1 .. 4 log                   4-8        hidden
    damping           N s/m  5 .. 100 log                  100-200    hidden
    stiffness         N/m    100 .. 800     (400, 500)     800-1200   spring, hidden; at rest at the start
    mass              kg     .05 .. .3                     .3-.6      hidden
    travel            m      .02 .. .04                    .04-.05    to the stop, hidden
    The button has a radius of 2 cm, the closed fingers cover 3.6 x 3.2 cm: who trusts the camera often misses it, and
    has to feel for it.

ACTION, START of the arm, HORIZON as in `arm_env`; OBSERVATION, REWARD, METRICS as in `fixture_env`
PLACE    x .5, y 0 m
SUCCESS  pressed by at least 0.9 travel for 10 control steps (0.2 s) in a row
BAND     of the reward, all of the way: closeness is depth / (0.9 travel), at most 1
END      after 150 control steps (3 s), never earlier
SIGNALS  log_distance, closing_speed, lateral_speed of the hand as to the button, as in `reach`
FEEDBACK 1 where the joint is where success wants it, else 0
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.manipulation.arm_env import HORIZON
from envs.manipulation.fixture_env import FixtureTask, Goal, Ids, make_fixture_env, pose_parameters
from envs.manipulation.fixtures import BUTTON
from metarl.env import EnvSpec
from metarl.tasks import Parameter, Uniform
from metarl.types import Arrays

PRESSED = 0.9
"""Share of the travel."""

PARAMETERS = (
    *(
        parameter
        for parameter in pose_parameters(
            frame_m=0.1, frame_shell_m=0.14, view_m=0.05, view_shell_m=0.065, hole="view_x"
        )
        if parameter.name != "yaw"  # a button is round
    ),
    Parameter("frictionloss", "N", Uniform(0.1, 4.0, shell=((4.0, 8.0),), log=True), "hidden"),
    Parameter("damping", "N s/m", Uniform(5.0, 100.0, shell=((100.0, 200.0),), log=True), "hidden"),
    Parameter("stiffness", "N/m", Uniform(100.0, 800.0, (400.0, 500.0), ((800.0, 1200.0),)), "of the spring, hidden"),
    Parameter("mass", "kg", Uniform(0.05, 0.3, shell=((0.3, 0.6),)), "hidden"),
    Parameter("travel", "m", Uniform(0.02, 0.04, shell=((0.04, 0.05),)), "to the stop, hidden"),
)

GOAL = Goal(
    start=lambda task: torch.zeros_like(task["travel"]),
    target=lambda task: PRESSED * task["travel"],
    tolerance=0.0,
    place_m=(0.5, 0.0),
)


def make_spec(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells how far down the button shall go.
    """
    task = FixtureTask(
        name="button",
        description="seven-joint arm, button that the camera sees in a wrong place, hidden spring and travel",
        fixture=BUTTON,
        goal=GOAL,
        parameters=PARAMETERS,
        unit="m",
        model_fields=("jnt_range",),
        configure=set_stop,
        presses=True,
        shifts={"camera": ("view_x", "view_y"), "mechanics": ("frictionloss", "damping", "stiffness", "mass")},
    )
    return make_fixture_env(task, horizon, action, goal)


def set_stop(task: Arrays, fields: dict[str, Tensor], ids: Ids) -> None:
    """The button stops at its travel."""
    fields["jnt_range"][:, ids.joint, 1] = task["travel"]
