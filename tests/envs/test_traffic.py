"""Others on the street, outlines, observation, reward, end and metrics of `traffic`, by hand, and its expert."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from envs.driving import car, course, driver, roads, traffic, traffic_driver
from metarl.env import BatchedEnv, Noise
from tests.envs.driving_tools import drive, ends_of_ranges, first_observations, on_both_engines
from tests.slow import slow_but

SPEC = traffic.make_spec()
NAMES = [parameter.name for parameter in traffic.PARAMETERS]
VISIBLE = {"max_curvature", "width", "direction", "shape"}
RADIUS = roads.LENGTH_M / (2 * math.pi)
NONE = Noise(torch.zeros(1, 0), torch.zeros(1, 0))


def make_env(num_tasks: int = 8, split: str = "test", tasks: Tensor | None = None) -> BatchedEnv:
    tasks = SPEC.tasks.split(split, num_tasks) if tasks is None else tasks
    env = BatchedEnv(SPEC, len(tasks), num_threads=1)
    env.set_tasks(tasks)
    env.reset()
    return env


def circle() -> dict[str, Tensor]:
    """A left-handed circle around the origin as a street 1.6 m wide, with all cars on it in the middle."""
    phi = torch.arange(roads.NUM_POINTS) * (2 * math.pi / roads.NUM_POINTS)
    heading = phi + math.pi / 2
    point = torch.polar(torch.full_like(phi, RADIUS), phi)
    direction = torch.polar(torch.ones_like(phi), heading)
    bend = torch.full_like(phi, 1 / RADIUS)
    zeros = torch.zeros(1, traffic.NUM_CARS)
    return {
        "street": torch.stack([point, direction, torch.complex(bend, 0 * bend)], 1).unsqueeze(0),
        "road": torch.stack([point.real, point.imag, heading, bend], 1).unsqueeze(0),
        "pose_limit": torch.tensor([[0.8, math.pi / 2]]),
        "width": torch.tensor([1.6]),
        "offset": zeros.clone(),
        "absent": zeros.clone(),
    }


# Where the others are


def test_the_others_drive_beside_the_centreline_at_the_angle_of_the_street():
    task = circle()
    task["offset"] = torch.linspace(-0.4, 0.4, traffic.NUM_CARS).unsqueeze(0)
    place = torch.linspace(0.0, 31.0, traffic.NUM_CARS).unsqueeze(0)
    position, direction, bend = traffic._on_street(task, place)
    torch.testing.assert_close(position.abs(), RADIUS - task["offset"], atol=1e-3, rtol=0)
    torch.testing.assert_close(position / position.abs() * 1j, direction, atol=0.01, rtol=0)
    torch.testing.assert_close(
        position.angle().remainder(2 * math.pi), (place / RADIUS).remainder(2 * math.pi), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(bend, (RADIUS - task["offset"]) / RADIUS)


def test_as_many_cars_as_the_task_says_are_on_the_street_and_keep_to_their_lanes():
    env = make_env(16, "extrapolation")
    for _ in range(20):
        env.step(env.expert_action())
    pose, task = env.pose(), env._task
    is_there = pose["mocap_pos"][..., 2] > 0
    assert torch.equal(is_there.sum(1).float(), task["num_cars"])
    road = task["road"][..., :2].unsqueeze(1)
    nearest = (pose["mocap_pos"][:, :, None, :2] - road).norm(dim=3).amin(2)
    expected = (task["width"] / 4).unsqueeze(1).expand_as(nearest)
    torch.testing.assert_close(nearest[is_there], expected[is_there], atol=0.01, rtol=0)
    torch.testing.assert_close(pose["mocap_quat"].norm(dim=2), torch.ones_like(nearest))


def test_the_others_follow_the_intelligent_driver_model():
    env = make_env(6)
    before, task = {name: value.clone() for name, value in env._state.items()}, env._task
    env.step(torch.zeros(6, 2))
    leader = task["leader"]
    gap = torch.remainder(before["place"].gather(1, leader) - before["place"], 30.0) - traffic.CAR_M
    v, g = before["speed"], task["aggressiveness"].unsqueeze(1)
    closing = v - v.gather(1, leader)
    wanted = 0.3 + (v * task["headway"].unsqueeze(1) / g + v * closing / (2 * (1.0 * g * 1.5).sqrt())).clamp(min=0)
    change = g * (1 - (v / before["desired_speed"]) ** 4 - (wanted / gap) ** 2)
    # At the start the driven car is behind the first four, and far from the others.
    is_free = (task["absent"] == 0) & (change > -6.0)
    is_free[:, 2] = False  # the one behind it, in its lane
    after = (v + 0.04 * change).clamp(min=0)
    torch.testing.assert_close(env._state["speed"][is_free], after[is_free], atol=1e-4, rtol=1e-4)


def test_those_behind_stop_for_a_car_that_stands_in_their_lane():
    tasks = SPEC.tasks.split("test", 16)
    names = [parameter.name for parameter in traffic.PARAMETERS]
    tasks[:, names.index("wind_speed")] = 0.0  # it would blow the car into the others
    env = make_env(tasks=tasks)
    for _ in range(SPEC.horizon):
        step = env.step(torch.tensor([[0.0, -1.0]]).expand(16, 2))
    assert step.obs[:, 2].abs().max() < 0.02 and not env._state["collided"].any()
    behind = torch.remainder(env._state["distance"].unsqueeze(1) - env._state["place"], 30.0) - traffic.CAR_M
    same_lane = (env._state["pose"][:, :1] - env._task["offset"]).abs() < traffic.IN_LANE_M
    nearest = behind.masked_fill(~same_lane, 30.0).amin(1)
    assert (nearest > 0.1).all() and (nearest < 1.0).all()


# Outlines: two circles of 0.17 m, 0.12 m before and behind the middle


@pytest.mark.parametrize(
    ("relative", "turn_rad", "overlaps"),
    [
        (0.57 + 0.0j, 0.0, True),  # 0.24 + 0.34 nose to tail
        (0.59 + 0.0j, 0.0, False),
        (-0.57 + 0.0j, math.pi, True),
        (0.0 + 0.33j, 0.0, True),  # side by side
        (0.0 + 0.35j, 0.0, False),
        (0.24 - 0.33j, 0.0, True),
        (0.43 + 0.0j, math.pi / 2, True),  # across: 0.12 + sqrt(0.34^2 - 0.12^2) = 0.438
        (0.445 + 0.0j, math.pi / 2, False),
        (0.0 + 0.45j, math.pi / 2, False),
        (0.0 + 0.43j, -math.pi / 2, True),
    ],
)
def test_outlines_overlap(relative: complex, turn_rad: float, overlaps: bool):
    turn = torch.tensor([[complex(math.cos(turn_rad), math.sin(turn_rad))]])
    assert traffic._overlap(torch.tensor([[relative]]), turn).item() == overlaps


# Observation


def look(place: list[float], offset: list[float], speed: float = 1.0, lateral: float = 0.0, yaw_error: float = 0.0):
    """What a car at the start line of the circle sees, (6, 5), and whether it overlaps another."""
    task = circle()
    far = traffic.NUM_CARS - len(place)
    task["offset"] = torch.tensor([offset + [-traffic.ABSENT_M] * far])
    task["absent"] = torch.tensor([[0.0] * len(place) + [traffic.ABSENT_M] * far])
    qpos = torch.tensor([[RADIUS - lateral, 0.0, math.pi / 2 + yaw_error, 0.0]])
    places = torch.tensor([place + [0.0] * far])
    one = torch.ones(1)
    seen, overlap = traffic._look(task, qpos, 2.0 * one, 0.0 * one, 0.0 * one, places, 0 * places + speed)
    return seen.reshape(traffic.NUM_SEEN, 5), overlap.item()


def test_others_are_seen_in_the_frame_of_the_car_nearest_first():
    seen, overlap = look([3.0, 29.0, 15.0], [0.4, -0.4, 0.4])
    assert not overlap
    for row, (way, offset) in zip(seen, [(-1.0, -0.4), (3.0, 0.4)], strict=False):
        angle, radius = way / RADIUS, RADIUS - offset
        x, y = radius * math.sin(angle), RADIUS - radius * math.cos(angle)
        speed = radius / RADIUS
        vx, vy = speed * math.cos(angle) - 2.0, speed * math.sin(angle)
        expected = [1 - abs(way) / 5, x / 5, y / 5, vx / 2, vy / 2]
        torch.testing.assert_close(row, torch.tensor(expected), atol=0.01, rtol=0)
    assert not seen[2:].any()  # 15 m are out of sight, the others are not there


def test_what_is_seen_turns_with_the_car():
    straight, turned = look([2.0], [0.0])[0][0], look([2.0], [0.0], yaw_error=0.3)[0][0]
    position, rotated = torch.complex(*straight[1:3]), torch.complex(*turned[1:3])
    torch.testing.assert_close(rotated, position * torch.polar(torch.tensor(1.0), torch.tensor(-0.3)))
    assert straight[0] == turned[0]


def test_the_first_observation_hides_drivers_vehicle_and_how_many_cars_there_are():
    first = first_observations(SPEC, ends_of_ranges(SPEC, VISIBLE))
    torch.testing.assert_close(first[0], first[1], atol=1e-6, rtol=0)
    assert (first[0, course.OBS_DIM :: 5] > 0).sum() >= 2  # some are in sight


# Reward, end, metrics


def test_a_collision_ends_the_episode_at_minus_one_and_later_events_do_not_count():
    env = make_env(8)
    lane = torch.full_like(env._task["grip"], 0.0)
    steps = []
    for _ in range(SPEC.horizon):
        action = driver.drive(env._task, env._obs, line_m=lane + env._task["right_lane"])  # sees nobody
        steps.append(env.step(action))
    ended = torch.stack([s.terminated for s in steps])
    assert (ended.sum(0) == 1).all() and env._state["collided"].all() and not env._state["off_road"].any()
    reward = torch.stack([s.reward for s in steps])
    assert (reward[ended] == -1.0).all()
    after = ended.cumsum(0) - ended.long() > 0
    assert (reward[after] == 0).all() and not torch.stack([s.success for s in steps]).any()
    assert steps[-1].obs[:, 2].abs().max() < 0.02  # it has braked


def test_leaving_the_street_ends_the_episode_and_is_no_collision():
    env = make_env(8)
    steps = [env.step(torch.tensor([[-1.0, 0.3]]).expand(8, 2)) for _ in range(60)]
    assert torch.stack([s.terminated for s in steps]).any(0).all()
    values = dict(zip(SPEC.metrics.names, env.metrics().unbind(1), strict=True))
    assert (values["off_track"] == 1).all() and (values["collided"] == 0).all()
    progress = values["progress_m"]
    torch.testing.assert_close(values["driving_score"], 0.65 * (progress / 15).clamp(0, 1))


def test_metrics_by_hand():
    state = {"progress": torch.tensor([12.0, 45.0, 0.5]), "off_road": torch.tensor([False, False, True])}
    state |= {"collided": torch.tensor([True, False, True]), "speeding": torch.tensor([0.2, 3.0, 0.0])}
    state["reserved"] = torch.tensor([1.0, 0.0, 0.5])
    expected = [
        [12.0, 1e3 / 12, 1, 0, 0.2, 1.0, 12 / 15 * 0.6],
        [45.0, 0, 0, 0, 3.0, 0.0, 1.0],
        [0.5, 1e3, 1, 1, 0.0, 0.5, 0.5 / 15 * 0.6 * 0.65],
    ]
    torch.testing.assert_close(traffic.metrics({}, {}, state), torch.tensor(expected))


@pytest.mark.parametrize(
    ("lateral", "reserved_lane", "share"),
    [(0.0, 1.0, 0.5), (0.1, 1.0, 0.75), (0.1, -1.0, 0.25), (0.3, 1.0, 1.0), (0.3, -1.0, 0.0), (-0.4, -1.0, 1.0)],
)
@pytest.mark.parametrize(
    ("speed_limit", "too_far_m"),
    [(2.6, 0.0), (2.5, 0.0), (2.2, 0.3 * 0.04), (1.4, 1.1 * 0.04)],  # at 2.5 m/s
)
def test_reward_is_progress_less_fines_jerk_and_slip(lateral, reserved_lane, share, speed_limit, too_far_m):
    task = circle() | {"leader": torch.zeros(1, traffic.NUM_CARS, dtype=torch.int64)}
    task |= {f"idm_{name}": torch.ones(1, traffic.NUM_CARS) for name in ("acceleration", "headway", "least_gap")}
    task |= {"idm_approach": torch.ones(1, traffic.NUM_CARS)}
    task |= {"speed_limit": torch.tensor([speed_limit]), "reserved_lane": torch.tensor([reserved_lane])}
    angle, cars = 0.1 / RADIUS, torch.ones(1, traffic.NUM_CARS)
    place = torch.polar(torch.tensor(RADIUS - lateral), torch.tensor(angle))
    data = {
        "qpos": torch.tensor([[place.real, place.imag, math.pi / 2 + angle, 0.0]]),
        "sensordata": torch.tensor([[0.0, 1.0, 2.5, 0.5, 0.0]]),
    }
    zero, no = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    state = {"distance": zero, "advance": zero + 0.1, "pose": torch.zeros(1, 2), "prev_action": torch.zeros(1, 2)}
    state |= {"place": 15.0 * cars, "speed": cars, "desired_speed": cars, "progress": zero, "collided": no}
    state |= {"off_road": no, "own_speed": zero + 2.5, "acceleration": zero, "speeding": zero + 0.7}
    state |= {"reserved": zero + 0.3}
    result = traffic.step(task, data, state, torch.tensor([[1.0, -1.0]]), NONE)
    # 0.1 m of 0.2 m; jerk = (1 + 1) / 8; rear slip = 0.5 - 0.165 * 1
    expected = (0.1 - 3 * too_far_m - 0.6 * share * 0.1) / 0.2 - 0.05 * (0.25 + 0.335**2)
    assert result.reward.item() == pytest.approx(expected, abs=1e-3)
    assert not result.terminated and not result.success
    after = {name: result.state[name].item() for name in ("progress", "speeding", "reserved")}
    assert after == pytest.approx(
        {"progress": 0.1, "speeding": 0.7 + too_far_m, "reserved": 0.3 + 0.1 * share}, abs=1e-3
    )


def test_half_a_lap_is_success_where_fines_took_a_fifth_of_it_at_most():
    tasks = SPEC.tasks.split("test", 48)
    env = make_env(tasks=tasks)
    told = tasks.clone()
    told[16:32, NAMES.index("speed_limit")] = 2.6  # drivers who believe this are fined
    told[32:, NAMES.index("reserved_lane")] *= -1.0
    believed = make_env(tasks=told)._task
    for _ in range(SPEC.horizon):
        step = env.step(traffic_driver.drive(believed, env._obs))
        state = env._state
        fines = 3.0 * state["speeding"] + 0.6 * state["reserved"]
        expected = (state["progress"] >= 15.0) & (fines <= 0.2 * state["progress"])
        assert torch.equal(step.success, expected & step.valid)
    obeys, speeds, is_in_the_wrong_lane = step.success.chunk(3)
    assert obeys.all() and not is_in_the_wrong_lane.any()
    assert not speeds[tasks[16:32, NAMES.index("speed_limit")] < 1.6].any()


def test_what_is_driven_after_the_end_is_not_fined():
    env = make_env(8)
    counted = []
    for _ in range(60):
        step = env.step(torch.tensor([[-1.0, 1.0]]).expand(8, 2))
        counted.append(torch.stack([env._state[name].float() for name in ("speeding", "reserved", "off_road")]))
    assert not step.valid.any()
    speeding, reserved, off = torch.stack(counted).unbind(1)
    for world in range(8):
        assert speeding[off[:, world] > 0, world].unique().numel() == 1
        assert reserved[off[:, world] > 0, world].unique().numel() == 1


# The whole environment


@pytest.mark.parametrize("split", slow_but(SPEC.tasks.splits(), "test", "extrapolation"))
def test_the_expert_drives_among_the_others_without_touching_them(split: str):
    result = drive(SPEC, split, 100)
    assert result.success.double().mean() >= 0.95 and result.ended.double().mean() <= 0.1
    assert not result.failed.any()
    assert result.metrics["progress_m"].mean() > 22.0
    assert result.metrics["driving_score"].mean() > 0.9


def test_the_expert_overtakes_where_it_may_drive_faster():
    tasks = SPEC.tasks.split("test", 32)
    tasks[:, NAMES.index("speed_limit")] = 2.6
    env = make_env(tasks=tasks)
    start = env._state["place"].clone()
    for _ in range(SPEC.horizon):
        env.step(env.expert_action())
    others = (env._state["place"] - start)[env._task["absent"] == 0].mean()
    assert env._state["progress"].mean() > others + 3.0


def test_the_drivers_change_what_the_driven_car_can_do():
    tasks = SPEC.tasks.split("test", 32).repeat(2, 1)
    tasks[:32, NAMES.index("desired_speed")], tasks[32:, NAMES.index("desired_speed")] = 1.2, 2.2
    tasks[:, NAMES.index("speed_limit")] = 2.6
    env = make_env(tasks=tasks)
    for _ in range(SPEC.horizon):
        env.step(env.expert_action())
    slow, fast = env._state["progress"].chunk(2)
    assert fast.mean() > slow.mean() + 2.0


@pytest.mark.parametrize("split", ["test", "extrapolation"])
def test_both_engines_drive_the_same(split: str):
    for cpu, warp in zip(*on_both_engines(SPEC, split, 6, 100), strict=True):
        torch.testing.assert_close(cpu.obs, warp.obs, atol=5e-3, rtol=0)
        torch.testing.assert_close(cpu.reward, warp.reward, atol=5e-3, rtol=0)


def test_the_model_that_is_stepped_knows_nothing_of_the_others_and_the_scene_has_them():
    env = make_env(1)
    model = SPEC.physics.scene({name: value[0] for name, value in env._task.items()})
    assert SPEC.physics.model.nmocap == 0 and model.nmocap == traffic.NUM_CARS
    assert env.pose()["mocap_pos"].shape == (1, traffic.NUM_CARS, 3)
    assert model.nq == SPEC.physics.model.nq == 4 and SPEC.physics.num_substeps == car.NUM_SUBSTEPS
