"""reach-planar: a two-link arm with hidden goal and dynamics."""

import math

import mujoco
import numpy as np
import torch

import envs

NOMINAL = {"goal_angle": 0.0, "goal_radius": 0.4, "gain_scale": 1.0, "damping_scale": 1.0, "payload_mass": 0.1}


def make_worlds(**changes):
    """One world per changed value, otherwise the nominal task; noise of the start as it comes."""
    (name, values), *_ = changes.items() or [("goal_angle", [0.0])]
    env = envs.make("reach-planar", len(values))
    env.set_tasks(torch.stack([env.spec.tasks.pack(NOMINAL | {name: value}) for value in values]))
    return env


def start_alike(env, qpos=(-1.2, 2.4)):
    env.reset()
    env.engine.write("qpos", torch.tensor([qpos]).repeat(env.num_worlds, 1))
    env.engine.forward()


def test_the_observation_is_angles_velocities_and_the_tip():
    env = make_worlds(goal_angle=[0.0])
    start_alike(env, (0.3, 1.1))
    obs = env.spec.observe(env._task, env._data, env._state)[0]
    tip = [0.25 * math.cos(0.3) + 0.25 * math.cos(1.4), 0.25 * math.sin(0.3) + 0.25 * math.sin(1.4)]
    expected = [math.cos(0.3), math.sin(0.3), math.cos(1.1), math.sin(1.1), 0.0, 0.0, 2 * tip[0], 2 * tip[1]]
    torch.testing.assert_close(obs, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_the_reward_is_one_at_the_goal_and_falls_with_the_distance():
    env = make_worlds(goal_angle=[0.0, math.pi / 2])
    env.reset()
    env.engine.write("qpos", torch.zeros(2, 2))
    env.engine.write("qvel", torch.zeros(2, 2))
    step = env.step(torch.zeros(2, 2))
    # The stretched arm rests with its tip at (0.5, 0); the goals are at (0.4, 0) and (0, 0.4).
    distance = torch.tensor([0.1, math.hypot(0.5, 0.4)])
    torch.testing.assert_close(step.reward, 1 - torch.tanh(5 * distance), atol=1e-4, rtol=0.0)


def test_success_asks_for_five_steps_within_three_centimetres():
    env = make_worlds(goal_radius=[0.48, 0.46])
    env.reset()
    env.engine.write("qpos", torch.zeros(2, 2))
    successes = torch.stack([env.step(torch.zeros(2, 2)).success for _ in range(6)])
    assert successes[:, 0].tolist() == [False, False, False, False, True, True]
    assert not bool(successes[:, 1].any())


def test_the_goal_is_drawn_where_the_reward_says():
    env = make_worlds(goal_angle=[-2.0, 0.7])
    env.reset()
    goal = torch.tensor([[0.4 * math.cos(a), 0.4 * math.sin(a)] for a in (-2.0, 0.7)])
    torch.testing.assert_close(env.engine.data("mocap_pos")[:, 0, :2], goal)


def test_a_stronger_arm_and_a_less_damped_arm_are_faster():
    for name in ("gain_scale", "damping_scale"):
        env = make_worlds(**{name: [0.6, 1.6]})
        start_alike(env)
        for _ in range(5):
            env.step(torch.tensor([[1.0, 0.0]]).repeat(2, 1))
        slow, fast = env.engine.data("qvel")[:, 0].tolist()
        assert slow < 0.8 * fast if name == "gain_scale" else fast < 0.8 * slow


def test_terminal_velocity_is_torque_over_damping():
    env = make_worlds(gain_scale=[0.6, 1.0, 1.6])
    start_alike(env, (0.0, 0.0))
    for _ in range(20):
        env.step(torch.tensor([[0.3, 0.0]]).repeat(3, 1))
    # 0.3 x 3.2 N m x scale / 0.4 N m s, reached to within a few per cent after 0.8 s.
    expected = torch.tensor([1.44, 2.4, 3.84])
    torch.testing.assert_close(env.engine.data("qvel")[:, 0], expected, rtol=0.08, atol=0.0)


def test_a_heavier_payload_accelerates_more_slowly():
    env = make_worlds(payload_mass=[0.05, 0.4])
    start_alike(env, (0.0, 0.0))
    env.step(torch.tensor([[0.0, -1.0]]).repeat(2, 1))
    light, heavy = env.engine.data("qvel")[:, 1].abs().tolist()
    assert heavy < 0.85 * light


def test_the_payloads_inertia_is_that_of_a_sphere_of_its_mass():
    env = make_worlds(payload_mass=[0.05, 0.4])
    physics = env.spec.physics
    body = physics.model.body("payload").id
    fields = physics.configure(env._task, env._model_defaults)
    sphere = 0.4 * torch.tensor([0.05, 0.4]) * 0.021**2
    torch.testing.assert_close(fields["body_mass"][:, body], torch.tensor([0.05, 0.4]))
    torch.testing.assert_close(fields["body_inertia"][:, body], sphere.unsqueeze(1).repeat(1, 3), rtol=1e-4, atol=0.0)


def test_every_goal_of_every_split_is_within_reach():
    tasks = envs.make_spec("reach-planar").tasks
    for split in tasks.splits():
        radius = tasks.unpack(tasks.split(split, 200))["goal_radius"]
        # The elbow bends to 2.6 rad: the tip gets as near as 2 x 0.25 cos(1.3) = 0.134 m, as far as 0.5 m.
        assert float(radius.min()) > 0.134 and float(radius.max()) < 0.5


def test_knowing_the_goal_pays():
    env = envs.make("reach-planar", 64)
    env.set_tasks(env.spec.tasks.split("test", 64))
    angle, radius = env._task["goal_angle"], env._task["goal_radius"]
    elbow = torch.acos((radius.square() - 2 * 0.25**2) / (2 * 0.25**2))
    target = torch.stack([angle - elbow / 2, elbow], 1)  # both links are 0.25 m long
    totals = []
    for policy in ("servo", "still"):
        env.reset()
        total = torch.zeros(64)
        for _ in range(20):
            qpos, qvel = env.engine.data("qpos"), env.engine.data("qvel")
            action = 3.3 * (target - qpos) - 0.17 * qvel if policy == "servo" else torch.zeros(64, 2)
            total += env.step(action.clamp(-1, 1)).reward
        totals.append(float(total.mean()))
    assert totals[0] > 12.5 > 4.0 > totals[1]


def test_the_video_camera_sees_the_whole_workspace():
    model = envs.make_spec("reach-planar").physics.model
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = model.camera("video").id
    rotation = data.cam_xmat[camera].reshape(3, 3)
    for angle in torch.linspace(-math.pi, math.pi, 16).tolist():
        point = [0.5 * math.cos(angle), 0.5 * math.sin(angle), 0.06]
        x, y, z = rotation.T @ (point - data.cam_xpos[camera])
        half = math.tan(math.radians(model.cam_fovy[camera]) / 2)
        # A camera looks along its -z; a picture is at least as wide as high.
        assert z < 0 and abs(x / z) < half and abs(y / z) < half


def test_signals_are_the_distance_and_the_velocity_of_the_tip():
    env = envs.make("reach-planar", 8, seed=3)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    tip_id = env.spec.physics.model.site("tip").id
    for _ in range(6):
        env.step(2 * torch.rand(8, 2, generator=generator) - 1)
    signals, feedback = env.signals()
    offset = env._task["goal"] - env._data["site_xpos"][:, tip_id, :2]
    distance = offset.norm(dim=1)
    torch.testing.assert_close(signals[:, 0], (distance / 0.1).log1p(), atol=1e-5, rtol=1e-5)
    assert torch.equal(feedback, (distance < 0.03).float())
    # MuJoCo's own Jacobian of the tip.
    model = env.spec.physics.model
    for world in range(8):
        data = mujoco.MjData(model)
        data.qpos[:] = env._data["qpos"][world]
        mujoco.mj_forward(model, data)
        jacobian = np.zeros((3, 2))
        mujoco.mj_jacSite(model, data, jacobian, None, tip_id)
        velocity = torch.from_numpy(jacobian[:2] @ env._data["qvel"][world].double().numpy()).float()
        towards = offset[world] / distance[world]
        across = torch.stack([-towards[1], towards[0]])
        expected = torch.stack([velocity @ towards, (velocity @ across).abs()])
        torch.testing.assert_close(signals[world, 1:], expected, atol=1e-4, rtol=1e-3)
