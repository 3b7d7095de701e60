"""grasp: pick up a block of hidden size, mass and friction with a hand that is mounted askew, its force hidden, too.

TASK PARAMETERS (train range; interpolation hole; extrapolation shell)
    half_size   m    .015 .. .028               .012-.015, .028-.032   of the block, a cube; hidden
    mass        kg   .05 .. .4 log              .4-.8                  of the block; hidden
    friction    1    .4 .. 1.2     (.7, .9)     .25-.4                 of the block, with pads and table; hidden
    grip_force  N    8 .. 25                    5-8                    largest force of each finger; hidden
    block_x     m    .42 .. .58                 .37-.42, .58-.63       place of the block
    block_y     m    -.15 .. .15                -.2--.15, .15-.2
    block_yaw   rad  -.4 .. .4                  -.5--.4, .4-.5
    hand_x      m    -.01 .. .01   (-.002, .002) -.02--.01, .01-.02    where the hand really is, minus where the
    hand_y      m    -.01 .. .01                -.02--.01, .01-.02     controller believes it to be (tcp), along the
    hand_z      m    -.01 .. .01                -.02--.01, .01-.02     axes of the world; hidden
Friction and hand_x are the key parameters. In the train range two fingers can always hold the block,
2 friction grip_force > mass g; in the corners of extrapolation they cannot (.8 kg at friction .4 and 8 N).

ACTION, START, HORIZON as in `arm_env`; OBSERVATION as in `layout` without fixture and goal; object_pos is the middle
    of the block's bottom, which does not tell its size. The block starts up to 5 mm and 0.05 rad from its place.
REWARD   0.2 (1 - tanh(5 d)) + 0.2 g + 0.6 g min(1, h / 0.1 m); in [0, 1]. d: distance (m) of the middle between the
         pads and that of the block; g: 1 where both fingers touch the block; h: height of its bottom above the table
END      after 150 control steps (3 s), never earlier
SUCCESS  g and h >= 0.1 m for 10 control steps (0.2 s) in a row
METRICS  lift_m          h after the last step
         grasp_time_s    until the first success; NaN where there was none
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from envs.manipulation import arm7, block, layout, scene
from envs.manipulation.arm_env import HORIZON, ArmTask, Score, held_success, make_arm_env, time_to_success
from envs.manipulation.experts import steer
from metarl.env import EnvSpec, Metrics, Noise, Start
from metarl.tasks import Parameter, Uniform
from metarl.types import Arrays

LIFT_M = 0.1
DISTANCE_SCALE = 5.0  # 1/m
START_NOISE_M, START_NOISE_RAD = 0.005, 0.05
TOUCH = slice(3, 5)
"""Numbers of sensordata: contacts of each finger with the block."""

_OFFSET_SHELL = ((-0.02, -0.01), (0.01, 0.02))
PARAMETERS = (
    Parameter("half_size", "m", Uniform(0.015, 0.028, None, ((0.012, 0.015), (0.028, 0.032))), "of the cube, hidden"),
    Parameter("mass", "kg", Uniform(0.05, 0.4, None, ((0.4, 0.8),), log=True), "of the block, hidden"),
    Parameter("friction", "1", Uniform(0.4, 1.2, (0.7, 0.9), ((0.25, 0.4),)), "of the block, hidden"),
    Parameter("grip_force", "N", Uniform(8.0, 25.0, None, ((5.0, 8.0),)), "largest force of a finger, hidden"),
    Parameter("block_x", "m", Uniform(0.42, 0.58, None, ((0.37, 0.42), (0.58, 0.63))), "forwards"),
    Parameter("block_y", "m", Uniform(-0.15, 0.15, None, ((-0.2, -0.15), (0.15, 0.2))), "to the left"),
    Parameter("block_yaw", "rad", Uniform(-0.4, 0.4, None, ((-0.5, -0.4), (0.4, 0.5))), "how the block lies"),
    Parameter("hand_x", "m", Uniform(-0.01, 0.01, (-0.002, 0.002), _OFFSET_SHELL), "hand from tcp, hidden"),
    Parameter("hand_y", "m", Uniform(-0.01, 0.01, None, _OFFSET_SHELL), "hand from tcp, hidden"),
    Parameter("hand_z", "m", Uniform(-0.01, 0.01, None, _OFFSET_SHELL), "hand from tcp, hidden"),
)
GRAVITY = 9.81
LIFT_PER_SPARE = 0.03
"""Of the expert: speed of the lift, as a share of the largest, per m/s^2 of acceleration that the grip can carry."""


def make_spec(horizon: int = HORIZON, action: str = "hand") -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        horizon: control steps of an episode.
        action: "hand" or "joint".
    """
    model = arm7.compile_scene(_build())
    body_id, geom_id = block.body_and_geom(model, "block")
    hand_id = model.body(arm7.HAND).id

    def score(task: Arrays, data: Arrays, state: Arrays, action: Tensor) -> Score:
        grasped = (data["sensordata"][:, TOUCH] > 0.5).all(1).to(torch.float32)
        height = block.position(data)[:, 2]
        apart = torch.linalg.vector_norm(data["site_xpos"][:, arm7.PINCH] - data["xipos"][:, body_id], dim=1)
        lifted = (height / LIFT_M).clamp(0.0, 1.0)
        reward = 0.2 * (1.0 - torch.tanh(DISTANCE_SCALE * apart)) + grasped * (0.2 + 0.6 * lifted)
        return Score(reward, *held_success(state, grasped * (height >= LIFT_M)))

    def configure(task: Arrays, fields: dict[str, Tensor]) -> dict[str, Tensor]:
        half = task["half_size"]
        fields["geom_size"][:, geom_id] = half.unsqueeze(1)
        fields["geom_pos"][:, geom_id, 2] = half
        fields["geom_friction"][:, geom_id, 0] = task["friction"]
        fields["actuator_forcerange"][:, arm7.NUM_ARM_JOINTS :] = task["grip_limits"].unsqueeze(1)
        fields["body_pos"][:, hand_id] += task["mounting"]
        return fields | block.set_mass(fields, body_id, task["mass"], half.unsqueeze(1).repeat(1, 3))

    return make_arm_env(
        ArmTask(
            name="grasp",
            description="pick up a block of hidden size, mass and friction with a hand that is mounted askew",
            model=model,
            scene=_drawn,
            parameters=PARAMETERS,
            start=_start,
            start_noise=3,
            parts=lambda task, data, state: block.parts(data, body_id),
            score=score,
            expert=expert,
            data_fields=("sensordata", "xmat", "xipos"),
            model_fields=(
                *("geom_size", "geom_pos", "geom_friction", "actuator_forcerange"),
                *("body_pos", "body_mass", "body_inertia", "body_ipos"),
            ),
            configure=configure,
            uses_set_const=True,
            derive=_derive,
            metrics=Metrics(("lift_m", "grasp_time_s"), _metrics),
            max_contacts=24,
            max_constraints=112,
        ),
        action,
        horizon,
    )


def _build(half_size: float = 0.02) -> mujoco.MjSpec:
    spec = arm7.new_scene()
    scene.add_block(spec, "block", (half_size,) * 3, 0.1, condim=4)
    scene.add_touch_sensors(spec, "block")
    return spec


def _drawn(task: Arrays) -> mujoco.MjModel:
    spec = _build(float(task["half_size"]))
    x, y, z = task["mounting"].tolist()
    spec.body(arm7.HAND).pos += [x, y, z]
    scene.decorate(spec)
    return spec.compile()


def _derive(task: Arrays) -> dict[str, Tensor]:
    force, z = task["grip_force"], task["hand_z"]
    return {
        "grip_limits": torch.stack([-force, force], 1),
        # In the frame of the flange, which points down: its x and z are the world's -x and -z.
        "mounting": torch.stack([-task["hand_x"], task["hand_y"], -z], 1),
        "hand_offset": torch.stack([task["hand_x"], task["hand_y"], z], 1),
    }


def _start(task: Arrays, noise: Noise) -> Start:
    spread = 2.0 * noise.uniform - 1.0  # (N, 3)
    x, y = (task[f"block_{axis}"] + START_NOISE_M * spread[:, i] for i, axis in enumerate("xy"))
    state = {name: torch.zeros_like(x) for name in ("held", "age", "solved_at")}
    return Start(state, {"qpos": block.lying(x, y, task["block_yaw"] + START_NOISE_RAD * spread[:, 2])})


def _metrics(task: Arrays, data: Arrays, state: Arrays) -> Tensor:
    return torch.stack([block.position(data)[:, 2], time_to_success(state)], 1)


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Go above the block, down, close the fingers, and lift once they are still."""
    tcp, bottom = layout.read(obs, "tcp"), layout.read(obs, "object_pos")
    half = task["half_size"]
    pinch = tcp + task["hand_offset"]
    beside = torch.linalg.vector_norm((bottom - pinch)[:, :2], dim=1)
    above = pinch[:, 2] - bottom[:, 2] - half.clamp(min=arm7.FINGERTIP_M + 0.002)  # over the place of the grip
    is_around = (beside < 0.02) & (above < 0.01)
    opening, closing = layout.read(obs, "opening")[:, 0], layout.read(obs, "joint_vel")[:, arm7.NUM_ARM_JOINTS :]
    # The fingers' velocities come in the unit of the arm's joints: 5 / 0.3 times as large.
    is_still = (closing.abs().amax(1) < 0.3) & (opening < 0.085)
    over = torch.where(beside < 0.006, 0.0, half + 0.03).masked_fill(is_around, 0.0)
    rise = torch.where(is_around & is_still, 0.03, -above + over)
    point = torch.stack([*(tcp + bottom - pinch)[:, :2].unbind(1), tcp[:, 2] + rise], 1)
    high = bottom[:, 2] > LIFT_M + 0.04
    point = torch.where(high.unsqueeze(1), tcp, point)
    # Lifting is an acceleration that the friction of the pads has to carry, too: 2 mu F / m - g is left for it.
    spare = 2.0 * task["friction"] * task["grip_force"] / task["mass"] - GRAVITY
    speed = torch.where(is_around, (LIFT_PER_SPARE * spare).clamp(0.05, 0.6), 0.6).unsqueeze(1)
    return steer(obs, point, torch.where(is_around, 1.0, -1.0), speed)
