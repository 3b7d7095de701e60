"""The intelligent driver model against hand-computed values and its own equilibria."""

import itertools
import math

import pytest
import torch

from envs.driving import idm

LENGTH, ROAD, DT = 0.5, 30.0, 0.04


def drivers_with(a=1.0, b=1.5, v0=2.0, headway=1.0, s0=0.3, aggressiveness=1.0):
    values = torch.broadcast_tensors(*(torch.as_tensor(v) for v in (a, b, v0, headway, s0, aggressiveness)))
    return idm.drivers(*(value.reshape(-1).float() for value in values))


def alone(num_worlds=1):
    """A driven car that is in nobody's way."""
    return torch.zeros(num_worlds), torch.zeros(num_worlds)


def run(place, speed, leader, drivers, num_steps, ego=None, in_lane=None):
    """The smallest gap to the leader of all times, and the last places and speeds."""
    ego_place, ego_speed = ego or alone(len(place))
    in_lane = torch.zeros_like(place) if in_lane is None else in_lane
    smallest = math.inf
    for _ in range(num_steps):
        place, speed = idm.advance(place, speed, leader, ego_place, ego_speed, in_lane, drivers, LENGTH, ROAD, DT)
        behind = torch.remainder(place.gather(1, leader) - place, ROAD) - LENGTH
        smallest = min(smallest, float(behind.min()))
    return smallest, place, speed


def test_acceleration_by_hand():
    # s* = 0.3 + 1.5 * 1.2 + 1.5 * 0.5 / (2 sqrt(0.8 * 1.8)) = 0.3 + 1.8 + 0.3125 = 2.4125
    drivers = drivers_with(a=0.8, b=1.8, v0=2.0, headway=1.2, s0=0.3)
    speed, gap, closing = torch.tensor([[1.5]]), torch.tensor([[4.0]]), torch.tensor([[0.5]])
    urge = idm.urge(speed, gap, closing, drivers)
    assert urge.item() == pytest.approx(2.4125 / 4.0, abs=1e-6)
    expected = 0.8 * (1 - (1.5 / 2.0) ** 4 - (2.4125 / 4.0) ** 2)
    assert idm.acceleration(speed, urge, drivers).item() == pytest.approx(expected, abs=1e-6)


def test_a_leader_that_drives_away_asks_for_no_less_than_the_least_gap():
    # v T + v dv / (2 sqrt(a b)) = 1 - 4 / (2 sqrt(1.5)) < 0
    urge = idm.urge(torch.tensor([[1.0]]), torch.tensor([[0.6]]), torch.tensor([[-4.0]]), drivers_with())
    assert urge.item() == pytest.approx(0.3 / 0.6)


def test_a_step_takes_the_mean_of_both_speeds():
    place, speed, leader = torch.tensor([[29.99]]), torch.tensor([[1.0]]), torch.tensor([[0]])
    drivers = drivers_with(headway=0.0, s0=1e-6)
    place, speed = idm.advance(place, speed, leader, *alone(), torch.zeros(1, 1), drivers, LENGTH, ROAD, DT)
    assert speed.item() == pytest.approx(1.0 + (1 - 1 / 16) * DT, abs=1e-6)
    assert place.item() == pytest.approx(29.99 + 1.01875 * DT, abs=1e-5)


def test_aggressiveness_scales_acceleration_speed_and_headway():
    drivers = drivers_with(a=1.0, b=2.0, v0=2.0, headway=1.2, aggressiveness=1.44)
    assert drivers.acceleration.item() == pytest.approx(1.44)
    assert drivers.desired_speed.item() == pytest.approx(2.4)
    assert drivers.headway.item() == pytest.approx(1.2 / 1.44)
    assert drivers.approach.item() == pytest.approx(0.5 / math.sqrt(2.88))


def test_leaders_are_the_next_cars_of_the_lane_across_the_start_line():
    place = torch.tensor([[1.0, 12.0, 25.0, 5.0, 29.0, 14.0]])
    lane = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
    present = torch.tensor([[True, True, True, True, True, False]])
    # 0 -> 1 -> 2 -> 0; 3 <-> 4; the absent 5 is overlooked by 1.
    assert idm.leaders(place, lane, present, ROAD).tolist() == [[1, 2, 0, 4, 3, 2]]
    assert idm.leaders(place[:, :1], lane[:, :1], present[:, :1], ROAD).tolist() == [[0]]


@pytest.mark.parametrize(("num_cars", "headway"), [(5, 0.8), (5, 2.0), (8, 1.0), (10, 1.4)])
def test_cars_settle_at_the_gap_of_equilibrium(num_cars, headway):
    # dv/dt = 0, dv = 0: s = (s0 + v T) / sqrt(1 - (v / v0)^4), and the road is full: C (s + length) = 30 m.
    gap = ROAD / num_cars - LENGTH
    low, high = 0.0, 2.0
    for _ in range(60):
        v = (low + high) / 2
        needed = (0.3 + v * headway) / math.sqrt(1 - (v / 2.0) ** 4)
        low, high = (v, high) if needed < gap else (low, v)
    place = torch.arange(num_cars).unsqueeze(0) * (0.6 * ROAD / num_cars)  # bunched at first
    leader = torch.arange(1, num_cars + 1).remainder(num_cars).unsqueeze(0)
    smallest, place, speed = run(place, torch.ones_like(place), leader, drivers_with(headway=headway), 6000)
    assert smallest > 0.0
    torch.testing.assert_close(speed, torch.full_like(speed, low), atol=0.02, rtol=0)
    between = torch.remainder(place.gather(1, leader) - place, ROAD) - LENGTH
    torch.testing.assert_close(between, torch.full_like(between, gap), atol=0.15, rtol=0)


def test_a_car_alone_reaches_its_desired_speed():
    # Its own tail is 29.5 m ahead, which takes ((0.3 + v) / 29.5)^2 off: v = 2 (1 - 0.0061)^(1/4).
    *_, speed = run(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), drivers_with(), 1500)
    assert speed.item() == pytest.approx(2.0 * (1 - (2.3 / 29.5) ** 2) ** 0.25, abs=2e-3)


def test_nobody_drives_into_another_in_all_of_the_ranges():
    ends = list(itertools.product((1.0, 2.6), (0.5, 2.0), (0.6, 1.6)))
    v0, headway, aggressiveness = torch.tensor(ends).repeat(8, 1).T
    generator = torch.Generator().manual_seed(0)
    num_worlds, num_cars = len(v0), 6
    place = torch.rand(num_worlds, num_cars, generator=generator).sort(1).values * (ROAD - 1.2 * num_cars)
    place = place + 1.2 * torch.arange(num_cars)  # 0.7 m at least from bumper to bumper
    speed = 1.0 + torch.rand(num_worlds, num_cars, generator=generator)
    spread = 0.85 + 0.3 * torch.rand(num_worlds, num_cars, generator=generator)
    values = (torch.ones_like(spread), torch.full_like(spread, 1.5), v0.unsqueeze(1) * spread)
    rest = (headway.unsqueeze(1) + 0 * spread, torch.full_like(spread, 0.3), aggressiveness.unsqueeze(1) + 0 * spread)
    drivers = idm.drivers(*values, *rest)
    leader = idm.leaders(place, torch.zeros_like(place), torch.ones_like(place, dtype=torch.bool), ROAD)
    smallest, _, after = run(place, speed, leader, drivers, 4000)
    assert smallest > 0.1
    assert (after > 0.3).all()


def test_a_car_stops_behind_the_driven_car_in_its_lane_and_passes_it_in_another():
    place, speed = torch.tensor([[0.0], [0.0]]), torch.full((2, 1), 1.5)
    leader, ego = torch.zeros(2, 1, dtype=torch.int64), (torch.full((2,), 5.0), torch.zeros(2))
    in_lane = torch.tensor([[1.0], [0.0]])
    _, place, speed = run(place, speed, leader, drivers_with(), 1000, ego, in_lane)
    # At standstill s* = s0 = s: the front bumper 0.3 m behind the other's rear.
    assert speed[0].item() == pytest.approx(0.0, abs=0.02)
    assert 5.0 - LENGTH - place[0].item() == pytest.approx(0.3, abs=0.05)
    assert place[1].item() > 60.0


def test_braking_ends_at_the_grip():
    urge = torch.tensor([[100.0]])
    assert idm.acceleration(torch.ones(1, 1), urge, drivers_with()).item() == -idm.HARDEST_BRAKING
