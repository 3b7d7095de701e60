"""Closed roads as centreline tables, and where a point lies along them.

A road is a closed curve of fixed length, given in polar form r(phi) = 1 + a * f(phi) with a short Fourier
series f. It is star-shaped, so it closes exactly and never crosses itself. The amplitude a is found by
bisection such that the sharpest corner has the curvature that the task asks for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NUM_POINTS = 512
"""Points of a centreline table, a power of two so that indices wrap with a mask."""
LENGTH_M = 30.0
"""Length of every road's centreline."""
SPACING_M = LENGTH_M / NUM_POINTS
"""Arc length between neighbouring points of a table."""
HARMONICS = (2, 3, 4, 5)
"""Harmonics of the radius; the first one would only shift the road."""
SHAPE_SIZE = 2 * len(HARMONICS)
"""Coefficients of a road's shape: cosines, then sines."""

_COARSE_GRID, _FINE_GRID = 256, 2048
_MAX_AMPLITUDE = 0.6
_BISECTIONS = 16


class Foot(NamedTuple):
    """The point of a centreline nearest to a position.

    Attributes:
        distance: (N,) arc length from the start line to the foot, laps added up, m.
        lateral: (N,) distance from the centreline, positive to its left, m.
        heading: (N,) direction of the centreline at the foot, rad.
    """

    distance: Tensor
    lateral: Tensor
    heading: Tensor


def centreline(shape: Tensor, max_curvature: Tensor, direction: Tensor) -> Tensor:
    """Build closed centrelines.

    Args:
        shape: (N, SHAPE_SIZE) Fourier coefficients of the radius; only their ratios matter.
        max_curvature: (N,) largest absolute curvature, 1/m. Where a road would have to fold to reach it
            (radius below 0.4 of the mean), its sharpest corner stays wider.
        direction: (N,) +1 drives the road counter-clockwise, -1 is its mirror image, driven clockwise.

    Returns:
        (N, NUM_POINTS, 4) float32: x (m), y (m), heading (rad, continuous from the first to the last
        point), curvature (1/m, positive turns left), uniform in arc length.
    """
    wanted = max_curvature.to(torch.float64).unsqueeze(1)
    coarse, fine = _angles(_COARSE_GRID, shape.device), _angles(_FINE_GRID, shape.device)
    coefficients = _normalised(shape.to(torch.float64), coarse)
    amplitude = _amplitude(_series(coefficients, coarse), wanted)
    radius, slope, _ = _polar(amplitude, _series(coefficients, fine))
    arc = torch.cat([torch.zeros_like(wanted), torch.cumulative_trapezoid(_speed(radius, slope), fine)], 1)
    scale = LENGTH_M / arc[:, -1:]
    fraction = torch.arange(NUM_POINTS, device=shape.device, dtype=torch.float64) / NUM_POINTS
    phi = _invert(arc, fine, fraction * arc[:, -1:])  # (N, NUM_POINTS)
    radius, slope, bend = _polar(amplitude, _series(coefficients, phi))
    heading = phi + torch.atan2(radius, slope)
    curvature = _curvature(radius, slope, bend) / scale
    x, y = scale * radius * phi.cos(), scale * radius * phi.sin()
    mirror = direction.to(torch.float64).unsqueeze(1)
    return torch.stack([x, mirror * y, mirror * heading, mirror * curvature], 2).to(torch.float32)


def locate(road: Tensor, position: Tensor, guess: Tensor) -> Foot:
    """Find the foot of each position on its road, near a guess.

    One Newton step from the table point next to the guess, with the road as a circular arc there. A guess
    within 0.1 m gives the foot to a few millimetres, and as the result does not build on earlier ones, errors
    do not add up. A search over table points is more exact but five times as slow.

    Args:
        road: (N, NUM_POINTS, 4) centreline tables.
        position: (N, 2) x, y in m.
        guess: (N,) arc length at which the foot is expected, laps added up, m.
    """
    count = (guess / SPACING_M).round()
    point_id = count.to(torch.int64) & (NUM_POINTS - 1)
    x, y, heading, curvature = road.gather(1, point_id.reshape(-1, 1, 1).expand(-1, 1, 4))[:, 0].unbind(1)
    dx, dy = position[:, 0] - x, position[:, 1] - y
    cosine, sine = heading.cos(), heading.sin()
    ahead = torch.addcmul(cosine * dx, sine, dy)
    left = torch.addcmul(cosine * dy, sine, dx, value=-1.0)
    # On an arc: foot = a / (1 - k l), and the chord lies k a^2 / 2 (1 - k l) inside of it. Near the centre of
    # the arc, 1 - k l = 0, every point of it is a foot; the limit keeps the result finite.
    arc = ahead / (1.0 - curvature * left).clamp(min=0.2)
    turn = curvature * arc
    return Foot(
        distance=count * SPACING_M + arc, lateral=torch.addcmul(left, turn, ahead, value=-0.5), heading=heading + turn
    )


def look_ahead(road: Tensor, distance: Tensor, num_points: int, stride: int) -> Tensor:
    """Curvature at `num_points` table points, `stride` apart, the first at `distance`, (N, num_points), 1/m."""
    offset = torch.arange(0, num_points * stride, stride, device=road.device)
    here = (distance / SPACING_M).round().to(torch.int64).unsqueeze(1)
    return road[..., 3].gather(1, (here + offset) & (NUM_POINTS - 1))


def _angles(num: int, device: torch.device) -> Tensor:
    """`num` intervals of the full circle, (num + 1,) float64."""
    return torch.linspace(0.0, 2 * math.pi, num + 1, device=device, dtype=torch.float64)


def _normalised(shape: Tensor, phi: Tensor) -> Tensor:
    """Scale the coefficients, higher harmonics less, such that max |f| = 1."""
    weight = torch.tensor([k**-1.5 for k in HARMONICS] * 2, dtype=shape.dtype, device=shape.device)
    largest = _series(shape * weight, phi)[0].abs().amax(1, keepdim=True)
    return shape * weight / largest.clamp(min=1e-9)


def _series(coefficients: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(phi) and its first two derivatives, each (N, points); phi is (points,) or (N, points)."""
    cosines, sines = coefficients.unsqueeze(2).chunk(2, 1)  # (N, harmonics, 1)
    value = slope = bend = torch.zeros_like(cosines[:, 0] * phi)
    for number, k in enumerate(HARMONICS):
        c, s = (k * phi).cos(), (k * phi).sin()
        wave = cosines[:, number] * c + sines[:, number] * s
        value = value + wave
        slope = slope + k * (sines[:, number] * c - cosines[:, number] * s)
        bend = bend - k**2 * wave
    return value, slope, bend


def _polar(amplitude: Tensor, series: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """r = 1 + a f and its first two derivatives."""
    value, slope, bend = series
    return 1.0 + amplitude * value, amplitude * slope, amplitude * bend


def _speed(radius: Tensor, slope: Tensor) -> Tensor:
    """Arc length per phi."""
    return (radius.square() + slope.square()).sqrt()


def _curvature(radius: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """Curvature of a polar curve: (r^2 + 2 r'^2 - r r'') / (r^2 + r'^2)^(3/2)."""
    speed = _speed(radius, slope)
    return (radius.square() + 2 * slope.square() - radius * bend) / (speed * speed * speed)


def _amplitude(series: tuple[Tensor, Tensor, Tensor], max_curvature: Tensor) -> Tensor:
    """The amplitude at which a road of length LENGTH_M has its sharpest corner as asked, (N, 1)."""
    low = torch.zeros_like(max_curvature)
    high = torch.full_like(low, _MAX_AMPLITUDE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        radius, slope, bend = _polar(middle, series)
        length = _speed(radius, slope)[:, :-1].mean(1, keepdim=True) * (2 * math.pi)
        sharpest = _curvature(radius, slope, bend).abs().amax(1, keepdim=True) * length / LENGTH_M
        too_sharp = sharpest > max_curvature
        low, high = torch.where(too_sharp, low, middle), torch.where(too_sharp, middle, high)
    return (low + high) / 2


def _invert(arc: Tensor, phi: Tensor, target: Tensor) -> Tensor:
    """Interpolate phi at the arc lengths `target`, (N, NUM_POINTS)."""
    right = torch.searchsorted(arc, target, right=True).clamp(1, arc.shape[1] - 1)
    arc_left, arc_right = arc.gather(1, right - 1), arc.gather(1, right)
    return phi[right - 1] + (target - arc_left) / (arc_right - arc_left) * (phi[1] - phi[0])
