"""The tables of `families`: what each kind of task means in the one model that holds them all, and its expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.manipulation import arm7, block, button, door, drawer, grasp, layout, push, window
from envs.manipulation.experts import steer
from envs.manipulation.fixture_env import Goal, Ids, place
from envs.manipulation.fixture_experts import hook, press
from envs.manipulation.fixtures import BUTTON, DOOR, DRAWER, WINDOW
from metarl.types import Arrays

FAMILIES = (
    "reach",
    "push",
    "grasp",
    "door_open",
    "drawer_open",
    "button",
    "door_close",
    "drawer_close",
    "window",
)
REACH, PUSH, GRASP, DOOR_OPEN, DRAWER_OPEN, PRESS, DOOR_CLOSE, DRAWER_CLOSE, SLIDE = range(len(FAMILIES))
NUM_TRAINED = 6
PLACE_M = ((0.48, 0.0), push.PLACE_M, (0.5, 0.0))
"""Usual place of goal or block, of the families without a fixture."""
PUSH_FRICTION, GRASP_FRICTION, PUSH_MASS_KG, GRASP_MASS_KG = 0.35, 0.6, 0.15, 0.12
AWAY_M, ABOVE_M = (0.0, 0.0, -3.0), (0.0, 0.0, 30.0)
"""Where fixtures and blocks are that a task does not need: below the floor; above everything."""

JOINT = ("frictionloss", "damping", "stiffness", "mass")
"""What the joint of a fixture has; `joint_...` in the tables, apart from the task's factors."""
FIXTURES = (DOOR, DRAWER, BUTTON, WINDOW)


@dataclass(frozen=True)
class Member:
    """A family with a fixture.

    Attributes:
        family: its number.
        fixture: number of its fixture in `FIXTURES`.
        goal: as in its own environment.
    """

    family: int
    fixture: int
    goal: Goal


MEMBERS = (
    Member(DOOR_OPEN, 0, door.OPEN),
    Member(DRAWER_OPEN, 1, drawer.OPEN),
    Member(PRESS, 2, button.GOAL),
    Member(DOOR_CLOSE, 0, door.CLOSE),
    Member(DRAWER_CLOSE, 1, drawer.CLOSE),
    Member(SLIDE, 3, window.GOAL),
)
MECHANICS = ((0.3, 0.5, 1.0, 1.2), (0.6, 3.0, 10.0, 0.6), (0.6, 20.0, 300.0, 0.12), (0.8, 5.0, 10.0, 0.8))
"""Friction, damping, stiffness and mass of each fixture where the task's factors are 1."""
TRAVEL = ((0.1, 0.6), (0.04, 0.13), (0.02, 0.02), (0.04, 0.16))
"""Angle or travel of each fixture at amount 0, and how much more at 1, rad or m."""


def mechanics(task: Arrays, fixture: int) -> dict[str, Tensor]:
    """The parameters of a fixture's own environment, (N,) each, without place and camera."""
    friction, damping, stiffness, mass = MECHANICS[fixture]
    low, span = TRAVEL[fixture]
    travel = low + span * task["amount"]
    return {
        "frictionloss": friction * task["friction"],
        "damping": damping * task["damping"],
        "stiffness": stiffness * task["damping"],
        "mass": mass * task["mass"],
        "angle": travel,
        "travel": travel,
        "direction": torch.where(task["direction"] < 0.0, -1.0, 1.0),
    }


def derive(task: Arrays, ids: tuple[Ids, ...]) -> dict[str, Tensor]:
    """The tables of the task.

    Args:
        task: its parameters.
        ids: where the fixtures are in the model.
    """
    family = task["family"]
    masks = [(family - i).abs() < 0.5 for i in range(len(FAMILIES))]  # (N,) each
    tables = _of_fixtures(task, masks, ids)
    tables |= _of_blocks(task, masks)
    is_block = masks[PUSH] | masks[GRASP]
    zero = torch.zeros_like(family)
    view = torch.stack([task["view_x"], task["view_y"], zero], 1)
    return tables | {
        "member": torch.stack(masks, 1),
        "is_block": is_block.to(family.dtype).unsqueeze(1),
        "is_fixture": (~is_block & ~masks[REACH]).to(family.dtype).unsqueeze(1),
        "view": torch.where(masks[REACH].unsqueeze(1), torch.zeros_like(view), view),
    }


def _of_fixtures(task: Arrays, masks: list[Tensor], ids: tuple[Ids, ...]) -> dict[str, Tensor]:
    """What `place` says of the task's fixture, poses and starts of all of them, where to read the task's own."""
    zero = torch.zeros_like(task["family"])
    index = zero.long()
    chosen: dict[str, Tensor] = {}
    numbers = {"site": index + arm7.TCP, "position": index, "dof": index, "velocity": index}
    poses = [zero.new_tensor(AWAY_M).repeat(len(zero), 1) for _ in FIXTURES]
    turns = [zero.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(zero), 1) for _ in FIXTURES]
    starts = [zero for _ in FIXTURES]
    for member in MEMBERS:
        mask, where = masks[member.family], ids[member.fixture]
        own = mechanics(task, member.fixture)
        named = {**task, **own}
        placed = place(FIXTURES[member.fixture], member.goal, named)
        placed |= {f"joint_{name}": own[name] for name in JOINT}
        for name, value in placed.items():
            wide = mask.view(-1, *[1] * (value.dim() - 1))
            chosen[name] = torch.where(wide, value, chosen.get(name, value))
        for name, number in (("site", where.site), ("position", where.position), ("dof", where.dof)):
            numbers[name] = torch.where(mask, number, numbers[name])
        numbers["velocity"] = torch.where(mask, where.velocity.start, numbers["velocity"])
        i, wide = member.fixture, mask.unsqueeze(1)
        poses[i] = torch.where(wide, placed["fixture_pos"], poses[i])
        turns[i] = torch.where(wide, placed["fixture_quat"], turns[i])
        starts[i] = torch.where(mask, placed["start"], starts[i])
    return chosen | {
        "handle_site": numbers["site"].view(-1, 1, 1).repeat(1, 1, 3),
        "joint_position": numbers["position"].unsqueeze(1),
        "joint_dof": numbers["dof"].unsqueeze(1),
        "handle_velocity": numbers["velocity"].unsqueeze(1) + torch.arange(3, device=zero.device),
        "fixture_poses": torch.stack(poses, 1),  # (N, fixtures, 3)
        "fixture_quats": torch.stack(turns, 1),
        "fixture_starts": torch.stack(starts, 1),  # (N, fixtures)
    }


def _of_blocks(task: Arrays, masks: list[Tensor]) -> dict[str, Tensor]:
    """Size, place, friction and mass of the block, and the goals of reach and push."""
    zero, amount = torch.zeros_like(task["family"]), task["amount"]
    reach, pushes, grasps = (masks[i] for i in (REACH, PUSH, GRASP))
    half = 0.016 + 0.01 * amount
    cube = half.unsqueeze(1).repeat(1, 3)
    box = zero.new_tensor(push.HALF_SIZE_M).expand(len(zero), 3)
    x, y = (task["frame_x"] + PLACE_M[PUSH][0], task["frame_y"] + PLACE_M[PUSH][1])
    block_x = torch.where(grasps, task["frame_x"] + PLACE_M[GRASP][0], x)
    lying = block.lying(block_x, y, torch.where(grasps, task["yaw"], 0.3 * task["yaw"]))
    above = zero.new_tensor([*ABOVE_M, 1.0, 0.0, 0.0, 0.0]).repeat(len(zero), 1)
    distance = 0.12 + 0.08 * amount
    on_table = torch.stack([x + distance * task["direction"].cos(), y + distance * task["direction"].sin(), zero], 1)
    in_space = [PLACE_M[REACH][0] + 2.5 * task["frame_x"], 3.75 * task["frame_y"], 0.08 + 0.3 * amount]
    away = zero.new_tensor(AWAY_M).repeat(len(zero), 1)
    goal = torch.where(pushes.unsqueeze(1), on_table, away)
    return {
        "goal": torch.where(reach.unsqueeze(1), torch.stack(in_space, 1), goal),
        "goal_distance": distance,
        "half_size": half,
        "block_size": torch.where(pushes.unsqueeze(1), box, cube),
        "block_start": torch.where((pushes | grasps).unsqueeze(1), lying, above),
        "block_friction": task["friction"] * torch.where(pushes, PUSH_FRICTION, GRASP_FRICTION),
        "block_mass": task["mass"] * torch.where(pushes, PUSH_MASS_KG, GRASP_MASS_KG),
        "hand_offset": torch.zeros_like(cube),
        "grip_force": torch.full_like(zero, arm7.GRIP_FORCE_N),
        "com": torch.zeros_like(cube[:, :2]),
        "in_plane": zero.new_tensor([1.0, 1.0, 0.0]).repeat(len(zero), 1),
    }


def expert(task: Arrays, obs: Tensor) -> Tensor:
    """Do what the expert of the task's family does, told the camera's error, too, (N, 4)."""
    columns = layout.columns("object_pos")
    error = task["view"] * task["arm_obs_scale"][:, columns]
    true = torch.cat([obs[:, : columns.start], obs[:, columns] - error, obs[:, columns.stop :]], 1)
    named = {**task, "friction": task["block_friction"], "mass": task["block_mass"]}
    of_joint = {**task, **{name: task[f"joint_{name}"] for name in JOINT}}
    door_, drawer_, window_ = (hook(fixture, of_joint, true) for fixture in (DOOR, DRAWER, WINDOW))
    actions = [torch.zeros_like(door_)] * len(FAMILIES)
    actions[REACH] = steer(true, task["goal"], torch.zeros_like(task["family"]))
    actions[PUSH], actions[GRASP] = push.expert(named, true), grasp.expert(named, true)
    actions[DOOR_OPEN] = actions[DOOR_CLOSE] = door_
    actions[DRAWER_OPEN] = actions[DRAWER_CLOSE] = drawer_
    actions[PRESS], actions[SLIDE] = press(BUTTON, of_joint, true), window_
    # Those of other families may be anything, so they are masked, not weighted.
    return torch.where(task["member"].unsqueeze(2), torch.stack(actions, 1), 0.0).sum(1)
