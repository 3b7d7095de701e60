"""A board to draw a point and its hidden goal on, for point environments without physics."""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

_POINT_RADIUS_M = 0.04
_GOAL_HEIGHT_M = 0.004


def board_model(half_size_m: float, goal_radius_m: float) -> mujoco.MjModel:
    """A blue ball for the point and a green disc for the goal, on a checkered board seen from the front and above.

    Args:
        half_size_m: of the square board; all of it is in the picture.
        goal_radius_m: of the disc.
    """
    size, squares = half_size_m, round(10 * half_size_m)
    ball_m = _POINT_RADIUS_M * size
    return mujoco.MjModel.from_xml_string(f"""
        <mujoco model="board">
          <compiler angle="radian"/>
          <visual> <headlight ambient=".4 .4 .4" diffuse=".4 .4 .4"/> </visual>
          <asset>
            <texture name="board" type="2d" builtin="checker" rgb1=".3 .34 .4" rgb2=".26 .3 .36" width="9" height="9"/>
            <material name="board" texture="board" texrepeat="{squares} {squares}"/>
          </asset>
          <worldbody>
            <light pos="0 0 {3 * size}" dir="0 0 -1" diffuse=".5 .5 .5"/>
            <camera name="video" pos="0 {-1.1 * size} {1.9 * size}" xyaxes="1 0 0 0 .87 .5" fovy="38"/>
            <geom type="plane" size="{size} {size} .1" material="board"/>
            <body name="point" pos="0 0 {ball_m}">
              <joint type="slide" axis="1 0 0"/>
              <joint type="slide" axis="0 1 0"/>
              <geom type="sphere" size="{ball_m}" rgba=".2 .5 .95 1" mass="1"/>
            </body>
            <body name="goal" mocap="true">
              <geom type="cylinder" size="{goal_radius_m} {_GOAL_HEIGHT_M}" rgba=".2 .85 .35 1" contype="0"
                    conaffinity="0"/>
            </body>
          </worldbody>
        </mujoco>""")


def board_pose(position: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """Where point and goal, (N, 2) m each, are on the board."""
    height = torch.full_like(goal[:, :1], _GOAL_HEIGHT_M)
    return {
        "qpos": position,
        "mocap_pos": torch.cat([goal, height], 1).unsqueeze(1),  # (N, 1, 3)
        "mocap_quat": torch.tensor([1.0, 0.0, 0.0, 0.0], device=goal.device).expand(len(goal), 1, 4),
    }
