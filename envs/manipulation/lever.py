"""lever: tilt a lever to a hidden side, to a hidden angle.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    frame_x, frame_y  m          -.08 .. .08                 +-.08-.12    place of the lever, seen with an error
    yaw               rad        -.4 .. .4                   +-.4-.6      direction in which it turns, hidden
    view_x, view_y    m          -.025 .. .025               +-.025-.035  error of the observed handle, hidden
    direction         1          -1, 1                                    1: away from the hand, -1: towards it, hidden
    angle             rad        .15 .. .7       (.35, .45)  .7-.8        asked for, hidden
    frictionloss      N m        .02 .. .4 log   (.06, .12)  .4-.8        of the hinge, hidden
    damping           N m s/rad  .02 .. .5 log               .5-1         of the hinge, hidden
    stiffness         N m/rad    0 .. .5                     .5-1         spring towards upright, hidden
    mass              kg         .1 .. .4                    .4-.8        hidden

ACTION, START of the arm, HORIZON as in `arm_env`; OBSERVATION, REWARD, METRICS as in `fixture_env`
PLACE    x .5, y 0 m; upright
SUCCESS  |angle of the lever - direction x angle| <= 0.08 rad for 50 control steps (1 s) in a row
BAND     of the reward, 0.2 rad
END      after 150 control steps (3 s), never earlier
SIGNALS  log_distance, closing_speed, lateral_speed of the hand as to the handle, as in `reach`
FEEDBACK 1 where the joint is where success wants it, else 0
"""

from __future__ import annotations

import torch

from envs.manipulation.arm_env import HORIZON
from envs.manipulation.fixture_env import FixtureTask, Goal, make_fixture_env, pose_parameters
from envs.manipulation.fixtures import LEVER
from metarl.env import EnvSpec
from metarl.tasks import Choice, Parameter, Uniform

TOLERANCE_RAD, BAND_RAD = 0.08, 0.2

PARAMETERS = (
    *pose_parameters(hole=""),
    Parameter("direction", "1", Choice((-1.0, 1.0)), "1: away from the hand, -1: towards it, hidden"),
    Parameter("angle", "rad", Uniform(0.15, 0.7, (0.35, 0.45), ((0.7, 0.8),)), "asked for, hidden"),
    Parameter("frictionloss", "N m", Uniform(0.02, 0.4, (0.06, 0.12), ((0.4, 0.8),), log=True), "of the hinge, hidden"),
    Parameter("damping", "N m s/rad", Uniform(0.02, 0.5, shell=((0.5, 1.0),), log=True), "of the hinge, hidden"),
    Parameter("stiffness", "N m/rad", Uniform(0.0, 0.5, shell=((0.5, 1.0),)), "spring towards upright, hidden"),
    Parameter("mass", "kg", Uniform(0.1, 0.4, shell=((0.4, 0.8),)), "hidden"),
)

GOAL = Goal(
    start=lambda task: torch.zeros_like(task["angle"]),
    target=lambda task: task["direction"] * task["angle"],
    tolerance=TOLERANCE_RAD,
    place_m=(0.5, 0.0),
    band=BAND_RAD,
)


def make_spec(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be.
    """
    task = FixtureTask(
        name="lever",
        description="seven-joint arm, lever to be tilted to a hidden side and angle",
        fixture=LEVER,
        goal=GOAL,
        parameters=PARAMETERS,
        unit="rad",
        shifts={"angle": ("angle",), "mechanics": ("frictionloss", "damping", "stiffness", "mass")},
    )
    return make_fixture_env(task, horizon, action, goal)
