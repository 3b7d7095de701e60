"""window: slide a window to a hidden side, by a hidden distance.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    frame_x, frame_y  m      -.08 .. .08                 +-.08-.12    place of the handle, seen with an error
    yaw               rad    -.3 .. .3                   +-.3-.45     direction of the frame, hidden
    view_x, view_y    m      -.025 .. .025               +-.025-.035  error of the observed handle, hidden
    direction         1      -1, 1                                    1: to the left, -1: to the right, hidden
    travel            m      .04 .. .2       (.1, .13)   .2-.24       asked for, hidden
    frictionloss      N      .1 .. 6 log     (.5, 1.2)   6-12         of the rail, hidden
    damping           N s/m  1 .. 30 log                 30-60        of the rail, hidden
    stiffness         N/m    0 .. 30                     30-50        spring towards the middle, hidden
    mass              kg     .3 .. 2                     2-4          of the pane, hidden

ACTION, START of the arm, HORIZON as in `arm_env`; OBSERVATION, REWARD, METRICS as in `fixture_env`
PLACE    x .5, y 0 m; the pane in the middle of its rail
SUCCESS  |shift - direction x travel| <= 2 cm for 50 control steps (1 s) in a row
BAND     of the reward, 5 cm
END      after 150 control steps (3 s), never earlier
SIGNALS  log_distance, closing_speed, lateral_speed of the hand as to the handle, as in `reach`
FEEDBACK 1 where the joint is where success wants it, else 0
"""

from __future__ import annotations

import torch

from envs.manipulation.arm_env import HORIZON
from envs.manipulation.fixture_env import FixtureTask, Goal, make_fixture_env, pose_parameters
from envs.manipulation.fixtures import WINDOW
from metarl.env import EnvSpec
from metarl.tasks import Choice, Parameter, Uniform

TOLERANCE_M, BAND_M = 0.02, 0.05

PARAMETERS = (
    *pose_parameters(yaw_rad=0.3, yaw_shell_rad=0.45, hole=""),
    Parameter("direction", "1", Choice((-1.0, 1.0)), "1: to the left, -1: to the right, hidden"),
    Parameter("travel", "m", Uniform(0.04, 0.2, (0.1, 0.13), ((0.2, 0.24),)), "asked for, hidden"),
    Parameter("frictionloss", "N", Uniform(0.1, 6.0, (0.5, 1.2), ((6.0, 12.0),), log=True), "of the rail, hidden"),
    Parameter("damping", "N s/m", Uniform(1.0, 30.0, shell=((30.0, 60.0),), log=True), "of the rail, hidden"),
    Parameter("stiffness", "N/m", Uniform(0.0, 30.0, shell=((30.0, 50.0),)), "spring towards the middle, hidden"),
    Parameter("mass", "kg", Uniform(0.3, 2.0, shell=((2.0, 4.0),)), "of the pane, hidden"),
)

GOAL = Goal(
    start=lambda task: torch.zeros_like(task["travel"]),
    target=lambda task: task["direction"] * task["travel"],
    tolerance=TOLERANCE_M,
    place_m=(0.5, 0.0),
    band=BAND_M,
)


def make_spec(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be.
    """
    task = FixtureTask(
        name="window",
        description="seven-joint arm, window to be slid to a hidden side by a hidden distance",
        fixture=WINDOW,
        goal=GOAL,
        parameters=PARAMETERS,
        unit="m",
        shifts={"travel": ("travel",), "mechanics": ("frictionloss", "damping", "stiffness", "mass")},
    )
    return make_fixture_env(task, horizon, action, goal)
