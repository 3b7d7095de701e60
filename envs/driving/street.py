"""What a video of `traffic` shows: a street of two marked lanes, the driven car and the others."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from envs.driving import scene, vehicles

WHEEL_HEIGHT_M = vehicles.WHEEL_M
"""Height at which the bodies of cars move."""
_ASPHALT, _LINE, _PAVEMENT = (0.27, 0.28, 0.3, 1), (0.93, 0.93, 0.9, 1), (0.66, 0.65, 0.62, 1)
_RESERVED = (0.46, 0.26, 0.23, 1)
_LINE_M, _PAVEMENT_M = 0.04, 0.16
_DASH, _PERIOD = 6, 16
"""Table points of a dash of the middle line, and from one to the next."""


def car_on_street(
    model_file: Path, road: np.ndarray, width: float, reserved_lane: float, num_cars: int
) -> mujoco.MjModel:
    """The car on its street, with other cars as mocap bodies `other0`, `other1`, ...

    Args:
        model_file: the car.
        road: (NUM_POINTS, 4) centreline: x (m), y (m), heading (rad), curvature (1/m).
        width: of the street, m.
        reserved_lane: the lane that is painted red: 1 the left one, -1 the right one.
        num_cars: other cars.
    """
    spec = mujoco.MjSpec.from_file(str(model_file))
    scene.add_surroundings(spec)
    half, everywhere = width / 2, [np.append(np.arange(len(road)), 0)]
    edge = half + 0.05
    scene.add_ribbon(spec, "pavement", road, edge + _PAVEMENT_M, -edge - _PAVEMENT_M, 0.003, _PAVEMENT, everywhere)
    scene.add_ribbon(spec, "asphalt", road, edge, -edge, 0.004, _ASPHALT, everywhere)
    left, right = max(reserved_lane, 0.0) * half, min(reserved_lane, 0.0) * half
    scene.add_ribbon(spec, "reserved", road, left, right, 0.005, _RESERVED, everywhere)
    scene.add_ribbon(spec, "line_left", road, half, half - _LINE_M, 0.006, _LINE, everywhere)
    scene.add_ribbon(spec, "line_right", road, _LINE_M - half, -half, 0.006, _LINE, everywhere)
    dashes = [np.arange(start, start + _DASH + 1) for start in range(0, len(road) - _DASH, _PERIOD)]
    scene.add_ribbon(spec, "line_middle", road, _LINE_M / 2, -_LINE_M / 2, 0.006, _LINE, dashes)
    for number in range(num_cars):
        body = spec.worldbody.add_body(name=f"other{number}", mocap=True, pos=[0, 0, -5])
        vehicles.add_car(body, vehicles.PAINT[1 + number % (len(vehicles.PAINT) - 1)])
    return spec.compile()
