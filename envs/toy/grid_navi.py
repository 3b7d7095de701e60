"""grid-navi: VariBAD's grid world. A walker on 5 x 5 cells looks for a hidden goal.

TASK PARAMETER (interpolation and extrapolation: none, as in the source)
    goal_cell   1   one of 21 cells, x num_cells + y: all but the start (0, 0) and its neighbours (0, 1), (1, 0), (1, 1)

ACTION (discrete, 5)
    0  stay
    1  up      y + 1
    2  right   x + 1
    3  down    y - 1
    4  left    x - 1
    A move off the board stays where it is.

OBSERVATION (2 numbers)
    0-1  x, y, the cell   0 .. num_cells - 1

START    cell (0, 0)
REWARD   1 on the goal after the step, else -0.1
END      after 15 control steps, never earlier; VariBAD's trials have 4 episodes
SUCCESS  on the goal
EXPERT   right or left until the goal's column, then up or down. From n moves away it earns 16.1 - 1.1 n, the optimum:
         -0.1 (n - 1) + (16 - n). The mean over the 21 goals is 11.07.

Source: Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning", section 5.1;
lmzintgraf/varibad environments/navigation/gridworld.py.
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from metarl.env import Drawing, EnvSpec, Noise, Outcome, Start
from metarl.errors import SpecError
from metarl.tasks import Choice, Parameter, TaskDistribution
from metarl.types import Arrays, Discrete

_UP, _RIGHT, _DOWN, _LEFT = 1, 2, 3, 4
_NUM_ACTIONS = 5
_STEP_COST = 0.1


def make_spec(num_cells: int = 5, horizon: int = 15) -> EnvSpec:
    """Make the environment; the module's docstring is its spec sheet.

    Args:
        num_cells: cells along each side of the board.
        horizon: control steps of an episode.

    Raises:
        SpecError: fewer than three cells along a side: there would be no two goals beyond the start's neighbours.
    """
    if num_cells < 3:
        raise SpecError(f"grid-navi: num_cells must be at least 3, got {num_cells}.")
    cells = range(num_cells)
    goals = tuple(float(x * num_cells + y) for x in cells for y in cells if x > 1 or y > 1)

    def derive(task: Arrays) -> dict[str, Tensor]:
        cell = task["goal_cell"]
        return {"goal": torch.stack([(cell / num_cells).floor(), cell.remainder(num_cells)], 1)}  # (N, 2)

    def step(task: Arrays, data: Arrays, state: Arrays, action: Tensor, noise: Noise) -> Outcome:
        along_x = (action == _RIGHT).to(torch.float32) - (action == _LEFT).to(torch.float32)
        along_y = (action == _UP).to(torch.float32) - (action == _DOWN).to(torch.float32)
        cell = (state["cell"] + torch.stack([along_x, along_y], 1)).clamp(0.0, num_cells - 1.0)  # (N, 2)
        is_there = (cell == task["goal"]).all(1)
        reward = torch.where(is_there, 1.0, -_STEP_COST)
        return Outcome({"cell": cell}, reward, torch.zeros_like(is_there), success=is_there)

    return EnvSpec(
        name="grid-navi",
        tasks=TaskDistribution((Parameter("goal_cell", "1", Choice(goals), "x num_cells + y of the goal"),)),
        obs_dim=2,
        action_space=Discrete(_NUM_ACTIONS),
        horizon=horizon,
        reset=lambda task, noise: Start(state={"cell": torch.zeros_like(task["goal"])}, writes={}),
        observe=lambda task, data, state: state["cell"],
        step=step,
        derive=derive,
        drawing=Drawing(lambda: _model(num_cells), lambda task, state: _pose(task, state, num_cells), control_dt_s=0.3),
        expert=_expert,
        description=f"grid of {num_cells} x {num_cells} cells with a hidden goal",
    )


def _expert(task: Arrays, obs: Tensor) -> Tensor:
    """The shortest way, first along x, then along y, then stay."""
    right, up = (task["goal"] - obs).unbind(1)  # (N,) cells to go
    along_x = torch.where(right > 0, _RIGHT, _LEFT)
    along_y = torch.where(up > 0, _UP, _DOWN)
    return torch.where(right != 0, along_x, torch.where(up != 0, along_y, 0))


def _model(num_cells: int) -> mujoco.MjModel:
    """Tiles of 1 m, a blue walker, and a flat green tile for the goal."""
    size = num_cells / 2
    tiles = "".join(
        f'<geom type="box" size=".46 .46 .05" pos="{x + 0.5 - size} {y + 0.5 - size} -.05" '
        f'rgba="{".36 .41 .48 1" if (x + y) % 2 else ".31 .36 .43 1"}"/>'
        for x in range(num_cells)
        for y in range(num_cells)
    )
    return mujoco.MjModel.from_xml_string(f"""
        <mujoco model="grid-navi">
          <compiler angle="radian"/>
          <visual> <headlight ambient=".45 .45 .45" diffuse=".35 .35 .35"/> </visual>
          <worldbody>
            <light pos="{-size} {-size} {3 * size}" dir=".4 .4 -1" diffuse=".5 .5 .5"/>
            <camera name="video" pos="0 {-1.28 * size} {2.3 * size}" xyaxes="1 0 0 0 .87 .49" fovy="48"/>
            <geom type="plane" size="{4 * size} {4 * size} .1" pos="0 0 -.06" rgba=".2 .23 .28 1"/>
            {tiles}
            <body name="walker" pos="0 0 .3">
              <joint type="slide" axis="1 0 0"/>
              <joint type="slide" axis="0 1 0"/>
              <geom type="sphere" size=".3" rgba=".2 .5 .95 1" mass="1"/>
            </body>
            <body name="goal" mocap="true">
              <geom type="box" size=".46 .46 .02" rgba=".2 .85 .35 1" contype="0" conaffinity="0"/>
            </body>
          </worldbody>
        </mujoco>""")


def _pose(task: Arrays, state: Arrays, num_cells: int) -> dict[str, Tensor]:
    centre = (num_cells - 1) / 2
    goal = task["goal"] - centre
    height = torch.full_like(goal[:, :1], 0.0)
    return {
        "qpos": state["cell"] - centre,
        "mocap_pos": torch.cat([goal, height], 1).unsqueeze(1),  # (N, 1, 3)
        "mocap_quat": torch.tensor([1.0, 0.0, 0.0, 0.0], device=goal.device).expand(len(goal), 1, 4),
    }
