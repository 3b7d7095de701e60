"""Shapes and mechanics of the fixtures: where handles are, what friction, damping, springs, stops and sides do."""

from __future__ import annotations

import math

import mujoco
import pytest
import torch
from torch import Tensor

import envs
from envs.manipulation import arm7, fixtures
from envs.manipulation.fixture_env import DOF, HANDLE, HANDLE_VELOCITY, JOINT
from envs.manipulation.fixtures import BUTTON, DOOR, DRAWER, LEVER, WINDOW, Fixture
from metarl.env import BatchedEnv
from tests.envs.manipulation_tools import started, tasks_with

ALL = (DOOR, DRAWER, BUTTON, LEVER, WINDOW)
NO_SPRING = {"stiffness": 0.0}


def push_joint(env: BatchedEnv, force: float | list[float], num_steps: int) -> Tensor:
    """The fixture's joint after control steps with a force on it while the hand rests at home, (N,)."""
    applied = torch.zeros(env.num_worlds, DOF + 1)
    applied[:, DOF] = torch.as_tensor(force)
    env.engine.write("qfrc_applied", applied)
    home = torch.zeros(env.num_worlds, arm7.NUM_JOINTS)
    for _ in range(num_steps):
        env.engine.write("ctrl", home)
        env.engine.step()
    return env._data["qpos"][:, JOINT].clone()


@pytest.mark.parametrize("fixture", ALL, ids=lambda fixture: fixture.name)
def test_handles_are_where_the_formulas_say_and_move_as_they_say(fixture: Fixture):
    spec = arm7.new_scene()
    fixture.add(spec, False)
    model = arm7.compile_scene(spec)
    data, joint = mujoco.MjData(model), model.joint(fixture.name)
    position, dof = int(joint.qposadr[0]), int(joint.dofadr[0])
    handle, sensor = model.site(f"{fixture.name}_handle").id, int(model.sensor(f"{fixture.name}_handle").adr[0])
    assert (position, dof, handle, sensor) == (JOINT, DOF, HANDLE, HANDLE_VELOCITY.start)
    for value in (0.0, 0.04, float(joint.range[1])):
        data.qpos[position], data.qvel[dof] = value, 1.0
        mujoco.mj_forward(model, data)
        q, side = torch.tensor([value]), torch.ones(1)
        local = torch.tensor(data.site_xpos[handle] - model.body(fixture.name).pos, dtype=torch.float32)
        torch.testing.assert_close(fixture.handle(q, side)[0], local, atol=1e-6, rtol=0)
        velocity = torch.tensor(data.sensordata[sensor : sensor + 3], dtype=torch.float32)
        torch.testing.assert_close(fixture.tangent(q, side)[0], velocity, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fixture", ALL, ids=lambda fixture: fixture.name)
def test_fixtures_are_primitives_below_the_hand_and_touch_the_hand_only(fixture: Fixture):
    for is_drawn in (False, True):
        spec = arm7.new_scene()
        fixture.add(spec, is_drawn)
        model = arm7.compile_scene(spec)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        assert data.ncon == 0
        own = [i for i in range(model.ngeom) if model.geom_bodyid[i] >= model.body(fixture.name).id]
        primitives = {mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_SPHERE}
        assert {int(model.geom_type[i]) for i in own} <= {int(kind) for kind in primitives}
        for i in own:
            assert int(model.geom_contype[i]) == 0 and int(model.geom_conaffinity[i]) in (0, 2)
            size = model.geom_size[i]
            box = model.geom_type[i] == mujoco.mjtGeom.mjGEOM_BOX
            height = size[2] if box else size[0] + abs(data.geom_xmat[i][8]) * size[1]
            assert data.geom_xpos[i][2] + height < arm7.HOME_TCP_M[2] - arm7.FINGERTIP_M - 0.01
        moved = model.body(f"{fixture.name}_part")
        assert model.body_parentid[moved.id] == model.body(fixture.name).id
        assert model.body_mocapid[model.body(fixture.name).id] == 0


def test_a_drawer_yields_to_more_than_its_friction_and_reaches_the_speed_that_damping_allows():
    spec = envs.make_spec("drawer-open")
    common = {**NO_SPRING, "frictionloss": 1.0, "side_bias": 0.0, "damping": 20.0}
    env = started(spec, tasks_with(spec, 3, mass=[1.0, 1.0, 2.0], **common))
    opening = push_joint(env, [0.9, 5.0, 5.0], 20)
    assert abs(float(opening[0])) < 1e-3
    # m v' = 5 - 1 - 20 v: after t = 0.4 s, v = 0.2 m/s and q = 0.2 (t - tau (1 - exp(-t / tau))), tau = m / 20.
    expected = [0.2 * (0.4 - tau * (1 - math.exp(-0.4 / tau))) for tau in (0.05, 0.1)]
    torch.testing.assert_close(opening[1:], torch.tensor(expected), rtol=0.05, atol=0)
    assert env._data["qvel"][1, DOF] == pytest.approx(0.2, rel=0.03)


def test_the_stiction_of_a_drawer_has_a_side():
    spec = envs.make_spec("drawer-open")
    env = started(spec, tasks_with(spec, 2, side_bias=[-0.5, 0.5], frictionloss=2.0, **NO_SPRING))
    bias = env.engine.data("qfrc_applied")[:, DOF]
    torch.testing.assert_close(bias, torch.tensor([1.0, -1.0]))
    # Opening takes 2 (1 + side_bias) N: 1 N and 3 N.
    opening = push_joint(env, [2.0 + 1.0, 2.0 - 1.0], 80)
    assert opening[0] > 0.05 and abs(float(opening[1])) < 1e-3


@pytest.mark.parametrize(("name", "start"), [("door-open", 0.0), ("door-close", 0.9)])
def test_the_spring_is_at_rest_at_the_start_and_holds_against_the_task(name: str, start: float):
    spec = envs.make_spec(name)
    env = started(spec, tasks_with(spec, 2, stiffness=3.0, frictionloss=0.05, damping=0.1))
    sense = 1.0 if name == "door-open" else -1.0
    angle = push_joint(env, [0.0, sense * 1.5], 100)
    assert angle[0] == pytest.approx(start, abs=1e-4)
    # 1.5 N m against 3 N m/rad, give or take the friction.
    assert sense * (angle[1] - start) == pytest.approx(0.5, abs=0.05 / 3 + 0.01)


def test_a_button_stops_at_its_travel_and_its_spring_lifts_it():
    spec = envs.make_spec("button")
    env = started(spec, tasks_with(spec, 2, travel=[0.02, 0.04], stiffness=200.0, frictionloss=0.1))
    torch.testing.assert_close(push_joint(env, 20.0, 50), torch.tensor([0.02, 0.04]), atol=5e-4, rtol=0)
    assert push_joint(env, 0.0, 100).max() < 1e-3


def test_a_left_hinged_door_is_the_mirror_image_of_a_right_hinged_one():
    spec = envs.make_spec("door-open")
    env = started(spec, tasks_with(spec, 2, handedness=[1.0, -1.0], frame_y=[0.03, -0.03], yaw=[0.2, -0.2]))
    sites = env._data["site_xpos"][:, HANDLE].clone()
    for _ in range(2):
        torch.testing.assert_close(sites[0] * torch.tensor([1.0, -1.0, 1.0]), sites[1], atol=1e-6, rtol=0)
        angle = push_joint(env, 2.0, 60)
        assert angle[0] == pytest.approx(float(angle[1]), rel=1e-4)
        sites = env._data["site_xpos"][:, HANDLE].clone()
    assert angle[0] > 0.1


def test_fingers_fit_between_handle_and_panel():
    fingers = 2 * (arm7._PAD_X_M + arm7._PAD_RADIUS_M)
    room = fixtures.PANEL_M - fixtures.HANDLE_RADIUS_M
    assert fingers + 0.015 < room
