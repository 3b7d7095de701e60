"""reach-either: two things are in view, and which of them is wanted is told by one number at the end of an episode.

The robots and their dynamics are those of `reach-robots`. What a loss reads of the two things is alike, so no loss
that is the same for all tasks can pay for coming near the right one before the feedback tells, once per episode,
how near it was. A loss that adapts to its task can find out from the first batch which one is wanted, and then judge
every step.

TASK PARAMETERS (train range; extrapolation)
    robot            1     0, 1                 2, 3                         see `reach-robots`
    wanted           1     0, 1                                              the first or the second thing
    direction        rad   [-pi/2, pi/2]        (-pi, -pi/2), (pi/2, pi)     of the first, from where the tip starts
    angle            rad   [pi/3, 2 pi/3]                                    between the two
    side             1     -1, 1                                             of the first on which the second lies
    distance         m     2 x [0.15, 0.30]     2 x (0.40, 0.50)             of each from where the tip starts
    mass             kg    [0.7, 1.4] log       (2.0, 3.0)
    friction         1/s   [0.3, 1.0]           (1.5, 2.5)                   viscous, per mass
    gain             1     3 x [0.7, 1.3]       3 x (0.3, 0.5)               of each actuator
    swapped          1     0                    1                            first and second actuator exchanged

SHIFTS (further splits: one of these parameters as in extrapolation, all others as in training)
    directions  direction                   dynamics  mass, friction, gain or swapped
    distances   distance                    robots    robot

ACTION (3 numbers in [-1, 1], 10 Hz)
    0-2  one per actuator; only the three-link arm has a third one

OBSERVATION (15 numbers; what a robot does not have is 0)
    0-1    first thing - tip, x, y              / 0.25 m
    2-3    second thing - tip, x, y             / 0.25 m
    4-14   the robot, as numbers 2-12 of `reach-robots`

START    as in `reach-robots`
REWARD   -d per step, d the distance (m) between the tip and the thing that is wanted, after the step
END      after 30 control steps (3 s), never earlier
SUCCESS  d < 5 cm
SIGNALS  log_distance, closing_speed, lateral_speed as in `reach-robots`, of the first thing and of the second
         (first_log_distance, ...); with the option `told` of the wanted one alone, by the names of `reach-robots`
FEEDBACK -d / 0.25 m after the last step, 0 before

`told` is the reference of losses that need not find out: what they are told the wanted thing's signals for.
"""

from __future__ import annotations

import math
from importlib import resources

import mujoco
import torch
from torch import Tensor

from envs.reaching import SIGNAL_NAMES, safe_norm
from envs.toy.planar_robots import (
    DT_S,
    DYNAMICS,
    DYNAMICS_NAMES,
    ROBOT,
    TYPICAL_M,
    derive_robot,
    move_robot,
    observe_robot,
    reach_outcome,
    reach_signals,
    robot_pose,
    start_robot,
)
from metarl.env import Drawing, EnvSpec, Noise, Outcome, Signals, Start
from metarl.tasks import Choice, Parameter, TaskDistribution, Uniform
from metarl.types import Arrays, Continuous

_THINGS = ("first", "second")
_PLACES = (
    Parameter("wanted", "1", Choice((0.0, 1.0)), "0: the first thing, 1: the second"),
    Parameter(
        "direction",
        "rad",
        Uniform(-math.pi / 2, math.pi / 2, shell=((-math.pi, -math.pi / 2), (math.pi / 2, math.pi))),
        "of the first thing, seen from where the tip starts",
    ),
    Parameter("angle", "rad", Uniform(math.pi / 3, 2 * math.pi / 3), "between the two"),
    Parameter("side", "1", Choice((-1.0, 1.0)), "of the first thing on which the second lies; 1: counter-clockwise"),
    Parameter("distance", "m", Uniform(0.15, 0.30, shell=((0.40, 0.50),)), "of each from where the tip starts", (2,)),
)
_SHIFTS = {
    "directions": ("direction",),
    "distances": ("distance",),
    "dynamics": DYNAMICS_NAMES,
    "robots": ("robot",),
}


def make_spec(horizon: int = 30, told: bool = False) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode, 10 per second.
        told: whether the signals are those of the wanted thing alone.
    """

    def feedback(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
        is_last = state["time"] >= horizon
        return torch.where(is_last, -safe_norm(task["wanted_place"] - state["tip"]) / TYPICAL_M, 0.0)

    names = SIGNAL_NAMES if told else tuple(f"{thing}_{name}" for thing in _THINGS for name in SIGNAL_NAMES)
    return EnvSpec(
        name="reach-either",
        tasks=TaskDistribution((ROBOT, *_PLACES, *DYNAMICS), shifts=_SHIFTS),
        obs_dim=15,
        action_space=Continuous(3),
        horizon=horizon,
        reset=_reset,
        observe=_observe,
        step=_step,
        derive=_derive,
        reset_noise=(3, 0),
        drawing=Drawing(_model, _pose, control_dt_s=DT_S),
        signals=Signals(names, _told_signals if told else _signals, feedback),
        description="two things in view, one of them wanted: told once per episode; robots and dynamics are held out",
    )


def _derive(task: Arrays) -> dict[str, Tensor]:
    """Where the things are, (N, 2), which robot, and the coefficients of its joints."""
    first = task["direction"]
    angles = torch.stack([first, first + task["side"] * task["angle"]], 1)  # (N, 2)
    places = task["distance"].unsqueeze(2) * torch.stack([angles.cos(), angles.sin()], 2)  # (N, things, xy)
    first_place, second_place = places.unbind(1)
    wanted = torch.where(task["wanted"].unsqueeze(1) > 0.5, second_place, first_place)
    return {"first": first_place, "second": second_place, "wanted_place": wanted} | derive_robot(task)


def _reset(task: Arrays, noise: Noise) -> Start:
    return Start(start_robot(task, noise) | {"time": torch.zeros_like(task["robot"])}, writes={})


def _observe(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    offsets = [(task[thing] - state["tip"]) / TYPICAL_M for thing in _THINGS]
    return torch.cat([*offsets, observe_robot(task, state)], 1)


def _step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
    after = move_robot(task, state, action) | {"time": state["time"] + 1.0}
    return reach_outcome(after, task["wanted_place"])


def _signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return torch.cat([reach_signals(task[thing], state) for thing in _THINGS], 1)


def _told_signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return reach_signals(task["wanted_place"], state)


def _model() -> mujoco.MjModel:
    """A board with two things and all four robots; `robot_pose` hides three of them below it."""
    return mujoco.MjModel.from_xml_string(resources.files("envs.toy").joinpath("mjcf", "reach_either.xml").read_text())


def _pose(task: Arrays, state: Arrays) -> dict[str, Tensor]:
    return robot_pose(task, state, task["first"], task["second"])
