"""Scripted experts of fixtures: they are told the task, and read their phase off the observation.

`hook` holds the closed fingers behind the handle, seen in the direction in which it shall move, and takes it along:

    away  lift, go above the place behind the handle, come down there
    there the commanded position leads the handle on its path, by what is left to go and what friction and spring take
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.manipulation import layout
from envs.manipulation.arm7 import FINGERTIP_M
from envs.manipulation.experts import steer
from envs.manipulation.fixtures import BUTTON_TOP_M, Fixture, turned
from metarl.types import Arrays

BEHIND_M = 0.037
"""Where fingers come down, behind the middle of the handle: they reach 1.8 cm, the handle 1 cm."""
TOUCHING_M = 0.028
CLEAR_M = 0.09
"""Above the place to hold a handle, free to move sideways."""
HAND_STIFFNESS = 2500.0
"""Of the controller that holds the hand, N/m, roughly."""
LEAD_M = 0.035
"""The commanded position leads the handle by at most this."""


def hook(fixture: Fixture, task: Arrays, obs: Tensor) -> Tensor:
    """Take a handle along with closed fingers, (N, 4)."""
    tcp = layout.read(obs, "tcp")
    position, velocity = layout.read(obs, "fixture").unbind(1)
    handle = turned(fixture.handle(position, task["side"]), task["fixture_turn"]) + task["fixture_pos"]
    missing = task["target"] - position
    sense = (task["target"] - task["start"]).sign()
    tangent = turned(fixture.tangent(position, task["side"]), task["fixture_turn"])
    rate = torch.linalg.vector_norm(tangent, dim=1)  # m of the handle per unit of the joint
    ahead = tangent / rate.unsqueeze(1) * sense.unsqueeze(1)

    landing = handle - BEHIND_M * ahead
    off = tcp - landing
    along = (off * ahead).sum(1)
    aside = torch.linalg.vector_norm(off - along.unsqueeze(1) * ahead, dim=1)
    sideways = torch.linalg.vector_norm(off[:, :2], dim=1)
    is_there = (off[:, 2].abs() < 0.03) & (along.abs() < 0.025) & (aside < 0.03)
    is_low = off[:, 2] < 0.7 * CLEAR_M
    is_above = sideways < 0.012
    height = torch.where(is_above, landing[:, 2], landing[:, 2] + CLEAR_M)
    hold = (is_low & ~is_above).unsqueeze(1)
    route = torch.cat([torch.where(hold, tcp[:, :2], landing[:, :2]), height.unsqueeze(1)], 1)

    effort = task["frictionloss"] + task["stiffness"] * (position - task["start"]).abs()
    # A handle cannot be held back: what it will still slide by itself, it is not pushed.
    slide = task["mass"] * (rate * velocity).square() / (effort + 0.5 * task["damping"] * velocity.abs()) / 2
    left = 0.8 * missing * sense * rate - torch.maximum(0.07 * velocity * sense * rate, rate * slide)
    lead = (left + effort / rate / HAND_STIFFNESS).clamp(-LEAD_M, LEAD_M)
    pulled = handle + (lead - TOUCHING_M).unsqueeze(1) * ahead
    point = torch.where(is_there.unsqueeze(1), pulled, route)
    return steer(obs, point, torch.ones_like(position))


def press(fixture: Fixture, task: Arrays, obs: Tensor) -> Tensor:
    """Press a button from above with closed fingers, (N, 4)."""
    tcp = layout.read(obs, "tcp")
    middle = task["fixture_pos"]
    is_above = torch.linalg.vector_norm(tcp[:, :2] - middle[:, :2], dim=1) < 0.015
    pressed = BUTTON_TOP_M + FINGERTIP_M - task["target"] - 0.008 - task["stiffness"] * task["target"] / HAND_STIFFNESS
    height = torch.where(is_above, pressed, torch.full_like(pressed, BUTTON_TOP_M + 0.03))
    point = torch.cat([middle[:, :2], height.unsqueeze(1)], 1)
    return steer(obs, point, torch.ones_like(height))
