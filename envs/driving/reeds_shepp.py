"""Ways of a car that drives forwards and backwards to a pose, in batched torch.

A way is a first arc or straight out of a few, then one of the words C S C and C C C of Reeds and Shepp. The first
one makes room where their shortest path would shuffle to and fro by less than a car with a lag can.

Source: J. A. Reeds, L. A. Shepp, Optimal paths for a car that goes both forwards and backwards, Pacific Journal of
Mathematics 145, 1990, equations 8.1 to 8.4. Deviations: the words of four and five pieces are left out, changes of
direction and short drives between two of them cost extra, so that the way may be longer than the shortest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 0.04
"""Pieces shorter than this, in turning radii, are left out."""
CHANGE_M, SHORTEST_M, SHORT_COST = 0.4, 0.4, 1.0
"""A change of direction counts as so much way; so far one should drive after it; what each metre less counts."""
TIGHTER_M = 0.4
"""What planning with the next tighter radius counts."""
FIRST_LENGTHS = (0.25, 0.6, 1.2)
"""Lengths of the first arcs and straights, in turning radii."""


Word = tuple[Tensor, Tensor, Tensor]
"""Signed lengths (..., 3), turns (..., 3), whether it exists (...)."""


class Piece(NamedTuple):
    """What to do now.

    Attributes:
        curvature: (N,) mean over the look-ahead distance, 1/m, positive with the wheels to the left.
        gear: (N,) 1 forwards, -1 backwards.
        until_stop: (N,) distance to the next change of direction or to the goal, m.
        cost: (N,) of the whole way, m.
    """

    curvature: Tensor
    gear: Tensor
    until_stop: Tensor
    cost: Tensor


def first_piece(goal: Tensor, radii: Tensor, gear: Tensor, look_ahead: Tensor) -> Piece:
    """What to do first on the cheapest way to a goal.

    Args:
        goal: (N, 3) in the car's frame, x forwards and y to the left, m, and its heading, rad.
        radii: (N, R) turning radii to choose from, m, from the usual one to the tightest. Each next one counts
            `TIGHTER_M` more, so that it is left for the correction of what went wrong.
        gear: (N,) direction in which the car drives already, 1 or -1; 0 where either is as good.
        look_ahead: (N,) distance over which the curvature is averaged, m; it stops at changes of direction.
    """
    pieces = [_with_radius(goal, radius, gear, look_ahead) for radius in radii.unbind(1)]
    best = torch.stack([piece.cost + k * TIGHTER_M for k, piece in enumerate(pieces)], 1).argmin(1, keepdim=True)
    return Piece(*(torch.stack(column, 1).gather(1, best)[:, 0] for column in zip(*pieces, strict=True)))


def _with_radius(goal: Tensor, radius: Tensor, gear: Tensor, look_ahead: Tensor) -> Piece:
    x, y, heading = goal.unbind(1)
    start, start_turn = _first_pieces(x)  # each (1, F)
    turned = start * start_turn
    along, aside = torch.where(start_turn == 0, start, start_turn * turned.sin()), start_turn * (1.0 - turned.cos())
    dx, dy = (x / radius).unsqueeze(1) - along, (y / radius).unsqueeze(1) - aside
    cosine, sine = turned.cos(), turned.sin()
    words = _words(cosine * dx + sine * dy, cosine * dy - sine * dx, heading.unsqueeze(1) - turned)
    lengths, turns, possible = words  # (N, F, W, 3), (N, F, W, 3), (N, F, W)
    before = start.reshape(1, -1, 1, 1).expand(*lengths.shape[:3], 1)
    lengths = torch.cat([before, lengths], 3).flatten(1, 2)  # (N, F W, 4)
    turns = torch.cat([start_turn.reshape(1, -1, 1, 1).expand_as(before), turns], 3).flatten(1, 2)
    cost = _cost(lengths, radius, gear).masked_fill(~possible.flatten(1), 1e3)
    best = cost.argmin(1, keepdim=True)
    chosen = best.unsqueeze(2).expand(-1, 1, 4)
    now = _now(lengths.gather(1, chosen)[:, 0], turns.gather(1, chosen)[:, 0], radius, look_ahead)
    return Piece(*now, cost.gather(1, best)[:, 0])


def _first_pieces(like: Tensor) -> tuple[Tensor, Tensor]:
    """Signed lengths and turns of the first pieces, each (1, F); the first one is none at all."""
    count = torch.arange(6 * len(FIRST_LENGTHS), device=like.device)
    length = torch.zeros_like(count, dtype=like.dtype)
    for number, value in enumerate(FIRST_LENGTHS):
        length = torch.where(count // 6 == number, value, length)
    signed = length * (1 - 2 * (count % 2))
    turn = ((count // 2) % 3 - 1).to(like.dtype)
    return torch.nn.functional.pad(signed, (1, 0)).unsqueeze(0), torch.nn.functional.pad(turn, (1, 0)).unsqueeze(0)


def _words(x: Tensor, y: Tensor, phi: Tensor) -> Word:
    """All words from each start (N, F) to the goal that it sees: (N, F, W, 3), (N, F, W, 3), (N, F, W)."""
    # Symmetries: as they are, backwards in time, mirrored, both.
    flip, mirror = _signs(x)
    x, y, phi = x.unsqueeze(2) * flip, y.unsqueeze(2) * mirror, phi.unsqueeze(2) * flip * mirror  # (N, F, 4)
    words = [_left_straight_left(x, y, phi), _left_straight_right(x, y, phi), *_left_right_left(x, y, phi)]
    lengths = torch.cat([word[0] * flip.unsqueeze(-1) for word in words], 2)
    turns = torch.cat([word[1] * mirror.unsqueeze(-1) for word in words], 2)
    return lengths, turns, torch.cat([word[2] for word in words], 2)


def _cost(lengths: Tensor, radius: Tensor, gear: Tensor) -> Tensor:
    """Way, changes of direction and short drives after one, of pieces (N, W, 4) in turning radii, (N, W) in m."""
    now = gear.unsqueeze(1).expand(lengths.shape[:2])
    extra = torch.zeros_like(lengths[..., 0])
    driven = torch.full_like(extra, SHORTEST_M)  # since the last change
    for piece in range(lengths.shape[2]):
        way, sign = lengths[..., piece].abs() * radius.unsqueeze(1), lengths[..., piece].sign()
        counts = lengths[..., piece].abs() > NEGLIGIBLE
        is_change = counts & (sign * now < 0)
        short = CHANGE_M + SHORT_COST * (SHORTEST_M - driven).clamp(min=0.0)
        extra = extra + way + torch.where(is_change, short, 0.0)
        driven = torch.where(is_change, way, driven + way)
        now = torch.where(counts, sign, now)
    return extra + SHORT_COST * (SHORTEST_M - driven).clamp(min=0.0)


def _now(length: Tensor, turn: Tensor, radius: Tensor, look_ahead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Curvature, gear and distance to the next stop on ways (N, 4), from the first piece on that is not negligible."""
    counts = length.abs() > NEGLIGIBLE
    # The first that counts; the longest of all where none does.
    first = torch.where(counts.any(1), counts.to(length.dtype).argmax(1), length.abs().argmax(1)).unsqueeze(1)
    gear = length.sign()
    gear_now = gear.gather(1, first)
    is_before = torch.arange(length.shape[1], device=length.device) < first
    # Pieces from the first on, up to the first of another gear.
    same = (is_before | (gear == gear_now) | ~counts).to(length.dtype).cumprod(1)
    way = length.abs() * same * ~is_before
    before = way.cumsum(1) - way
    reach = (look_ahead / radius).clamp(min=1e-3).unsqueeze(1)
    seen = torch.minimum(way, reach - before).clamp(min=0.0)
    mean_turn = (seen * turn).sum(1) / seen.sum(1).clamp(min=1e-6)
    return mean_turn / radius, gear_now[:, 0], way.sum(1) * radius


def _signs(x: Tensor) -> tuple[Tensor, Tensor]:
    """The four symmetries as signs, each (4,)."""
    index = torch.arange(4, device=x.device)
    return 1.0 - 2.0 * (index % 2), 1.0 - 2.0 * (index // 2)


def _left_straight_left(x: Tensor, y: Tensor, phi: Tensor) -> Word:
    """L+ S+ L+, equation 8.1."""
    u, t = _polar(x - phi.sin(), y - 1.0 + phi.cos())
    t = torch.remainder(t, 2 * math.pi)
    v = torch.remainder(phi - t, 2 * math.pi)
    return _word((t, u, v), (1.0, 0.0, 1.0), torch.ones_like(t, dtype=torch.bool))


def _left_straight_right(x: Tensor, y: Tensor, phi: Tensor) -> Word:
    """L+ S+ R+, equation 8.2."""
    distance, angle = _polar(x + phi.sin(), y - 1.0 - phi.cos())
    u = (distance.square() - 4.0).clamp(min=0.0).sqrt()
    t = torch.remainder(angle + torch.atan2(torch.full_like(u, 2.0), u), 2 * math.pi)
    v = torch.remainder(t - phi, 2 * math.pi)
    return _word((t, u, v), (1.0, 0.0, -1.0), distance >= 2.0)


def _left_right_left(x: Tensor, y: Tensor, phi: Tensor) -> list[Word]:
    """L+ R- L, equations 8.3 and 8.4 in one (the last piece has either sign), and the same from the goal on."""
    words = []
    for is_reversed in (False, True):
        if is_reversed:
            x, y = x * phi.cos() + y * phi.sin(), x * phi.sin() - y * phi.cos()
        distance, angle = _polar(x - phi.sin(), y - 1.0 + phi.cos())
        u = -2.0 * (distance / 4.0).clamp(max=1.0).asin()
        t = _wrapped(angle + u / 2 + math.pi)
        v = _wrapped(phi - t + u)
        pieces = (v, u, t) if is_reversed else (t, u, v)
        words.append(_word(pieces, (1.0, -1.0, 1.0), (distance <= 4.0) & (t >= 0.0)))
    return words


def _word(pieces: tuple[Tensor, Tensor, Tensor], turns: tuple[float, float, float], possible: Tensor) -> Word:
    directions = torch.stack([torch.full_like(possible, turn, dtype=pieces[0].dtype) for turn in turns], -1)
    return torch.stack(pieces, -1), directions, possible


def _polar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.hypot(x, y), torch.atan2(y, x)


def _wrapped(angle: Tensor) -> Tensor:
    """To [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
