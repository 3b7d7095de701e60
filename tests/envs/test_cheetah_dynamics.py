"""Half-cheetahs with a dead joint, in another gravity, over hills: the change reaches the physics."""

import math

import mujoco
import numpy as np
import pytest
import torch

import envs
from envs.locomotion.bodies import DEAD
from envs.locomotion.cheetah_terrain import HALF_THICKNESS_M, ground
from metarl.env import BatchedEnv, Noise

NAMES = ("half-cheetah-crippled", "half-cheetah-gravity", "half-cheetah-terrain")
NO_NOISE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def outcome(name, task, action):
    """After a step that went from x = 0.1 m to x = 0.3 m: 4 m/s."""
    spec = envs.make_spec(name)
    named = {key: torch.tensor([value]) for key, value in task.items()}
    if spec.derive is not None:
        named |= spec.derive(named)
    data = {"qpos": torch.zeros(1, 9), "qvel": torch.zeros(1, 9)}
    data["qpos"][0, 0] = 0.3
    state = {"x": torch.tensor([0.1]), "velocity": torch.zeros(1)}
    return spec.step(named, data, state, torch.tensor([action]), NO_NOISE)


@pytest.mark.parametrize(("name", "task"), [(NAMES[1], {"gravity_scale": 1.0}), (NAMES[2], {"slope": [0.0] * 8})])
def test_the_reward_is_the_speed_minus_a_twentieth_of_the_action(name, task):
    result = outcome(name, task, [0.5] * 6)
    assert result.reward.item() == pytest.approx(4.0 - 0.05 * 1.5, abs=1e-5)
    assert not result.terminated.any() and result.success is None


def test_the_action_of_a_dead_joint_costs_nothing():
    reward = outcome(NAMES[0], {"joint": 2.0}, [0.5, 0.5, 1.0, 0.5, 0.5, 0.5]).reward
    assert reward.item() == pytest.approx(4.0 - 0.05 * 1.25, abs=1e-5)


def test_a_dead_joint_gets_no_torque_and_the_others_all():
    env = envs.make(NAMES[0], 6)
    env.set_tasks(torch.arange(6.0).unsqueeze(1))
    env.reset()
    env.step(torch.full((6, 6), 0.7))
    torch.testing.assert_close(env.engine.data("ctrl"), 0.7 * (1 - torch.eye(6)))


def test_training_never_sees_the_held_out_joint():
    tasks = envs.make_spec(NAMES[0]).tasks
    assert tasks.split("train", 200).unique().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert tasks.split("extrapolation", 50).unique().tolist() == [0.0]


def test_a_robot_in_the_air_falls_with_the_tasks_gravity():
    env = envs.make(NAMES[1], 3)
    env.set_tasks(torch.tensor([[0.5], [1.0], [2.0]]))
    env.reset()
    lifted = torch.zeros(3, 9)
    lifted[:, 1] = 3.0
    env.engine.write("qpos", lifted)
    env.engine.write("qvel", torch.zeros(3, 9))
    before = centre_of_mass_velocity(env)
    env.step(torch.zeros(3, 6))
    fall = centre_of_mass_velocity(env) - before
    # Inner forces do not move the centre of mass: 0.05 s of gravity.
    np.testing.assert_allclose(fall, -9.81 * 0.05 * np.array([0.5, 1.0, 2.0]), rtol=1e-3)


def centre_of_mass_velocity(env):
    """Of each world, upwards (m/s)."""
    model = env.spec.physics.model
    data, velocities = mujoco.MjData(model), []
    for qpos, qvel in zip(env.engine.data("qpos"), env.engine.data("qvel"), strict=True):
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        velocities.append(data.subtree_linvel[0, 2])
    return np.array(velocities)


def test_gravity_has_a_hole_and_a_shell():
    tasks = envs.make_spec(NAMES[1]).tasks
    train, hole, shell = (tasks.split(split, 300) for split in ("train", "interpolation", "extrapolation"))
    assert not bool(((train > 0.9) & (train < 1.1)).any()) and float(train.min()) >= 0.5 and float(train.max()) <= 1.5
    assert float(hole.min()) >= 0.9 and float(hole.max()) <= 1.1
    assert bool(((shell < 0.5) | (shell > 1.5)).all()) and float(shell.min()) >= 0.25 and float(shell.max()) <= 2.0


# --- terrain --------------------------------------------------------------------------------------


def upper_edges(slope):
    """Ends of the upper faces of all boxes, (10, 2, 2): left and right, x and z (m)."""
    table = ground({"slope": torch.tensor([slope])})
    lengths = [100.0] + [2.0] * 8 + [100.0]
    edges = []
    for pos, quat, length in zip(table["ground_pos"][0], table["ground_quat"][0], lengths, strict=True):
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, quat.double().numpy())
        corners = (
            np.array([[-length / 2, 0, HALF_THICKNESS_M], [length / 2, 0, HALF_THICKNESS_M]]) @ rotation.reshape(3, 3).T
            + pos.numpy()
        )
        edges.append(corners[:, [0, 2]])
    return np.array(edges)


def test_neighbouring_slopes_meet_in_an_edge():
    slope = [0.25, -0.1, 0.4, 0.0, -0.4, 0.3, 0.2, -0.25]
    edges = upper_edges(slope)
    np.testing.assert_allclose(edges[1:, 0], edges[:-1, 1], atol=1e-4)
    np.testing.assert_allclose(edges[0, 1], [1.0, 0.0], atol=1e-4)  # level until 1 m ahead of the start
    ahead = np.cumsum([2 * math.cos(angle) for angle in slope])
    up = np.cumsum([2 * math.sin(angle) for angle in slope])
    np.testing.assert_allclose(edges[1:9, 1], np.stack([1.0 + ahead, up], 1), atol=1e-4)
    assert edges[9, 0, 1] == pytest.approx(edges[9, 1, 1], abs=1e-4)


def test_level_terrain_moves_a_robot_as_the_floor_does():
    """With all slopes zero the boxes are the plane of the model file."""
    boxes, plane = envs.make(NAMES[2], 16, seed=3), envs.make(NAMES[1], 16, seed=3)
    boxes.set_tasks(torch.zeros(1, 8))
    plane.set_tasks(torch.ones(1, 1))
    torch.testing.assert_close(boxes.reset(), plane.reset())
    generator = torch.Generator().manual_seed(0)
    worst = torch.zeros(16)
    for _ in range(20):
        action = 2 * torch.rand(16, 6, generator=generator) - 1
        worst = torch.maximum(worst, (boxes.step(action).obs - plane.step(action).obs).abs().amax(1))
    assert float(worst.median()) < 1e-3
    assert int((worst < 0.05).sum()) >= 14  # a foot that just touches the ground or just does not


def put_on_slope(env, slope, along_m=8.0):
    """Let all robots rest just above ground that rises with `slope`, so far along it from where it begins."""
    qpos = torch.zeros(env.num_worlds, 9)
    qpos[:, 0] = 1.0 + along_m * math.cos(slope)
    qpos[:, 1] = along_m * math.sin(slope) + 0.1
    qpos[:, 2] = -slope
    env.engine.write("qpos", qpos)
    env.engine.write("qvel", torch.zeros(env.num_worlds, 9))


@pytest.mark.parametrize("slope", [0.2, -0.2, 0.4, -0.4])
def test_a_robot_that_is_put_down_on_a_slope_stays_on_it(slope):
    env = envs.make(NAMES[2], 1)
    env.set_tasks(torch.full((1, 8), slope))
    env.reset()
    put_on_slope(env, slope)
    for _ in range(20):
        env.step(torch.zeros(1, 6))
    x, z = env.engine.data("qpos")[0, :2].tolist()
    height = z - math.tan(slope) * (x - 1.0)
    assert -0.45 < height < 0.2  # of the torso's joint above the slope; lying on it is about -0.4
    assert not env.engine.failed.any()


# --- scenes and engines ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_drawn_scene_moves_like_the_simulated_model(name):
    env = envs.make(name, 1)
    scene, model = env.spec.physics.scene({k: v[0] for k, v in env._task.items()}), env.spec.physics.model
    assert (scene.nq, scene.nbody, scene.nmocap) == (model.nq, model.nbody, model.nmocap)
    assert scene.camera("video").id >= 0
    np.testing.assert_allclose(scene.body_mass, model.body_mass, rtol=1e-12)


def test_the_limb_of_the_dead_joint_is_drawn_dark():
    scene = envs.make_spec(NAMES[0]).physics.scene({"joint": torch.tensor(4.0)})
    np.testing.assert_allclose(scene.geom_rgba[scene.geom("fshin").id], DEAD, rtol=1e-6)
    assert not np.allclose(scene.geom_rgba[scene.geom("bshin").id], DEAD)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_engines_give_the_same_robot(name):
    pair = [BatchedEnv(envs.make_spec(name), 4, engine=engine, seed=1) for engine in ("batch", "warp")]
    for env in pair:
        env.set_tasks(env.spec.tasks.split("extrapolation", 4))
    torch.testing.assert_close(*[env.reset() for env in pair], atol=1e-6, rtol=0)
    agree(pair, num_steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.3, -0.3])
def test_both_engines_give_the_same_robot_on_a_slope(slope):
    pair = [BatchedEnv(envs.make_spec(NAMES[2]), 4, engine=engine, seed=1) for engine in ("batch", "warp")]
    for env in pair:
        env.set_tasks(torch.full((4, 8), slope))
        env.reset()
        put_on_slope(env, slope)
    agree(pair, num_steps=20)


def agree(pair, num_steps):
    """Run 100 steps; the first ones agree to a few digits, later ones may drift apart as all hopping robots do."""
    generator = torch.Generator().manual_seed(0)
    for t in range(100):
        action = 2 * torch.rand(4, 6, generator=generator) - 1
        steps = [env.step(action) for env in pair]
        assert all(bool(torch.isfinite(step.obs).all()) and not bool(step.failed.any()) for step in steps)
        if t < num_steps:
            torch.testing.assert_close(steps[0].obs, steps[1].obs, atol=5e-2, rtol=1e-2)
            torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=5e-2, rtol=1e-2)
