"""reach: bring the hand to a goal in space that only the reward tells.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell), all hidden
    goal_x  m  .28 .. .68  (.44, .52)  .23-.28, .68-.73   forwards from the base
    goal_y  m  -.3 .. .3   (-.06, .06) -.35--.3, .3-.35   to the left
    goal_z  m  .08 .. .38              .03-.08, .38-.43   above the table

ACTION, START, HORIZON as in `arm_env`; OBSERVATION as in `layout` without object and fixture, `goal`: goal minus tcp
    with `goal="seen"`, zeros with `goal="hidden"` (the default).
REWARD   1 - tanh(5 d), d the distance (m) of tcp and goal after the step; in [0, 1]
END      after 150 control steps (3 s), never earlier
SUCCESS  d < 3 cm after the last step
SIGNALS  log_distance    log(1 + d / 0.1 m)
         closing_speed   v.u / 0.5 m/s, v the velocity of tcp, u the unit vector to the goal
         lateral_speed   |v - (v.u) u| / 0.5 m/s
FEEDBACK 1 where d < 3 cm, else 0
METRICS  distance_m      after the last step
"""

from __future__ import annotations

from functools import cache

import mujoco
import torch
from torch import Tensor

from envs.manipulation import arm7, layout, scene
from envs.manipulation.arm_env import HORIZON, ArmTask, Score, is_goal_seen, make_arm_env
from envs.manipulation.experts import steer
from envs.reaching import SIGNAL_NAMES, spatial_reaching_signals
from metarl.env import EnvSpec, Metrics, Noise, Signals, Start
from metarl.tasks import Parameter, Uniform
from metarl.types import Arrays

SUCCESS_M = 0.03
DISTANCE_SCALE = 5.0  # 1/m
TYPICAL_M, TYPICAL_M_S = 0.1, 0.5

PARAMETERS = (
    Parameter("goal_x", "m", Uniform(0.28, 0.68, (0.44, 0.52), ((0.23, 0.28), (0.68, 0.73))), "forwards, hidden"),
    Parameter("goal_y", "m", Uniform(-0.3, 0.3, (-0.06, 0.06), ((-0.35, -0.3), (0.3, 0.35))), "to the left, hidden"),
    Parameter("goal_z", "m", Uniform(0.08, 0.38, None, ((0.03, 0.08), (0.38, 0.43))), "above the table, hidden"),
)


def make_spec(horizon: int = HORIZON, action: str = "hand", goal: str = "hidden") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
        goal: "hidden" or "seen", whether the observation tells the goal.
    """
    goal_seen = is_goal_seen(goal)

    def parts(task: Arrays, data: Arrays, state: Arrays) -> layout.Parts:
        return layout.Parts(goal=_offset(task, data) if goal_seen else None)

    def score(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> Score:
        distance = _distance(task, data)
        age = state["age"] + 1.0
        success = (distance < SUCCESS_M) & (age >= horizon)
        return Score(1.0 - torch.tanh(DISTANCE_SCALE * distance), success, {"age": age})

    return make_arm_env(
        ArmTask(
            name="reach",
            description="seven-joint arm, hidden goal in space",
            model=arm7.compile_scene(_build()),
            scene=lambda task: _drawn(),
            parameters=PARAMETERS,
            start=_start,
            parts=parts,
            score=score,
            expert=lambda task, obs: steer(obs, task["goal"], torch.zeros_like(obs[:, 0])),
            data_fields=("sensordata",),
            derive=lambda task: {"goal": torch.stack([task["goal_x"], task["goal_y"], task["goal_z"]], 1)},
            signals=Signals(SIGNAL_NAMES, _signals, _feedback),
            metrics=Metrics(("distance_m",), lambda task, data, state: _distance(task, data).unsqueeze(1)),
            max_contacts=8,
            max_constraints=48,
        ),
        action,
        horizon,
    )


def _build() -> mujoco.MjSpec:
    spec = arm7.new_scene()
    scene.add_goal(spec, "goal", mujoco.mjtGeom.mjGEOM_SPHERE, (SUCCESS_M,))
    return spec


@cache
def _drawn() -> mujoco.MjModel:
    spec = _build()
    scene.decorate(spec)
    return spec.compile()


def _start(task: Arrays, noise: Noise) -> Start:
    return Start({"age": torch.zeros_like(task["goal_x"])}, {"mocap_pos": task["goal"].unsqueeze(1)})


def _offset(task: Arrays, data: Arrays) -> Tensor:
    """From tcp to the goal, (N, 3) m."""
    return task["goal"] - data["site_xpos"][:, arm7.TCP]


def _distance(task: Arrays, data: Arrays) -> Tensor:
    """Of tcp and the goal, (N,) m."""
    return torch.linalg.vector_norm(_offset(task, data), dim=1)


def _signals(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    velocity = data["sensordata"][:, arm7.TCP_VELOCITY]
    return spatial_reaching_signals(_offset(task, data), velocity, TYPICAL_M, TYPICAL_M_S)


def _feedback(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return (_distance(task, data) < SUCCESS_M).to(torch.float32)
