"""The car's physics, observation, reward and end of `track`, and its reference driver."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from envs.driving import car, course, driver, roads, track
from metarl.env import BatchedEnv, EnvSpec, Noise
from metarl.expert import Expert
from metarl.types import Rollout

SPEC, LONG = track.make_spec(), track.make_spec(horizon=150)
"""As it is trained on, and with episodes that last long enough to watch the car."""
NAMES = [parameter.name for parameter in track.PARAMETERS]
NOMINAL = {"grip": 0.9, "swept_line": 0.0, "wind_speed": 0.0, "steer_offset": 0.0, "com_shift": 0.0, "steer_delay": 0.0}
NOMINAL |= dict.fromkeys(("tyre_stiffness_front", "tyre_stiffness_rear", "mass", "yaw_inertia", "power"), 1.0)
NOMINAL |= {"motor_lag": 0.05, "wind_direction": 0.0, "width": 1.2, "max_curvature": 0.9, "direction": 1.0}
VISIBLE = {"max_curvature", "width", "direction", "shape"}


def tasks_with(num: int = 1, **values: float | list[float]) -> Tensor:
    """Nominal tasks on one road, with some parameters changed."""
    columns = []
    for parameter in track.PARAMETERS:
        if parameter.name == "shape":
            columns.append(torch.linspace(-1.0, 1.0, roads.SHAPE_SIZE).repeat(num, 1))
        else:
            value = torch.as_tensor(values.get(parameter.name, NOMINAL[parameter.name]))
            columns.append(value.expand(num).reshape(num, 1))
    return torch.cat(columns, 1)


def make_env(tasks: Tensor, num_threads: int = 1, engine: str = "auto", spec: EnvSpec = LONG) -> BatchedEnv:
    env = BatchedEnv(spec, len(tasks), num_threads=num_threads, engine=engine)
    env.set_tasks(tasks)
    env.reset()
    return env


def run(env: BatchedEnv, action: Tensor, num_steps: int) -> Tensor:
    """Observations under an action that swings with time, (num_steps, N, O)."""
    action = action.expand(env.num_worlds, -1)
    return torch.stack([env.step(action * math.cos(0.4 * t)).obs for t in range(num_steps)])


def circle(num: int = 1, turns: float = 1.0) -> Tensor:
    """The table of a circle around the origin, left-handed for `turns` = 1, right-handed for -1."""
    phi = torch.arange(roads.NUM_POINTS) * (2 * math.pi / roads.NUM_POINTS)
    radius = roads.LENGTH_M / (2 * math.pi)
    columns = [radius * phi.cos(), turns * radius * phi.sin(), turns * (phi + math.pi / 2)]
    columns.append(torch.full_like(phi, turns / radius))
    return torch.stack(columns, 1).repeat(num, 1, 1)


def on_circle(distance: float, lateral: float, turns: float) -> tuple[float, float]:
    """Position at an arc length along the circle and a distance to the left of it."""
    radius = roads.LENGTH_M / (2 * math.pi)
    phi, r = distance / radius, radius - turns * lateral
    return r * math.cos(phi), turns * r * math.sin(phi)


# Place on the road


@pytest.mark.parametrize("turns", [1.0, -1.0])
def test_foot_on_a_circle_is_found_exactly(turns: float):
    wanted = [(0.0, 0.0), (3.123, 0.4), (14.5, -0.65), (31.0, 0.2), (59.99, -0.3)]
    position = torch.tensor([on_circle(d, e, turns) for d, e in wanted])
    distance, lateral = torch.tensor(wanted).unbind(1)
    guess = distance + torch.tensor([0.05, -0.05, 0.04, -0.02, 0.0])
    foot = roads.locate(circle(len(wanted), turns), position, guess)
    torch.testing.assert_close(foot.distance, distance, atol=1e-4, rtol=0)
    torch.testing.assert_close(foot.lateral, lateral, atol=1e-4, rtol=0)
    radius = roads.LENGTH_M / (2 * math.pi)
    heading = turns * (distance % roads.LENGTH_M / radius + math.pi / 2)
    turn = 2 * math.pi
    assert torch.remainder(foot.heading - heading + 1.0, turn).sub(1.0).abs().max() < 1e-4


def test_foot_stays_the_nearest_point_of_the_road_while_driving():
    tasks = SPEC.tasks.split("test", 16)
    env = make_env(tasks)
    for _ in range(120):
        step = env.step(env.expert_action())
    assert step.valid.all()
    road, position = env._task["road"], env._data["qpos"][:, :2]
    nearest = (road[..., :2] - position.unsqueeze(1)).norm(dim=2).min(1)
    lap = torch.remainder(env._state["distance"] - nearest.indices * roads.SPACING_M + 1.0, roads.LENGTH_M) - 1.0
    assert lap.abs().max() < 0.6 * roads.SPACING_M / 0.3  # half a spacing, widened on the inside of corners
    assert (env._state["pose"][:, 0].abs() <= nearest.values + 1e-3).all()
    assert env._state["distance"].min() > 8.0


# The car


def test_actuators_and_bodies_have_the_ids_that_the_functions_use():
    model = SPEC.physics.model
    names = [model.actuator(i).name for i in range(model.nu)]
    assert names == ["steer", "drive", "brake", "tyre_front", "tyre_rear"]
    assert list(range(model.nu)) == [car.STEER, car.DRIVE, car.BRAKE, car.TYRE_FRONT, car.TYRE_REAR]
    assert [model.body(i).name for i in (car.CHASSIS, car.FRONT_AXLE)] == ["car", "front"]
    assert [model.sensor(i).name for i in range(3)] == ["steer_angle", "yaw_rate", "velocity"]
    assert SPEC.physics.control_dt_s == pytest.approx(car.CONTROL_DT_S)
    assert model.site("front").pos[0] + model.body("front").pos[0] == car.AXLE_M == -model.site("rear").pos[0]


def test_grip_times_load_limits_the_forces():
    task = SPEC.tasks.unpack(tasks_with(2, grip=[0.5, 1.0], mass=[1.0, 1.5], com_shift=[0.0, 0.03]))
    fields = car.configure(
        task | track.derive(task),
        {name: make_env(tasks_with()).engine.default_model_field(name) for name in SPEC.physics.model_fields},
    )
    limit = fields["actuator_forcerange"][:, :, 1]
    weight = torch.tensor([3.7, 3.7 * 1.5]) * 9.81
    torch.testing.assert_close(limit[:, car.TYRE_FRONT] + limit[:, car.TYRE_REAR], torch.tensor([0.5, 1.0]) * weight)
    # Moments about the rear axle: chassis at 0.165 m + shift, front axle (0.2 kg) at 0.33 m.
    front = torch.tensor([0.5 * (3.5 * 0.165 + 0.2 * 0.33), 1.5 * (3.5 * 0.195 + 0.2 * 0.33)]) / 0.33 * 9.81
    torch.testing.assert_close(limit[:, car.TYRE_FRONT], front)
    for actuator in (car.DRIVE, car.BRAKE):
        torch.testing.assert_close(limit[:, actuator], torch.tensor([0.5, 1.0]) * weight)


def test_lateral_acceleration_saturates_at_the_grip():
    grip = [0.15, 0.3, 0.6, 1.0, 1.5]
    env = make_env(tasks_with(5, grip=grip, power=2.0))
    engine = env.engine
    engine.reset()
    engine.write("qvel", torch.tensor([[4.0, 0.0, 0.0, 0.0]]).repeat(5, 1))
    qvel, sensors, zero = engine.data("qvel"), engine.data("sensordata"), torch.zeros(5)
    for _ in range(100):
        throttle = (4 * (4.1 - sensors[:, 2])).clamp(0, 1)
        engine.write("ctrl", torch.stack([zero + 0.25, throttle, zero, zero, zero], 1))
        engine.step()
    acceleration = qvel[:, 2] * qvel[:, :2].norm(dim=1)
    assert (acceleration < torch.tensor(grip) * 9.81).all()
    # The same car with a steering servo of its own and no drag, at 4 m/s and 0.25 rad.
    torch.testing.assert_close(acceleration, torch.tensor([1.35, 2.72, 5.35, 8.93, 11.93]), rtol=0.08, atol=0)
    assert qvel[4, 2] == pytest.approx(4.0 / 0.33 * math.tan(0.25), rel=0.08)  # gripping: kinematic yaw rate


@pytest.mark.parametrize(("delay", "silent_steps"), [(0.02, 0), (0.04, 1), (0.08, 2), (0.09, 2), (0.12, 3)])
def test_steering_answers_after_its_delay(delay: float, silent_steps: int):
    def servo_angles(delay: float) -> Tensor:
        env = make_env(tasks_with(steer_delay=delay))
        return torch.stack([env.step(torch.tensor([[1.0, 0.0]])).obs[0, 0] for _ in range(8)])

    answer, undelayed = servo_angles(delay), servo_angles(0.0)
    assert (answer[:silent_steps].abs() < 1e-3).all()
    assert answer[silent_steps] > 0.05
    if delay == silent_steps * car.CONTROL_DT_S:
        torch.testing.assert_close(answer[silent_steps:], undelayed[: 8 - silent_steps], atol=0.02, rtol=0)
    else:
        assert answer[silent_steps] < 0.8 * undelayed[0]


def test_drive_force_follows_a_first_order_lag():
    env = make_env(tasks_with(2, motor_lag=[0.05, 0.2]))
    act = env.engine.data("act")
    env.step(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    # Four Euler steps of 10 ms: 1 - (1 - h / tau)^4.
    torch.testing.assert_close(act[:, 0], torch.tensor([1 - 0.8**4, 1 - 0.95**4]), atol=1e-5, rtol=0)


def test_brake_stops_the_car_and_does_not_reverse_it():
    env = make_env(tasks_with())
    place_on_line(env)
    speed = [3.0, *(5.0 * env.step(torch.tensor([[0.0, -1.0]])).obs[0, 2].item() for _ in range(70))]
    # 9.4 N per m/s of brake and drag on 3.7 kg.
    assert speed[5] / speed[0] == pytest.approx(math.exp(-9.4 / 3.7 * 0.2), rel=0.05)
    assert min(speed) > -1e-3 and speed[-1] < 0.01


def test_cornering_takes_its_grip_from_drive_and_brake():
    task = SPEC.tasks.unpack(tasks_with(4, grip=0.7))
    task |= track.derive(task)
    # Yaw rate and speed: v r / (mu g) = 6 / 6.867 leaves sqrt(1 - 0.8738^2) = 0.4864 of 0.7 * 36.3 N, 12.36 N.
    sensors = torch.tensor([[0.0, 2.0, 3.0], [0.0, -2.0, 3.0], [0.0, 0.0, 2.0], [0.0, 3.0, 3.0]])
    state = {"off_road": torch.zeros(4, dtype=torch.bool), "pose": torch.zeros(4, 2), "acceleration": torch.zeros(4)}
    pedal = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, -1.0], [0.5, 1.0]])
    ctrl = track.control(task, {"sensordata": sensors}, state, pedal)["ctrl"]
    expected = torch.zeros(4, 5)
    expected[0, car.DRIVE] = 12.36 / 20.0
    expected[1, car.BRAKE] = 12.36 / 24.0
    expected[2, car.BRAKE] = 1.0
    expected[3, car.STEER] = 0.21  # sliding: nothing is left over
    torch.testing.assert_close(ctrl, expected, atol=1e-3, rtol=0)


def test_braking_moves_load_to_the_front_axle_and_speeding_up_to_the_rear():
    task = SPEC.tasks.unpack(tasks_with(3, grip=0.5))
    task |= track.derive(task)
    state = {"off_road": torch.zeros(3, dtype=torch.bool), "pose": torch.zeros(3, 2)}
    state["acceleration"] = torch.tensor([0.0, -5.0, 3.0])
    limit = track.control(task, {"sensordata": torch.zeros(3, 4)}, state, torch.zeros(3, 2))["actuator_forcerange"]
    torch.testing.assert_close(limit[:, 1:, 0], -limit[:, 1:, 1])
    moved = 0.5 * 3.7 * 0.074 / 0.33 * torch.tensor([0.0, -5.0, 3.0])
    torch.testing.assert_close(limit[:, car.TYRE_REAR, 1] - limit[0, car.TYRE_REAR, 1], moved, atol=1e-5, rtol=0)
    torch.testing.assert_close(limit[0, car.TYRE_FRONT, 1] - limit[:, car.TYRE_FRONT, 1], moved, atol=1e-5, rtol=0)
    torch.testing.assert_close(limit[:, car.DRIVE, 1], torch.full((3,), 0.5 * 3.7 * 9.81))


def test_acceleration_is_that_of_the_forces_also_in_a_spin():
    # The forward speed falls by 0.2 m/s in 40 ms, of which the turning frame takes 4 rad/s * 1 m/s * 40 ms.
    sensors = torch.tensor([[0.0, 4.0, 2.8, -1.0], [0.0, 0.0, 2.8, 0.0], [0.0, 0.0, 0.0, 0.0]])
    speed_before = torch.tensor([3.0, 3.0, 3.0])
    torch.testing.assert_close(car.acceleration(speed_before, sensors), torch.tensor([-1.0, -5.0, -12.0]))


def test_speeds_computed_from_the_state_are_those_of_the_sensors():
    env = make_env(tasks_with(2, direction=[1.0, -1.0]))
    sensors = env.engine.data("sensordata")
    for _ in range(20):
        env.step(torch.tensor([[0.9, 1.0], [-0.5, 0.6]]))
    computed = car.sensed(lambda task, data: data["sensordata"])(env._task, env._data)
    torch.testing.assert_close(computed, sensors[:, :4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_changes_what_happens(name: str):
    tasks = tasks_with(2)
    parameter = track.PARAMETERS[NAMES.index(name)]
    column = sum(p.size for p in track.PARAMETERS[: NAMES.index(name)])
    ends = {"shape": (-0.5, 0.9), "direction": (-1.0, 1.0), "wind_direction": (0.0, 2.0), "grip": (0.4, 0.6)}
    if name not in ends:
        ends[name] = (parameter.distribution.low, parameter.distribution.high)
    tasks[:, column] = torch.tensor(ends[name])
    if name == "wind_direction":
        tasks[:, NAMES.index("wind_speed")] = 6.0
    obs = run(make_env(tasks), torch.tensor([0.6, 0.9]), 40)
    assert (obs[:, 0] - obs[:, 1]).abs().max() > 0.01


def place_on_line(env: BatchedEnv, beside: float | list[float] = 0.0) -> None:
    """Start on the start line, heading along the road, `beside` metres left of the swept line."""
    start, lateral = env._task["road"][:, 0], env._task["line_m"] + torch.as_tensor(beside)
    x, y = start[:, 0] - lateral * start[:, 2].sin(), start[:, 1] + lateral * start[:, 2].cos()
    env.engine.write("qpos", torch.stack([x, y, start[:, 2], torch.zeros_like(x)], 1))
    heading = torch.stack([start[:, 2].cos(), start[:, 2].sin()], 1)
    env.engine.write("qvel", torch.cat([course.START_SPEED * heading, torch.zeros(len(x), 2)], 1))
    env.engine.forward()
    env._state["pose"] = torch.stack([lateral, torch.zeros_like(lateral)], 1)


def test_gravel_brakes_by_the_distance_from_the_swept_line():
    env = make_env(tasks_with(5, swept_line=[0.5, 0.5, 0.5, 0.0, 0.0]))
    place_on_line(env, [0.0, 0.1, -0.1, 0.25, -0.5])
    speed = 5.0 * env.step(torch.zeros(5, 2)).obs[:, 2]
    # exp(-(1.4 + 8 d / 0.2) / 3.7 * 0.04), d at most 0.2
    expected = [3.0 * math.exp(-(1.4 + 8.0 * share) / 3.7 * 0.04) for share in (0.0, 0.5, 0.5, 1.0, 1.0)]
    torch.testing.assert_close(speed, torch.tensor(expected), atol=0.01, rtol=0)


def test_wind_pushes_the_car_downwind():
    env = make_env(tasks_with(2, wind_speed=[0.0, 10.0], wind_direction=math.pi / 2))
    engine = env.engine
    engine.reset()
    for _ in range(25):
        engine.step()
    qvel = engine.data("qvel")
    assert qvel[0].abs().max() < 1e-6
    assert qvel[1, 1] > 0.02


# Observation


def test_first_observation_hides_the_vehicle():
    low, high = tasks_with(), tasks_with()
    for index, parameter in enumerate(track.PARAMETERS):
        if parameter.name not in VISIBLE:
            low[0, index], high[0, index] = parameter.distribution.low, parameter.distribution.high
    env = BatchedEnv(SPEC, 2, num_threads=1)
    env.set_tasks(torch.cat([low, high]))
    first = SPEC.reset(env._task, Noise(torch.full((2, 2), 0.7), torch.zeros(2, 0)))
    for name, value in first.writes.items():
        env.engine.write(name, value)
    env.engine.forward()
    obs = SPEC.observe(env._task, env._data, first.state)
    torch.testing.assert_close(obs[0], obs[1], atol=1e-6, rtol=0)


def test_first_observation_is_what_the_spec_sheet_says():
    env = make_env(tasks_with(2, width=[1.0, 1.4]))
    start = SPEC.reset(env._task, Noise(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.zeros(2, 0)))
    env.engine.reset()
    for name, value in start.writes.items():
        env.engine.write(name, value)
    env.engine.forward()
    obs = SPEC.observe(env._task, env._data, start.state)
    expected = torch.zeros(2, 7)
    expected[:, 2] = 0.6  # 3 m/s
    expected[:, 5] = torch.tensor([0.1 / 0.5, -0.1 / 0.7])
    expected[:, 6] = torch.tensor([0.0, 0.05 / 0.5])
    torch.testing.assert_close(obs[:, :7], expected, atol=1e-6, rtol=0)
    ahead = torch.arange(8) * course.LOOK_AHEAD_STRIDE
    assert torch.equal(obs[:, 7:15], env._task["road"][:, ahead, 3])
    assert torch.equal(obs[:, 15], torch.tensor([1.0, 1.4]))


def test_nothing_depends_on_where_the_road_lies():
    env = make_env(tasks_with())
    env.step(torch.tensor([[0.3, 0.8]]))
    angle, shift = 0.9, torch.tensor([3.0, -5.0])
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def moved(table: Tensor) -> Tensor:
        turned = table.clone()
        turned[..., :2] = table[..., :2] @ rotation.T + shift
        turned[..., 2] += angle
        return turned

    task, data = dict(env._task), dict(env._data)
    action, noise = torch.tensor([[0.1, 0.5]]), Noise(torch.zeros(1, 0), torch.zeros(1, 0))
    here = SPEC.step(task, data, env._state, action, noise)
    task["road"], data["qpos"] = moved(task["road"]), moved(data["qpos"])
    data["qvel"] = torch.cat([data["qvel"][:, :2] @ rotation.T, data["qvel"][:, 2:]], 1)
    there = SPEC.step(task, data, env._state, action, noise)
    torch.testing.assert_close(here.reward, there.reward, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        SPEC.observe(env._task, env._data, here.state), SPEC.observe(task, data, there.state), atol=1e-4, rtol=0
    )


# Reward and end


def circle_step(
    distance: float, lateral: float, yaw_error: float, action: list[float], velocity: list[float], beside=0.0
):
    """One `step` on a left-handed circle, from the start line to `distance`, `beside` metres left of the swept line."""
    position = on_circle(distance, lateral, 1.0)
    yaw = distance * 2 * math.pi / roads.LENGTH_M + math.pi / 2 + yaw_error
    task = {"road": circle(), "pose_limit": torch.tensor([[0.6, math.pi / 2]])}
    task["line_m"] = torch.tensor([lateral - beside])
    data = {
        "qpos": torch.tensor([[*position, yaw, 0.0]]),
        "sensordata": torch.tensor([[0.0, velocity[2], velocity[0], velocity[1], 0.0]]),
    }
    state = {
        "distance": torch.zeros(1),
        "advance": torch.full((1,), distance),
        "pose": torch.zeros(1, 2),
        "prev_action": torch.zeros(1, 2),
        "off_road": torch.zeros(1, dtype=torch.bool),
        "speed": torch.zeros(1),
        "acceleration": torch.zeros(1),
        "record": torch.zeros(1, 4),
    }
    return track.step(task, data, state, torch.tensor([action]), Noise(torch.zeros(1, 0), torch.zeros(1, 0)))


def test_reward_is_progress_at_five_metres_per_second():
    outcome = circle_step(0.2, 0.3, 0.0, [0.0, 0.0], [5.0, 0.0, 0.0])
    assert outcome.reward.item() == pytest.approx(1.0, abs=1e-3)
    assert not outcome.terminated and not outcome.success


def test_reward_subtracts_jerk_and_rear_slip():
    # jerk = (1 + 1) / 8; rear slip = 0.5 - 0.165 * 1 = 0.335 m/s
    outcome = circle_step(0.1, 0.0, 0.0, [1.0, -1.0], [2.5, 0.5, 1.0])
    assert outcome.reward.item() == pytest.approx(0.5 - 0.05 * (0.25 + 0.335**2), abs=1e-3)


def test_gravel_costs_by_the_distance_from_the_swept_line():
    rewards = [circle_step(0.2, 0.2, 0.0, [0.0, 0.0], [5.0, 0.0, 0.0], d).reward for d in (0.0, -0.1, 0.2, 0.5)]
    torch.testing.assert_close(torch.cat(rewards), torch.tensor([1.0, 0.75, 0.5, 0.5]), atol=1e-3, rtol=0)


def test_going_backwards_costs_what_going_forwards_earns():
    assert circle_step(-0.1, 0.0, 0.0, [0.0, 0.0], [-2.5, 0.0, 0.0]).reward.item() == pytest.approx(-0.5, abs=1e-3)


@pytest.mark.parametrize(("lateral", "yaw_error", "ends"), [(0.59, 0.0, 0), (0.61, 0.0, 1), (-0.61, 0.0, 1)])
@pytest.mark.parametrize(("extra_yaw", "spins"), [(0.0, 0), (1.55, 0), (1.6, 1), (-1.6, 1), (math.pi, 1)])
def test_leaving_the_road_or_turning_round_ends_the_episode_at_minus_one(lateral, yaw_error, ends, extra_yaw, spins):
    outcome = circle_step(0.1, lateral, yaw_error + extra_yaw, [0.0, 0.0], [2.5, 0.0, 0.0])
    assert outcome.terminated.item() == bool(ends or spins)
    assert (outcome.reward.item() == -1.0) == bool(ends or spins)


def test_off_the_road_the_car_brakes_and_earns_nothing_more():
    env = make_env(tasks_with())
    steps = [env.step(torch.tensor([[1.0, 1.0]])) for _ in range(LONG.horizon)]
    assert sum(int(step.terminated) for step in steps) == 1
    end = next(i for i, step in enumerate(steps) if step.terminated)
    assert steps[end].reward == -1.0
    assert all(step.reward == 0.0 and not step.success for step in steps[end + 1 :])
    assert steps[-1].obs[0, 2].abs() < 0.02


def test_a_stage_on_the_road_is_success():
    tasks = tasks_with(2)
    tasks[1, NAMES.index("direction")] = -1.0
    env = make_env(tasks, spec=SPEC)
    rollout = Expert().trial(env, 1, None)
    assert rollout.success[-1].all() and not rollout.terminated.any()
    num_steps = (~rollout.success).sum(0).double()
    travelled = 5.0 * car.CONTROL_DT_S * torch.where(rollout.success, 0.0, rollout.obs[..., 2]).sum(0)
    torch.testing.assert_close(travelled, torch.full((2,), track.STAGE_M), atol=0.7, rtol=0)
    assert (num_steps > track.STAGE_M / (5.0 * car.CONTROL_DT_S)).all()


# The whole environment


def returns_of(spec: EnvSpec, split: str = "test", num_tasks: int = 64) -> tuple[Rollout, Tensor]:
    """An episode of the spec's expert and its metrics."""
    env = make_env(spec.tasks.split(split, num_tasks), num_threads=0, spec=spec)
    return Expert().trial(env, 1, None), env.metrics()


@pytest.mark.parametrize("split", SPEC.tasks.splits())
def test_the_expert_stays_on_the_road_on_every_split(split: str):
    rollout, metrics = returns_of(SPEC, split, 100)
    off_track = rollout.terminated.any(0)
    assert off_track.double().mean() <= 0.1
    assert torch.equal(metrics[:, 2], off_track.float())
    assert rollout.episode_success().double().mean() > (0.75 if split == "grip" else 0.85)


def test_a_driver_who_knows_the_task_is_faster_than_one_who_guesses():
    middle = {"grip": 0.75, "swept_line": 0.0, "line_m": 0.0, **car.NOMINAL}

    def guess(task: dict[str, Tensor], obs: Tensor) -> Tensor:
        return track.expert(task | {n: torch.full_like(task["grip"], v) for n, v in middle.items()}, obs)

    knowing, guessing = returns_of(SPEC)[0], returns_of(replace(SPEC, expert=guess))[0]
    assert knowing.episode_returns().mean() > 1.5 * guessing.episode_returns().mean()
    assert 5.0 * knowing.obs[..., 2].mean() > 2.7
    success = [rollout.episode_success().double().mean() for rollout in (knowing, guessing)]
    assert success[0] > 0.8 and success[1] < success[0] - 0.3


@pytest.mark.parametrize("split", SPEC.tasks.splits())
def test_every_split_runs_without_failure(split: str):
    env = make_env(SPEC.tasks.split(split, 32))
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        step = env.step(2 * torch.rand(32, 2, generator=generator) - 1)
        assert not step.failed.any() and torch.isfinite(step.obs).all() and step.obs.abs().max() <= 5.0


def test_runs_are_bit_identical_at_one_and_two_threads():
    tasks = SPEC.tasks.split("train", 8)
    action = torch.tensor([0.5, 0.7])
    assert torch.equal(run(make_env(tasks, 1), action, 50), run(make_env(tasks, 2), action, 50))


def test_metrics_end_where_the_car_leaves_the_road():
    env = make_env(tasks_with(2), spec=LONG)
    steps = [env.step(torch.tensor([[1.0, 1.0], [0.0, -1.0]])) for _ in range(60)]
    end = next(t for t, step in enumerate(steps) if step.terminated[0])
    progress, stage_time, off_track, slip_angle = env.metrics().unbind(1)
    assert off_track.tolist() == [1.0, 0.0] and stage_time.isnan().all()
    assert 3.0 * 0.04 * end * 0.5 < progress[0] < 7.0 * 0.04 * (end + 1)
    assert slip_angle[0] > 0.02 > slip_angle[1]
    kept = env.metrics()[0, 0].clone()
    env.step(torch.zeros(2, 2))
    assert env.metrics()[0, 0] == kept


def test_stage_time_is_that_of_the_first_step_beyond_the_stage():
    env = make_env(tasks_with(), spec=SPEC)
    rollout = Expert().trial(env, 1, None)
    expected = 0.04 * (1 + int((~rollout.success[:, 0]).sum()))
    assert env.metrics()[0, 1].item() == pytest.approx(expected, abs=1e-5)


def test_functions_trace_without_graph_breaks():
    env = make_env(SPEC.tasks.split("train", 4))
    action, noise = torch.zeros(4, 2), Noise(torch.rand(4, 2), torch.zeros(4, 0))

    def whole(action: Tensor, noise: Noise):
        start = SPEC.reset(env._task, noise)
        ctrl = SPEC.control(env._task, env._data, start.state, action)
        outcome = SPEC.step(env._task, env._data, start.state, action, noise)
        return start, ctrl, outcome, SPEC.observe(env._task, env._data, outcome.state)

    traced = torch.compile(whole, fullgraph=True, backend="eager")(action, noise)
    plain = whole(action, noise)
    assert torch.equal(traced[3], plain[3]) and torch.equal(traced[2].reward, plain[2].reward)


@pytest.mark.slow
def test_both_engines_drive_the_same():
    tasks = torch.cat([SPEC.tasks.split("test", 4), SPEC.tasks.split("extrapolation", 4)])
    envs = [make_env(tasks, engine=engine) for engine in ("batch", "warp")]
    for env in envs:
        env.reset()
    # Half way between two table points, rounding decides which curvature is seen.
    motion, curvature = [*range(7), 15], envs[0]._task["road"][..., 3]
    neighbours = (curvature - curvature.roll(1, 1)).abs().amax(1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        # Below the limit of grip, where rounding does not grow.
        task, seen = envs[0]._task, envs[0]._obs
        action = driver.drive(task, seen, line_m=task["line_m"], grip_share=0.5) + 0.3 * torch.randn(
            8, 2, generator=generator
        )
        steps = [env.step(action) for env in envs]
        obs = [step.obs for step in steps]
        assert torch.equal(steps[0].terminated, steps[1].terminated)
        torch.testing.assert_close(obs[0][:, motion], obs[1][:, motion], atol=2e-4, rtol=0)
        assert ((obs[0] - obs[1]).abs().amax(1) <= neighbours + 1e-6).all()
        # A tenth of a millimetre beside the swept line costs 2.5e-4.
        torch.testing.assert_close(steps[0].reward, steps[1].reward, atol=6e-4, rtol=0)


def test_signals_agree_with_the_observation_and_the_reward():
    env = BatchedEnv(SPEC, 8, seed=1)
    tasks = SPEC.tasks.split("test", 8)
    env.set_tasks(tasks)
    obs = env.reset()
    named = SPEC.tasks.unpack(tasks)
    for time in range(10):
        signals, feedback = env.signals()
        assert feedback is None
        line_offset, edge_distance, heading_error, progress_speed, _, steering = signals.unbind(1)
        torch.testing.assert_close(line_offset, obs[:, 5] - named["swept_line"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(edge_distance, 1 - obs[:, 5].abs(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(heading_error, 0.5 * obs[:, 6], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(steering, obs[:, 0], atol=1e-5, rtol=1e-4)
        if time == 0:
            torch.testing.assert_close(progress_speed, torch.full((8,), 3.0 / 5.0))
        obs = env.step(torch.tensor([[0.2, 0.3]]).expand(8, 2)).obs
