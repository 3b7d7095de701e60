"""The humanoids of PEARL, VariBAD and ProMP: gymnasium's body, the papers' observation, reward and end."""

import math

import mujoco
import numpy as np
import pytest
import torch

import envs
from envs.locomotion.bodies import load_body
from metarl.env import BatchedEnv, Noise

NAMES = ("humanoid-dir", "humanoid-dir-promp")
NO_NOISE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))
HALF = torch.full((1, 17), 0.5)  # ctrl of 0.2, whose square sums to 0.68


def gymnasium_model():
    spec = load_body("humanoid.xml")
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return spec.compile()


def outcome(name, task, com=(0.03, 0.06), height=1.4, forces=()):
    """After a control step of 0.015 s in which the centre of mass came from the origin."""
    cfrc_ext = torch.zeros(1, 84)
    cfrc_ext[0, : len(forces)] = torch.tensor(forces)
    qpos = torch.zeros(1, 24)
    qpos[0, 2] = height
    subtree_com = torch.full((1, 14, 3), 7.0)
    subtree_com[0, 1, :2] = torch.tensor(com)
    data = {"qpos": qpos, "cfrc_ext": cfrc_ext.view(1, 14, 6), "subtree_com": subtree_com}
    state = {"com": torch.zeros(1, 2), "action": torch.zeros(1, 17)}
    named = {key: torch.tensor([value]) for key, value in task.items()}
    return envs.make_spec(name).step(named, data, state, HALF, NO_NOISE)


def test_the_body_is_gymnasiums():
    ours, theirs = envs.make_spec(NAMES[0]).physics.model, gymnasium_model()
    for field in (
        *("body_mass", "body_inertia", "dof_damping", "dof_armature", "jnt_range", "jnt_stiffness", "qpos0"),
        *("geom_size", "geom_friction", "geom_solref", "geom_condim", "actuator_gear", "actuator_ctrlrange"),
    ):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-12, err_msg=field)
    assert ours.opt.timestep == 0.003


@pytest.mark.parametrize(
    ("name", "task", "speed"),
    [
        (NAMES[0], {"angle": 0.0}, 2.0),
        (NAMES[0], {"angle": math.pi / 2}, 4.0),
        (NAMES[0], {"angle": math.pi / 4}, 6.0 / 2**0.5),
        (NAMES[1], {"direction": 1.0}, 2.0),
        (NAMES[1], {"direction": -1.0}, -2.0),
    ],
)
def test_the_reward_is_the_speed_along_the_way_with_its_costs(name, task, speed):
    # Forces 1000 and 400 cost 5e-7 x 1.16e6.
    reward = outcome(name, task, forces=(1000.0, 400.0)).reward
    assert reward.item() == pytest.approx(1.25 * speed - 0.1 * 0.68 - 0.58 + 5.0, abs=1e-4)


def test_an_impact_costs_ten_at_most():
    reward = outcome(NAMES[0], {"angle": 0.0}, com=(0.0, 0.0), forces=(1e5,)).reward
    assert reward.item() == pytest.approx(-0.068 - 10.0 + 5.0, abs=1e-4)


@pytest.mark.parametrize(("height", "ends"), [(0.99, True), (1.01, False), (1.99, False), (2.01, True)])
def test_an_episode_ends_when_the_torso_is_too_low_or_too_high(height, ends):
    assert outcome(NAMES[1], {"direction": 1.0}, height=height).terminated.tolist() == [ends]


def mass_centre(model, data):
    """As the sources compute it."""
    mass = model.body_mass[:, None]
    return (mass * data.xipos).sum(0)[:2] / mass.sum()


def test_steps_observations_and_rewards_are_those_of_gymnasiums_body():
    """The reference has no sensor, and computes contact forces by hand before the last physics step."""
    env = envs.make(NAMES[0], 1, seed=3)
    env.set_tasks(torch.tensor([[1.0]]))
    env.reset()
    model = gymnasium_model()
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = env.engine.data("qpos")[0], env.engine.data("qvel")[0]
    mujoco.mj_forward(model, data)
    generator = torch.Generator().manual_seed(0)
    num_touching = num_valid = 0
    for _ in range(25):
        before, action = mass_centre(model, data), 2 * torch.rand(1, 17, generator=generator) - 1
        step = env.step(action)
        data.ctrl[:] = 0.4 * action[0]
        mujoco.mj_step(model, data, 4)
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        forces = data.cfrc_ext.flatten().copy()
        mujoco.mj_step(model, data)
        torque = data.qfrc_actuator.copy()
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        parts = (data.qpos[2:], data.qvel, data.cinert.flatten(), data.cvel.flatten(), torque, forces)
        expected = np.concatenate(parts)
        # Contact forces of the sum of a touch are large and stiff: a percent of the largest.
        tolerance = np.concatenate([np.full(292, 5e-3), np.full(84, 0.01 * np.abs(forces).max() + 1e-2)])
        assert bool((np.abs(step.obs[0].numpy() - expected) <= tolerance + 2e-3 * np.abs(expected)).all())
        way = (mass_centre(model, data) - before) @ np.array([math.cos(1.0), math.sin(1.0)])
        impact = min(5e-7 * (forces**2).sum(), 10.0)
        control = 0.1 * 0.16 * float(action.square().sum())
        reward = 0.25 * way / 0.003 - control - impact + 5.0 if bool(step.valid) else 0.0
        assert step.reward.item() == pytest.approx(reward, abs=2e-2)
        num_valid += int(step.valid)
        num_touching += bool(forces.any())
    assert num_touching >= 3 and num_valid >= 10


def test_a_reset_knows_where_the_centre_of_mass_is():
    env = envs.make(NAMES[0], 200, seed=1)
    env.reset()
    said, true = env._state["com"], env.engine.data("subtree_com")[:, 1, :2]
    assert float(true.std(0).min()) > 0.004  # they differ between worlds
    torch.testing.assert_close(said, true, atol=1.5e-4, rtol=0)


def test_starts_are_spread_as_in_the_sources():
    env = envs.make(NAMES[0], 2000, contact_forces=False)
    env.reset()
    offset = env.engine.data("qpos") - torch.tensor(env.spec.physics.model.qpos0)
    joints = torch.cat([offset[:, :3], offset[:, 7:], env.engine.data("qvel")], 1).float()
    assert float(joints.abs().max()) <= 0.01 + 1e-6
    torch.testing.assert_close(joints.std(0), torch.full((43,), 0.02 / 12**0.5), rtol=0.08, atol=0)
    torch.testing.assert_close(env.engine.data("qpos")[:, 3:7].norm(dim=1), torch.ones(2000))


def test_without_contact_forces_they_cost_nothing_and_are_not_seen():
    env = envs.make(NAMES[0], 8, contact_forces=False, seed=1)
    assert env.spec.obs_dim == 292
    twin = envs.make(NAMES[0], 8, seed=1)
    tasks = env.spec.tasks.split("test", 8)
    for e in (env, twin):
        e.set_tasks(tasks)
    torch.testing.assert_close(env.reset(), twin.reset()[:, :292])
    for _ in range(20):
        step, seen = env.step(torch.zeros(8, 17)), twin.step(torch.zeros(8, 17))
        torch.testing.assert_close(step.obs, seen.obs[:, :292], atol=1e-3, rtol=1e-3)
        cost = (5e-7 * seen.obs[:, 292:].square().sum(1)).clamp(max=10.0)
        torch.testing.assert_close(step.reward, seen.reward + cost, atol=2e-3, rtol=1e-3)
    assert float(cost.max()) > 0.01  # they stand


def test_the_first_observation_has_no_torque_and_no_force_of_the_episode_before():
    env = envs.make(NAMES[0], 2)
    env.reset()
    for _ in range(20):
        obs = env.step(torch.ones(2, 17)).obs
    assert bool((obs[:, 275:] != 0).any(1).all())
    assert bool((env.reset()[:, 269:] == 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_drawn_scene_moves_like_the_simulated_model_and_shows_the_way(name):
    env = envs.make(name, 1)
    scene, model = env.spec.physics.scene({k: v[0] for k, v in env._task.items()}), env.spec.physics.model
    assert (scene.nq, scene.nbody) == (model.nq, model.nbody) and scene.camera("video").id >= 0
    marks = [g for g in range(scene.ngeom) if scene.geom(g).name == "" and scene.geom_bodyid[g] == 0]
    assert len(marks) > 100 and not scene.geom_contype[marks].any() and not scene.geom_conaffinity[marks].any()
    np.testing.assert_allclose(scene.body_mass, model.body_mass, rtol=1e-12)


@pytest.mark.slow
def test_both_engines_give_the_same_humanoid():
    pair = [BatchedEnv(envs.make_spec(NAMES[0]), 4, engine=engine, seed=1) for engine in ("batch", "warp")]
    torch.testing.assert_close(*[env.reset() for env in pair], atol=1e-4, rtol=1e-4)
    generator = torch.Generator().manual_seed(0)
    for t in range(100):
        action = 2 * torch.rand(4, 17, generator=generator) - 1
        steps = [env.step(action) for env in pair]
        assert all(bool(torch.isfinite(step.obs).all()) and not bool(step.failed.any()) for step in steps)
        if t < 8:
            torch.testing.assert_close(steps[0].obs[:, :292], steps[1].obs[:, :292], atol=1e-2, rtol=1e-2)
            torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=2e-2, rtol=1e-2)
    assert all(bool((step.obs[:, 292:] != 0).any(1).all()) for step in steps)
    first = [env.reset() for env in pair]
    assert all(bool((obs[:, 269:] == 0).all()) for obs in first)
