"""door-open and door-close: set a hinged door to a hidden angle; place, direction, friction and spring are hidden too.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    frame_x, frame_y  m          -.08 .. .08                    +-.08-.12   place of the handle, seen with an error
    yaw               rad        -.4 .. .4       (-.08, .08)    +-.4-.6     direction of the frame, hidden
    view_x, view_y    m          -.025 .. .025                  +-.025-.035 error of the observed handle, hidden
    frictionloss      N m        .05 .. 2 log    (.22, .45)     2-4         of the hinge, hidden
    damping           N m s/rad  .1 .. 3 log                    3-6         of the hinge, hidden
    stiffness         N m/rad    0 .. 3                         3-5         spring, hidden; at rest at the start
    mass              kg         .5 .. 3                        3-5         of the panel, hidden
    angle, door-open  rad        .15 .. 1.1      (.5, .65)      1.1-1.3     asked for, hidden
    angle, door-close rad        0 .. .65        (.25, .35)     .65-.75     asked for, hidden: shut, or ajar
    handedness        1          1                              -1          hinge on the right; on the left, hidden
    What makes adaptation needed is the angle, which has to be searched for, and the error of what is seen: the fingers
    (3.6 cm) have to come down in the 5.6 cm between handle and panel. Angle, yaw and frictionloss are the key
    parameters.

ACTION, START of the arm, HORIZON as in `arm_env`; OBSERVATION, REWARD, METRICS as in `fixture_env`

                    door-open                         door-close
START of the hinge  0                                 0.9 rad
PLACE of the handle x .58, y 0 m at the start         x .45, y 0 m at the start
SUCCESS, held 1 s   within 0.08 rad of the angle that is asked for
BAND of the reward  0.2 rad
ONSET of the reward up to 0.1 rad                     -
END                 after 150 control steps (3 s), never earlier

SIGNALS  log_distance, closing_speed, lateral_speed of the hand as to the handle, as in `reach`
FEEDBACK 1 where the joint is where success wants it, else 0
Source: after robosuite's Door (place +-1 cm, yaw .25 rad, damping .1).
"""

from __future__ import annotations

import torch

from envs.manipulation.arm_env import HORIZON
from envs.manipulation.fixture_env import (
    MIRRORED_FIELDS,
    FixtureTask,
    Goal,
    make_fixture_env,
    mirror,
    pose_parameters,
)
from envs.manipulation.fixtures import DOOR
from metarl.env import EnvSpec
from metarl.tasks import Choice, Parameter, Uniform

AJAR_RAD = 0.9
"""Where closing starts."""
TOLERANCE_RAD, BAND_RAD = 0.08, 0.2
ONSET_RAD = 0.1
"""Opened so far, a door is paid for having been moved."""

OPENED = Uniform(0.15, 1.1, (0.5, 0.65), ((1.1, 1.3),))
SHUT = Uniform(0.0, 0.65, (0.25, 0.35), ((0.65, 0.75),))
"""Angles that are asked for."""

PARAMETERS = (
    *pose_parameters(),
    Parameter("frictionloss", "N m", Uniform(0.05, 2.0, (0.22, 0.45), ((2.0, 4.0),), log=True), "of the hinge, hidden"),
    Parameter("damping", "N m s/rad", Uniform(0.1, 3.0, shell=((3.0, 6.0),), log=True), "of the hinge, hidden"),
    Parameter("stiffness", "N m/rad", Uniform(0.0, 3.0, shell=((3.0, 5.0),)), "spring against the task, hidden"),
    Parameter("mass", "kg", Uniform(0.5, 3.0, shell=((3.0, 5.0),)), "of the panel, hidden"),
    Parameter("handedness", "1", Choice((1.0,), held_out=(-1.0,)), "1: hinge on the right, -1: on the left, hidden"),
)
SHIFTS = {
    "angle": ("angle",),
    "left-hinged": ("handedness",),
    "mechanics": ("frictionloss", "damping", "stiffness", "mass"),
}

OPEN = Goal(
    start=lambda task: torch.zeros_like(task["angle"]),
    target=lambda task: task["angle"].clone(),
    tolerance=TOLERANCE_RAD,
    place_m=(0.58, 0.0),
    band=BAND_RAD,
    onset=ONSET_RAD,
)
CLOSE = Goal(
    start=lambda task: torch.full_like(task["angle"], AJAR_RAD),
    target=lambda task: task["angle"].clone(),
    tolerance=TOLERANCE_RAD,
    place_m=(0.45, 0.0),
    band=BAND_RAD,
)


def make_open(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """door-open: pull a closed door open to a hidden angle; the module's docstring is the spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be.
    """
    return _make("door-open", "door to be pulled open to a hidden angle", OPEN, OPENED, horizon, action, goal)


def make_close(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """door-close: push an open door to a hidden angle; the module's docstring is the spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells where the handle shall be.
    """
    return _make("door-close", "door to be pushed to a hidden angle", CLOSE, SHUT, horizon, action, goal)


def _make(name: str, what: str, goal: Goal, angle: Uniform, horizon: int, action: str, shown: str) -> EnvSpec:
    task = FixtureTask(
        name=name,
        description=f"seven-joint arm, {what}",
        fixture=DOOR,
        goal=goal,
        parameters=(Parameter("angle", "rad", angle, "asked for, hidden"), *PARAMETERS),
        unit="rad",
        model_fields=MIRRORED_FIELDS,
        configure=mirror,
        shifts=SHIFTS,
    )
    return make_fixture_env(task, horizon, action, shown)
