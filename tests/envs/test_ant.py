"""The ants of MAML, ProMP, PEARL and VariBAD: gymnasium's body, the papers' rewards and ends."""

import math

import mujoco
import numpy as np
import pytest
import torch

import envs
from envs.locomotion.bodies import load_body
from metarl.env import BatchedEnv, Noise

RLLAB = ("ant-dir-maml", "ant-vel", "ant-goal-maml")
PROMP = ("ant-dir-promp", "ant-dir-2d")
PEARL = ("ant-dir-pearl", "ant-dir-varibad")
NAMES = (*RLLAB, *PROMP, *PEARL, "ant-goal")
A_TASK = {
    "ant-dir-maml": {"direction": 1.0},
    "ant-vel": {"velocity": 1.0},
    "ant-goal-maml": {"goal_x": 1.0, "goal_y": -2.0},
    "ant-dir-promp": {"direction": 1.0},
    "ant-dir-2d": {"angle": 1.0},
    "ant-dir-pearl": {"angle": 1.0},
    "ant-dir-varibad": {"angle": 1.0},
    "ant-goal": {"goal_distance_sq": 1.0, "goal_angle": 0.0},
}
NO_NOISE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))
HALF = torch.full((1, 8), 0.5)  # an action whose square sums to 2


def gymnasium_model(is_rllab=False):
    spec = load_body("ant.xml")
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for geom in spec.geoms if is_rllab else ():
        geom.solimp[:3] = (0.8, 0.8, 0.01)
    return spec.compile()


def numbers(height=0.5, xy=(0.0, 0.0), velocity=0.0, forces=(), com=(0.0, 0.0)):
    """What an ant's `step` reads, by hand: `forces` are the first numbers of the contact forces, 0 the others.

    `xy` is the place of the torso, `com` that of the centre of mass of the robot, whose velocity along x is `velocity`.
    """
    cfrc_ext = torch.zeros(1, 84)
    cfrc_ext[0, : len(forces)] = torch.tensor(forces)
    qpos = torch.tensor([[*xy, height, 1.0] + [0.0] * 11])
    sensordata = torch.tensor([[velocity, 9.0, 9.0, 9.0, 9.0, 9.0]])
    subtree_com = torch.tensor([[[7.0, 7.0, 7.0], [*com, 0.5]]])  # of the world, of the torso
    return {"qpos": qpos, "cfrc_ext": cfrc_ext.view(1, 14, 6), "sensordata": sensordata, "subtree_com": subtree_com}


def outcome(name, task, data, state=None, action=HALF, **options):
    spec = envs.make_spec(name, **options)
    named = {key: torch.tensor([value]) for key, value in task.items()}
    if spec.derive is not None:
        named |= spec.derive(named)
    if options.get("contact_forces") is False:
        data = {key: value for key, value in data.items() if key != "cfrc_ext"}
    return spec.step(named, data, state or {}, action, NO_NOISE)


@pytest.mark.parametrize("name", NAMES)
def test_the_body_is_gymnasiums(name):
    ours, theirs = envs.make_spec(name).physics.model, gymnasium_model()
    for field in (
        *("body_mass", "body_inertia", "dof_damping", "dof_armature", "jnt_range", "qpos0"),
        *("geom_size", "geom_friction", "geom_solref", "geom_margin", "actuator_gear", "actuator_ctrlrange"),
    ):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-12, err_msg=field)
    assert ours.opt.timestep == theirs.opt.timestep == 0.01
    assert ours.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    soft = (0.8, 0.8, 0.01) if name in RLLAB else (0.9, 0.95, 0.001)
    np.testing.assert_array_equal(ours.geom_solimp[:, :3], np.tile(soft, (14, 1)))


def test_control_steps_horizons_and_observations_are_those_of_the_originals():
    specs = [envs.make_spec(name) for name in NAMES]
    assert [s.physics.control_dt_s for s in specs] == pytest.approx([0.02] * 3 + [0.05] * 5)
    assert [s.horizon for s in specs] == [200] * 8
    assert [s.obs_dim for s in specs] == [125, 125, 125, 111, 111, 27, 27, 113]


# --- rewards and ends by hand ---------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "expected"), [(1.0, 1.5), (-1.0, -1.5)])
def test_mamls_direction_reward(direction, expected):
    # 0.005 x 2 of control; forces 3 and -0.5 count as 1 and 0.25 and cost 5e-4 x 1.25; 0.05 for being alive
    reward = outcome("ant-dir-maml", {"direction": direction}, numbers(velocity=1.5, forces=(3.0, -0.5))).reward
    assert reward.item() == pytest.approx(expected - 0.01 - 6.25e-4 + 0.05, abs=1e-6)


def test_mamls_velocity_reward():
    reward = outcome("ant-vel", {"velocity": 2.25}, numbers(velocity=1.5)).reward
    assert reward.item() == pytest.approx(1.0 - 0.75 - 0.01 + 0.05, abs=1e-6)


@pytest.mark.parametrize(("direction", "expected"), [(1.0, 2.0), (-1.0, -2.0)])
def test_promps_direction_reward_is_the_way_made_along_x(direction, expected):
    data = numbers(xy=(0.1, 0.2), forces=(1.0,))  # 0.1 m along x in 0.05 s
    reward = outcome("ant-dir-promp", {"direction": direction}, data, {"xy": torch.zeros(1, 2)}).reward
    assert reward.item() == pytest.approx(expected - 0.5 * 2.0 + 1.0 - 5e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["ant-dir-pearl", "ant-dir-varibad", "ant-dir-2d"])
def test_the_direction_reward_is_the_way_made_along_the_angle(name):
    # 0.1 m along x and 0.2 m along y in 0.05 s: 4 m/s towards 90 degrees
    task, data = {"angle": math.pi / 2}, numbers(xy=(0.1, 0.2), forces=(1.0,))
    reward = outcome(name, task, data, {"xy": torch.zeros(1, 2)}).reward
    assert reward.item() == pytest.approx(4.0 - 0.5 * 2.0 + 1.0 - 5e-4, abs=1e-5)


def test_varibads_two_directions_are_one_radian_to_each_side_of_x():
    data = numbers(xy=(0.05, 0.0))  # 1 m/s along x
    rewards = [
        outcome("ant-dir-varibad", {"angle": angle}, data, {"xy": torch.zeros(1, 2)}).reward.item()
        for angle in (-1.0, 1.0)
    ]
    assert rewards == pytest.approx([math.cos(1.0)] * 2, abs=1e-5)
    assert envs.make_spec("ant-dir-varibad").tasks.split("test", 100).unique().tolist() == [-1.0, 1.0]


def test_the_goal_reward_is_the_distance_in_the_1_norm():
    # The goal lies 2 m away at 30 degrees: at (sqrt(3), 1).
    task, data = {"goal_distance_sq": 4.0, "goal_angle": math.pi / 6}, numbers(xy=(0.0, 1.5), forces=(-2.0,))
    result = outcome("ant-goal", task, data, {"xy": torch.zeros(1, 2)})
    assert result.reward.item() == pytest.approx(-math.sqrt(3) - 0.5 - 0.1 * 2.0 - 5e-4, abs=1e-5)


def test_mamls_goal_reward_is_four_less_the_distance_of_the_centre_of_mass():
    data = numbers(xy=(5.0, 5.0), com=(0.5, 1.0), forces=(-2.0,))
    reward = outcome("ant-goal-maml", {"goal_x": 2.0, "goal_y": -1.5}, data).reward
    assert reward.item() == pytest.approx(4.0 - 1.5 - 2.5 - 0.01 - 5e-4 + 0.05, abs=1e-5)


@pytest.mark.parametrize("name", [*RLLAB, *PEARL])
@pytest.mark.parametrize(("height", "ends"), [(0.19, True), (0.21, False), (0.99, False), (1.01, True)])
def test_an_episode_ends_when_the_torso_is_too_low_or_too_high(name, height, ends):
    result = outcome(name, A_TASK[name], numbers(height), {"xy": torch.zeros(1, 2)})
    assert result.terminated.tolist() == [ends]


@pytest.mark.parametrize("name", PROMP)
@pytest.mark.parametrize(("height", "ends"), [(-0.01, True), (0.01, False), (0.99, False), (1.01, True)])
def test_promps_episode_ends_when_the_torso_is_below_the_ground_or_too_high(name, height, ends):
    result = outcome(name, A_TASK[name], numbers(height), {"xy": torch.zeros(1, 2)})
    assert result.terminated.tolist() == [ends]


def test_the_goal_task_never_ends_early():
    for height in (0.0, 2.0):
        state = {"xy": torch.zeros(1, 2)}
        assert not outcome("ant-goal", A_TASK["ant-goal"], numbers(height), state).terminated.any()


def test_without_contact_forces_they_cost_nothing_and_are_not_seen():
    data = numbers(velocity=1.5, forces=(3.0, -0.5))
    reward = outcome("ant-dir-maml", {"direction": 1.0}, data, contact_forces=False).reward
    assert reward.item() == pytest.approx(1.5 - 0.01 + 0.05, abs=1e-6)
    assert [envs.make_spec(name, contact_forces=False).obs_dim for name in NAMES] == [41] * 3 + [27] * 4 + [29]


# --- against MuJoCo -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ant-vel", "ant-goal"])
def test_steps_observations_and_rewards_are_those_of_gymnasiums_body(name):
    """The reference has no sensor at all, and computes contact forces by hand before the last physics step."""
    is_rllab = name == "ant-vel"
    env = envs.make(name, 1, seed=3)
    env.set_tasks(torch.tensor([[1.0]] if is_rllab else [[4.0, 0.5]]))
    env.reset()
    model = gymnasium_model(is_rllab)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = env.engine.data("qpos")[0], env.engine.data("qvel")[0]
    generator = torch.Generator().manual_seed(0)
    num_touching = 0
    for _ in range(30):
        action = 2 * torch.rand(1, 8, generator=generator) - 1
        step = env.step(action)
        data.ctrl[:] = action[0]
        mujoco.mj_step(model, data, 1 if is_rllab else 4)
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        forces = np.clip(data.cfrc_ext, -1, 1).flatten()
        mujoco.mj_step(model, data)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        mujoco.mj_subtreeVel(model, data)
        torso = (*data.xmat[1], *data.subtree_com[1]) if is_rllab else ()
        expected = np.concatenate([data.qpos, data.qvel, forces, torso])
        np.testing.assert_allclose(step.obs[0], expected, rtol=1e-3, atol=2e-3)
        if is_rllab:
            reward = 1.05 - abs(data.subtree_linvel[1, 0] - 1.0) - 0.005 * float(action.square().sum())
        else:
            goal = 2 * np.array([math.cos(0.5), math.sin(0.5)])
            reward = -np.abs(data.qpos[:2] - goal).sum() - 0.1 * float(action.square().sum())
        assert step.reward.item() == pytest.approx(reward - 5e-4 * (forces**2).sum(), abs=2e-3)
        num_touching += bool(forces.any())
    assert num_touching >= 3


def test_the_first_observation_knows_no_contact_force_of_the_episode_before():
    env = envs.make("ant-goal", 2)
    env.reset()
    for _ in range(12):
        obs = env.step(torch.zeros(2, 8)).obs
    assert bool((obs[:, 29:] != 0).any(1).all())
    assert bool((env.reset()[:, 29:] == 0).all())


# --- tasks and starts -----------------------------------------------------------------------------


def test_goals_are_uniform_on_the_disc():
    tasks = envs.make_spec("ant-goal").tasks.split("test", 4000)
    radius = tasks[:, 0].sqrt()
    assert float(radius.max()) <= 3.0
    # Shares of the area: a quarter inside half the radius, three quarters inside sqrt(3)/2 of it.
    assert float((radius < 1.5).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float((radius < 1.5 * math.sqrt(3)).float().mean()) == pytest.approx(0.75, abs=0.02)
    goal = envs.make_spec("ant-goal").derive({"goal_distance_sq": tasks[:, 0], "goal_angle": tasks[:, 1]})["goal"]
    torch.testing.assert_close(goal.square().sum(1), tasks[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(goal.mean(0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(goal.var(0), torch.full((2,), 3.0**2 / 4), atol=0.1, rtol=0)


def test_held_out_tasks_lie_beyond_the_train_range():
    radius = envs.make_spec("ant-goal").tasks.split("extrapolation", 200)[:, 0].sqrt()
    velocity = envs.make_spec("ant-vel").tasks.split("extrapolation", 200)
    for value in (radius, velocity):
        assert float(value.min()) >= 3.0 and float(value.max()) <= 4.0
    square = envs.make_spec("ant-goal-maml").tasks.split("extrapolation", 200).abs().amax(1)
    assert float(square.min()) >= 3.0 and float(square.max()) <= 4.0
    for name in ("ant-dir-maml", "ant-dir-promp", "ant-dir-2d", "ant-dir-pearl", "ant-dir-varibad"):
        # There is nothing beyond a circle.
        assert envs.make_spec(name).tasks.splits() == ("train", "validation", "test")
    angle = envs.make_spec("ant-dir-pearl").tasks.split("test", 1000)
    assert float(angle.min()) < 0.05 and float(angle.max()) > 2 * math.pi - 0.05
    directions = envs.make_spec("ant-dir-maml").tasks.split("test", 1000)
    assert float(directions.mean()) == pytest.approx(0.0, abs=0.1) and directions.unique().tolist() == [-1.0, 1.0]


def test_starts_are_spread_as_in_the_originals():
    starts = {}
    for name in ("ant-vel", "ant-goal"):
        env = envs.make(name, 2000, contact_forces=False)
        env.reset()
        starts[name] = env.engine.data("qpos"), env.engine.data("qvel")
    crouching = torch.tensor([0.0, 0.0, 0.55, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0])
    torch.testing.assert_close(starts["ant-vel"][0].mean(0), crouching, atol=2e-3, rtol=0)
    upright = torch.tensor([0.0, 0.0, 0.75, 1.0] + [0.0] * 11)
    torch.testing.assert_close(starts["ant-goal"][0].mean(0), upright, atol=1e-2, rtol=0)
    numbers = [0, 1, 2, *range(7, 15)]  # all but the quaternion, which is normalised
    for name, std in (("ant-vel", 0.01), ("ant-goal", 0.2 / 12**0.5)):
        qpos, qvel = starts[name]
        torch.testing.assert_close(qpos[:, numbers].std(0), torch.full((11,), std), rtol=0.08, atol=0)
        torch.testing.assert_close(qvel.std(0), torch.full((14,), 0.1), rtol=0.08, atol=0)
        torch.testing.assert_close(qpos[:, 3:7].norm(dim=1), torch.ones(2000))


@pytest.mark.parametrize("name", NAMES)
def test_the_drawn_scene_moves_like_the_simulated_model_and_shows_the_task(name):
    env = envs.make(name, 1)
    scene, model = env.spec.physics.scene({k: v[0] for k, v in env._task.items()}), env.spec.physics.model
    assert (scene.nq, scene.nbody) == (model.nq, model.nbody) and scene.camera("video").id >= 0
    marks = [g for g in range(scene.ngeom) if scene.geom(g).name == "" and scene.geom_bodyid[g] == 0]
    assert len(marks) >= 2
    assert not scene.geom_contype[marks].any() and not scene.geom_conaffinity[marks].any()
    np.testing.assert_allclose(scene.body_mass, model.body_mass, rtol=1e-12)
    if "goal" in env._task:
        np.testing.assert_allclose(scene.geom_pos[marks[0], :2], env._task["goal"][0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ant-vel", "ant-goal"])
def test_both_engines_give_the_same_ant(name):
    pair = [BatchedEnv(envs.make_spec(name), 2, engine=engine, seed=1) for engine in ("batch", "warp")]
    obs = [env.reset() for env in pair]
    torch.testing.assert_close(*obs, atol=1e-6, rtol=0)
    generator = torch.Generator().manual_seed(0)
    for t in range(60):
        action = 2 * torch.rand(2, 8, generator=generator) - 1 if t < 30 else torch.zeros(2, 8)  # fall, then lie
        steps = [env.step(action) for env in pair]
        assert all(bool(torch.isfinite(step.obs).all()) and not bool(step.failed.any()) for step in steps)
        if t < 2:  # until the feet touch the ground
            torch.testing.assert_close(steps[0].obs, steps[1].obs, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=1e-4, rtol=1e-4)
    assert all(bool((step.obs[:, 29:113] != 0).any()) for step in steps)
    torch.testing.assert_close(*[env.reset() for env in pair], atol=1e-6, rtol=0)
