"""drawer-open and drawer-close: a drawer to be pulled, or pushed, to a hidden opening.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    frame_x, frame_y  m      -.08 .. .08                  +-.08-.12    place of the handle, seen with an error
    yaw               rad    -.3 .. .3                    +-.3-.45     direction of the cabinet, hidden
    view_x, view_y    m      -.025 .. .025                +-.025-.035  error of the observed handle, hidden
    frictionloss      N      .1 .. 4 log    (.45, .9)     4-8          of the runners, hidden
    side_bias         1      -.6 .. .6                    +-.6-.8      friction is frictionloss (1 + side_bias) opening,
                                                                       (1 - side_bias) closing, hidden
    damping           N s/m  .5 .. 20 log                 20-40        of the runners, hidden
    stiffness         N/m    0 .. 30                      30-50        spring, hidden; at rest at the start
    mass              kg     .2 .. 2                      2-4          hidden
    travel, -open     m      .04 .. .22     (.11, .15)    .22-.28      opening that is asked for, hidden
    travel, -close    m      0 .. .17       (.06, .1)     .17-.19      opening that is asked for, hidden
    The bias of the stiction to one side is a constant force, side_bias x frictionloss, against opening. Travel and
    frictionloss are the key parameters.

ACTION, START of the arm, HORIZON as in `arm_env`; OBSERVATION, REWARD, METRICS as in `fixture_env`

                      drawer-open                     drawer-close
START of the opening  0                               24 cm
PLACE of the handle   x .60, y 0 m at the start       x .42, y 0 m at the start
SUCCESS, held 1 s     |opening - travel| <= 2 cm
BAND of the reward    5 cm
END                   after 150 control steps (3 s), never earlier

SIGNALS  log_distance, closing_speed, lateral_speed of the hand as to the handle, as in `reach`
FEEDBACK 1 where the joint is where success wants it, else 0
"""

from __future__ import annotations

import torch

from envs.manipulation.arm_env import HORIZON
from envs.manipulation.fixture_env import FixtureTask, Goal, make_fixture_env, pose_parameters
from envs.manipulation.fixtures import DRAWER
from metarl.env import EnvSpec
from metarl.tasks import Parameter, Uniform

TOLERANCE_M, BAND_M = 0.02, 0.05
PULLED_OUT_M = 0.24
"""Where closing starts."""

PULLED = Uniform(0.04, 0.22, (0.11, 0.15), ((0.22, 0.28),))
PUSHED = Uniform(0.0, 0.17, (0.06, 0.1), ((0.17, 0.19),))
"""Openings that are asked for."""

PARAMETERS = (
    *pose_parameters(yaw_rad=0.3, yaw_shell_rad=0.45, hole=""),
    Parameter("frictionloss", "N", Uniform(0.1, 4.0, (0.45, 0.9), ((4.0, 8.0),), log=True), "of the runners, hidden"),
    Parameter("side_bias", "1", Uniform(-0.6, 0.6, shell=((-0.8, -0.6), (0.6, 0.8))), "more friction opening, hidden"),
    Parameter("damping", "N s/m", Uniform(0.5, 20.0, shell=((20.0, 40.0),), log=True), "of the runners, hidden"),
    Parameter("stiffness", "N/m", Uniform(0.0, 30.0, shell=((30.0, 50.0),)), "spring against the task, hidden"),
    Parameter("mass", "kg", Uniform(0.2, 2.0, shell=((2.0, 4.0),)), "hidden"),
)
SHIFTS = {"travel": ("travel",), "mechanics": ("frictionloss", "side_bias", "damping", "stiffness", "mass")}

OPEN = Goal(
    start=lambda task: torch.zeros_like(task["travel"]),
    target=lambda task: task["travel"].clone(),
    tolerance=TOLERANCE_M,
    place_m=(0.6, 0.0),
    band=BAND_M,
)
CLOSE = Goal(
    start=lambda task: torch.full_like(task["travel"], PULLED_OUT_M),
    target=lambda task: task["travel"].clone(),
    tolerance=TOLERANCE_M,
    place_m=(0.42, 0.0),
    band=BAND_M,
)


def make_open(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """drawer-open: pull a drawer out to a hidden opening; the module's docstring is the spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be.
    """
    return _make("drawer-open", "drawer to be pulled to a hidden opening", OPEN, PULLED, horizon, action, goal)


def make_close(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """drawer-close: push a drawer in to a hidden opening; the module's docstring is the spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be.
    """
    return _make("drawer-close", "drawer to be pushed in to a hidden opening", CLOSE, PUSHED, horizon, action, goal)


def _make(name: str, what: str, goal: Goal, travel: Uniform, horizon: int, action: str, shown: str) -> EnvSpec:
    task = FixtureTask(
        name=name,
        description=f"seven-joint arm, {what}",
        fixture=DRAWER,
        goal=goal,
        parameters=(Parameter("travel", "m", travel, "opening that is asked for, hidden"), *PARAMETERS),
        unit="m",
        force=lambda named: -named["side_bias"] * named["frictionloss"],
        shifts=SHIFTS,
    )
    return make_fixture_env(task, horizon, action, shown)
