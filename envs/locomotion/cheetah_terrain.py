"""half-cheetah-terrain: run forward over hills that are hidden.

TASK PARAMETER (train range; interpolation hole; extrapolation shell)
    slope   rad   8 x U[-0.25, 0.25]   (-0.04, 0.04)   (-0.4, -0.25), (0.25, 0.4)   of 8 slopes of 2 m one after another

The ground is level until 1 m ahead of the start, then come the slopes, each 2 m along the ground and beginning where
the one before ends, then it is level again at the height reached.

ACTION (6 numbers in [-1, 1])
    0-2  back thigh, shin, foot    x 120, 90, 60 N m
    3-5  front thigh, shin, foot   x 120, 60, 30 N m

OBSERVATION (17 numbers)
    0-7   joint positions without x: z (m), pitch (rad), six joints (rad)
    8-16  joint velocities: x, z (m/s), pitch, six joints (rad/s)
    z is measured from the start: it tells how high the robot is, not how high above the ground.

START    level ground; U(-0.1, 0.1) on positions, 0.1 N(0, 1) on velocities
REWARD   v - 0.05 ||action||^2, v the x displacement of the torso over the control step (m/s)
END      after 200 control steps of 0.05 s, never earlier
SUCCESS  none
SIGNALS  as half-cheetah-gravity

BOXES, NOT A HEIGHT FIELD. The source writes new numbers into a height field for each task. mujoco_warp keeps one set of
heights for all worlds, so the ground here is a row of boxes, each a mocap body, whose positions and tilts belong to the
task. The upper faces of neighbours meet in an edge without a gap or a step. Both engines agree on them.

SOURCE. Nagabandi et al. 2019, "Learning to Adapt in Dynamic, Real-World Environments through Meta-Reinforcement
Learning", iclavera/learning_to_adapt half_cheetah_hfield_env.py: six slopes of 2 m, up or down, in random places
between 1 m and 12 m ahead, 0.2 to 1 m from the lowest to the highest point, or fixed hills and basins. The slopes here
are independent of each other, so that the end is up to 4 m above or below the start (16 m of 0.25 rad).
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from envs.locomotion.bodies import paint_ground
from envs.locomotion.cheetah_run import make_run, unchanged
from envs.locomotion.half_cheetah import cheetah_body, paint_cheetah
from metarl.env import EnvSpec, Physics
from metarl.tasks import Parameter, TaskDistribution, Uniform
from metarl.types import Arrays

_NUM_SLOPES, _SLOPE_M = 8, 2.0
_FIRST_SLOPE_M = 1.0
_LEVEL_M = 100.0
"""Of the level ground before and behind the slopes: further than a robot runs in an episode."""
_HALF_WIDTH_M, HALF_THICKNESS_M = 1.0, 0.5
_ABYSS_M = -40.0
_LIGHT_GROUND, _DARK_GROUND = (0.47, 0.55, 0.44, 1.0), (0.4, 0.47, 0.38, 1.0)


def make_spec(horizon: int = 200) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
    """
    steepness = Uniform(-0.25, 0.25, hole=(-0.04, 0.04), shell=((-0.4, -0.25), (0.25, 0.4)))
    slope = Parameter("slope", "rad", steepness, "of each piece of the ground", (_NUM_SLOPES,))
    physics = Physics(
        model=_add_ground(cheetah_body()).compile(),
        num_substeps=5,
        data_fields=("qpos", "qvel"),
        max_contacts=24,
        max_constraints=134,  # eight capsules, two contacts of 4 rows with each of two boxes, 6 joint limits
        scene=_scene,
    )
    return make_run(
        "half-cheetah-terrain",
        TaskDistribution((slope,)),
        physics,
        horizon,
        torque=unchanged,
        derive=ground,
        fixtures=lambda task: {"mocap_pos": task["ground_pos"], "mocap_quat": task["ground_quat"]},
        description="half-cheetah, hidden slopes",
    )


def ground(task: Arrays) -> dict[str, Tensor]:
    """Where the ten boxes are: level ground, the slopes, level ground, (N, 10, 3) m and (N, 10, 4)."""
    slope = task["slope"]
    level = torch.zeros_like(slope[..., :1])
    angle = torch.cat([level, slope, level], -1)  # (N, 10)
    cos, sin = angle.cos(), angle.sin()
    long = torch.full_like(level, _LEVEL_M)
    length = torch.cat([long, torch.full_like(slope, _SLOPE_M), long], -1)
    # The upper edge on the left of each box: where the one before ends.
    x = (length * cos).cumsum(-1) - length * cos + _FIRST_SLOPE_M - _LEVEL_M
    z = (length * sin).cumsum(-1) - length * sin
    # From there to the centre: half the length along the slope, half the thickness into the ground.
    centre_x = x + 0.5 * length * cos + HALF_THICKNESS_M * sin
    centre_z = z + 0.5 * length * sin - HALF_THICKNESS_M * cos
    none = torch.zeros_like(x)
    half = -0.5 * angle  # a turn about y takes x to -z
    return {
        "ground_pos": torch.stack([centre_x, none, centre_z], -1),
        "ground_quat": torch.stack([half.cos(), none, half.sin(), none], -1),
    }


def _add_ground(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    """Put a row of boxes under the robot and the file's floor deep below them."""
    spec.geom("floor").pos = (0.0, 0.0, _ABYSS_M)
    for index in range(_NUM_SLOPES + 2):
        is_level = index in (0, _NUM_SLOPES + 1)
        half_length_m = (_LEVEL_M if is_level else _SLOPE_M) / 2
        body = spec.worldbody.add_body(name=f"ground_{index}", mocap=True, pos=(0.0, 0.0, -HALF_THICKNESS_M))
        body.add_geom(
            name=f"ground_{index}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=(half_length_m, _HALF_WIDTH_M, HALF_THICKNESS_M),
            contype=0,
            conaffinity=1,
            rgba=_DARK_GROUND if index % 2 else _LIGHT_GROUND,
        )
    return spec


def _scene(task: Arrays) -> mujoco.MjModel:
    """The model to draw any task with: neighbouring slopes have different shades."""
    spec = cheetah_body()
    paint_ground(spec)
    paint_cheetah(spec)
    spec.camera("video").pos = (1.0, -5.2, 1.15)
    return _add_ground(spec).compile()
