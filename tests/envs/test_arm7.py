"""The arm: its model, inverse kinematics, action modes, observation layout and hidden controller."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from envs.manipulation import arm7, arm_env, hand, layout, push, reach
from envs.manipulation.experts import steer
from metarl.env import BatchedEnv, EnvSpec
from metarl.errors import SpecError, UnknownNameError

REACH, PUSH = reach.make_spec(), push.make_spec()
DOWN = torch.tensor([-1.0, 0, 0, 0, 1, 0, 0, 0, -1])


def make_env(spec: EnvSpec, num: int, engine: str = "auto", **values: float | list[float]) -> BatchedEnv:
    """Worlds of the first test tasks with some parameters changed, reset."""
    env = BatchedEnv(spec, num, num_threads=1, engine=engine)
    tasks = spec.tasks.split("test", 1).repeat(num, 1)
    names = [p.name for p in spec.tasks.parameters]
    for name, value in values.items():
        tasks[:, names.index(name)] = torch.as_tensor(value, dtype=torch.float32)
    env.set_tasks(tasks)
    env.reset()
    return env


def tcp(env: BatchedEnv) -> Tensor:
    return env._data["site_xpos"][:, arm7.TCP].clone()


def repeat(env: BatchedEnv, action: list[float], num_steps: int) -> None:
    for _ in range(num_steps):
        env.step(torch.tensor(action).repeat(env.num_worlds, 1))


# Model


def test_at_home_the_open_hand_points_down_over_the_table():
    model = REACH.physics.model
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert (data.qpos == 0.0).all()
    np.testing.assert_allclose(data.site("tcp").xpos, arm7.HOME_TCP_M, atol=1e-4)
    np.testing.assert_allclose(data.site("pinch").xpos, data.site("tcp").xpos, atol=1e-9)
    np.testing.assert_allclose(data.site("tcp").xmat, DOWN.numpy(), atol=1e-3)
    left, right = (data.geom(f"{name}_front").xpos for name in arm7.FINGERS)
    assert left[1] - right[1] == pytest.approx(2 * (arm7.FINGER_TRAVEL_M + 0.008), abs=1e-6)
    tip = min(data.geom_xpos[i][2] for i in range(model.ngeom) if "finger" in model.geom(i).name)
    assert tip > 0.2


def test_the_arm_is_weightless():
    model = REACH.physics.model
    data = mujoco.MjData(model)
    data.qpos[:7] = [0.4, 0.3, -0.5, -0.4, 0.6, 0.2, 0.1]
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qfrc_bias[:9], data.qfrc_gravcomp[:9], atol=1e-9)


def test_only_the_hand_collides_and_not_with_itself():
    model = PUSH.physics.model
    for i in range(model.ngeom):
        geom, name = model.geom(i), model.geom(i).name
        collides = bool(geom.contype or geom.conaffinity)
        assert collides == ("link" not in name and name != "goal"), name
        if "finger" in name or name == "palm":
            assert (geom.contype, geom.conaffinity) == (2, 1)


def test_a_scene_without_the_arm_first_is_refused():
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body()
    body.add_freejoint(name="block")
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0])
    with pytest.raises(SpecError, match="starts with the arm"):
        arm7.compile_scene(spec)


# Inverse kinematics


def test_jacobian_is_that_of_mujoco():
    model = REACH.physics.model
    data = mujoco.MjData(model)
    data.qpos[:7] = [0.4, 0.3, -0.5, -0.4, 0.6, 0.2, 0.1]
    mujoco.mj_forward(model, data)
    expected = np.zeros((6, model.nv))
    mujoco.mj_jacSite(model, data, expected[:3], expected[3:], arm7.TCP)
    anchor, axis, point = (
        torch.as_tensor(x).unsqueeze(0) for x in (data.xanchor[:7], data.xaxis[:7], data.site_xpos[0])
    )
    actual = hand.jacobian_transposed(anchor, axis, point)[0].mT
    np.testing.assert_allclose(actual, expected[:, :7], atol=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_downward_error_is_the_rotation_back_to_pointing_down(axis: int):
    vector, matrix = np.zeros(4), np.zeros(9)
    direction = np.eye(3)[axis]
    mujoco.mju_axisAngle2Quat(vector, direction, 0.05)
    mujoco.mju_quat2Mat(matrix, vector)
    turned = torch.as_tensor(matrix.reshape(3, 3) @ DOWN.reshape(3, 3).double().numpy()).reshape(1, 9)
    np.testing.assert_allclose(hand.downward_error(turned)[0], -math.sin(0.05) * direction, atol=1e-9)


def test_systems_are_solved_as_numpy_does():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.mT + 0.01 * torch.eye(6), torch.randn(5, 6, generator=generator, dtype=torch.float64)
    expected = np.linalg.solve(matrix.numpy(), right.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(hand.solve_spd(matrix, right), expected, rtol=1e-8)


def test_a_joint_step_is_the_damped_least_squares_solution():
    generator = torch.Generator().manual_seed(1)
    jacobian, error, drift, damping = (
        torch.randn(1, 6, 7, generator=generator, dtype=torch.float64),
        torch.randn(1, 6, generator=generator, dtype=torch.float64),
        torch.randn(1, 7, generator=generator, dtype=torch.float64),
        0.3,
    )
    # min |J q - e|^2 + lambda^2 |q - d|^2 as one least-squares problem.
    stacked = np.concatenate([jacobian[0].numpy(), damping * np.eye(7)])
    expected = np.linalg.lstsq(stacked, np.concatenate([error[0], damping * drift[0].numpy()]), rcond=None)[0]
    np.testing.assert_allclose(hand.joint_step(jacobian.mT, error, drift, damping)[0], expected, atol=1e-9)


def test_the_hand_goes_where_it_is_told_all_over_the_workspace_and_stays_upright():
    x, y, z = torch.meshgrid(
        torch.tensor([0.23, 0.4, 0.6, 0.73]),
        torch.tensor([-0.35, 0.0, 0.35]),
        torch.tensor([0.03, 0.2, 0.43]),
        indexing="ij",
    )
    points = torch.stack([x.flatten(), y.flatten(), z.flatten()], 1)
    env = make_env(REACH, len(points))
    obs = env.reset()
    largest_tilt = 0.0
    for _ in range(90):
        obs = env.step(steer(obs, points, torch.zeros(len(points)))).obs
        upright = env._data["site_xmat"][:, arm7.TCP, 8]
        largest_tilt = max(largest_tilt, float(upright.neg().clamp(max=1.0).acos().max()))
    assert float((tcp(env) - points).norm(dim=1).max()) < 0.002
    assert largest_tilt < 0.15  # at top speed
    torch.testing.assert_close(env._data["site_xmat"][:, arm7.TCP], DOWN.repeat(len(points), 1), atol=0.02, rtol=0)


@pytest.mark.parametrize("axis", range(3))
def test_a_hand_action_moves_the_hand_by_two_centimetres_a_step(axis: int):
    env = make_env(REACH, 1)
    repeat(env, [0.0] * 4, 20)
    before, action = tcp(env), [0.0] * 4
    action[axis] = 0.5
    repeat(env, action, 10)
    repeat(env, [0.0] * 4, 25)
    expected = torch.zeros(1, 3)
    expected[0, axis] = 10 * 0.5 * arm_env.HAND_STEP_M
    torch.testing.assert_close(tcp(env) - before, expected, atol=0.002, rtol=0)


def test_pressing_on_the_table_the_command_stays_near_the_hand():
    env = make_env(REACH, 1)
    repeat(env, [0.0, 0.0, -1.0, 1.0], 80)
    lag = layout.read(env._obs, "hand_lag")
    assert float(lag.abs().max()) <= arm_env.HAND_LEASH_M + 1e-6
    assert float(tcp(env)[0, 2]) == pytest.approx(arm7.FINGERTIP_M, abs=0.003)
    repeat(env, [0.0, 0.0, 1.0, 1.0], 5)
    assert float(tcp(env)[0, 2]) > 0.03  # and comes up at once


def test_the_command_stays_in_the_workspace():
    env = make_env(REACH, 2)
    for _ in range(100):
        env.step(torch.tensor([[1.0, 1.0, 1.0, 0.0], [-1.0, -1.0, -1.0, 0.0]]))
    target = env._state["hand_target"]
    assert (target <= torch.tensor(arm_env.HAND_HIGH_M) + 1e-6).all()
    assert (target >= torch.tensor(arm_env.HAND_LOW_M) - 1e-6).all()


def test_the_gripper_closes_at_one_and_opens_at_minus_one_both_fingers_alike():
    env = make_env(REACH, 1)
    repeat(env, [0.0, 0.0, 0.0, 1.0], 30)
    fingers = env._data["qpos"][0, 7:9]
    assert float(layout.read(env._obs, "opening")) < 0.002
    assert float((fingers[0] - fingers[1]).abs()) < 1e-3
    repeat(env, [0.0, 0.0, 0.0, -1.0], 30)
    assert float(layout.read(env._obs, "opening")) == pytest.approx(0.09, abs=0.001)


# Joint targets


def test_joint_actions_are_targets_from_home():
    spec = reach.make_spec(action="joint")
    assert spec.action_space.dim == 9 and spec.obs_dim == 54 and spec.expert is None
    env = make_env(spec, 2)
    action = torch.zeros(2, 9)
    action[1] = torch.tensor([0.3, -0.2, 0.1, 0.2, -0.3, 0.2, 0.4, 1.0, 1.0])
    for _ in range(80):
        env.step(action)
    expected = action[:, :7] * torch.tensor(arm_env.JOINT_SPAN_RAD)
    torch.testing.assert_close(env._data["qpos"][:, :7], expected, atol=0.01, rtol=0)
    opening = layout.read(env._obs, "opening")[:, 0]
    assert float(opening[1]) < 0.002 and float(opening[0]) == pytest.approx(0.04, abs=0.002)
    assert (layout.read(env._obs, "hand_lag") == 0.0).all()


# Observation


def test_the_layout_has_the_columns_of_its_table():
    sizes = {name: part.stop - part.start for name, part in layout.slices()}
    assert list(sizes.values()) == [9, 9, 3, 1, 3, 6, 6, 2, 3, 3]
    assert REACH.obs_dim == PUSH.obs_dim == 49
    env = make_env(PUSH, 2)
    obs = env.step(torch.full((2, 4), 0.25)).obs
    data = env._data
    torch.testing.assert_close(layout.read(obs, "tcp"), data["site_xpos"][:, arm7.TCP])
    torch.testing.assert_close(layout.read(obs, "joint_pos")[:, :7], data["qpos"][:, :7])
    torch.testing.assert_close(layout.read(obs, "object_pos"), data["qpos"][:, 9:12])
    matrix = torch.stack([layout.read(obs, "object_rotation")[:, i::2] for i in range(2)], 2)  # (N, 3, 2) two columns
    torch.testing.assert_close(matrix, data["xmat"][:, PUSH.physics.model.body("box").id].view(2, 3, 3)[..., :2])
    torch.testing.assert_close(layout.read(obs, "object_velocity")[:, :3], data["qvel"][:, 9:12])
    torch.testing.assert_close(obs[:, 33:37][:, -1:], 0.2 * data["qvel"][:, 14:15])
    assert (obs[:, layout.columns("fixture")] == 0.0).all() and (obs[:, layout.columns("goal")] == 0.0).all()
    assert (obs[:, 45:] == 0.25).all()


def test_a_goal_is_seen_only_where_asked_for():
    for module in (reach, push):
        seen = make_env(module.make_spec(goal="seen"), 1)
        goal = layout.read(seen._obs, "goal")
        start = layout.read(seen._obs, "object_pos" if module is push else "tcp")
        torch.testing.assert_close(goal + start, seen._task["goal"], atol=1e-4, rtol=0)


def test_unknown_options_are_refused_with_a_hint():
    with pytest.raises(UnknownNameError, match="hand"):
        reach.make_spec(action="hands")
    with pytest.raises(UnknownNameError, match="hidden"):
        push.make_spec(goal="hiden")


# Hidden controller


@pytest.mark.parametrize(("delay", "silent_steps"), [(0.0, 0), (0.02, 1), (0.04, 2), (0.06, 3)])
def test_servos_answer_after_the_control_delay(delay: float, silent_steps: int):
    env = make_env(PUSH, 2, control_delay=delay)
    env.engine.write("qpos", env._data["qpos"][:1].clone().repeat(2, 1))  # the same start
    env.engine.forward()
    action = torch.tensor([[0.0, 0.0, 0.0, -1.0], [1.0, 0.0, 0.0, -1.0]])
    apart = []
    for _ in range(5):
        env.step(action)
        apart.append(float((tcp(env)[1] - tcp(env)[0]).norm()))
    moved = [i for i, distance in enumerate(apart) if distance > 1e-6]
    assert moved[0] == silent_steps, apart


def test_an_arm_that_hears_nothing_yet_holds_still():
    env = make_env(PUSH, 1, control_delay=0.06)
    before = tcp(env)
    repeat(env, [0.0, 0.0, 0.0, -1.0], 3)
    assert float((tcp(env) - before).norm()) < 0.01


def test_joint_gain_is_the_stiffness_of_the_hand():
    env = make_env(PUSH, 2, joint_gain=[0.5, 1.5], control_delay=0.0)
    before = tcp(env)
    repeat(env, [1.0, 0.0, 0.0, -1.0], 8)
    weak, strong = (tcp(env) - before)[:, 0].tolist()
    assert strong > weak + 0.02
