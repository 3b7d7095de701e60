"""The half-cheetahs of MAML, PEARL, ProMP and RoML: their dynamics are gymnasium's, their rewards the papers'."""

from importlib import resources

import mujoco
import numpy as np
import pytest
import torch

import envs

NAMES = ("half-cheetah-vel-maml", "half-cheetah-vel-pearl", "half-cheetah-dir")
LIKE_PEARLS = ("half-cheetah-vel-promp", "half-cheetah-vel-roml")
ASSET = resources.files("gymnasium").joinpath("envs", "mujoco", "assets", "half_cheetah.xml")


@pytest.fixture(scope="module")
def gymnasium_model():
    return mujoco.MjModel.from_xml_path(str(ASSET))


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_gymnasiums(name, gymnasium_model):
    ours = envs.make_spec(name).physics.model
    for field in (
        "body_mass",
        "body_inertia",
        "body_invweight0",
        "dof_damping",
        "dof_armature",
        "jnt_range",
        "jnt_stiffness",
        "geom_size",
        "geom_friction",
        "geom_solref",
        "geom_solimp",
        "geom_contype",
        "geom_conaffinity",
        "actuator_gear",
        "actuator_ctrlrange",
    ):
        np.testing.assert_allclose(getattr(ours, field), getattr(gymnasium_model, field), rtol=1e-12, err_msg=field)
    assert ours.opt.timestep == gymnasium_model.opt.timestep
    assert ours.opt.integrator == gymnasium_model.opt.integrator
    assert ours.stat.meaninertia == pytest.approx(gymnasium_model.stat.meaninertia, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_as_gymnasiums_model_does(name, gymnasium_model):
    env = envs.make(name, 1)
    env.reset()
    data = mujoco.MjData(gymnasium_model)
    data.qpos[:] = env.engine.data("qpos")[0]
    data.qvel[:] = env.engine.data("qvel")[0]
    frame_skip = 1 if name.endswith("maml") else 5
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        action = 2 * torch.rand(1, 6, generator=generator) - 1
        obs = env.step(action).obs[0]
        data.ctrl[:] = action[0]
        mujoco.mj_step(gymnasium_model, data, frame_skip)
    mujoco.mj_forward(gymnasium_model, data)
    torso = data.subtree_com[1] if name.endswith("maml") else data.xpos[1]
    expected = torch.from_numpy(np.concatenate([data.qpos[1:], data.qvel, torso])).float()
    torch.testing.assert_close(obs, expected, rtol=1e-3, atol=1e-4)


def run(env, task, action):
    """One step from a fresh start; returns the step and the x position of the torso before and after it."""
    env.set_tasks(torch.tensor([[task]]).repeat(env.num_worlds, 1))
    env.reset()
    for _ in range(4):
        env.step(action)
    before = env.engine.data("qpos")[:, 0].clone()
    step = env.step(action)
    return step, (env.engine.data("qpos")[:, 0] - before)


def test_pearls_reward_is_the_speed_error_of_the_torso_and_half_a_tenth_of_the_action():
    env = envs.make("half-cheetah-vel-pearl", 8)
    action = torch.full((8, 6), 0.5)
    step, moved = run(env, 1.25, action)
    expected = -(moved / 0.05 - 1.25).abs() - 0.05 * 6 * 0.25
    torch.testing.assert_close(step.reward, expected, atol=2e-4, rtol=0.0)


def test_the_direction_reward_is_the_signed_speed():
    env = envs.make("half-cheetah-dir", 8)
    action = torch.full((8, 6), -0.5)
    for direction in (-1.0, 1.0):
        step, moved = run(env, direction, action)
        torch.testing.assert_close(step.reward, direction * moved / 0.05 - 0.075, atol=2e-4, rtol=0.0)


def test_mamls_velocity_is_the_momentum_over_the_mass():
    env = envs.make("half-cheetah-vel-maml", 1)
    action = torch.full((1, 6), 0.8)
    step, _ = run(env, 1.0, action)
    model = env.spec.physics.model
    data = mujoco.MjData(model)
    data.qpos[:] = env.engine.data("qpos")[0]
    data.qvel[:] = env.engine.data("qvel")[0]
    mujoco.mj_forward(model, data)
    velocity = np.zeros(6)
    momentum = 0.0
    for body in range(1, model.nbody):
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
        momentum += model.body_mass[body] * velocity[3]
    expected = -abs(momentum / model.body_mass.sum() - 1.0) - 0.05 * 6 * 0.64
    assert float(step.reward[0]) == pytest.approx(expected, abs=1e-4)


def test_control_steps_are_those_of_the_originals():
    assert [envs.make_spec(name).physics.control_dt_s for name in NAMES] == pytest.approx([0.01, 0.05, 0.05])
    assert [envs.make_spec(name).horizon for name in NAMES] == [200, 200, 200]
    assert envs.make_spec("half-cheetah-vel-maml", frame_skip=5, horizon=100).physics.control_dt_s == pytest.approx(
        0.05
    )


def test_pearls_tasks_are_reproduced_exactly():
    np.random.seed(1337)
    velocities = np.random.uniform(0.0, 3.0, size=(130,))
    tasks = envs.make_spec("half-cheetah-vel-pearl").tasks
    np.testing.assert_array_equal(tasks.split("train", 100)[:, 0].numpy(), velocities[:100].astype(np.float32))
    np.testing.assert_array_equal(tasks.split("test", 30)[:, 0].numpy(), velocities[100:].astype(np.float32))
    assert tasks.split("train", 1).item() == pytest.approx(0.786074, abs=1e-6)


@pytest.mark.parametrize(("name", "qpos_std"), [(NAMES[0], 0.01), (NAMES[1], 0.2 / 12**0.5), (NAMES[2], 0.2 / 12**0.5)])
def test_starts_are_spread_as_in_the_originals(name, qpos_std):
    env = envs.make(name, 4000)
    env.reset()
    qpos, qvel = env.engine.data("qpos"), env.engine.data("qvel")
    torch.testing.assert_close(qpos.std(0), torch.full((9,), qpos_std), rtol=0.06, atol=0.0)
    torch.testing.assert_close(qvel.std(0), torch.full((9,), 0.1), rtol=0.06, atol=0.0)
    assert float(qpos.abs().max()) <= (0.1 if name != NAMES[0] else 0.06)


@pytest.mark.parametrize("name", LIKE_PEARLS)
def test_promps_and_romls_half_cheetahs_move_and_earn_as_pearls(name):
    pair = [envs.make(each, 4, seed=5) for each in ("half-cheetah-vel-pearl", name)]
    num_seen = 17 if name.endswith("promp") else 20
    assert pair[1].spec.obs_dim == num_seen
    for env in pair:
        env.set_tasks(torch.tensor([[1.5]]))
    first, second = (env.reset() for env in pair)
    torch.testing.assert_close(first[:, :num_seen], second)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = 2 * torch.rand(4, 6, generator=generator) - 1
        first, second = (env.step(action) for env in pair)
        torch.testing.assert_close(first.obs[:, :num_seen], second.obs)
        torch.testing.assert_close(first.reward, second.reward)


@pytest.mark.parametrize(("name", "fastest"), [(LIKE_PEARLS[0], 3.0), (LIKE_PEARLS[1], 7.0)])
def test_promps_and_romls_velocities_have_their_ranges(name, fastest):
    tasks = envs.make_spec(name).tasks
    near, far = tasks.split("test", 1000), tasks.split("extrapolation", 200)
    assert 0.0 <= float(near.min()) < 0.05 and fastest - 0.05 < float(near.max()) <= fastest
    assert fastest <= float(far.min()) and float(far.max()) <= fastest + 1.0


@pytest.mark.parametrize("name", [*NAMES, *LIKE_PEARLS])
def test_the_drawn_scene_moves_like_the_simulated_model(name):
    spec = envs.make_spec(name)
    task = {spec.tasks.parameters[0].name: torch.tensor(1.0)}
    scene, model = spec.physics.scene(task), spec.physics.model
    assert scene.nq == model.nq and scene.nbody == model.nbody
    assert scene.camera("video").id >= 0
    posts = [g for g in range(scene.ngeom) if scene.geom(g).name == ""]
    assert len(posts) == 121
    assert not scene.geom_contype[posts].any() and not scene.geom_conaffinity[posts].any()
    np.testing.assert_allclose(scene.body_mass, model.body_mass, rtol=1e-12)


@pytest.mark.parametrize("name", [*NAMES, *LIKE_PEARLS])
def test_signals_say_what_the_reward_says_of_the_speed(name):
    env = envs.make(name, 4, seed=2)
    env.reset()
    assert bool(torch.isfinite(env.signals()[0]).all())
    action = torch.linspace(-1, 1, 24).reshape(4, 6)
    for _ in range(5):
        reward = env.step(action).reward + 0.05 * action.square().sum(1)
        signals, feedback = env.signals()
        said = 2.0 * signals[:, 0] if name == "half-cheetah-dir" else -signals[:, 0].expm1()
        torch.testing.assert_close(said, reward, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(signals[:, 1], env._data["qpos"][:, 2].cos())
    assert feedback is None
