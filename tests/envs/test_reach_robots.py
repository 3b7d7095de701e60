"""reach-robots: kinematics by hand, invariant signals, gradients, and what each shift shifts."""

import math

import pytest
import torch

import envs
from envs.toy import planar_robots
from envs.toy.planar_robots import ARM_2, ARM_3, CAR, POINT
from metarl.env import Noise
from metarl.record import snapshot

SPEC = envs.make_spec("reach-robots")
ROBOTS = (POINT, ARM_2, ARM_3, CAR)
PLAIN = {
    "robot": POINT,
    "goal_direction": 0.0,
    "goal_distance": 0.25,
    "mass": 1.0,
    "friction": 0.5,
    "gain": [1.0, 1.0, 1.0],
    "swapped": 0.0,
}


def task_of(*tasks):
    """The task that functions of the specification see; each given as what differs from PLAIN."""
    named = SPEC.tasks.unpack(torch.stack([SPEC.tasks.pack(PLAIN | task) for task in tasks]))
    return named | SPEC.derive(named)


def start_of(task):
    """The nominal start: noise in the middle."""
    num_worlds = len(task["robot"])
    return SPEC.reset(task, Noise(torch.full((num_worlds, 3), 0.5), torch.zeros(num_worlds, 0))).state


def step(task, state, action):
    return SPEC.step(task, {}, state, action, Noise(torch.zeros(1, 0), torch.zeros(1, 0)))


def state_of(task, joints, speeds):
    return planar_robots.with_tip(task, torch.tensor([joints]), torch.tensor([speeds]))


def play(task, action, num_steps=10):
    state = start_of(task)
    for _ in range(num_steps):
        state = step(task, state, action).state
    return state


def test_every_robot_starts_with_its_tip_at_the_origin_and_at_rest():
    state = start_of(task_of(*({"robot": robot} for robot in ROBOTS)))
    torch.testing.assert_close(state["tip"], torch.zeros(4, 2), atol=1e-6, rtol=0.0)
    assert bool((state["tip_velocity"] == 0).all())


def test_arms_start_half_a_metre_from_their_base_and_neither_stretched_nor_folded():
    for robot, links in ((ARM_2, [0.5, 0.5, 0.0]), (ARM_3, [1 / 3] * 3)):
        task = task_of({"robot": robot})
        torch.testing.assert_close(task["links"], torch.tensor([links]))
        bends = start_of(task)["joints"][0, 1 : 1 + (robot == ARM_3) + 1]
        assert bool((bends.sin() > 0.8).all())


def test_the_kinematics_of_two_links_are_those_by_hand():
    # Base (-0.5, 0); first link up, second link to the right: tip (0, 0.5).
    task = task_of({"robot": ARM_2})
    state = state_of(task, [math.pi / 2, -math.pi / 2, 0.0], [1.0, 2.0, 0.0])
    torch.testing.assert_close(state["tip"], torch.tensor([[0.0, 0.5]]))
    # Turning the shoulder by 1 rad/s: (-0.5, 0.5); turning the elbow by 2 rad/s: (0, 2 x 0.5).
    torch.testing.assert_close(state["tip_velocity"], torch.tensor([[-0.5, 1.5]]))


def test_the_kinematics_of_three_links_are_those_by_hand():
    # Up, right, up: tip (-0.5 + 1/3, 2/3).
    task = task_of({"robot": ARM_3})
    state = state_of(task, [math.pi / 2, -math.pi / 2, math.pi / 2], [1.0, -1.0, 3.0])
    torch.testing.assert_close(state["tip"], torch.tensor([[-0.5 + 1 / 3, 2 / 3]]))
    # Shoulder: (-2/3, 1/3); elbow: -1 x (-1/3, 1/3); wrist: 3 x (-1/3, 0).
    torch.testing.assert_close(state["tip_velocity"], torch.tensor([[-2 / 3 + 1 / 3 - 1.0, 0.0]]))


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_velocity_of_the_tip_is_the_derivative_of_its_place(robot):
    # Without damping a step of zero action goes on at the same speeds.
    task = task_of({"robot": robot}) | {"damping": torch.zeros(1, 3)}
    speeds = [0.04, 0.03, 0.0] if robot in (POINT, CAR) else [0.04, 0.03, -0.05]
    state = state_of(task, [0.3, 0.4, 0.5 * (robot != ARM_2)], speeds)
    moved = step(task, state, torch.zeros(1, 3)).state["tip"] - state["tip"]
    torch.testing.assert_close(moved / 0.1, state["tip_velocity"], atol=3e-4, rtol=0.0)


def test_one_step_of_the_point_mass_is_the_one_by_hand():
    task = task_of({"mass": 2.0, "friction": 0.5, "gain": [1.1, 0.6, 1.0], "goal_direction": math.pi / 2})
    state = state_of(task, [0.1, -0.1, 0.0], [0.2, 0.0, 0.0])
    outcome = step(task, state, torch.tensor([[1.0, -0.5, 1.0]]))
    # v' = v + 0.1 (0.4 gain u / mass - friction v)
    vx, vy = 0.2 + 0.1 * (0.4 * 1.1 / 2 - 0.5 * 0.2), 0.1 * 0.4 * 0.6 * -0.5 / 2
    x, y = 0.1 + 0.1 * vx, -0.1 + 0.1 * vy
    torch.testing.assert_close(outcome.state["tip_velocity"], torch.tensor([[vx, vy]]))
    torch.testing.assert_close(outcome.state["tip"], torch.tensor([[x, y]]))
    assert float(outcome.reward) == pytest.approx(-math.hypot(x, 0.25 - y), abs=1e-6)
    assert not bool(outcome.success)


def test_a_car_that_steers_left_turns_left_and_moves_along_its_heading():
    task = task_of({"robot": CAR})
    state = play(task, torch.tensor([[0.5, 0.2, 0.0]]), 8)
    assert float(state["joints"][0, 2]) > 0.05 and float(state["tip"][0, 1]) > 0
    # Its curvature has come near to 0.2 / 0.15 m: 1 - 0.5^8 of the way.
    assert float(state["speeds"][0, 1]) == pytest.approx(0.2 / 0.15 * (1 - 0.5**8), rel=1e-5)
    heading = state["joints"][0, 2]
    torch.testing.assert_close(
        state["tip_velocity"][0] / state["speeds"][0, 0], torch.stack([heading.cos(), heading.sin()])
    )
    backwards = play(task, torch.tensor([[-0.5, 0.0, 0.0]]), 8)
    assert float(backwards["tip"][0, 0]) < -0.05


def test_signals_are_those_by_hand():
    task = task_of({"goal_direction": 0.0, "goal_distance": 0.3})
    state = state_of(task, [0.2, 0.0, 0.0], [0.1, -0.05, 0.0])
    # 0.1 m to go along x: log(1 + 1), 0.1 m/s of 0.25, 0.05 m/s of 0.25.
    torch.testing.assert_close(
        SPEC.signals.compute(task, {}, state), torch.tensor([[math.log(2.0), 0.4, 0.2]]), atol=1e-5, rtol=0.0
    )
    assert SPEC.signals.names == ("log_distance", "closing_speed", "lateral_speed")


def test_feedback_is_one_within_five_centimetres_of_the_goal():
    task = task_of({}, {})
    state = planar_robots.with_tip(task, torch.tensor([[0.25, 0.049, 0.0], [0.25, 0.051, 0.0]]), torch.zeros(2, 3))
    assert SPEC.signals.feedback(task, {}, state).tolist() == [1.0, 0.0]


def test_signals_do_not_change_when_the_scene_is_turned():
    turns = torch.linspace(-3.0, 3.0, 7)
    task = task_of(*({"goal_direction": float(turn)} for turn in turns))

    def turned(x, y):
        plane = torch.stack([x * turns.cos() - y * turns.sin(), x * turns.sin() + y * turns.cos()], 1)
        return torch.cat([plane, torch.zeros(7, 1)], 1)

    state = planar_robots.with_tip(task, turned(0.1, 0.07), turned(-0.2, 0.15))
    signals = SPEC.signals.compute(task, {}, state)
    torch.testing.assert_close(signals, signals[:1].expand(7, 3), atol=1e-5, rtol=1e-5)


def test_robots_with_the_same_tip_have_the_same_signals():
    point, arm = task_of({"robot": POINT}), task_of({"robot": ARM_2})
    of_arm = state_of(arm, [-0.8, 1.9, 0.0], [0.4, -0.6, 0.0])
    tip, velocity = of_arm["tip"][0].tolist(), of_arm["tip_velocity"][0].tolist()
    of_point = state_of(point, [*tip, 0.0], [*velocity, 0.0])
    torch.testing.assert_close(
        SPEC.signals.compute(arm, {}, of_arm), SPEC.signals.compute(point, {}, of_point), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("robot", ROBOTS)
def test_gradients_of_the_return_agree_with_finite_differences(robot):
    task = {
        name: value.double() if value.is_floating_point() else value
        for name, value in task_of({"robot": robot, "goal_direction": 1.0}).items()
    }
    noise = Noise(torch.full((1, 3), 0.6, dtype=torch.float64), torch.zeros(1, 0))

    def total(actions):
        state, rewards = SPEC.reset(task, noise).state, 0.0
        for action in actions:
            outcome = step(task, state, action.unsqueeze(0))
            state, rewards = outcome.state, rewards + outcome.reward.sum()
        return rewards + SPEC.signals.compute(task, {}, state).sum() + SPEC.observe(task, {}, state).sum()

    actions = (torch.rand(4, 3, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(total, (actions,))


@pytest.mark.parametrize("robot", ROBOTS)
def test_gradients_are_finite_at_rest_on_the_goal(robot):
    task = task_of({"robot": robot}) | {"goal": torch.zeros(1, 2)}
    action = torch.zeros(1, 3, requires_grad=True)
    state = start_of(task)
    outcome = step(task, state | {"tip": torch.zeros(1, 2)}, action)
    value = outcome.reward.sum() + SPEC.signals.compute(task, {}, outcome.state).sum()
    value = value + SPEC.observe(task, {}, outcome.state).sum()
    (gradient,) = torch.autograd.grad(value, action)
    assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("change", [{"gain": [0.4] * 3}, {"mass": 2.5}, {"friction": 2.0}])
def test_held_out_dynamics_slow_every_robot_down(robot, change):
    task = task_of({"robot": robot}, {"robot": robot} | change)
    tip = play(task, torch.tensor([[0.8, 0.0, 0.0]]).expand(2, 3))["tip"]
    start = start_of(task)["tip"]
    usual, slow = (tip - start).norm(dim=1).tolist()
    assert usual > 0.1 and slow < 0.75 * usual


def test_exchanged_actuators_do_what_the_other_one_did():
    for robot in ROBOTS:
        task = task_of({"robot": robot}, {"robot": robot, "swapped": 1.0})
        tips = play(task, torch.tensor([[0.3, 0.7, 0.2], [0.7, 0.3, 0.2]]))["tip"]
        torch.testing.assert_close(tips[0], tips[1])


def test_only_the_three_link_arm_has_a_third_actuator():
    task = task_of(*({"robot": robot} for robot in ROBOTS))
    tips = [play(task, torch.tensor([[0.3, 0.7, third]]).expand(4, 3))["tip"] for third in (-1.0, 1.0)]
    assert (tips[0] != tips[1]).any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("robot", ROBOTS)
def test_goals_of_every_split_are_in_reach(robot):
    for split in SPEC.tasks.splits():
        named = SPEC.tasks.unpack(SPEC.tasks.split(split, 200))
        goal = SPEC.derive(named | {"robot": torch.full((200,), float(robot))})["goal"]
        from_base = (goal - torch.tensor(planar_robots.BASE_M)).norm(dim=1)
        assert bool((from_base <= 1.0).all())


def test_each_shift_leaves_the_train_range_in_its_own_parameters_only():
    assert SPEC.tasks.splits() == (
        *("train", "validation", "test", "extrapolation"),
        *("directions", "distances", "dynamics", "robots"),
    )
    assert SPEC.tasks.unpack(SPEC.tasks.split("train", 200))["robot"].unique().tolist() == [POINT, ARM_2]
    directions, distances, dynamics, robots = (
        SPEC.tasks.unpack(SPEC.tasks.split(split, 200)) for split in SPEC.tasks.splits()[4:]
    )
    assert bool((directions["goal_direction"].abs() > math.pi / 2).all())
    assert bool((distances["goal_distance"] >= 0.4).all())
    assert robots["robot"].unique().tolist() == [ARM_3, CAR]
    outside = torch.stack(
        [
            dynamics["mass"] > 1.5,
            dynamics["friction"] > 1.2,
            (dynamics["gain"] < 0.6).all(1),
            dynamics["swapped"] == 1,
        ]
    )
    assert bool((outside.sum(0) == 1).all()) and bool((outside.sum(1) > 30).all())
    for named in (directions, distances, dynamics):
        assert named["robot"].unique().tolist() == [POINT, ARM_2]


def test_a_picture_shows_the_robot_of_the_task_only(tmp_path):
    env = envs.make("reach-robots", 4)
    env.set_tasks(torch.stack([SPEC.tasks.pack(PLAIN | {"robot": robot}) for robot in ROBOTS]))
    env.reset()
    pose = env.pose()
    assert pose["qpos"].shape == (4, 5) and pose["mocap_quat"].shape == (4, 5, 4)
    model = SPEC.drawing.model()
    bodies = [model.body(name).mocapid[0] for name in ("point", "arm_2", "arm_3", "car")]
    torch.testing.assert_close(pose["mocap_pos"][:, bodies, 2] == 0, torch.eye(4, dtype=torch.bool))
    assert snapshot([SPEC], tmp_path / "frame.png").stat().st_size > 1000


def test_tips_are_drawn_where_they_are():
    import mujoco

    env = envs.make("reach-robots", 2)
    env.set_tasks(torch.stack([SPEC.tasks.pack(PLAIN | {"robot": robot}) for robot in (ARM_2, ARM_3)]))
    env.reset()
    pose, model = env.pose(), SPEC.drawing.model()
    for world, hand in enumerate(("arm_2_lower", "arm_3_hand")):
        data = mujoco.MjData(model)
        data.qpos[:], data.mocap_pos[:] = pose["qpos"][world], pose["mocap_pos"][world]
        mujoco.mj_kinematics(model, data)
        tip = data.body(hand).xpos + data.body(hand).xmat.reshape(3, 3)[:, 0] * (0.5 if world == 0 else 1 / 3)
        torch.testing.assert_close(torch.tensor(tip[:2]).float(), env._state["tip"][world], atol=1e-5, rtol=0.0)
