"""Walker and hopper with hidden dynamics: what is randomised reaches the physics, as in rand_param_envs."""

import math

import mujoco
import numpy as np
import pytest
import torch

import envs
from envs.locomotion.bodies import load_body
from metarl.env import BatchedEnv, Noise

NAMES = ("walker-rand-params", "hopper-rand-params")
FILES = {NAMES[0]: "walker2d.xml", NAMES[1]: "hopper.xml"}
NO_NOISE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def source_model(name):
    spec = load_body(FILES[name])
    spec.option.timestep = 0.004
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return spec.compile()


def source_model_of(name, task):
    """The body scaled in the source's way, all elements of its four arrays, with `task` where it has a number.

    Returns the model; what `task` leaves out is scaled by factors that must not matter.
    """
    model, rng = source_model(name), np.random.default_rng(5)
    mass, inertia, friction = (1.5 ** rng.uniform(-3, 3, getattr(model, field).shape) for field in FIELDS[:3])
    damping = 1.3 ** rng.uniform(-3, 3, model.dof_damping.shape)
    mass[1:] = task["mass_scale"]
    inertia[1:, 1] = task["inertia_scale"]
    friction[:, 0] = task["friction_scale"]
    damping[3:] = task["damping_scale"]
    for field, scale in zip(FIELDS, (mass, inertia, friction, damping), strict=True):
        getattr(model, field)[:] *= scale.astype(np.float32)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


FIELDS = ("body_mass", "body_inertia", "geom_friction", "dof_damping")


@pytest.mark.parametrize("name", NAMES)
def test_the_unscaled_body_is_gymnasiums_with_the_sources_control_step(name):
    spec = envs.make_spec(name)
    ours, theirs = spec.physics.model, source_model(name)
    for field in (*FIELDS, "dof_armature", "jnt_range", "geom_size", "geom_solref", "geom_condim", "actuator_gear"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-12, err_msg=field)
    assert (ours.opt.timestep, spec.physics.num_substeps, spec.horizon) == (0.004, 4, 200)
    assert spec.physics.control_dt_s == pytest.approx(0.016)
    assert ours.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # The one axis of inertia that a body in a plane can turn about is the second: y.
    for body in range(1, ours.nbody):
        y_axis = np.zeros(3)
        mujoco.mju_rotVecQuat(y_axis, np.array([0.0, 1.0, 0.0]), ours.body_iquat[body])
        np.testing.assert_allclose(np.abs(y_axis), [0, 1, 0], atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_moves_as_the_source_scales_it(name):
    env = envs.make(name, 3, seed=2)
    env.set_tasks(env.spec.tasks.split("test", 3))
    env.reset()
    models = [source_model_of(name, {k: v[i].double().numpy() for k, v in env._task.items()}) for i in range(3)]
    datas = [mujoco.MjData(model) for model in models]
    for i, data in enumerate(datas):
        data.qpos[:], data.qvel[:] = env.engine.data("qpos")[i], env.engine.data("qvel")[i]
    generator = torch.Generator().manual_seed(0)
    num_contacts = 0
    for _ in range(15):
        action = 2 * torch.rand(3, env.spec.action_space.dim, generator=generator) - 1
        obs = env.step(action).obs
        for i, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = action[i]
            mujoco.mj_step(model, data, 4)
            expected = np.concatenate([data.qpos[1:], np.clip(data.qvel, -10, 10)])
            np.testing.assert_allclose(obs[i], expected, rtol=1e-3, atol=2e-3)
            for contact in data.contact:
                first, second = model.geom_friction[contact.geom[0], 0], model.geom_friction[contact.geom[1], 0]
                assert contact.friction[0] == pytest.approx(max(first, second)) or contact.dim == 1
                num_contacts += 1
    assert num_contacts > 30


def slide(name, foot_scale, floor_scale):
    """How far the first foot's friction lets the body come in 20 control steps, everything else unscaled."""
    env = envs.make(name, 1)
    task = {p.name: torch.ones(1, *p.shape) for p in env.spec.tasks.parameters}
    task["friction_scale"][:, 1:] = foot_scale
    task["friction_scale"][:, 0] = floor_scale
    env.set_tasks(torch.cat([value.flatten(1) for value in task.values()], 1))
    env.generator.manual_seed(0)
    env.reset()
    for _ in range(20):
        obs = env.step(torch.full((1, env.spec.action_space.dim), 0.3)).obs
    return obs


@pytest.mark.parametrize("name", NAMES)
def test_the_larger_friction_of_foot_and_floor_acts(name):
    # Feet of 0.9 to 2 and a floor of 0.7 or 1: times 0.3 they are all slippery, times 3.3 the floor holds alone.
    assert torch.equal(slide(name, 0.3, 3.3), slide(name, 0.9, 3.3))
    assert not torch.equal(slide(name, 0.3, 0.3), slide(name, 0.9, 0.3))
    assert not torch.equal(slide(name, 0.3, 0.3), slide(name, 0.3, 3.3))


@pytest.mark.parametrize("name", NAMES)
def test_factors_are_drawn_as_in_the_source(name):
    spec = envs.make_spec(name)
    num_bodies, num_joints = (7, 6) if "walker" in name else (4, 3)
    sizes = {p.name: p.shape for p in spec.tasks.parameters}
    assert sizes == {
        "mass_scale": (num_bodies,),
        "inertia_scale": (num_bodies,),
        "damping_scale": (num_joints,),
        "friction_scale": (num_bodies + 1,),
    }
    for parameter, value in spec.tasks.unpack(spec.tasks.split("test", 2000)).items():
        exponent = value.log() / math.log(1.3 if parameter == "damping_scale" else 1.5)
        assert float(exponent.abs().max()) <= 3.0 + 1e-4
        torch.testing.assert_close(exponent.mean(0), torch.zeros(sizes[parameter]), atol=0.15, rtol=0)
        torch.testing.assert_close(exponent.std(0), torch.full(sizes[parameter], 6 / 12**0.5), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_dynamics_stay_sound_at_the_ends_of_all_ranges(name):
    env = envs.make(name, 64)
    generator = torch.Generator().manual_seed(0)
    signs = torch.rand(64, env.spec.tasks.dim, generator=generator) < 0.5
    bounds = [(p.distribution.shell[0][0], p.distribution.shell[-1][1], p.size) for p in env.spec.tasks.parameters]
    low, high = (torch.cat([torch.full((b[2],), b[i]) for b in bounds]) for i in (0, 1))
    env.set_tasks(torch.where(signs, low, high))
    env.reset()
    for t in range(200):
        if t % 5 == 0:
            action = torch.rand(64, env.spec.action_space.dim, generator=generator).round() * 2 - 1
        env.step(action)
        assert not env.engine.failed.any()
    assert bool(torch.isfinite(env.engine.data("qpos")).all())


def outcome(name, qpos, qvel=(), action=0.5):
    spec = envs.make_spec(name)
    model = spec.physics.model
    data = {"qpos": torch.zeros(1, model.nq), "qvel": torch.zeros(1, model.nv)}
    data["qpos"][0, : len(qpos)] = torch.tensor(qpos)
    data["qvel"][0, : len(qvel)] = torch.tensor(qvel)
    task = {p.name: torch.ones(1, *p.shape) for p in spec.tasks.parameters}
    return spec.step(task, data, {"x": torch.tensor([0.2])}, torch.full((1, model.nu), action), NO_NOISE)


@pytest.mark.parametrize(("name", "num_actions"), [(NAMES[0], 6), (NAMES[1], 3)])
def test_the_reward_is_the_speed_plus_one_minus_a_thousandth_of_the_action(name, num_actions):
    reward = outcome(name, (0.232, 1.2, 0.0)).reward  # 0.032 m in 0.016 s
    assert reward.item() == pytest.approx(2.0 + 1.0 - 1e-3 * num_actions * 0.25, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "height", "pitch", "ends"),
    [
        (NAMES[0], 0.79, 0.0, True),
        (NAMES[0], 0.81, 0.0, False),
        (NAMES[0], 1.99, 0.0, False),
        (NAMES[0], 2.01, 0.0, True),
        (NAMES[0], 1.2, 0.99, False),
        (NAMES[0], 1.2, -1.01, True),
        (NAMES[1], 0.69, 0.0, True),
        (NAMES[1], 0.71, 0.0, False),
        (NAMES[1], 2.5, 0.0, False),
        (NAMES[1], 1.2, 0.19, False),
        (NAMES[1], 1.2, -0.21, True),
    ],
)
def test_an_episode_ends_when_the_robot_falls(name, height, pitch, ends):
    assert outcome(name, (0.0, height, pitch)).terminated.tolist() == [ends]


def test_a_hopper_that_whirls_ends_its_episode():
    assert not outcome(NAMES[1], (0.0, 1.2, 0.0), (99.0,)).terminated.any()
    assert outcome(NAMES[1], (0.0, 1.2, 0.0), (0.0, -101.0)).terminated.all()
    assert outcome(NAMES[1], (0.0, 1.2, 0.0, 101.0)).terminated.all()


@pytest.mark.parametrize("name", NAMES)
def test_the_observation_has_clipped_velocities_and_no_x(name):
    spec = envs.make_spec(name)
    model = spec.physics.model
    data = {"qpos": torch.arange(model.nq).float().expand(1, -1), "qvel": 5.0 * torch.arange(model.nv).expand(1, -1)}
    obs = spec.observe({}, data, {})[0].tolist()
    assert obs[: model.nq - 1] == list(range(1, model.nq))
    assert obs[model.nq - 1 :] == [0.0, 5.0] + [10.0] * (model.nv - 2)


@pytest.mark.parametrize("name", NAMES)
def test_starts_are_spread_as_in_the_source(name):
    env = envs.make(name, 1000)
    env.reset()
    offset = torch.cat(
        [env.engine.data("qpos") - torch.tensor(env.spec.physics.model.qpos0), env.engine.data("qvel")], 1
    )
    assert float(offset.abs().max()) <= 0.005 + 1e-6
    torch.testing.assert_close(offset.std(0).float(), torch.full((offset.shape[1],), 0.01 / 12**0.5), rtol=0.1, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_heavy_limb_is_drawn_darker(name):
    spec = envs.make_spec(name)
    task = {p.name: torch.ones(p.shape) for p in spec.tasks.parameters}
    task["mass_scale"][0] = 3.0
    scene = spec.physics.scene(task)
    torso, thigh = (scene.geom_rgba[scene.geom(f"{limb}_geom").id, :3].sum() for limb in ("torso", "thigh"))
    assert torso < thigh
    assert (scene.nq, scene.nbody) == (spec.physics.model.nq, spec.physics.model.nbody)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_engines_give_the_same_robot(name):
    pair = [BatchedEnv(envs.make_spec(name), 4, engine=engine, seed=1) for engine in ("batch", "warp")]
    generator = torch.Generator().manual_seed(0)
    for env in pair:
        env.set_tasks(env.spec.tasks.split("extrapolation", 4))
    torch.testing.assert_close(*[env.reset() for env in pair], atol=1e-6, rtol=0)
    for t in range(100):
        action = 2 * torch.rand(4, env.spec.action_space.dim, generator=generator) - 1
        steps = [env.step(action) for env in pair]
        assert all(bool(torch.isfinite(step.obs).all()) and not bool(step.failed.any()) for step in steps)
        if t < 8:
            torch.testing.assert_close(steps[0].obs, steps[1].obs, atol=1e-2, rtol=1e-2)
            torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=1e-2, rtol=1e-2)
